"""One call, from the first byte that is sent to the provider to the settlement."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec

from fiscus.contract.errors import TreasuryError
from fiscus.contract.logs import get_logger
from fiscus.contract.treasury import Treasury
from fiscus.core.commands import Release, Settle
from fiscus.core.outcomes import Refused
from fiscus.core.records import Outcome, Tokens
from fiscus.dialects import Dialect, Event, Meter, Problem, Refusal, RequestFacts
from fiscus.gateway.admission import Admitted, extend
from fiscus.gateway.counting import Counter
from fiscus.gateway.options import GatewayOptions
from fiscus.gateway.payers import Payer
from fiscus.gateway.produced import Counted, Lengths
from fiscus.gateway.routes import Route
from fiscus.gateway.settling import Ended, booked
from fiscus.gateway.upstreams import (
    AGAIN,
    BROKEN,
    Target,
    UpstreamFailed,
    Upstreams,
    backoff_s,
    next_target,
    retry_after_s,
)
from fiscus.pricing import Count, Price, PriceBook

log = get_logger(__name__)

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
Headers = Sequence[tuple[bytes, bytes]]

ANSWER_BYTES_MAX = 67_108_864
"""Longest answer that is read whole (not streamed)."""

CUT_TOKENS = 4
"""A stream that cannot be extended ends so many tokens before its bound: what is on its way then still fits."""

GROWTH = 1.5
"""By how much a hold grows when a stream comes near its end."""

SETTLE_TRIES = 3
NOT_PASSED_ON = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"transfer-encoding",
        b"te",
        b"trailer",
        b"upgrade",
        b"proxy-authenticate",
        b"content-length",
    )
)


class Tools(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What every call works with."""

    treasury: Treasury
    options: GatewayOptions
    prices: PriceBook
    upstreams: Upstreams
    counter: Counter
    lengths: Lengths


class Call:
    """A call that was admitted: asks the provider, passes the answer on, meters it, settles it whatever happens."""

    def __init__(
        self,
        tools: Tools,
        *,
        route: Route,
        dialect: Dialect,
        facts: RequestFacts,
        body: bytes,
        headers: Headers,
        query: str,
        payer: Payer,
        counted: Count,
        admitted: Admitted,
        targets: Sequence[Target],
        model: str,
        price: Price | None,
        more_headers: Callable[[], Awaitable[Headers]],
    ) -> None:
        self._tools = tools
        self._route = route
        self._dialect = dialect
        self._facts = facts
        self._body = body
        self._headers = headers
        self._query = query
        self._payer = payer
        self._counted = counted
        self._admitted = admitted
        self._targets = targets
        self._model = model
        self._price = price
        self._more_headers = more_headers
        self._at = datetime.now(UTC)
        self._started_s = time.monotonic()
        self._first_ms: int | None = None
        self._target: Target | None = None
        self._meter: Meter = dialect.meter()
        self._was_sent = False
        self._is_asking = False
        self._is_settled = False
        self._tokens: Tokens | None = None

    async def run(self, receive: Receive, send: Send) -> None:
        """Do it. Nothing is held afterwards, and what was billed is on the books."""
        gone = asyncio.ensure_future(_left(receive))
        try:
            answer = await self._answer_or_leave(gone)
            if answer is None:
                await self._settle(self._ended("cancelled", "client_left"))
                return
            if isinstance(answer, Refusal):
                await send_refusal(send, answer)
                return
            async with answer:
                if self._facts.stream and answer.status == 200 and self._is_stream(answer.headers):
                    await self._pass_stream(answer, gone, send)
                else:
                    await self._pass_body(answer, gone, send)
        finally:
            gone.cancel()
            self._let_go(failed=False)
            if not self._is_settled:
                await asyncio.shield(self._settle(Ended(outcome="cancelled", error_code="interrupted")))

    # -- asking ---------------------------------------------------------------------------------------------------

    async def _answer_or_leave(self, gone: asyncio.Future[None]) -> aiohttp.ClientResponse | Refusal | None:
        """What the provider answers; None: the caller has left before."""
        asking = asyncio.ensure_future(self._ask())
        try:
            await asyncio.wait((asking, gone), return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                return asking.result()
        finally:
            if not asking.done():
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                self._let_go(failed=False)
        return None

    async def _ask(self) -> aiohttp.ClientResponse | Refusal:
        """Ask one upstream after another until one answers; what was only refused has cost nothing."""
        options = self._tools.options
        tried: list[Target] = []
        failure: UpstreamFailed | None = None
        for attempt in range(options.attempts_max):
            target = next_target(self._targets, tried)
            if target in tried:
                await asyncio.sleep(backoff_s(options, attempt))
            tried.append(target)
            self._target = target
            self._tools.upstreams.began(target)
            self._is_asking = self._was_sent = True
            is_last = attempt == options.attempts_max - 1
            try:
                answer = await target.ask(
                    "POST", self._route.path, self._query, self._headers, self._request_for(target), model=self._model
                )
            except UpstreamFailed as error:
                log.warning("upstream_failed", upstream=target.upstream.name, error=str(error), attempt=attempt + 1)
                self._let_go(failed=True)
                failure = error
                self._was_sent = error.was_sent
                if error.was_sent or is_last:
                    break
                continue
            if answer.status in AGAIN and not is_last and self._may_ask_again(answer, tried):
                wait_s = retry_after_s(answer.headers)
                answer.release()
                self._was_sent = False  # what was only refused has cost nothing
                self._let_go(failed=answer.status in BROKEN)
                if wait_s is not None and len(tried) >= len(self._targets):
                    await asyncio.sleep(min(wait_s, options.backoff_s_max))
                continue
            return answer
        assert failure is not None
        return await self._give_up(failure)

    def _may_ask_again(self, answer: aiohttp.ClientResponse, tried: Sequence[Target]) -> bool:
        """Whether somebody else may be asked, or the same one soon."""
        if len(set(tried)) < len(self._targets):
            return True
        wait_s = retry_after_s(answer.headers)
        return answer.status in BROKEN | {429} and (wait_s or 0) <= self._tools.options.backoff_s_max

    def _request_for(self, target: Target) -> bytes:
        """The caller's bytes, with the bound of the output and what else has to be said."""
        facts, bound = self._facts, self._admitted.output_tokens
        renamed = target.model_for(self._model)
        has_output = self._admitted.bound.output_tokens_max > 0
        lowered = has_output and (facts.output_tokens_max is None or bound < facts.output_tokens_max)
        return self._dialect.patch_request(
            self._body,
            facts,
            output_tokens_max=bound if lowered else None,
            force_usage=facts.stream,
            model=renamed if renamed != self._model or self._route.model is not None else None,
            output_field=target.upstream.output_field,
        )

    async def _give_up(self, failure: UpstreamFailed) -> Refusal:
        """No upstream has answered. One that was sent the call and went silent may have billed it."""
        code = "upstream_timeout" if failure.is_timeout else "upstream_error"
        if failure.was_sent:
            await self._settle(Ended(outcome="timeout" if failure.is_timeout else "error", error_code=code))
        else:
            await self._release()
        return self._dialect.refusal(
            Problem(
                code="upstream_timeout" if failure.is_timeout else "upstream_error",
                message=f"the provider gave no answer: {failure}",
                retry_after_s=None if failure.was_sent else 1,
            )
        )

    def _let_go(self, *, failed: bool) -> None:
        """The upstream has nothing more to do with this call."""
        if self._is_asking and self._target is not None:
            self._is_asking = False
            self._tools.upstreams.ended(self._target, failed=failed)

    # -- an answer that is not streamed ---------------------------------------------------------------------------

    async def _pass_body(self, answer: aiohttp.ClientResponse, gone: asyncio.Future[None], send: Send) -> None:
        """Read an answer whole, settle, pass it on."""
        failed = answer.status in BROKEN
        try:
            body = await self._read_whole(answer, gone)
        except (aiohttp.ClientError, TimeoutError, OSError):
            self._let_go(failed=True)
            await self._settle(self._ended("error", "upstream_broke_off"))
            await send_refusal(send, self._dialect.refusal(BROKE_OFF))
            return
        self._let_go(failed=failed)
        self._first_ms = self._elapsed_ms()
        if body is None:
            await self._settle(self._ended("cancelled", "client_left"))
            return
        content_type = answer.headers.get("content-type", "")
        self._meter = self._dialect.meter(content_type)
        self._meter.read(body)
        wrong = self._not_an_answer(answer, body)
        await self._settle_answer(answer.status, None if wrong is None else "not_an_answer")
        if wrong is not None:
            await send_refusal(send, self._dialect.refusal(wrong))
            return
        if self._target is not None and (answer.status >= 400 or self._meter.error is not None):
            body = self._target.without_key(body)
        await send(
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": [
                    *_passed_on(answer.raw_headers),
                    (b"content-length", b"%d" % len(body)),
                    *await self._more_headers(),
                ],
            }
        )
        await send({"type": "http.response.body", "body": body})

    async def _read_whole(self, answer: aiohttp.ClientResponse, gone: asyncio.Future[None]) -> bytes | None:
        """The body; None: the caller has left, and the provider was left as well."""
        reading = asyncio.ensure_future(answer.content.read(ANSWER_BYTES_MAX + 1))
        parts: list[bytes] = []
        length, drained_s, loop = 0, 0.0, asyncio.get_running_loop()
        while True:
            await asyncio.wait((reading, gone), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                if self._tools.options.on_disconnect == "drain":
                    drained_s = drained_s or loop.time() + self._tools.options.drain_s_max
                    await asyncio.wait((reading,), timeout=max(0.0, drained_s - loop.time()))
                if not reading.done():
                    reading.cancel()
                    answer.close()
                    return None
            part = reading.result()
            if not part:
                return b"".join(parts)
            parts.append(part)
            length += len(part)
            if length > ANSWER_BYTES_MAX:
                raise aiohttp.ClientPayloadError("the answer is too long")
            reading = asyncio.ensure_future(answer.content.read(ANSWER_BYTES_MAX + 1))

    def _not_an_answer(self, answer: aiohttp.ClientResponse, body: bytes) -> Problem | None:
        """Why an answer cannot be passed on: it leads elsewhere, or is a page for people, not the API's."""
        status = answer.status
        is_silent = self._meter.usage() is None and self._meter.error is None
        if not 300 <= status < 400 and not (is_silent and not is_json(body)):
            return None
        wait_s = retry_after_s(answer.headers)
        return Problem(
            code="upstream_error",
            message=f"the provider answered {status} with something that is no answer of its API",
            status=status if status >= 400 else None,
            retry_after_s=math.ceil(wait_s) if wait_s is not None and status in AGAIN else None,
        )

    async def _settle_answer(self, status: int, wrong: str | None) -> None:
        """Settle an answer that is whole: an error that names no usage was not billed."""
        error = self._meter.error
        if status >= 300 and self._meter.usage() is None:
            await self._release()
        elif wrong is not None or error is not None or status >= 300:
            code = error.code if error is not None else wrong
            await self._settle(self._ended("error", code or str(status), is_whole=True))
        else:
            await self._settle(self._ended("success", is_whole=True))

    # -- a stream -------------------------------------------------------------------------------------------------

    async def _pass_stream(self, answer: aiohttp.ClientResponse, gone: asyncio.Future[None], send: Send) -> None:
        """Pass a stream on, event by event, as long as its hold can grow."""
        content_type = answer.headers.get("content-type", "")
        self._meter = meter = self._dialect.meter(content_type)
        events = self._dialect.events(content_type)
        gone.add_done_callback(lambda _: self._leave(answer))
        await send(
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": [*_passed_on(answer.raw_headers), *await self._more_headers()],
            }
        )
        counted, strips = Counted(), not self._facts.include_usage
        failed, cut = False, False
        try:
            async for chunk in answer.content.iter_any():
                if self._first_ms is None:
                    self._first_ms = self._elapsed_ms()
                out, cut = await self._read_events(events.feed(chunk), meter, counted, strips=strips)
                if out and not gone.done():
                    await send({"type": "http.response.body", "body": out, "more_body": True})
                if cut:
                    break
            else:
                out, _ = await self._read_events(events.flush(), meter, counted, strips=strips)
                if out and not gone.done():
                    await send({"type": "http.response.body", "body": out, "more_body": True})
        except (aiohttp.ClientError, TimeoutError, OSError):
            failed = not gone.done()
        if cut or failed:
            answer.close()  # the provider stops
        self._let_go(failed=failed)
        await self._settle(self._stream_ended(gone, failed=failed, cut=cut))
        if gone.done():
            return
        await send({"type": "http.response.body", "body": self._closing(meter, failed=failed, cut=cut)})

    def _is_stream(self, headers: Mapping[str, Any]) -> bool:
        """Whether an answer comes in events; Gemini also streams an array."""
        kind = str(headers.get("content-type", "")).lower()
        return "event-stream" in kind or ("json" in kind and self._route.family == "gemini")

    def _leave(self, answer: aiohttp.ClientResponse) -> None:
        """The caller has left: the provider is left, too, at once or when it has had time to tell its usage."""
        if self._tools.options.on_disconnect == "drain":
            asyncio.get_running_loop().call_later(self._tools.options.drain_s_max, answer.close)
        else:
            answer.close()

    async def _read_events(
        self, found: Iterable[Event], meter: Meter, counted: Counted, *, strips: bool
    ) -> tuple[bytes, bool]:
        """Meter events; returns what is passed on, and whether the stream has to end for want of budget."""
        out: list[bytes] = []
        dialect = self._dialect
        for event in found:
            produced = counted.add(meter.feed(event))
            raw = dialect.strip_usage(event) if strips else event.raw
            if raw:
                out.append(raw)
            if produced + self._tools.options.margin_tokens > self._held and not await self._grow(produced):
                return b"".join(out), True
        return b"".join(out), False

    @property
    def _held(self) -> int:
        """Output tokens that are held, all choices together."""
        return self._admitted.held_output_tokens * self._admitted.bound.choices

    async def _grow(self, produced: int) -> bool:
        """Let the hold grow ahead of the stream; False: it must end now."""
        admitted = self._admitted
        if admitted.held_output_tokens >= admitted.output_tokens:
            return True  # all that the provider was told is held
        choices = admitted.bound.choices
        ahead = -(-(produced + 2 * self._tools.options.margin_tokens) // choices)
        wanted = min(admitted.output_tokens, max(int(admitted.held_output_tokens * GROWTH), ahead))
        for _ in range(3):
            try:
                refused = await extend(self._tools.treasury, admitted, wanted)
            except TreasuryError:
                break  # the ledger is away: what is held still holds
            if refused is None:
                return True
            wanted = _less(admitted, refused, wanted)
            if wanted <= admitted.held_output_tokens:
                break
        return produced + CUT_TOKENS <= self._held

    def _stream_ended(self, gone: asyncio.Future[None], *, failed: bool, cut: bool) -> Ended:
        if cut:
            return self._ended("success", was_cut=True)
        if gone.done() and not self._meter.ended:
            return self._ended("cancelled", "client_left")
        if self._meter.error is not None:
            return self._ended("error", self._meter.error.code or "upstream_error")
        return self._ended("error", "upstream_broke_off") if failed or not self._meter.ended else self._ended("success")

    def _closing(self, meter: Meter, *, failed: bool, cut: bool) -> bytes:
        """What ends the stream for the caller, if the provider has not."""
        if cut:
            return self._dialect.ending(meter, include_usage=self._facts.include_usage, tokens=self._tokens)
        if failed and not meter.ended:
            return self._dialect.error_event(BROKE_OFF, meter)
        return b""

    # -- settling -------------------------------------------------------------------------------------------------

    def _ended(
        self, outcome: Outcome, code: str | None = None, *, was_cut: bool = False, is_whole: bool = False
    ) -> Ended:
        return Ended(
            outcome=outcome,
            error_code=code,
            was_cut=was_cut,
            is_whole=is_whole,
            duration_ms=self._elapsed_ms(),
            first_ms=self._first_ms,
        )

    def _elapsed_ms(self) -> int:
        return int((time.monotonic() - self._started_s) * 1_000)

    async def _settle(self, ended: Ended) -> None:
        """Put the call on the books; while the ledger is away that goes to the spool."""
        if self._is_settled:
            return
        self._is_settled = True
        tools, target = self._tools, self._target
        if not self._was_sent or target is None:
            await self._execute(Release(id=self._admitted.id))
            return
        provider = target.upstream.priced_as
        what = booked(
            facts=self._facts,
            counted=self._counted,
            meter=self._meter,
            ended=ended,
            payer=self._payer,
            prices=tools.prices,
            provider=provider,
            asked_model=target.model_for(self._model),
            at=self._at,
            otherwise=self._price,
        )
        self._tokens = what.record.tokens
        if target.rate is not None:
            target.rate.took(what.total["tokens"])
        self._learn(what.record.tokens_estimated, provider, ended)
        await self._execute(Settle(id=self._admitted.id, total=what.total, record=what.record))

    def _learn(self, is_estimated: bool, provider: str, ended: Ended) -> None:
        usage = self._meter.usage()
        if is_estimated or usage is None:
            return
        if not (self._counted.unseen or self._facts.input_unknown or self._facts.server_tools):
            self._tools.counter.learn(self._counted, provider, usage.tokens.input)
        if not ended.was_cut and ended.outcome == "success" and self._facts.choices == 1:
            self._tools.lengths.learn(self._payer.account, self._model, usage.tokens.output)

    async def _release(self) -> None:
        if not self._is_settled:
            self._is_settled = True
            await self._execute(Release(id=self._admitted.id))

    async def _execute(self, command: Settle | Release) -> None:
        """Have it decided; what cannot be expires into quarantine, which charges the bound."""
        request = msgspec.structs.replace(self._admitted.request, command=command)
        for attempt in range(SETTLE_TRIES):
            try:
                outcome = await self._tools.treasury.execute(request)
            except TreasuryError as error:
                if attempt == SETTLE_TRIES - 1 or not error.retryable:
                    log.error("settlement_failed", hold=command.id, code=error.code, detail=str(error))
                    return
                await asyncio.sleep(0.1 * 2**attempt)
                continue
            if isinstance(outcome, Refused):
                log.error("settlement_refused", hold=command.id, code=outcome.code, detail=outcome.detail)
            return


BROKE_OFF = Problem(code="upstream_error", message="the provider broke off before its answer was whole")


def _less(admitted: Admitted, refused: Refused, wanted: int) -> int:
    """How far the hold may grow all the same."""
    binding = refused.binding
    if binding is None:
        return (wanted + admitted.held_output_tokens) // 2
    held = admitted.bound.amounts(admitted.held_output_tokens)
    room = held.get(binding.unit, 0) + max(0, binding.available)
    return min(wanted - 1, admitted.bound.output_within(binding.unit, room))


async def _left(receive: Receive) -> None:
    """Return when the caller has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


def is_json(body: bytes) -> bool:
    """Whether a body is an object or an array.

    >>> is_json(b'{"a": 1}'), is_json(b"<html>"), is_json(b'{"a": 1')
    (True, False, False)
    """
    try:
        msgspec.json.decode(body, type=dict[str, msgspec.Raw] | list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _passed_on(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Headers of a provider that are the caller's, too; the length is that of what is passed on."""
    return [(name.lower(), value) for name, value in headers if name.lower() not in NOT_PASSED_ON]


async def send_refusal(send: Send, refusal: Refusal) -> None:
    """Answer in place of the provider."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in refusal.headers]
    length = (b"content-length", b"%d" % len(refusal.body))
    await send({"type": "http.response.start", "status": refusal.status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": refusal.body})
