"""Reading, counting and editing requests, whether here or in a process."""

import asyncio
import os
import signal
import time

import pytest

from fiscus.contract.errors import Invalid
from fiscus.dialects import DIALECTS, Change, Malformed
from fiscus.gateway import reading
from fiscus.gateway.apart import Apart, ApartFailed
from fiscus.gateway.bodies import Body
from fiscus.gateway.reading import Reader
from fiscus.gateway.routes import Route
from tests.gateway import wire

CHAT = DIALECTS["openai.chat"]
ROUTE = Route(family="openai", dialect="openai.chat", path="/chat/completions")


@pytest.fixture
def reader():
    made = Reader()
    yield made
    made.close()


@pytest.fixture
def apart():
    made = Apart()
    yield made
    made.close()


def body_of(**more):
    text = wire.encoded(wire.chat(**more))
    return Body([text[at : at + 7] for at in range(0, len(text), 7)])


async def read(reader, body):
    """All that a reader does."""
    facts = await reader.facts(body, CHAT, ROUTE)
    counted = await reader.count(body, "openai.chat", wire.MODEL, "openai")
    change = Change(output_tokens_max=5, force_usage=True, model="other", append_note="So it is.")
    changed = await reader.changed(body, CHAT, facts, change)
    return facts, counted, changed.whole()


async def test_what_is_read_in_a_process_is_what_is_read_here(reader, monkeypatch):
    here = await read(reader, body_of(stream=True))
    monkeypatch.setattr(reading, "COUNTED_AT_ONCE_BYTES", 0)
    assert await read(reader, body_of(stream=True)) == here, "counted in a thread"
    monkeypatch.setattr(reading, "COUNTED_APART_BYTES", 0)
    monkeypatch.setattr(reading, "READ_APART_BYTES", 0)
    assert await read(reader, body_of(stream=True)) == here, "in a process"
    assert isinstance(await reader.facts(Body([b'{"model": 1}']), CHAT, ROUTE), Malformed)
    with pytest.raises(Invalid, match="cannot be counted"):
        await reader.count(Body([b"[]"]), "openai.chat", wire.MODEL, "openai")


async def test_without_a_change_nothing_is_read(reader):
    body = Body([b"this is no JSON" * 100_000])
    assert await reader.changed(body, CHAT, None, Change()) is body


async def test_margins_that_were_learned_hold_in_the_process(reader, monkeypatch):
    body = body_of(messages=[{"role": "user", "content": "word " * 2_000}])
    monkeypatch.setattr(reading, "COUNTED_APART_BYTES", 0)
    monkeypatch.setattr(reading, "COUNTED_AT_ONCE_BYTES", 0)
    before = await reader.count(body, "openai.chat", wire.MODEL, "openai")
    for _ in range(20):
        reader.learn(before, "openai", before.tokens * 3)
    after = await reader.count(body, "openai.chat", wire.MODEL, "openai")
    assert after.tokens == before.tokens
    assert after.upper_bound >= 3 * before.tokens > before.upper_bound


def pid_of(whole):
    return os.getpid(), len(whole)


def end(whole):
    os.kill(os.getpid(), signal.SIGKILL)


async def test_a_process_that_has_ended_is_followed_by_another(apart):
    first, _ = await apart.run(pid_of, [b"a" * 100_000, memoryview(b"bc")])
    assert (await apart.run(pid_of, [b"a"])) == (first, 1)
    with pytest.raises(ApartFailed):
        await apart.run(end, [b"a"])
    second, length = await apart.run(pid_of, [b"a" * 100_000, memoryview(b"bc")])
    assert length == 100_002
    assert len({first, second, os.getpid()}) == 3


async def test_who_does_not_wait_any_more_disturbs_nobody(apart):
    await apart.run(pid_of, [])
    waiting = [asyncio.create_task(apart.run(pid_of, [b"x" * number])) for number in range(1, 30)]
    await asyncio.sleep(0)
    for task in waiting[::2]:
        task.cancel()
    done = await asyncio.gather(*waiting, return_exceptions=True)
    assert [one[1] for one in done[1::2]] == list(range(2, 30, 2))


async def test_a_large_body_leaves_the_event_loop_to_others(reader):
    """Its parts as a server hands them over; a whole reading of it here would take far longer than is allowed."""
    text = wire.encoded(wire.chat(messages=[{"role": "user", "content": "word " * 4_000_000}]))
    body = Body([text[at : at + 65_536] for at in range(0, len(text), 65_536)])
    began_s = time.perf_counter()
    CHAT.patch_request(text, CHAT.read_request(text), model="other")
    here_s = time.perf_counter() - began_s
    await reader.facts(Body([b" "] * 600_000), CHAT, ROUTE)  # the process is there
    late_s = []
    over = asyncio.Event()

    async def others():
        while not over.is_set():
            began_s = time.perf_counter()
            await asyncio.sleep(0.001)
            late_s.append(time.perf_counter() - began_s)

    watching = asyncio.create_task(others())
    facts = await reader.facts(body, CHAT, ROUTE)
    changed = await reader.changed(body, CHAT, facts, Change(model="other"))
    over.set()
    await watching
    assert changed.length == body.length + len("other") - len(wire.MODEL)
    assert sorted(late_s)[-3] < here_s / 2
