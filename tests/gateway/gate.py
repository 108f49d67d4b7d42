"""The gateway over a real ledger, on a free port, with everything that tests ask about it."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from fiscus.api import ApiOptions, create_app, store_first_key
from fiscus.app import _GatewayBeside, payers_of
from fiscus.contract.queries import (
    AccountView,
    EntriesPage,
    Entry,
    HoldView,
    ListEntries,
    ListUsage,
    ReadAccount,
    ReadHold,
    UsagePage,
)
from fiscus.contract.queries import Usage as Booked
from fiscus.core.commands import PutAccount, PutBudget, PutTemplate, Request, TemplateBudget
from fiscus.core.outcomes import Balance, Refused
from fiscus.core.units import Unit
from fiscus.gateway.application import Gateway
from fiscus.gateway.options import Family, GatewayOptions
from fiscus.gateway.options import Upstream as Provider
from fiscus.pricing import PriceOverride
from fiscus.treasury.local import LocalTreasury
from tests.api.service import FIRST_SECRET, PEPPER, Api, ledger, serving
from tests.gateway.upstream import Upstream
from tests.gateway.wire import MODEL

PAYER = "team:a"
PLENTY = 10**12
PROVIDER_KEY = "sk-provider-secret-0123456789"
IN, OUT = 1_000, 2_000
"""Nano-USD that a token costs."""

PRICES = (PriceOverride(provider="*", model="test-*", input="1", output="2"),)
PREFIX: dict[Family, str] = {"openai": "/v1", "anthropic": "", "gemini": ""}
FAMILIES: tuple[Family, ...] = ("openai", "anthropic", "gemini")


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def providers(upstream: Upstream, **more: Any) -> tuple[Provider, ...]:
    """One upstream for each family, all of them at the same server."""
    return tuple(
        Provider(
            name=family,
            family=family,
            base_url=upstream.url + PREFIX[family],
            api_key=PROVIDER_KEY,
            **{"output_tokens_max": 200, **more},
        )
        for family in FAMILIES
    )


class Gate:
    """See the module."""

    def __init__(self, treasury: LocalTreasury, gateway: Gateway, url: str, session: aiohttp.ClientSession) -> None:
        self.treasury = treasury
        self.gateway = gateway
        self.url = url
        self.session = session
        self.api = Api(treasury, ApiOptions(key_pepper=PEPPER, keys_required=True))

    def knows(self, output_tokens: int, answers: int = 20, *, thinks: bool | None = None) -> None:
        """As after answers to the payer of so many tokens, all of which were shown."""
        tools = self.gateway._tools
        for _ in range(answers):
            tools.lengths.learn(PAYER, MODEL, output_tokens)
            tools.shares.learn("openai", MODEL, bound=output_tokens, billed=output_tokens, thinks=thinks)

    # -- the ledger ---------------------------------------------------------------------------------------------

    async def do(self, command: Any, **context: Any) -> Any:
        outcome = await self.treasury.execute(Request(command=command, **context))
        assert not isinstance(outcome, Refused), outcome
        return outcome

    async def account(self, name: str, parent: str | None = None, **limits: int) -> None:
        """An account with budgets, by unit."""
        await self.do(PutAccount(account=name, parent=parent))
        for unit, limit in limits.items():
            await self.limit(name, unit, limit)  # type: ignore[arg-type]

    async def limit(self, name: str, unit: Unit, limit: int, **more: Any) -> None:
        await self.do(PutBudget(account=name, unit=unit, limit=limit, budget=unit, **more))

    async def template(self, pattern: str, parent: str | None = None, **limits: int) -> None:
        budgets = tuple(TemplateBudget(unit=unit, limit=limit) for unit, limit in limits.items())  # type: ignore[arg-type]
        await self.do(PutTemplate(pattern=pattern, parent=parent, budgets=budgets))

    async def key(self, account: str, role: str = "account", **more: Any) -> str:
        """The secret of a new key."""
        body = {"role": role, "account": account, **more} if role == "account" else {"role": role, **more}
        made = await self.api.post("/v1/keys", body, key=FIRST_SECRET)
        assert made.status in (200, 201), made
        return str(made.json["secret"])

    async def booked(self) -> None:
        """Wait for the settlements of calls that were answered: a read is answered before what is in its batch."""
        await self.gateway._tools.settlements.booked()
        await self.treasury.read(ReadAccount(account=PAYER))

    async def balances(self, name: str = PAYER) -> dict[str, Balance]:
        """Running windows by unit."""
        await self.booked()
        view = await self.treasury.read(ReadAccount(account=name))
        assert isinstance(view, AccountView), view
        return {one.unit: one.balance for one in view.account.budgets if one.balance is not None}

    async def balance(self, name: str = PAYER, unit: str = "tokens") -> Balance:
        return (await self.balances(name))[unit]

    async def exists(self, name: str) -> bool:
        return isinstance(await self.treasury.read(ReadAccount(account=name)), AccountView)

    async def usage(self) -> list[Booked]:
        """What was booked, in order."""
        await self.booked()
        head = (await self.treasury.read(ListEntries(limit=1))).as_of_seq  # type: ignore[union-attr]
        page = await self.treasury.read(ListUsage(limit=1_000, min_seq=head))
        assert isinstance(page, UsagePage), page
        return list(page.usage)

    async def last(self) -> Booked:
        """The one booking."""
        [only] = await self.usage()
        return only

    async def entries(self) -> list[Entry]:
        """The whole journal."""
        found: list[Entry] = []
        while True:
            after = found[-1].seq if found else 0
            page = await self.treasury.read(ListEntries(after=after, limit=1_000))
            assert isinstance(page, EntriesPage), page
            found += page.entries
            if page.next is None:
                return found

    async def assert_nothing_is_held(self) -> None:
        """No hold is open, and no account has anything held or in quarantine."""
        entries = await self.entries()
        names = {name for entry in entries for name in entry.names.values()}
        for id in [entry.data["id"] for entry in entries if entry.kind == "held"]:
            view = await self.treasury.read(ReadHold(id=id))
            assert isinstance(view, HoldView), view
            assert view.hold.state in ("settled", "released"), view.hold
        for name in names:
            if await self.exists(name):
                for balance in (await self.balances(name)).values():
                    assert (balance.held, balance.quarantined) == (0, 0), balance

    # -- calls --------------------------------------------------------------------------------------------------

    async def post(self, path: str, body: Any, **headers: str) -> Answer:
        """One call; ``body``: bytes as they are, anything else as JSON. ``_`` in names of headers stand for ``-``."""
        return await self.ask("POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})

    async def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        raw = body if isinstance(body, bytes | type(None)) else json.dumps(body).encode()
        data = raw if raw is None else io.BytesIO(raw)
        given = {"content-type": "application/json", **(headers or {})}
        async with self.session.request(method, self.url + path, data=data, headers=given) as answer:
            return Answer(
                answer.status, {name.lower(): value for name, value in answer.headers.items()}, await answer.read()
            )

    async def chat(self, body: Any, **headers: str) -> Answer:
        return await self.post("/openai/v1/chat/completions", body, **headers)

    async def messages(self, body: Any, **headers: str) -> Answer:
        return await self.post("/anthropic/v1/messages", body, **headers)

    async def generate(self, body: Any, model: str = "test-model", **headers: str) -> Answer:
        return await self.post(f"/gemini/v1beta/models/{model}:generateContent", body, **headers)


@asynccontextmanager
async def standing(
    upstreams: tuple[Provider, ...], *, keys: bool = False, budget: bool = True, **options: Any
) -> AsyncIterator[Gate]:
    """A gateway on a port; nothing is held at its end.

    Args:
        keys: whether a call needs one.
        budget: whether ``PAYER`` is there with plenty of tokens and money.
    """
    given = {"account": PAYER, "prices": PRICES, "backoff_s": 0.01, **options}
    async with ledger() as treasury:
        gateway = Gateway(treasury, GatewayOptions(upstreams=upstreams, **given))
        beside = _GatewayBeside(gateway)
        if keys:
            await store_first_key(treasury, FIRST_SECRET, PEPPER)
        pepper = PEPPER if keys else None
        payers = payers_of(gateway._options)
        app = create_app(treasury, ApiOptions(key_pepper=pepper, keys_required=keys, beside=beside, payers=payers))
        try:
            async with serving(app) as url, aiohttp.ClientSession(auto_decompress=False) as session:
                gate = Gate(treasury, gateway, url, session)
                if budget:
                    await gate.account(PAYER, tokens=PLENTY, cost=PLENTY)
                yield gate
            await gate.assert_nothing_is_held()
        finally:
            await gateway.close()
