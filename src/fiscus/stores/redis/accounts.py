"""What is written of an account: names and values as texts, the same as in the answers of the HTTP API."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Protocol

import msgspec

from fiscus.core.checks import to_datetime, to_ms
from fiscus.core.outcomes import AccountAnswer, Balance
from fiscus.stores.redis.keys import AGENT_PREFIX
from fiscus.stores.redis.reader import Shown
from fiscus.stores.redis.server import AccountState

PENDING_MS = 10_000
"""How soon an allocation is looked at again that is shown as it would be carved again."""


TIMES_MAX = 4_096
"""Times whose text is remembered: many windows begin and end together."""


class AgentFigures(Protocol):
    """What an agent's status says of it, in tokens."""

    @property
    def allocated(self) -> int:
        """Its limit."""
        ...

    @property
    def consumed(self) -> int:
        """What it has used."""
        ...

    @property
    def remaining(self) -> int:
        """What is left, at least 0."""
        ...


class Economy(msgspec.Struct, frozen=True, kw_only=True):
    """How the token economy API sees accounts; it is given here, so that both show the same numbers.

    Attributes:
        tenant: whose agents they are.
        pool_account: name of the account that has the pool.
        pool_balance: the running window of the pool.
        agent_status: an agent's figures by its id, account and pool; None if it has no allocation that runs.
    """

    tenant: str
    pool_account: str
    pool_balance: Callable[[AccountAnswer], Balance | None]
    agent_status: Callable[[str, AccountAnswer, Balance], AgentFigures | None]


def account_state(
    number: int, shown: Shown, *, as_of: int, now_ms: int, pool: Balance | None, economy: Economy | None
) -> AccountState:
    """The texts of an account.

    Args:
        number: of the account.
        shown: the account.
        as_of: the entry of the journal that it is as of.
        now_ms: when it is shown.
        pool: of the economy; None: there is none.
        economy: None: the tenant has none.
    """
    answer = shown.answer
    if not shown.is_live:
        return AccountState(str(number), answer.account, "", [], [])
    return AccountState(
        number=str(number),
        name=answer.account,
        first_end=_first_end(shown, now_ms),
        fields=_fields(answer, as_of, now_ms),
        agent=_agent(shown, as_of, pool, economy) if economy is not None and pool is not None else [],
    )


def _fields(answer: AccountAnswer, as_of: int, now_ms: int) -> list[str]:
    shown = [(view.budget, view.balance) for view in answer.budgets if view.balance is not None]
    fields = [
        *("number", str(answer.number)),
        *("parent", answer.parent or ""),
        *("status", answer.status),
        *("status_effective", answer.status_effective),
        *("budgets", msgspec.json.encode([name for name, _ in shown]).decode()),
        *("as_of_seq", str(as_of)),
        *("as_of", time_text(to_datetime(now_ms))),
    ]
    for name, balance in shown:
        fields += _balance_fields(name, balance)
    return fields


def _balance_fields(name: str, balance: Balance) -> list[str]:
    return [
        *(f"{name}:unit", balance.unit),
        *(f"{name}:mode", balance.mode),
        *(f"{name}:limit", str(balance.limit)),
        *(f"{name}:covered", str(balance.covered)),
        *(f"{name}:held", str(balance.held)),
        *(f"{name}:quarantined", str(balance.quarantined)),
        *(f"{name}:uncovered", str(balance.uncovered)),
        *(f"{name}:spent", str(balance.spent)),
        *(f"{name}:available", str(balance.available)),
        *(f"{name}:overdrawn", str(balance.overdrawn)),
        *(f"{name}:window_start", time_text(balance.window_start)),
        *(f"{name}:window_end", time_text(balance.window_end) if balance.window_end is not None else ""),
        *(f"{name}:allocated", "1" if balance.allocated else "0"),
    ]


def _agent(shown: Shown, as_of: int, pool: Balance, economy: Economy) -> list[str]:
    name = shown.answer.account
    if not name.startswith(AGENT_PREFIX) or economy.pool_account not in shown.chain:
        return []
    figures = economy.agent_status(name.removeprefix(AGENT_PREFIX), shown.answer, pool)
    if figures is None:
        return []
    return [
        *("allocated", str(figures.allocated)),
        *("consumed", str(figures.consumed)),
        *("remaining", str(figures.remaining)),
        *("as_of_seq", str(as_of)),
    ]


def _first_end(shown: Shown, now_ms: int) -> str:
    """When the account must be looked at again though nothing happens to it (ms); empty: never."""
    ends = [
        end
        for view in shown.answer.budgets
        if view.balance is not None
        and view.balance.window_end is not None
        and (end := to_ms(view.balance.window_end)) > now_ms
    ]
    if shown.is_pending:
        ends.append(now_ms + PENDING_MS)
    return str(min(ends)) if ends else ""


@lru_cache(maxsize=TIMES_MAX)
def time_text(at: datetime) -> str:
    """A time as the HTTP API writes it.

    >>> time_text(to_datetime(1_500))
    '1970-01-01T00:00:01.500000Z'
    """
    text: str = msgspec.to_builtins(at)
    return text
