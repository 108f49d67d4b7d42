import asyncio
import socket
from typing import Any

import aiohttp
import pytest
import uvicorn
import uvloop

from fiscus.api.protocol import JoiningProtocol, JoiningTransport


class Recorded:
    """A transport that remembers what was done."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    def write(self, data: bytes) -> None:
        self.done.append(data)

    def close(self) -> None:
        self.done.append("closed")

    def abort(self) -> None:
        self.done.append("aborted")

    def set_protocol(self, protocol: Any) -> None:
        self.done.append(protocol)

    def is_closing(self) -> bool:
        return False

    get_extra_info = pause_reading = resume_reading = set_write_buffer_limits = get_write_buffer_size = is_closing


def joining() -> tuple[JoiningTransport, Recorded]:
    recorded: Any = Recorded()
    return JoiningTransport(recorded, asyncio.get_running_loop()), recorded


async def test_head_and_body_are_one_write():
    transport, recorded = joining()
    transport.write(b"head ")
    assert recorded.done == []
    transport.write(b"body")
    assert recorded.done == [b"head body"]
    await asyncio.sleep(0)
    assert recorded.done == [b"head body"]


async def test_a_head_alone_leaves_when_the_loop_turns():
    transport, recorded = joining()
    transport.write(b"head")
    await asyncio.sleep(0)
    assert recorded.done == [b"head"]
    transport.write(b"event")
    await asyncio.sleep(0)
    assert recorded.done == [b"head", b"event"]


async def test_a_head_with_an_empty_body_leaves_at_once():
    transport, recorded = joining()
    transport.write(b"head")
    transport.write(b"")
    assert recorded.done == [b"head"]
    transport.write(b"")
    assert recorded.done == [b"head"]


async def test_nothing_is_lost_when_the_connection_is_closed_and_nothing_is_sent_when_it_is_aborted():
    transport, recorded = joining()
    transport.write(b"last words")
    transport.close()
    assert recorded.done == [b"last words", "closed"]
    transport, recorded = joining()
    transport.write(b"unsaid")
    transport.abort()
    await asyncio.sleep(0)
    assert recorded.done == ["aborted"]


async def test_whatever_else_is_done_with_the_transport_comes_after_what_was_written():
    transport, recorded = joining()
    transport.write(b"switching protocols")
    transport.set_protocol("another")
    assert recorded.done == [b"switching protocols", "another"]


async def _app(scope: Any, receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    if scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(3):
            await send({"type": "http.response.body", "body": b"%d" % number, "more_body": True})
            await asyncio.sleep(0.001)
        await send({"type": "http.response.body", "body": b""})
    else:
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _talk() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(_app, http=JoiningProtocol, lifespan="off", log_config=None))
    serving = asyncio.create_task(server._serve([listener]))
    try:
        async with aiohttp.ClientSession() as session:
            for size in (0, 1, 1_000, 1_000_000):
                async with session.post(f"{url}/echo", data=b"x" * size) as answer:
                    assert await answer.read() == b"x" * size
            async with session.head(f"{url}/echo") as answer:
                assert answer.status == 200
            async with session.post(f"{url}/stream") as answer:
                assert await answer.read() == b"012"
            async with session.post(f"{url}/echo", data=b"bye", headers={"Connection": "close"}) as answer:
                assert await answer.read() == b"bye"
    finally:
        server.should_exit = True
        await serving
        listener.close()


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_answers_of_every_size_and_streams_arrive_whole(loop_factory):
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_talk())
