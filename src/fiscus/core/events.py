"""The facts of the journal. They say what happened, with every number worked out: ``fold`` only adds.

Accounts, budgets and cells are numbers here. What could name a person or a content stands in the ``private`` part of
an event, which is kept beside the journal and can be erased without touching the chain. Times are ms since the epoch.
"""

from __future__ import annotations

from typing import ClassVar, dataclass_transform

import msgspec

from fiscus.core.commands import (
    Alternative,
    CarryOver,
    ExhaustionPolicy,
    GrantStrategy,
    Mode,
    OverridePolicy,
    PriceTier,
    Role,
    Severity,
    ShortageStep,
    Status,
    TemplateBudget,
)
from fiscus.core.records import CallRecord, Provenance, Tokens
from fiscus.core.units import Amounts, Unit

FORMAT = 2
"""Format of the events written by this version; a higher one in a journal stops a node. 2: loans and what else has
``since = 2``."""

CellsByUnit = dict[Unit, tuple[int, ...]]


MILLION = 1_000_000


class GateTerms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """From which confidence on, in millionths, the gate of an account closes, and for how long (None: until reset)."""

    threshold: int
    closed_s: int | None = None

    @property
    def confidence_threshold(self) -> float:
        """The threshold as people write it, 0 … 1."""
        return self.threshold / MILLION


class Private(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The erasable part of an event."""

    name: str | None = None
    labels: dict[str, str] | None = None
    reason: str | None = None
    record: CallRecord | None = None
    attributes: dict[str, str] | None = None


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", gc=False):
    """Base of all events; ``kind`` names it in the journal.

    Attributes:
        since: the format that brought it; it is written only once all nodes may write that format.
        fields_since: the same for fields that came later; they are empty (or false, or None) where they say nothing.
    """

    since: ClassVar[int] = 1
    fields_since: ClassVar[dict[str, int]] = {}


class AccountOpened(Event, tag="account_opened"):
    fields_since: ClassVar[dict[str, int]] = {"gate": 2}

    account: int
    parent: int | None = None
    depth: int = 1
    priority: int = 1
    min_reserve: Amounts = {}
    template: str | None = None
    gate: GateTerms | None = None
    private: Private | None = None


class AccountChanged(Event, tag="account_changed"):
    fields_since: ClassVar[dict[str, int]] = {"gate": 2, "gate_removed": 2}

    account: int
    priority: int | None = None
    min_reserve: Amounts | None = None
    gate: GateTerms | None = None
    gate_removed: bool = False
    private: Private | None = None


class StatusChanged(Event, tag="status_changed"):
    account: int
    status: Status
    actor: str = ""
    private: Private | None = None


class BudgetPut(Event, tag="budget_put"):
    """``cell``: the running window that takes limit and mode; ``deferred``: period and zone wait for its end."""

    fields_since: ClassVar[dict[str, int]] = {"override": 2}

    budget: int
    account: int
    name: str
    unit: Unit
    version: int
    limit: int
    period: str
    zone: str
    anchor: int
    thresholds: dict[int, Severity]
    mode: Mode = "enforce"
    match: dict[str, str] = {}
    on_exhaustion: ExhaustionPolicy = "deny"
    carry_over: CarryOver = "none"
    carry_max: int | None = None
    carry_debt: bool = False
    cell: int | None = None
    deferred: bool = False
    forced: bool = False
    override: OverridePolicy | None = None
    actor: str = ""


class BudgetRemoved(Event, tag="budget_removed"):
    budget: int
    actor: str = ""


class WindowOpened(Event, tag="window_opened"):
    """``carried`` and ``debt`` come from the windows before; ``carried_out`` and ``debt_out`` leave ``previous``."""

    cell: int
    budget: int
    start: int
    end: int
    base: int
    period: str
    zone: str
    carried: int = 0
    debt: int = 0
    previous: int | None = None
    carried_out: int = 0
    debt_out: int = 0


class Held(Event, tag="held"):
    """``again``: its id stands in the journal already, for it has waited. ``unclaimed``: nobody has been told yet.

    ``spared``: cells whose budgets do not enforce and would have refused it → by how much it did not fit.
    """

    fields_since: ClassVar[dict[str, int]] = {"task": 2, "again": 2, "unclaimed": 2, "spared": 2}

    id: str
    account: int
    cells: CellsByUnit
    amounts: Amounts
    expires_at: int
    lease_s: int
    asked: Amounts
    attributes_check: int = 0
    also: tuple[int, ...] = ()
    warned: tuple[int, ...] = ()
    task: str = ""
    again: bool = False
    unclaimed: bool = False
    spared: dict[int, int] = {}
    private: Private | None = None


class Queued(Event, tag="queued"):
    """A reserve that waits, and holds nothing, for ``needed`` in ``cell``.

    ``least``, ``alternatives``: what would do instead, as in Reserve; ``needed`` is the least of that.
    ``steps``: of its account's list, as in ShortageMet. ``turn``: who has the lowest comes first, then who has the
    lowest ``order``. ``until``: when it ends for good, and ``expires_at``: unless who waits has said by then that he is
    there. ``again``: as in Held.
    """

    since = 2

    id: str
    account: int
    asked: Amounts
    lease_s: int
    cell: int
    needed: int
    turn: int
    order: int
    until: int
    expires_at: int
    attributes_check: int = 0
    also: tuple[int, ...] = ()
    leave: Amounts = {}
    least: Amounts = {}
    alternatives: tuple[Alternative, ...] = ()
    steps: tuple[ShortageStep, ...] = ()
    again: bool = False
    private: Private | None = None


class TicketChanged(Event, tag="ticket_changed"):
    """It waits for another cell, or for longer."""

    since = 2

    id: str
    cell: int
    needed: int
    expires_at: int


class TicketEnded(Event, tag="ticket_ended"):
    """It waits no longer; if it was admitted and nobody has claimed it, it is given back. The id may be tried again.

    ``code``: of the refusal, or ``gone``: who waited has gone.
    """

    since = 2

    id: str
    code: str


class Extended(Event, tag="extended"):
    id: str
    to: Amounts
    expires_at: int


class Settled(Event, tag="settled"):
    """``account``, ``also``, ``cells`` when there is no hold; ``moves``: cell that is gone → where its rise goes.

    ``again``: as in Held.
    """

    fields_since: ClassVar[dict[str, int]] = {"again": 2}

    id: str
    total: Amounts
    final: bool = True
    moves: dict[int, int] = {}
    account: int | None = None
    also: tuple[int, ...] = ()
    cells: CellsByUnit = {}
    recorded: bool = False
    model: str | None = None
    provider: str | None = None
    tokens: Tokens | None = None
    cost_nanousd: int | None = None
    again: bool = False
    private: Private | None = None


class Released(Event, tag="released"):
    """``account`` and ``cells`` when nothing was held yet: what is settled later all the same is charged there.

    ``again``: its reserve has come, and was not admitted.
    """

    fields_since: ClassVar[dict[str, int]] = {"again": 2}

    id: str
    account: int | None = None
    cells: CellsByUnit = {}
    again: bool = False


class Expired(Event, tag="expired"):
    id: str
    closes_at: int


class QuarantineClosed(Event, tag="quarantine_closed"):
    id: str
    charge: bool


class Adjusted(Event, tag="adjusted"):
    fields_since: ClassVar[dict[str, int]] = {"override": 2}

    id: str
    account: int
    budget: int
    cell: int
    amount: int
    valid_until: int | None = None
    forced: bool = False
    override: bool = False
    actor: str = ""
    private: Private | None = None


class AdjustmentEnded(Event, tag="adjustment_ended"):
    id: str
    actor: str = ""


class OverrideRequested(Event, tag="override_requested"):
    """``cell``: the window that is to be raised, with its ``limit`` and what is ``used`` of it now."""

    since = 2

    id: str
    account: int
    budget: int
    cell: int
    unit: Unit
    amount: int
    limit: int
    used: int
    closes_at: int
    open_s: int
    valid_until: int | None = None
    valid_s: int | None = None
    actor: str = ""
    private: Private | None = None


class OverrideApproved(Event, tag="override_approved"):
    """The adjustment with the same id follows; ``limit`` is that of the window with it."""

    since = 2

    id: str
    account: int
    budget: int
    cell: int
    unit: Unit
    asked: int
    amount: int
    limit: int
    used: int
    valid_until: int
    actor: str = ""
    private: Private | None = None


class OverrideDenied(Event, tag="override_denied"):
    since = 2

    id: str
    account: int
    budget: int
    actor: str = ""
    private: Private | None = None


class OverrideExpired(Event, tag="override_expired"):
    """Nobody has decided on the request while it was open."""

    since = 2

    id: str
    account: int
    budget: int


class OverrideWithdrawn(Event, tag="override_withdrawn"):
    """Who asked does not want it any more."""

    since = 2

    id: str
    account: int
    budget: int
    actor: str = ""
    private: Private | None = None


class OverrideRevoked(Event, tag="override_revoked"):
    """The end of the adjustment with the same id follows."""

    since = 2

    id: str
    account: int
    budget: int
    cell: int
    unit: Unit
    amount: int
    actor: str = ""
    private: Private | None = None


class GateClosed(Event, tag="gate_closed"):
    """No more calls of a task until ``until`` (None: until it is reset); ``opened``: gates that this one opens."""

    since = 2

    account: int
    task: str
    confidence: int
    threshold: int
    until: int | None = None
    opened: tuple[str, ...] = ()
    private: Private | None = None


class GateReset(Event, tag="gate_reset"):
    """``task`` None: all of them."""

    since = 2

    account: int
    task: str | None = None
    actor: str = ""


class AllocationPut(Event, tag="allocation_put"):
    """An allocation starts (or is carved again) as a new cell of the child, held on ``pins`` above it.

    ``parked``: there is usage to book and no room to carve it: it covers nothing above until it is resumed.
    """

    budget: int
    account: int
    unit: Unit
    cell: int
    size: int
    start: int
    end: int
    pins: tuple[int, ...]
    valid_until: int | None = None
    on_exhaustion: ExhaustionPolicy = "deny"
    version: int = 1
    parked: bool = False
    actor: str = ""
    private: Private | None = None


class AllocationResized(Event, tag="allocation_resized"):
    """``on_exhaustion`` (with ``valid_until``) and ``end`` when the terms change; ``shortened``: carved from it."""

    cell: int
    size: int
    on_exhaustion: ExhaustionPolicy | None = None
    valid_until: int | None = None
    end: int | None = None
    shortened: tuple[int, ...] = ()
    account: int | None = None
    actor: str = ""
    private: Private | None = None


class AllocationParked(Event, tag="allocation_parked"):
    cell: int


class AllocationResumed(Event, tag="allocation_resumed"):
    cell: int


class AllocationEnded(Event, tag="allocation_ended"):
    """``for_good``: not carved again by itself; ``shared``: the account draws on its parent from now on."""

    cell: int
    for_good: bool = False
    shared: bool = False
    actor: str = ""


class AllocationsPinned(Event, tag="allocations_pinned"):
    """A budget made above live allocations holds them from its start: ``cell`` becomes a pin of each.

    ``shortened``: those, and allocations carved from them, that end with the new window now.
    """

    cell: int
    allocations: tuple[int, ...]
    shortened: tuple[int, ...] = ()


class Transferred(Event, tag="transferred"):
    """``sizes``: every allocation cell on both paths → its new size.

    Growing ones come first: so use at the common ancestor never sinks in between, and nothing lapses there.
    """

    source: int
    target: int
    unit: Unit
    amount: int
    sizes: tuple[tuple[int, int], ...]
    actor: str = ""
    private: Private | None = None


class Lent(Event, tag="lent"):
    """What was transferred just before, by lender (``parts``: account, amount), is to go back if it is not used."""

    since = 2

    id: str
    account: int
    unit: Unit
    parts: tuple[tuple[int, int], ...]
    ends_at: int | None = None
    actor: str = ""
    private: Private | None = None


class LoanEnded(Event, tag="loan_ended"):
    """``returned``: what was transferred back just before, by lender; the rest stays where it is."""

    since = 2

    id: str
    account: int
    returned: tuple[tuple[int, int], ...] = ()
    actor: str = ""


class ShortageMet(Event, tag="shortage_met"):
    """What was done so that a hold which lacked room was made all the same; ``steps``: tried, the last with success.

    ``granted``: what is held instead of what was asked. ``model``: the alternative that was taken.
    """

    since = 2

    id: str
    account: int
    steps: tuple[ShortageStep, ...] = ()
    loans: tuple[str, ...] = ()
    granted: Amounts = {}
    model: str | None = None


class ShortageSet(Event, tag="shortage_set"):
    """What is tried for reserves that lack room, of an account or of the accounts of a template (``pattern``)."""

    since = 2

    steps: tuple[ShortageStep, ...]
    account: int | None = None
    pattern: str | None = None
    actor: str = ""


class GrantStrategySet(Event, tag="grant_strategy_set"):
    """How grants are sized, of an account or of the accounts of a template (``pattern``). None: it does not say."""

    since = 2

    strategy: GrantStrategy | None = None
    account: int | None = None
    pattern: str | None = None
    actor: str = ""


class ThresholdCrossed(Event, tag="threshold_crossed"):
    cell: int
    account: int
    budget: int
    percent: int
    severity: Severity
    used: int
    limit: int


class TemplatePut(Event, tag="template_put"):
    fields_since: ClassVar[dict[str, int]] = {"gate": 2}

    pattern: str
    parent: int | None = None
    budgets: tuple[TemplateBudget, ...] = ()
    allocations: Amounts = {}
    priority: int = 1
    max_children: int = 0
    max_new_per_minute: int = 0
    idle_close_s: int | None = None
    gate: GateTerms | None = None
    actor: str = ""


class TemplateRemoved(Event, tag="template_removed"):
    pattern: str
    actor: str = ""


class PriceTerms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a model costs from ``start`` on; fields as in PutPrice."""

    start: int
    rates: dict[str, int]
    fees: dict[str, int] = {}
    tiers: tuple[PriceTier, ...] = ()
    end: int | None = None


class PricePut(Event, tag="price_put"):
    """``terms`` stand instead of those that began then or later; ``order`` rises with every change of any price."""

    since = 2

    price: str
    provider: str
    model: str
    terms: PriceTerms
    order: int
    service_tier: str | None = None
    actor: str = ""


class PriceRemoved(Event, tag="price_removed"):
    """Its terms end at ``end``; those that would have begun then or later are gone."""

    since = 2

    price: str
    end: int
    order: int
    actor: str = ""


class KeyPut(Event, tag="key_put"):
    key: str
    digest: str
    role: Role
    account: int | None = None
    may_open: bool = False
    expires_at: int | None = None
    requests_per_minute: int | None = None
    actor: str = ""
    private: Private | None = None


class KeyRevoked(Event, tag="key_revoked"):
    key: str
    actor: str = ""


class NameErased(Event, tag="name_erased"):
    """The name is told to the commit of this event only, which forgets it with all else."""

    account: int
    actor: str = ""
    private: Private | None = None


class Checkpoint(Event, tag="checkpoint"):
    """Seals the state at ``state_seq`` (digest over all entities) and the chain hash there."""

    state_seq: int
    chain_hash: str
    state_digest: str
    format: int = 1


AnyEvent = (
    AccountOpened
    | AccountChanged
    | StatusChanged
    | BudgetPut
    | BudgetRemoved
    | WindowOpened
    | Held
    | Queued
    | TicketChanged
    | TicketEnded
    | Extended
    | Settled
    | Released
    | Expired
    | QuarantineClosed
    | Adjusted
    | AdjustmentEnded
    | OverrideRequested
    | OverrideApproved
    | OverrideDenied
    | OverrideExpired
    | OverrideWithdrawn
    | OverrideRevoked
    | GateClosed
    | GateReset
    | AllocationPut
    | AllocationResized
    | AllocationParked
    | AllocationResumed
    | AllocationEnded
    | AllocationsPinned
    | Transferred
    | Lent
    | LoanEnded
    | ShortageMet
    | ShortageSet
    | GrantStrategySet
    | ThresholdCrossed
    | TemplatePut
    | TemplateRemoved
    | PricePut
    | PriceRemoved
    | KeyPut
    | KeyRevoked
    | NameErased
    | Checkpoint
)


def format_of(event: AnyEvent) -> int:
    """The format that a node must know to read an event: that of its kind, or of the newest field that it fills."""
    kind = type(event)
    fields = (since for field, since in kind.fields_since.items() if getattr(event, field))
    return max((kind.since, *fields))


__all__ = ["AnyEvent", "CellsByUnit", "Private", "Provenance", "format_of"]
