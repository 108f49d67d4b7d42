"""Recorded exchanges through the gateway, by a provider of our own that answers the recorded bytes, split at will."""

import asyncio
import json
import random
import re
from urllib.parse import urlsplit

import aiohttp

from fiscus.contract.queries import ListEntries, ListUsage
from fiscus.pricing import PriceOverride
from tests.gateway.gate import Gate, providers, standing
from tests.gateway.upstream import EVENTS, JSON, Reply, upstream
from tests_data.dialects.recorded import expected

PATHS = {
    "openai.chat": "/openai/v1/chat/completions",
    "openai.completions": "/openai/v1/completions",
    "openai.responses": "/openai/v1/responses",
    "openai.embeddings": "/openai/v1/embeddings",
    "anthropic.messages": "/anthropic/v1/messages",
    "anthropic.count_tokens": "/anthropic/v1/messages/count_tokens",
}
AT_ONCE = 32
CUTS_MAX = 12
ANY_MODEL = (PriceOverride(provider="*", model="*", input="1", output="2"),)
PAGE = 1_000


def address(exchange):
    """Where the gateway takes it, or None."""
    url = urlsplit(exchange.path)
    if exchange.dialect != "gemini.generate":
        deployment = re.search(r"/openai(/deployments/[^/]+/.*)$", url.path)
        return f"/openai{deployment[1]}?{url.query}" if deployment is not None else PATHS[exchange.dialect]
    found = re.search(r"/models/([^/:]+):(\w+)$", url.path)
    query = "&".join(part for part in url.query.split("&") if part and not part.startswith("key="))
    return f"/gemini/v1beta/models/{found[1]}:{found[2]}" + (f"?{query}" if query else "")


def request_of(exchange):
    """The body as an object; empty when it is none."""
    try:
        body = json.loads(exchange.request)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def tells_input(exchange):
    """Whether the recorded usage has the input; Gemini left it out of two answers about an image."""
    return exchange.dialect != "gemini.generate" or "promptTokenCount" in exchange.usage[-1]


def tells_output(exchange):
    """Whether it has the output of what it shows; Gemini left it out of one answer of a Gemma."""
    counts = {"candidatesTokenCount", "thoughtsTokenCount"}
    return (
        exchange.dialect != "gemini.generate" or b'"text"' not in exchange.body or bool(counts & {*exchange.usage[-1]})
    )


def reply(exchange):
    chance = random.Random(exchange.id)
    cuts = tuple(chance.sample(range(len(exchange.body)), min(CUTS_MAX, len(exchange.body))))
    return Reply(
        status=exchange.status, headers=EVENTS if exchange.stream else JSON, body=exchange.body, cuts=cuts, pause_s=0
    )


def received(exchange):
    """What the caller of a stream gets: all bytes, but for the usage that only the gateway asked for."""
    request = request_of(exchange)
    asked = (request.get("stream_options") or {}).get("include_usage")
    if not exchange.stream or asked or exchange.dialect not in ("openai.chat", "openai.completions"):
        return exchange.body
    kept = []
    for line in exchange.body.splitlines(keepends=True):
        data = line.removeprefix(b"data:").strip()
        if line.startswith(b"data:") and b'"usage"' in data:
            chunk = json.loads(data)
            if chunk.get("usage") is not None and chunk.get("choices") == []:
                kept.append(None)
                continue
            if chunk.get("usage", 0) is None:
                line = re.sub(rb',\s*"usage":\s*null', b"", line)
        kept.append(line)
    out = []
    for line in kept:  # the blank line goes with its event
        if line is not None and (line.strip() or not out or out[-1] is not None):
            out.append(line)
        elif line is None:
            out.append(None)
    return b"".join(line for line in out if line is not None)


async def booked_by_hold(gate: Gate):
    head = (await gate.treasury.read(ListEntries(limit=1))).as_of_seq
    found, after = {}, 0
    while True:
        page = await gate.treasury.read(ListUsage(after=after, limit=PAGE, min_seq=head))
        found |= {one.hold: one for one in page.usage}
        if page.next is None:
            return found
        after = page.next


async def replayed(all_exchanges):
    """For each exchange: status, body, and what was booked."""
    answers = [None] * len(all_exchanges)
    options = {"prices": ANY_MODEL, "unseen_input_tokens_max": 1_000_000, "attempts_max": 1, "remaining_headers": False}
    async with upstream() as server:
        server.answers_by(lambda asked: reply(all_exchanges[int(asked.headers["x-exchange"])]))
        async with standing(providers(server, output_tokens_max=10_000), **options) as gate:
            turn = asyncio.Semaphore(AT_ONCE)

            async def call(session, index):
                exchange = all_exchanges[index]
                headers = {"content-type": "application/json", "x-exchange": str(index)}
                async with (
                    turn,
                    session.post(gate.url + address(exchange), data=exchange.request, headers=headers) as answer,
                ):
                    answers[index] = (answer.status, await answer.read(), answer.headers.get("x-fiscus-hold"))

            async with aiohttp.ClientSession(auto_decompress=False) as session, asyncio.TaskGroup() as group:
                for index in range(len(all_exchanges)):
                    group.create_task(call(session, index))
            books = await booked_by_hold(gate)
    return [(status, body, books.get(hold)) for status, body, hold in answers]


def usage_of(exchange, booking):
    """Input and output as recorded and as booked, each None where there is none; None: nothing was recorded.

    Where a provider has not told one of them, what was counted stands for it, and the record has to say so.
    """
    usage = expected(exchange.dialect, exchange.usage) if exchange.status == 200 else None
    if usage is None:
        return None
    if booking is None:
        return usage, None
    record = booking.record
    into, out = record.tokens.input, record.tokens.output
    if not tells_input(exchange):
        usage = (int(record.metadata["counted_input_tokens"]), usage[1])
    if not tells_output(exchange):
        usage = (usage[0], max(1, out))
    is_marked = record.tokens_estimated != (tells_input(exchange) and tells_output(exchange))
    return usage, (into, out) if is_marked else None
