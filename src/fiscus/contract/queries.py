"""What can be read, and what comes back. Every view says as of which journal sequence it holds."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from fiscus.contract.analysis import AnalysisQuery, AnalysisView
from fiscus.contract.query import PAGE_LENGTH_DEFAULT as PAGE_LENGTH_DEFAULT  # noqa: PLC0414  (told on)
from fiscus.contract.query import PAGE_LENGTH_MAX as PAGE_LENGTH_MAX  # noqa: PLC0414  (told on)
from fiscus.contract.query import Query as Query  # noqa: PLC0414  (told on)
from fiscus.contract.rehearsal import RehearsalView, Rehearse
from fiscus.core.commands import GrantStrategy, Mode, ShortageStep, Status, TemplateBudget
from fiscus.core.outcomes import (
    AccountAnswer,
    HoldAnswer,
    KeyAnswer,
    LoanAnswer,
    OverrideAnswer,
    OverrideState,
    PriceAnswer,
    Refused,
)
from fiscus.core.records import CallRecord
from fiscus.core.units import Amounts, Unit


class ReadAccount(Query, tag="account"):
    """One account with its budgets and running balances, exact at ``as_of_seq``."""

    account: str


class ReadHold(Query, tag="hold"):
    """One hold."""

    id: str


class ReadSpared(Query, tag="spared"):
    """What budgets of an account that do not enforce would have refused in their running windows. Exact."""

    account: str


class ReadEnforcement(Query, tag="enforcement"):
    """What the node that answers has decided since it started."""


class ReadLoan(Query, tag="loan"):
    """One loan, ended or not."""

    id: str


class ReadReallocation(Query, tag="reallocation"):
    """What would move so that ``amount`` of a unit is free for a call of an account, and why; nothing moves. Exact."""

    account: str
    unit: Unit
    amount: int


class CheckReserve(Query, tag="check"):
    """Whether a reserve would be admitted now. A dry run: nothing is held, and the next caller may take the room.

    Attributes:
        account … parent: as in Reserve.
        may_open: whether an account may be opened from a template for it.
    """

    account: str
    amounts: Amounts = msgspec.field(default_factory=dict)
    also: tuple[str, ...] = ()
    attributes: dict[str, str] = msgspec.field(default_factory=dict)
    parent: str | None = None
    may_open: bool = True


class ListAccounts(Query, tag="accounts"):
    """Accounts in the order of their numbers, from the read model (at most a second behind).

    Attributes:
        after: number of the last account of the page before.
        prefix: of the name. ``parent``: name of the parent. ``status``: own status.
    """

    after: int = 0
    limit: int = PAGE_LENGTH_DEFAULT
    prefix: str | None = None
    parent: str | None = None
    status: Status | None = None


class ReadOverride(Query, tag="override"):
    """One override, exact."""

    id: str


class ListOverrides(Query, tag="overrides"):
    """Overrides, pending and past ones, in the order of their ids, from the read model.

    Attributes:
        after: id of the last one of the page before.
        state: only those in this state.
        account: only those for this account or one below it.
    """

    after: str = ""
    limit: int = PAGE_LENGTH_DEFAULT
    state: OverrideState | None = None
    account: str | None = None


class ListPrices(Query, tag="prices"):
    """All own prices, those that were removed as well: calls that began before still cost them. Exact.

    ``unless_version``: of the answer that is known; if it is the same still, no prices are told.
    """

    unless_version: int = 0


class ListTemplates(Query, tag="templates"):
    """All templates, exact."""


class ListKeys(Query, tag="keys"):
    """All keys that are not revoked, exact."""


class FindKey(Query, tag="find_key"):
    """The key with this digest, exact; empty if there is none, or it is revoked."""

    digest: str


class ListEntries(Query, tag="entries"):
    """The journal in order, after a sequence number.

    Attributes:
        limit: entries that are read; fewer come back where they are not of the kinds that are asked for.
        kinds: only these; ``held.warned``: of the kind ``held`` those with the field ``warned``. None given: all.
    """

    after: int = 0
    limit: int = PAGE_LENGTH_DEFAULT
    kinds: tuple[str, ...] = ()


class ListUsage(Query, tag="usage"):
    """Records of calls in the order of their booking, from the read model.

    Attributes:
        after: sequence of the last one of the page before.
        account: only calls paid by this account or one below it.
        since, until: half-open by time of booking.
    """

    after: int = 0
    limit: int = PAGE_LENGTH_DEFAULT
    account: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class AccountView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ReadAccount."""

    as_of_seq: int
    account: AccountAnswer


class HoldView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ReadHold."""

    as_of_seq: int
    hold: HoldAnswer


class OverrideView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ReadOverride."""

    as_of_seq: int
    override: OverrideAnswer


class OverridesPage(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ListOverrides; ``next`` is the ``after`` of the next page, None at the end."""

    as_of_seq: int
    overrides: tuple[OverrideAnswer, ...]
    next: str | None


class Spared(msgspec.Struct, frozen=True, kw_only=True):
    """What one budget in mode ``warn`` or ``observe`` would have refused in its running window.

    Attributes:
        calls: holds that did not fit; ``amount``: by how much, in the budget's unit, all together.
    """

    budget: str
    unit: Unit
    mode: Mode
    limit: int
    calls: int
    amount: int
    window_start: datetime
    window_end: datetime | None
    match: dict[str, str]


class SparedView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ReadSpared: each budget of the account that does not enforce, one that refused none, too."""

    as_of_seq: int
    account: str
    budgets: tuple[Spared, ...]


class LoanView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ReadLoan."""

    as_of_seq: int
    loan: LoanAnswer


class CheckView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to CheckReserve: what a reserve would be answered at ``as_of_seq``. To be sure of the room, reserve.

    Attributes:
        admitted: whether it would be held.
        refused: why not.
        dry_run: always true: nothing is held.
    """

    as_of_seq: int
    admitted: bool
    refused: Refused | None
    dry_run: Literal[True] = True


class MoveView(msgspec.Struct, frozen=True, kw_only=True):
    """``amount`` that ``source`` would lend; it would have ``left``, of which it keeps ``min_reserve`` at least."""

    source: str
    amount: int
    priority: int
    left: int
    min_reserve: int


class PassedOverView(msgspec.Struct, frozen=True, kw_only=True):
    """An account that would lend nothing; ``reason`` as in ``policy.reallocation``."""

    account: str
    reason: str


class ReallocationView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ReadReallocation.

    Attributes:
        target: whose allocation the account draws on in this unit: it would borrow.
        available: what is free of that now; ``shortfall``: by how much it is too little.
        recovered: what would move; less than the shortfall: it would not be enough.
        moves: the least important and most idle first.
    """

    as_of_seq: int
    account: str
    unit: Unit
    target: str
    available: int
    shortfall: int
    recovered: int
    moves: tuple[MoveView, ...]
    passed_over: tuple[PassedOverView, ...]


class AccountsPage(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ListAccounts; ``next`` is the ``after`` of the next page, None at the end."""

    as_of_seq: int
    accounts: tuple[AccountAnswer, ...]
    next: int | None


class TemplateView(msgspec.Struct, frozen=True, kw_only=True):
    """A template as it was put."""

    pattern: str
    parent: str | None
    budgets: tuple[TemplateBudget, ...]
    allocations: Amounts
    priority: int
    max_children: int
    max_new_per_minute: int
    idle_close_s: int | None
    confidence_threshold: float | None = None
    gate_s: int | None = None
    shortage: tuple[ShortageStep, ...] = ()
    grant_strategy: GrantStrategy | None = None


class PricesView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ListPrices: the one that was changed last comes first, and is taken where several fit.

    Attributes:
        version: rises with every change of any of them.
    """

    as_of_seq: int
    version: int
    prices: tuple[PriceAnswer, ...]


class TemplatesView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ListTemplates."""

    as_of_seq: int
    templates: tuple[TemplateView, ...]


class KeysView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ListKeys and FindKey."""

    as_of_seq: int
    keys: tuple[KeyAnswer, ...]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One fact of the journal.

    Attributes:
        kind: ``held``, ``settled``, ``threshold_crossed`` …
        data: the event's fields; accounts, budgets and cells by number.
        names: the names of the accounts in it, by number; erased ones are left out.
        hash: hex of the chain hash up to here.
    """

    seq: int
    at: datetime
    kind: str
    data: dict[str, Any]
    names: dict[str, str]
    hash: str


class EntriesPage(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ListEntries; ``next`` is the ``after`` of the next page, None at the end."""

    as_of_seq: int
    entries: tuple[Entry, ...]
    next: int | None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What one reading of a call added to the books, and the call's record.

    The sum over all of a call's readings is what it cost; ``estimated``: its quarantine was closed as a charge.
    """

    seq: int
    at: datetime
    hold: str
    account: str
    also: tuple[str, ...]
    amounts: Amounts
    uncovered: Amounts
    estimated: bool
    record: CallRecord | None


class UsagePage(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ListUsage."""

    as_of_seq: int
    usage: tuple[Usage, ...]
    next: int | None


class EnforcementView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ReadEnforcement (R51). Refusals are not in the journal: a restart begins anew.

    Attributes:
        checks_performed: reserves that were decided; those that wait are not yet.
        budgets_exceeded: those that would not have fitted even alone; ``requests_blocked``: all that were refused.
        refusals: how many with which code.
        blocked_percent: share of those that were refused.
        overrides_granted: overrides in force or past, of the whole ledger; no more than 10,000 overrides are looked at.
        healthy: whether it decides, and less than half is refused.
    """

    as_of_seq: int
    checks_performed: int
    budgets_exceeded: int
    requests_blocked: int
    refusals: Annotated[dict[str, int], msgspec.Meta(description="How many, by the code of the refusal.")]
    blocked_percent: float
    overrides_granted: int
    healthy: bool


ListQuery = ListAccounts | ListOverrides | ListEntries | ListUsage
"""What is read from tables, in pages."""

AnyQuery = (
    ReadAccount
    | ReadHold
    | ReadOverride
    | ReadLoan
    | ReadReallocation
    | ReadSpared
    | ReadEnforcement
    | CheckReserve
    | ListPrices
    | ListTemplates
    | ListKeys
    | FindKey
    | ListQuery
    | AnalysisQuery
    | Rehearse
)
View = (
    AccountView
    | HoldView
    | SparedView
    | EnforcementView
    | OverrideView
    | AccountsPage
    | OverridesPage
    | LoanView
    | ReallocationView
    | CheckView
    | PricesView
    | TemplatesView
    | KeysView
    | EntriesPage
    | UsagePage
    | AnalysisView
    | RehearsalView
)
