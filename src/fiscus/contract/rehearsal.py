"""Rehearsals: what would have become of the recorded calls under another declaration. The question and the answer."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

from fiscus.contract.declaration import DeclaredAccount
from fiscus.contract.query import Query
from fiscus.core.commands import Mode, PutTemplate, ShortageStep
from fiscus.core.outcomes import RefusalCode
from fiscus.core.units import Amounts, Unit

REHEARSED_CALLS_MAX = 50_000
REHEARSED_CALLS_DEFAULT = 10_000
REFUSALS_SHOWN_MAX = 1_000
REFUSALS_SHOWN_DEFAULT = 20
ROWS_MAX = 1_000
"""Accounts, and budgets, that an answer tells at most."""


class Rehearse(Query, tag="rehearse"):
    """What would have become of the recorded calls if ``accounts`` and ``templates`` had been in force. Reads only.

    Attributes:
        accounts, templates: as in a file for ``fiscus apply``. What they leave out is as the ledger has it now.
        since, until: half-open; only what is recorded then. The windows begin unused.
        limit: how many calls at most, 1 … 50,000.
        refusals: how many of the calls that would have been refused are told one by one, 0 … 1,000.
    """

    accounts: tuple[DeclaredAccount, ...] = ()
    templates: tuple[PutTemplate, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    limit: int = REHEARSED_CALLS_DEFAULT
    refusals: int = REFUSALS_SHOWN_DEFAULT


class RehearsedCalls(msgspec.Struct, frozen=True, kw_only=True):
    """What would have become of some calls.

    Attributes:
        calls: recorded reserves; each would have been ``admitted`` or ``refused``.
        refused: of these ``would_wait`` by the account's list, and ``would_ask`` for an override: nobody knows for how
            long, or what the answer would have been.
        eased: how many were admitted by which step of the list.
        waited, waited_ms: calls that were admitted only when they were in the record, and how long all of them waited.
        extensions_refused: rises of holds that would not have fitted.
        recorded, rehearsed: what was booked, and what would have been booked.
    """

    calls: int = 0
    admitted: int = 0
    refused: int = 0
    would_wait: int = 0
    would_ask: int = 0
    eased: Annotated[dict[ShortageStep, int], msgspec.Meta(description="How many, by the step.")] = {}
    waited: int = 0
    waited_ms: int = 0
    extensions_refused: int = 0
    recorded: Amounts = {}
    rehearsed: Amounts = {}


class RehearsedAccount(RehearsedCalls, frozen=True, kw_only=True):
    """What would have become of the calls that an account pays for."""

    account: str


class RehearsedBudget(msgspec.Struct, frozen=True, kw_only=True):
    """How a budget (or allocation) that was charged would have fared.

    Attributes:
        refused: calls that it would have refused, as the first that binds.
        spared: calls that it would have refused if it enforced.
        peak_used, peak_limit: of the window that came closest to its limit: covered, held, quarantined and uncovered.
        thresholds: how often which percentage would have been crossed.
    """

    account: str
    budget: str
    unit: Unit
    mode: Mode
    match: dict[str, str]
    allocated: bool
    refused: int
    spared: int
    peak_used: int
    peak_limit: int
    thresholds: Annotated[dict[int, int], msgspec.Meta(description="How often, by the percentage.")]


class RehearsedRefusal(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded call that would have been refused.

    Attributes:
        at: when it was asked for.
        id: of its hold.
        budget_account, budget, unit, limit, available, requested: of the budget that binds; None: none does.
        steps: of the account's list that would have been tried in vain.
    """

    at: datetime
    id: str
    account: str
    code: RefusalCode
    detail: str
    budget_account: str | None = None
    budget: str | None = None
    unit: Unit | None = None
    limit: int | None = None
    available: int | None = None
    requested: int | None = None
    steps: tuple[ShortageStep, ...] = ()


class RehearsalView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to Rehearse. Calls that were refused are not in the journal, and not in the rehearsal.

    Attributes:
        first_at, last_at: times of the first and the last recorded fact that was looked at; None: there is none.
        next: the calls behind this entry were not looked at, for there are more than ``limit``; None: all were.
        totals: of all calls. ``codes``: how many would have been refused with which code.
        accounts, budgets: most refused first, at most 1,000; ``account_count`` and ``budget_count`` say how many.
        refusals: the first ones.
        spared_recorded: calls that budgets which warn or observe would have refused in the record.
        left_out: what the journal records of changes and is not repeated, how many by kind; ``allocation_refused``:
            allocations of the ledger that found no room when the rehearsal began.
    """

    as_of_seq: int
    first_at: datetime | None
    last_at: datetime | None
    next: int | None
    totals: RehearsedCalls
    codes: Annotated[dict[str, int], msgspec.Meta(description="How many, by the code of the refusal.")]
    account_count: int
    accounts: tuple[RehearsedAccount, ...]
    budget_count: int
    budgets: tuple[RehearsedBudget, ...]
    refusals: tuple[RehearsedRefusal, ...]
    spared_recorded: int
    left_out: Annotated[dict[str, int], msgspec.Meta(description="How many, by the kind of the entry.")]
