"""The rest of a budget goes to one stream at a time, whoever asks for it at the same moment, at one node or at two."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from fiscus.api.keys import Caller
from fiscus.core.commands import PutAccount, PutBudget, Request, Reserve, Settle
from fiscus.core.outcomes import Refused
from fiscus.gateway.admission import Admitted, Asking, Wish, admit, wish
from fiscus.gateway.bounds import Bound
from fiscus.gateway.lengths import Expected
from fiscus.gateway.payers import Payer
from fiscus.gateway.settlements import Settlements
from fiscus.stores import open_store
from fiscus.stores.postgres.store import PostgresStore
from fiscus.treasury.engine import Engine
from fiscus.treasury.local import LocalTreasury
from tests.servers.postgres import server

ANYBODY = Caller(actor="", role="viewer", may_open=False)
PAYER = "team:a"
REST = 300
OUTPUT = 1_024
EXPECTED = Expected(tokens=345, spread=170, known=256)


@pytest.fixture(params=["one node", "two nodes"])
async def nodes(request) -> AsyncIterator[list[LocalTreasury]]:
    """The ledger as each of two streams asks it: ``REST`` tokens of output are left."""
    if request.param == "one node":
        one = LocalTreasury(Engine(open_store("memory:")))
        made = [one, one]
    else:
        url = server("18").migrated_database()
        made = [LocalTreasury(Engine(PostgresStore(url))) for _ in range(2)]
    for command in (PutAccount(account=PAYER), PutBudget(account=PAYER, unit="output_tokens", limit=REST)):
        await do(made[0], command)
    yield made
    for node in dict.fromkeys(made):
        await node.close()


async def do(node, command):
    outcome = await node.execute(Request(command=command))
    assert not isinstance(outcome, Refused), outcome


class InStep:
    """Who asks goes on when all others have asked as often, or have ended."""

    def __init__(self) -> None:
        self._asking = 0
        self._waiting: list[asyncio.Future[None]] = []

    async def run(self, *wishes: Wish) -> list[Admitted | Refused]:
        self._asking = len(wishes)
        return list(await asyncio.gather(*map(self._admit, wishes)))

    async def _admit(self, wish: Wish) -> Admitted | Refused:
        try:
            return await admit(wish)
        finally:
            self._asking -= 1
            self._go_on()

    async def wait(self) -> None:
        self._waiting.append(asyncio.get_running_loop().create_future())
        turn = self._waiting[-1]
        self._go_on()
        await turn

    def _go_on(self) -> None:
        if len(self._waiting) >= self._asking:
            for turn in self._waiting:
                turn.set_result(None)
            self._waiting = []


class Ledger(Settlements):
    """Asks in step with others."""

    def __init__(self, treasury: LocalTreasury, steps: InStep) -> None:
        super().__init__(treasury)
        self._steps = steps

    async def execute(self, request):
        outcome = await super().execute(request)
        await self._steps.wait()
        return outcome


def wanted(ledger: Settlements) -> Wish:
    """A stream that would take more than there is."""
    bound = Bound(input_tokens=10, choices=1, output_tokens_max=OUTPUT, costs=())
    asking = Asking(ledger, bound, Payer(account=PAYER), ANYBODY, "default", attributes={})
    return wish(asking, 16, expected=EXPECTED, ahead=128, grows=True)


async def both_ask(nodes):
    """The one that was admitted, and its node; the other one was told to wait."""
    steps = InStep()
    outcomes = await asyncio.wait_for(steps.run(*(wanted(Ledger(node, steps)) for node in nodes)), 10)
    admitted = [one for one in outcomes if isinstance(one, Admitted)]
    assert [one.code for one in outcomes if isinstance(one, Refused)] == ["budget_busy"] * (2 - len(admitted))
    return admitted


# covers E2, E15
async def test_of_two_that_ask_at_once_one_has_all_of_the_rest_and_is_told_so_while_the_other_waits(nodes):
    left = REST
    for used in (120, 60, 100):
        [one] = await both_ask(nodes)
        assert (one.held_output_tokens, one.output_tokens) == (left, left)
        assert await both_ask(nodes) == [], "it may give some of it back"
        await do(nodes[1], Settle(id=one.id, total={"output_tokens": used}))
        left -= used
    [one] = await both_ask(nodes)
    assert one.held_output_tokens == left == 20
    await do(nodes[0], Settle(id=one.id, total={"output_tokens": left}))
    steps = InStep()
    codes = [one.code for one in await steps.run(*(wanted(Ledger(node, steps)) for node in nodes))]
    assert codes == ["budget_exceeded"] * 2


# covers E15
async def test_nobody_has_the_rest_while_a_call_in_flight_may_give_some_back(nodes):
    await do(nodes[0], Reserve(id="running", account=PAYER, amounts={"output_tokens": 100}))
    assert await both_ask(nodes) == []
    await do(nodes[1], Settle(id="running", total={"output_tokens": 40}))
    [one] = await both_ask(nodes)
    assert (one.held_output_tokens, one.output_tokens) == (REST - 40, REST - 40)


class Meanwhile(Settlements):
    """Something happens between the first that is asked and the second."""

    def __init__(self, treasury: LocalTreasury, *commands: object) -> None:
        super().__init__(treasury)
        self._commands = commands

    async def execute(self, request):
        outcome = await super().execute(request)
        commands, self._commands = self._commands, ()
        for command in commands:
            await do(self.treasury, command)
        return outcome


# covers E15
@pytest.mark.parametrize("held", [290, 100])
async def test_room_that_was_given_back_a_moment_ago_is_for_those_that_run(nodes, held):
    for id, tokens in (("ends", held - 5), ("runs", 5)):
        await do(nodes[0], Reserve(id=id, account=PAYER, amounts={"output_tokens": tokens}))
    ledger = Meanwhile(nodes[1], Settle(id="ends", total={"output_tokens": 40}))
    one = wanted(ledger)
    for _ in range(2):
        outcome = await admit(one)
        assert isinstance(outcome, Refused)
        assert (outcome.code, outcome.retry_after_s) == ("budget_busy", 1)
        balance = outcome.binding
    assert (balance.held, balance.available) == (5, REST - 40 - 5), "nothing is held for it"
    await do(nodes[0], Settle(id="runs", total={"output_tokens": 5}))
    admitted = await admit(one)
    assert isinstance(admitted, Admitted)
    assert admitted.output_tokens == admitted.held_output_tokens == REST - 45
    await do(nodes[1], Settle(id=admitted.id, total={"output_tokens": 1}))
