"""What a proxy costs by itself here: parse the body, forward it, pass the answer on. The fastest of its clients counts.

    python -m bench.gateway_proxy own|metered|aiohttp|pyreqwest UPSTREAM [STORE_URL | FOLDER]

Prints its port. Raw ASGI on uvicorn (uvloop, httptools, the head and the body of an answer in one write), set as
``fiscus serve`` sets it. ``own``: the gateway's own client; ``metered``: the same with a hold before each call and its
settlement after it, of fixed amounts, which is all that the ledger costs. ``FOLDER``: of pyreqwest.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import msgspec
import uvicorn
import uvloop

from bench.ledgers import pair, treasury_at
from fiscus.api import JoiningProtocol
from fiscus.app import GARBAGE_THRESHOLDS, listen
from fiscus.core.commands import Request
from fiscus.core.outcomes import HoldAnswer
from fiscus.core.units import Amounts
from fiscus.gateway.client import Client
from fiscus.gateway.settlements import Settlements

ANSWER_BYTES_MAX = 1 << 20
ACCOUNT_HEADER = b"x-bench-account"
USED: Amounts = {"tokens": 130, "cost": 28_500}
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _whole(send: Send, status: int, content_type: str, content: bytes) -> None:
    headers = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def _piece(send: Send, content: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": content, "more_body": more})


class ThroughOwn:
    """With the client of the gateway."""

    def __init__(self, upstream: str) -> None:
        self._client = Client(upstream, connect_s=10, answer_s=600, silence_s=300)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        streams = msgspec.json.decode(body).get("stream")
        head = b"POST %b HTTP/1.1\r\nhost: %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        answer = await self._client.ask(head % (scope["raw_path"], self._client.host, len(body)), (body,))
        content_type = answer.header(b"content-type")
        if not streams:
            await _whole(send, answer.status, content_type, await answer.read(ANSWER_BYTES_MAX))
            return
        headers = [(b"content-type", content_type.encode())]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        while piece := await answer.piece():
            await _piece(send, piece)
        await _piece(send, b"", more=False)


class Metered(ThroughOwn):
    """The same between a hold and its settlement: nothing is read, counted, priced or learned."""

    def __init__(self, upstream: str, store_url: str) -> None:
        super().__init__(upstream)
        self._ledger = Settlements(treasury_at(store_url))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        account = dict(scope["headers"])[ACCOUNT_HEADER].decode()
        reserve, settle = pair(account, USED, records=True)
        held = await self._ledger.execute(Request(command=reserve))
        assert isinstance(held, HoldAnswer), held
        await super().__call__(scope, receive, send)
        settled = await self._ledger.book(Request(command=settle))
        assert isinstance(settled, HoldAnswer), settled


class ThroughAiohttp:
    """With the client of aiohttp."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
            )
        body = await _body(receive)
        streams = msgspec.json.decode(body).get("stream")
        address = f"{self._upstream}{scope['path']}"
        async with self._session.post(address, data=body, headers={"content-type": "application/json"}) as answer:
            content_type = answer.headers["content-type"]
            if not streams:
                await _whole(send, answer.status, content_type, await answer.read())
                return
            headers = [(b"content-type", content_type.encode())]
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            async for piece in answer.content.iter_any():
                await _piece(send, piece)
            await _piece(send, b"", more=False)


class ThroughPyreqwest:
    """With pyreqwest, a client in Rust."""

    def __init__(self, upstream: str) -> None:
        from pyreqwest.client import ClientBuilder  # type: ignore[import-not-found,unused-ignore]

        self._upstream = upstream
        self._client = ClientBuilder().http1_only().build()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        streams = msgspec.json.decode(body).get("stream")
        request = self._client.post(f"{self._upstream}{scope['path']}").body_bytes(body)
        request = request.headers({"content-type": "application/json"})
        if not streams:
            answer = await request.build().send()
            await _whole(send, answer.status, answer.headers["content-type"], bytes(await answer.bytes()))
            return
        async with request.build_streamed() as answer:
            headers = [(b"content-type", answer.headers["content-type"].encode())]
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            while piece := await answer.body_reader.read_chunk():
                await _piece(send, bytes(piece))
            await _piece(send, b"", more=False)


def serve(app: Any) -> None:
    """Serve until SIGTERM."""
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        app,
        http=JoiningProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    print(listener.getsockname()[1], flush=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(uvicorn.Server(config).serve(sockets=[listener]))


if __name__ == "__main__":
    if sys.argv[1] == "pyreqwest":
        sys.path.insert(0, sys.argv[3])
        serve(ThroughPyreqwest(sys.argv[2]))
    elif sys.argv[1] == "metered":
        serve(Metered(sys.argv[2], sys.argv[3]))
    else:
        serve(ThroughOwn(sys.argv[2]) if sys.argv[1] == "own" else ThroughAiohttp(sys.argv[2]))
