"""Asking an engine without threads: one batch after another, each answered before the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fiscus.contract.queries import AnyQuery, ReadAccount
from fiscus.core.commands import Request
from fiscus.core.outcomes import AccountAnswer, Balance
from fiscus.core.state import Rules
from fiscus.treasury.clock import Clock
from fiscus.treasury.engine import AnyResult, Engine, Submission
from fiscus.treasury.store import Store

SALT = b"salt of the test"


class Desk:
    """A port, and the engine behind it."""

    def __init__(self, store: Store, clock: Clock, rules: Rules | None = None) -> None:
        self.engine = Engine(store, clock=clock, rules=rules, salt=lambda: SALT)
        self.delivered: list[tuple[Any, AnyResult]] = []

    def deliver(self, answers: list[tuple[Any, AnyResult]]) -> None:
        self.delivered += answers

    def ask(self, *wishes: Request | AnyQuery) -> list[AnyResult]:
        """One batch; the answers in the order of the wishes."""
        self.delivered.clear()
        self.engine.run_batch([Submission(self, index, wish) for index, wish in enumerate(wishes)])
        assert sorted(token for token, _ in self.delivered) == list(range(len(wishes))), "one answer for each wish"
        return [answer for _, answer in sorted(self.delivered, key=lambda answered: answered[0])]

    def do(self, command: Any, **context: Any) -> Any:
        """One command by itself."""
        return self.ask(Request(command=command, **context))[0]

    def account(self, name: str, tenant: str = "default") -> AccountAnswer:
        """An account as it is now."""
        view = self.ask(ReadAccount(tenant=tenant, account=name))[0]
        return view.account  # type: ignore[union-attr]

    def balance(self, name: str, budget: str = "tokens-lifetime", tenant: str = "default") -> Balance:
        """The running window of a budget."""
        found = next(one for one in self.account(name, tenant).budgets if one.budget == budget)
        assert found.balance is not None
        return found.balance

    def after_batch(self) -> None:
        """What the engine does between two batches; what it hands to its follower is written at once."""
        engine = self.engine
        engine.after_batch()
        if engine._following:
            engine._snapshots.put(None)
            engine._follow()
            engine._take_written(block=False)

    def write_views(self) -> None:
        """Bring the views to the head, as the follower does."""
        self.engine.errand(self.engine._write_views_now)


def journal(store: Store, tenant: str = "default") -> list[tuple[int, int, bytes, bytes]]:
    """All entries of a tenant: sequence, time, body, chain hash."""
    number = store.journal.tenants()[tenant]
    return [(entry.seq, entry.at, entry.body, entry.hash) for entry in store.journal.entries(number, 0, 10**9)]


def entities(store: Store, tenant: str = "default") -> list[tuple[int, int | str, bytes]]:
    """All entities of a tenant as the views have them, in a canonical order, byte for byte."""
    with store.views.sealed(store.journal.tenants()[tenant]) as (_, rows):
        return list(rows)


def usage(store: Store, tenant: str = "default") -> list[Any]:
    """All rows of usage of a tenant."""
    return list(store.views.usage(store.journal.tenants()[tenant], 0, 10**9, None, None, None))


def tokens(*amounts: int) -> Sequence[dict[Any, int]]:
    """Amounts of tokens."""
    return [{"tokens": amount} for amount in amounts]
