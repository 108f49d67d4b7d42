"""The real service with the token economy API on a free port, for tests."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn
from prometheus_client import CollectorRegistry

from fiscus.api.application import create_app
from fiscus.api.economy import EconomyMetrics, TokenEconomy, economy_paths, economy_routes, economy_schemas
from fiscus.api.options import ApiOptions
from fiscus.contract.queries import AccountView, ReadAccount
from fiscus.core.commands import GrantStrategy
from fiscus.core.outcomes import AccountAnswer, Balance
from fiscus.stores import open_store
from fiscus.treasury.engine import Engine
from fiscus.treasury.local import LocalTreasury

PEPPER = b"pepper for tests, not a secret"


class Economy:
    """A running service and a client of it."""

    def __init__(self, url: str, session: aiohttp.ClientSession, treasury: LocalTreasury) -> None:
        self.url = url
        self.session = session
        self.treasury = treasury

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        """Status and body of a POST below ``/api/v1/tokens``."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.post(f"{self.url}/api/v1/tokens/{path}", json=body, headers=named) as response:
            return response.status, await response.json(content_type=None)

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        """Status and body of a GET."""
        async with self.session.get(self.url + path, headers=headers) as response:
            return response.status, await response.json(content_type=None)

    async def allocate(
        self, agent_id: str = "agent_001", requested_tokens: float = 1000, key: str | None = None, **fields: Any
    ) -> tuple[int, Any]:
        body = {"agent_id": agent_id, "requested_tokens": requested_tokens} | fields
        return await self.post("allocate", body, **({"Idempotency_Key": key} if key else {}))

    async def consume(
        self, agent_id: str = "agent_001", tokens: float = 100, value: float = 0.0, key: str | None = None
    ) -> tuple[int, Any]:
        body = {"agent_id": agent_id, "tokens_consumed": tokens, "value_generated": value}
        return await self.post("consume", body, **({"Idempotency_Key": key} if key else {}))

    async def status(self) -> dict[str, Any]:
        status, body = await self.get("/api/v1/tokens/status")
        assert status == 200, body
        return body

    async def agent(self, agent_id: str = "agent_001") -> tuple[int, Any]:
        return await self.get(f"/api/v1/tokens/agent/{agent_id}")

    async def metrics(self) -> str:
        async with self.session.get(f"{self.url}/metrics") as response:
            assert response.status == 200
            return await response.text()

    async def account(self, account: str) -> AccountAnswer:
        """What the ledger itself says of an account."""
        view = await self.treasury.read(ReadAccount(account=account))
        assert isinstance(view, AccountView), view
        return view.account

    async def balance(self, account: str) -> Balance:
        """The first balance in tokens that the ledger has for an account."""
        found = await self.account(account)
        return next(view.balance for view in found.budgets if view.unit == "tokens" and view.balance is not None)


@asynccontextmanager
async def serve(
    path: Path | None = None,
    *,
    treasury: LocalTreasury | None = None,
    pool_tokens: int = 100_000,
    labels_max: int = 1_000,
    key: str | None = None,
    strategy: GrantStrategy = "classic",
    reserve_percent: int = 0,
    **options: Any,
) -> AsyncIterator[Economy]:
    """Serve the ledger at ``path`` (or a temporary one), or a treasury that is open already."""
    ledger = treasury or LocalTreasury(Engine(open_store(f"sqlite:///{path}" if path is not None else "memory:")))
    economy = TokenEconomy(
        ledger,
        pool_tokens=pool_tokens,
        labels_max=labels_max,
        sealed=ledger.sealed_allocations,
        strategy=strategy,
        reserve_percent=reserve_percent,
    )
    registry = CollectorRegistry()
    registry.register(EconomyMetrics(economy))
    app = create_app(
        ledger,
        ApiOptions(
            extra_routes=economy_routes(economy),
            extra_paths=economy_paths(),
            extra_schemas=economy_schemas(),
            registry=registry,
            **options,
        ),
    )
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with economy, aiohttp.ClientSession(headers=headers) as session:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield Economy(url, session, ledger)
        finally:
            server.should_exit = True
            await serving
    if treasury is None:
        await ledger.close()
