"""The real API over a real ledger for tests: in this process as ASGI, or on a free loopback port."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from fiscus.api import ApiOptions, Application, JoiningProtocol, create_app
from fiscus.contract.queries import ListEntries
from fiscus.contract.treasury import Treasury
from fiscus.stores import open_store
from fiscus.treasury.engine import Engine
from fiscus.treasury.local import LocalTreasury
from fiscus.treasury.priced import Pricing

PEPPER = b"pepper for tests, not a secret"
FIRST_SECRET = "the first key of the tests"


@asynccontextmanager
async def ledger() -> AsyncIterator[LocalTreasury]:
    """A treasury of its own, thrown away at the end."""
    treasury = LocalTreasury(Engine(open_store("memory:")), Pricing())
    try:
        yield treasury
    finally:
        await treasury.close()


class Answer:
    """What came back."""

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.status = status
        self.headers = {name.decode(): value.decode() for name, value in headers}
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of a problem, whose form is checked on the way."""
        problem = self.json
        assert self.headers["content-type"] == "application/problem+json"
        assert problem["status"] == self.status
        assert problem["type"] == f"urn:fiscus:problem:{problem['code']}"
        assert problem["title"]
        assert problem["detail"]
        return str(problem["code"])

    def __repr__(self) -> str:
        return f"{self.status} {self.body[:500]!r}"


class Api:
    """Calls an application without a socket."""

    def __init__(self, treasury: Treasury, options: ApiOptions | None = None) -> None:
        self.treasury = treasury
        self.app: Application = create_app(treasury, options)

    async def call(
        self,
        method: str,
        target: str,
        body: Any = None,
        *,
        key: str | None = None,
        headers: dict[str, str] | None = None,
        client: str = "127.0.0.1",
    ) -> Answer:
        """One request. ``body``: bytes as they are, anything else as JSON; None: no body."""
        raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"host": "127.0.0.1:8091", "content-length": str(len(raw)), "content-type": "application/json"}
        given |= {"authorization": f"Bearer {key}"} if key else {}
        given |= {name.lower(): value for name, value in (headers or {}).items()}
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given.items() if value],
            "client": (client, 50_000),
        }
        requests = [{"type": "http.request", "body": raw, "more_body": False}]
        sent: list[Any] = []

        async def receive() -> Any:
            return requests.pop() if requests else await asyncio.get_running_loop().create_future()

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        body_sent = b"".join(message.get("body", b"") for message in sent[1:])
        return Answer(sent[0]["status"], sent[0]["headers"], body_sent)

    async def get(self, target: str, **more: Any) -> Answer:
        return await self.call("GET", target, **more)

    async def put(self, target: str, body: Any = None, **more: Any) -> Answer:
        return await self.call("PUT", target, body, **more)

    async def post(self, target: str, body: Any = None, **more: Any) -> Answer:
        return await self.call("POST", target, body, **more)

    async def delete(self, target: str, **more: Any) -> Answer:
        return await self.call("DELETE", target, **more)

    async def head(self) -> int:
        """Sequence number of the journal's head."""
        page = await self.treasury.read(ListEntries(limit=1))
        return page.as_of_seq  # type: ignore[union-attr]  # not refused

    async def tree(self, limit: int = 1_000) -> None:
        """``team:a`` (a budget of ``limit`` tokens) with ``agent:x`` and ``agent:y`` below it, and ``team:b``."""
        for account, parent in (("team:a", None), ("agent:x", "team:a"), ("agent:y", "team:a"), ("team:b", None)):
            assert (await self.put(f"/v1/accounts/{account}", {"parent": parent})).status == 200
        assert (await self.put("/v1/accounts/team:a/budgets/main", {"unit": "tokens", "limit": limit})).status == 200


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """Serve an application on a free port; its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = _Server(
        uvicorn.Config(
            app, log_config=None, http=JoiningProtocol, lifespan="off", interface="asgi3", timeout_graceful_shutdown=5
        )
    )
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()
