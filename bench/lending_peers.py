"""10,000 random reallocations among 100 agents at once, on both stores: nothing is minted, lenders keep their reserves.

Each agent reserves more than it has and settles some of it; its list says ``reallocate``, so that what is short is
borrowed from the others with the hold. Afterwards the journal is folded entry by entry: after each loan every lender
has at least its reserve, and at the end the allocations add up to what they were, and no loan is open.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator
from typing import Any

from bench.databases import durable_postgres
from bench.ledgers import treasury_at
from bench.measuring import Figures, run_as_child, say, scaled, scratch, stopwatch
from fiscus.contract.errors import TreasuryError
from fiscus.core.commands import Allocate, AnyCommand, PutAccount, PutBudget, Request, Reserve, Settle
from fiscus.core.decide import new_draft
from fiscus.core.events import Lent, LoanEnded
from fiscus.core.fold import fold
from fiscus.core.outcomes import HoldAnswer, Refused
from fiscus.core.state import Draft
from fiscus.treasury.codec import decode_event
from fiscus.treasury.local import LocalTreasury

AGENTS, CALLERS, REALLOCATIONS = 100, 32, 10_000
SIZE, RESERVE = 1_000, 100
ATTEMPTS_MAX = 4
"""Calls per reallocation that is wanted, before it is given up: some find room, some find nobody who can lend."""

PAGE = 5_000


def measure(scale: float = 1.0) -> Figures:
    """Both stores; the worse figure of each kind stands on top."""
    wanted = scaled(REALLOCATIONS, scale, least=50)
    found: dict[str, Figures] = {}
    with scratch() as folder:
        found["sqlite"] = asyncio.run(_run(f"sqlite:///{folder / 'lending.db'}", wanted))
    with durable_postgres() as postgres:
        found["postgres"] = asyncio.run(_run(postgres.migrated_database(), wanted))
    return {
        "reallocations_wrong": max(one["wrong"] for one in found.values()),
        "reallocations_made": min(one["reallocations"] / wanted for one in found.values()),
        "wanted": wanted,
        **found,
    }


async def _run(store_url: str, wanted: int, seed: int = 7) -> Figures:
    """Many callers until so many reallocations have been made."""
    treasury = treasury_at(store_url)
    try:
        await _set_up(treasury)
        tally: Figures = {"reallocations": 0, "calls": 0, "refused": 0}
        with stopwatch() as taken:
            await asyncio.gather(
                *(_call(treasury, random.Random(f"{seed}-{n}"), n, wanted, tally) for n in range(CALLERS))
            )
        figures = {**tally, "seconds": round(taken["seconds"], 2), **examine(treasury)}
        say(f"lending on {store_url.partition(':')[0]}: {figures}")
        return figures
    finally:
        await treasury.close()


async def _set_up(treasury: LocalTreasury) -> None:
    commands: list[AnyCommand] = [
        PutAccount(account="fleet", shortage=("reallocate",)),
        PutBudget(account="fleet", unit="tokens", limit=AGENTS * SIZE),
    ]
    for number in range(AGENTS):
        name = f"agent:{number}"
        commands += [
            PutAccount(account=name, parent="fleet", priority=1 + number % 3, min_reserve={"tokens": RESERVE}),
            Allocate(account=name, unit="tokens", to=SIZE),
        ]
    for outcome in await treasury.execute_many([Request(command=command) for command in commands]):
        assert not isinstance(outcome, Refused), outcome


async def _call(treasury: LocalTreasury, draw: random.Random, caller: int, wanted: int, tally: Figures) -> None:
    number = 0
    while tally["reallocations"] < wanted and tally["calls"] < wanted * ATTEMPTS_MAX:
        id, number = f"{caller}-{number}", number + 1
        amount = draw.randint(SIZE // 2, 3 * SIZE)
        tally["calls"] += 1
        with contextlib.suppress(TreasuryError):
            command = Reserve(id=id, account=f"agent:{draw.randrange(AGENTS)}", amounts={"tokens": amount})
            held = await treasury.execute(Request(command=command))
            if isinstance(held, Refused):
                tally["refused"] += 1
                continue
            assert isinstance(held, HoldAnswer)
            tally["reallocations"] += bool(held.loans)
            # Little is used, so that there is something left to lend to the end.
            used = draw.randrange(3) if draw.random() < 0.5 else 0
            await treasury.execute(Request(command=Settle(id=id, total={"tokens": used})))


def examine(treasury: LocalTreasury) -> Figures:
    """Fold the journal and look: each thing that is wrong counts once."""
    draft = new_draft()
    below = lent = ended = 0
    for event, at in events_of(treasury):
        fold(draft, event, at)
        draft.commit()
        if isinstance(event, Lent):
            lent += 1
            below += sum(left_of(draft, number) < RESERVE for number, _ in event.parts)
        ended += isinstance(event, LoanEnded)
    total = sum(draft.cells[draft.budgets[one.allocations["tokens"]].cell].base for one in carved(draft))
    open_loans = sum(loan.active for loan in draft.loans.values())
    minted = abs(total - AGENTS * SIZE)
    return {
        "wrong": below + open_loans + minted,
        "lenders_below_reserve": below,
        "loans_open": open_loans,
        "minted": minted,
        "loans": lent,
        "loans_ended": ended,
    }


def events_of(treasury: LocalTreasury) -> Iterator[tuple[Any, int]]:
    """The journal's events with their times."""
    journal, tenant, after = treasury.engine.store.journal, treasury.engine.ledger("default").number, 0
    while entries := journal.entries(tenant, after, PAGE):
        for entry in entries:
            yield decode_event(entry.body, entry.private), entry.at
        after = entries[-1].seq


def carved(draft: Draft) -> list[Any]:
    return [account for account in draft.accounts.values() if account.allocations]


def left_of(draft: Draft, number: int) -> int:
    return draft.cells[draft.budgets[draft.accounts[number].allocations["tokens"]].cell].free


if __name__ == "__main__":
    run_as_child(measure)
