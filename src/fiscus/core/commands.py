"""Everything that the treasury can be asked to do. Commands are data; ``decide`` says what becomes of them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, dataclass_transform

import msgspec
from msgspec import UNSET, UnsetType

from fiscus.core.records import CallRecord
from fiscus.core.units import Amounts, Unit

ID_LENGTH_MAX = 128
CHAIN_LENGTH_MAX = 16
ALSO_LENGTH_MAX = 8
COMPOUND_LENGTH_MAX = 1_000
ALTERNATIVES_MAX = 8
LOANS_MAX = 8
LOAN_PARTS_MAX = 1_000
LEASE_S_DEFAULT = 600
LEASE_S_MAX = 86_400
WAIT_S_MAX = 3_600
OVERRIDE_OPEN_S_DEFAULT = 3_600

Status = Literal["active", "suspended", "terminated", "closed"]
Mode = Literal["enforce", "warn", "observe"]
ExhaustionPolicy = Literal["deny", "suspend", "terminate"]
CarryOver = Literal["none", "unused"]
QuarantinePolicy = Literal["charge", "release"]
Role = Literal["admin", "operator", "viewer", "account"]
Severity = Literal["info", "warning", "critical", "final", "exhausted"]
ShortageStep = Literal["reallocate", "clamp", "downgrade", "wait", "ask", "deny"]
"""What is done for a reserve that lacks room: borrow from others (``policy/reallocation.py``), hold less (``least``),
ask a cheaper model (``alternatives``), stand in line (``wait_s``), ask for an override and wait for it, refuse."""
GrantStrategy = Literal["classic", "proven"]
"""How the history of an agent counts when its grants are sized (``policy/grants.py``)."""

THRESHOLDS_DEFAULT: dict[int, Severity] = {50: "info", 75: "warning", 90: "critical", 95: "final", 100: "exhausted"}


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Command(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, tag_field="op", gc=False
):
    """One wish. ``op`` names it on the wire. Like all values of the core it forms no cycles (``gc=False``)."""


class Alternative(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """What a caller would do with instead: another ``model`` (also as the attribute), for other ``amounts``."""

    model: str
    amounts: Amounts


class Reserve(Command, tag="reserve"):
    """Hold ``amounts`` on every cell of the payer's chain and of the ``also`` chains, or on none.

    Attributes:
        id: made by the caller (UUIDv7 recommended), 1 … 128 printable characters; the idempotency key.
        account: the payer. Opened from a template if it does not exist and one matches.
        amounts: upper bound per unit (tokens; nano-USD). ``calls`` defaults to 1.
        also: up to 8 more accounts that are charged.
        lease_s: seconds until the hold expires unless it is extended, 1 … 86,400.
        attributes: what budgets with ``match`` look at (``model``, ``feature``, …).
        parent: the parent for an account that is opened from a template.
        leave: what must be free besides, per unit, in every budget that limits the call, for calls that do not ask for
            it: a reserve that these alone may use. A condition of the moment, not a part of the hold.
        wait_s: seconds that it waits for room if there is none, 0 … 3,600, in line with others that wait for the same
            budget; 0: it is refused at once. A condition of the moment too. Not for a hold within a compound.
        least: the smallest amounts that are of use, per unit. Where ``amounts`` do not fit, what fits is held if it is
            no less; units that are left out are not lowered. The answer says what is held.
        alternatives: up to 8 others, tried in this order where ``amounts`` do not fit; the answer says which was taken.
        loans: ids of loans that were made for this hold: what is not used of them goes back when it ends.
    """

    id: str
    account: str
    amounts: Amounts = {}
    also: tuple[str, ...] = ()
    lease_s: int = LEASE_S_DEFAULT
    attributes: dict[str, str] = {}
    parent: str | None = None
    leave: Amounts = {}
    wait_s: int = 0
    least: Amounts = {}
    alternatives: tuple[Alternative, ...] = ()
    loans: tuple[str, ...] = ()


class Extend(Command, tag="extend"):
    """Raise a hold to the totals ``to`` (absolute; lower ones are ignored) and renew its lease.

    ``leave``: as in Reserve, for what it rises by.
    """

    id: str
    to: Amounts = {}
    lease_s: int = LEASE_S_DEFAULT
    leave: Amounts = {}


class Settle(Command, tag="settle"):
    """Book what a call has used so far, like a meter reading.

    Attributes:
        id: the hold. With ``account``, a hold that never arrived is booked without one (usage after the fact).
        total: cumulative amounts. Units left out follow from ``record`` (tokens, cost), ``calls`` is 1.
        final: False for running totals of a stream.
        record: the whole record of the call; kept with the last reading.
        account, also, attributes: who pays when there is no such hold. ``parent`` as in Reserve.
    """

    id: str
    total: Amounts = {}
    final: bool = True
    record: CallRecord | None = None
    account: str | None = None
    also: tuple[str, ...] = ()
    attributes: dict[str, str] = {}
    parent: str | None = None


class Release(Command, tag="release"):
    """Give a hold back: nothing (more) was spent. With ``account``, also before the reserve arrives."""

    id: str
    account: str | None = None


class Attend(Command, tag="attend"):
    """Say that the caller of a reserve that waits is still there, or has gone. From who waits in his name only.

    While it waits this renews its lease; once it was admitted, the caller takes the hold over with it. If he has gone,
    it waits no longer and what was admitted is given back; the same id may be tried again.
    """

    id: str
    gone: bool = False


class PutAccount(Command, tag="put_account"):
    """Open an account, or change what is given of an existing one. Never mints, never moves it to another parent.

    Attributes:
        parent: None for a root, or (for an account that exists) for no change.
        labels: free text for people; replaces all labels when given.
        if_labels: refuse with ``precondition_failed`` unless these are its labels now (none: also if it is not there).
        priority: ≥ 1; budget never moves from a higher to a lower priority.
        min_reserve: what the account keeps when others ask it to donate, per unit.
        confidence_threshold: 0 … 1, kept in millionths (rounded up): once a call of a task was settled with so much
            confidence, the next reserve for the same task is refused (``gated``). None: no gate; left out: no change.
        gate_s: for how long then, in seconds; None: until it is reset; left out: no change.
        shortage: what is tried in this order for reserves of this account and those below that lack room, where they
            have no list of their own; empty: nothing, they are refused.
        grant_strategy: how the history counts when the token economy sizes grants of this account and those below it
            that have none of their own. None: as above it, else as the service's setting says; left out: no change.
    """

    account: str
    parent: str | None = None
    labels: dict[str, str] | None = None
    priority: int | None = None
    min_reserve: Amounts | None = None
    confidence_threshold: float | UnsetType | None = UNSET
    gate_s: int | UnsetType | None = UNSET
    shortage: tuple[ShortageStep, ...] | None = None
    grant_strategy: GrantStrategy | UnsetType | None = UNSET
    if_labels: dict[str, str] | None = None


class SetStatus(Command, tag="set_status"):
    """Suspend, resume (``active``), terminate or close an account. Terminated and closed are final."""

    account: str
    status: Status
    reason: str = ""


class ResetGate(Command, tag="reset_gate"):
    """Open the confidence gate of an account again.

    Attributes:
        task: which one; empty: that of calls that name no task; None: all of them.
    """

    account: str
    task: str | None = None


class OverridePolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Who may raise a budget for a while, by how much and for how long.

    Attributes:
        requires_approval: False: what is asked is granted at once, within the other bounds.
        approvers: roles whose keys may decide. Nobody decides on what he has asked for himself.
        approver_keys: public ids of keys that may, whatever their role.
        max_percent: of the window's base limit, for all overrides that are active in it together; 0: there are none.
        max_duration_s: how long one is valid, 1 … 31,536,000 seconds.
    """

    requires_approval: bool = True
    approvers: tuple[Role, ...] = ("admin", "operator")
    approver_keys: tuple[str, ...] = ()
    max_percent: int = 50
    max_duration_s: int = 86_400


OVERRIDE_POLICY_DEFAULT = OverridePolicy()
"""Of budgets that have none of their own."""


class PutBudget(Command, tag="put_budget"):
    """Make a budget, or change one.

    Attributes:
        budget: its name, unique in the account; the default is ``{unit}-{period}``.
        limit: ≥ 0 per window; 0 means nothing.
        period: ``hour``, ``day``, ``week``, ``month``, ``quarter``, ``year``, ``lifetime`` or ``every:SECONDS``.
        zone: IANA name.
        thresholds: percent of the limit (1 … 1,000) → severity.
        match: narrows the budget to calls with all these attributes.
        on_exhaustion: what happens to the account after a refusal of an exhausted budget.
        carry_over: whether what is unused goes to the next window, at most ``carry_max`` of it.
        carry_debt: whether what is overdrawn goes to the next window.
        quarantine: what becomes of an expired hold after 24 h.
        override: who may raise the running window for a while; None: the default policy.
        force: allow a limit below what is in use.
        if_version: refuse with ``precondition_failed`` unless this is the current version (0: must not exist yet).
    """

    account: str
    unit: Unit
    limit: int
    budget: str | None = None
    period: str = "lifetime"
    zone: str = "UTC"
    thresholds: dict[int, Severity] = msgspec.field(default_factory=THRESHOLDS_DEFAULT.copy)
    mode: Mode = "enforce"
    match: dict[str, str] = {}
    on_exhaustion: ExhaustionPolicy = "deny"
    carry_over: CarryOver = "none"
    carry_max: int | None = None
    carry_debt: bool = False
    override: OverridePolicy | None = None
    force: bool = False
    if_version: int | None = None


class RemoveBudget(Command, tag="remove_budget"):
    """End a budget: it limits nothing from now on. What it counted stays in the journal."""

    account: str
    budget: str
    if_version: int | None = None


class Allocate(Command, tag="allocate"):
    """Carve ``to`` (the wanted total) of a unit out of the chain above an account, as its own limit.

    Attributes:
        to: ≥ 0. Less than now gives back what is free.
        valid_until: when the allocation ends for good; None: it is carved again in every window.
        on_exhaustion, if_version: as in PutBudget.
        reason: kept in the journal with the change.
    """

    account: str
    unit: Unit
    to: int
    valid_until: datetime | None = None
    on_exhaustion: ExhaustionPolicy = "deny"
    reason: str = ""
    if_version: int | None = None


class Deallocate(Command, tag="deallocate"):
    """End an account's allocation in a unit: it draws on its parent again. What is in use stays covered."""

    account: str
    unit: Unit


class Transfer(Command, tag="transfer"):
    """Move ``amount`` ≥ 1 of unused allocation from one account to another, through their common ancestor."""

    source: str
    target: str
    unit: Unit
    amount: int
    reason: str = ""


class LoanPart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """What one account lends: ``amount`` ≥ 1."""

    source: str
    amount: int


class Lend(Command, tag="lend"):
    """Move unused allocation to an account for a time, from each of ``parts``, or from none.

    What is not used of it goes back when the hold that it was made for ends (``Reserve.loans``), at ``valid_until``,
    or by ``GiveBack``; what was used stays where it is. An account lends nothing to an equal that it owes, nor what
    it has borrowed itself; else as a transfer.

    Attributes:
        id: made by the caller; the idempotency key.
        account: who borrows.
        parts: 1 … 1,000 lenders, each once.
    """

    id: str
    account: str
    unit: Unit
    parts: tuple[LoanPart, ...]
    valid_until: datetime | None = None
    reason: str = ""


class GiveBack(Command, tag="give_back"):
    """End a loan now: what is free of it goes back, to the most important lender first."""

    id: str


class Adjust(Command, tag="adjust"):
    """Raise (or lower, if negative) a budget's running window by ``amount`` ≠ 0 until ``valid_until`` or its end."""

    id: str
    account: str
    budget: str
    amount: int
    reason: str
    valid_until: datetime | None = None
    force: bool = False


class EndAdjustment(Command, tag="end_adjustment"):
    """End an adjustment now; what is in use of it stays covered."""

    id: str
    account: str


class TemplateBudget(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A budget that a template gives to each account it opens; fields as in PutBudget."""

    unit: Unit
    limit: int
    budget: str | None = None
    period: str = "lifetime"
    zone: str = "UTC"
    thresholds: dict[int, Severity] = msgspec.field(default_factory=THRESHOLDS_DEFAULT.copy)
    mode: Mode = "enforce"
    match: dict[str, str] = {}
    on_exhaustion: ExhaustionPolicy = "deny"
    carry_over: CarryOver = "none"
    carry_max: int | None = None
    carry_debt: bool = False
    override: OverridePolicy | None = None


class RequestOverride(Command, tag="request_override"):
    """Ask for more in the running window of a budget, for a while.

    Attributes:
        id: made by the caller; what is granted is an adjustment with this id.
        amount: ≥ 1, in the budget's unit; the approver may grant less.
        reason: why; who decides sees it.
        valid_s, valid_until: how long it is to be valid from the decision on, or until when; one of them. None: as long
            as the policy allows, but never beyond the window.
        open_s: how long the request waits for a decision, 1 … 604,800 seconds, but never beyond the window.
    """

    id: str
    account: str
    budget: str
    amount: int
    reason: str
    valid_s: int | None = None
    valid_until: datetime | None = None
    open_s: int = OVERRIDE_OPEN_S_DEFAULT


class ApproveOverride(Command, tag="approve_override"):
    """Grant what was asked, or ``amount`` ≥ 1 of it. Only for a key that the budget's policy names, not the asker's."""

    id: str
    amount: int | None = None
    reason: str = ""


class DenyOverride(Command, tag="deny_override"):
    """Refuse what was asked. For those who might approve it."""

    id: str
    reason: str = ""


class RevokeOverride(Command, tag="revoke_override"):
    """End an override before its time; what is in use of it stays covered. Who asked may also withdraw the request."""

    id: str
    reason: str = ""


class PutTemplate(Command, tag="put_template"):
    """Say how accounts whose name matches ``pattern`` are opened when they are first used.

    Attributes:
        pattern: ``thread:*``; the star stands at the end and for one or more characters.
        parent: the parent of accounts whose opener names none; None: the opener must name one, or it is a root.
        budgets, allocations: what each gets.
        max_children: how many may be open under one parent at once.
        max_new_per_minute: how many the template may open in a minute.
        idle_close_s: seconds without use after which they are closed; None: never.
        confidence_threshold, gate_s: as in PutAccount; None: no gate, and until it is reset.
        shortage: as in PutAccount, for the accounts that it has opened and opens.
        grant_strategy: as in PutAccount, for these, and for those that match it and were opened without a template.
    """

    pattern: str
    parent: str | None = None
    budgets: tuple[TemplateBudget, ...] = ()
    allocations: Amounts = {}
    priority: int = 1
    max_children: int = 100_000
    max_new_per_minute: int = 10_000
    idle_close_s: int | None = None
    confidence_threshold: float | None = None
    gate_s: int | None = None
    shortage: tuple[ShortageStep, ...] = ()
    grant_strategy: GrantStrategy | None = None


class RemoveTemplate(Command, tag="remove_template"):
    """Open no more accounts by this pattern."""

    pattern: str


class PriceTier(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """Other ``rates`` for all tokens of a call whose input is above ``above_input_tokens``."""

    above_input_tokens: int
    rates: dict[str, int]


class PutPrice(Command, tag="put_price"):
    """State a price of our own, from an instant on. It stands before the gateway's file and what is generally known.

    Attributes:
        price: its name; the same name again is a new price of the same model, and the old one holds until then.
        provider, model: names, or patterns with ``*`` and ``?``.
        rates: nano-USD per million tokens; ``input`` and ``output`` have to be there, the others (``cache_read``,
            ``cache_write_5m``, ``reasoning``, ``audio_input`` …) follow from these where they are left out.
        fees: nano-USD for 1,000 ``requests``, ``web_searches``, ``file_searches``, ``code_executions``,
            ``audio_seconds``, ``characters`` or ``pages``.
        tiers: other rates from so many input tokens on.
        service_tier: only for calls of this tier.
        valid_from: None: from now on. It must not have passed: what is booked keeps its price.
        valid_to: None: until the next one.
    """

    price: str
    provider: str
    model: str
    rates: dict[str, int]
    fees: dict[str, int] = {}
    tiers: tuple[PriceTier, ...] = ()
    service_tier: str | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None


class RemovePrice(Command, tag="remove_price"):
    """End a price of our own now. What is booked keeps it."""

    price: str


class PutKey(Command, tag="put_key"):
    """Store an API key (its keyed hash only), or change one.

    Attributes:
        key: public id of the key.
        digest: hex of the keyed hash of the secret.
        role: ``account`` binds it to ``account`` and all below.
        may_open: whether it may open accounts from templates.
        requests_per_minute: None: the service's default.
        if_new: one of this id that is there, or was, is left as it is.
    """

    key: str
    digest: str
    role: Role
    account: str | None = None
    may_open: bool = False
    expires_at: datetime | None = None
    requests_per_minute: int | None = None
    label: str = ""
    if_new: bool = False


class RevokeKey(Command, tag="revoke_key"):
    """Make a key useless from now on."""

    key: str


class EraseName(Command, tag="erase_name"):
    """Forget an account's name, labels and the private parts of its records; sums and the chain stay whole."""

    account: str


SingleCommand = (
    Reserve
    | Extend
    | Settle
    | Release
    | PutAccount
    | SetStatus
    | PutBudget
    | RemoveBudget
    | Allocate
    | Deallocate
    | Transfer
    | Lend
    | GiveBack
    | Adjust
    | EndAdjustment
    | RequestOverride
    | ApproveOverride
    | DenyOverride
    | RevokeOverride
    | ResetGate
    | PutTemplate
    | RemoveTemplate
)


class Compound(Command, tag="compound"):
    """Several commands as one: all or none. Settlements inside are booked whatever becomes of the rest."""

    commands: tuple[SingleCommand, ...]


AnyCommand = SingleCommand | PutPrice | RemovePrice | PutKey | RevokeKey | EraseName | Compound | Attend


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A command with who asks.

    Attributes:
        tenant: name of the tenant.
        idempotency_key: for commands without an id of their own.
        actor: public id of the key, for the audit trail; never a secret.
        scope: an account; commands may only concern it and what is below. None: all.
        may_open: whether accounts may be opened from templates.
        stay_s: how long the caller of a reserve that waits stays for the answer; then he is told that it waits, and
            asks again with the same id. None: to the end.
        steps: of a reserve that lacked room: what has been tried for it, the step that is taken now last; ``deny`` ends
            the list: it is decided for the last time.
        condition: what the caller has said of the version that must be there, if ``if_version`` follows from that and
            from the version that was: a repeat with the same idempotency key is recognised by it instead.
    """

    command: AnyCommand
    tenant: str = "default"
    idempotency_key: str | None = None
    actor: str = ""
    scope: str | None = None
    may_open: bool = True
    stay_s: float | None = None

    @property
    def may_wait(self) -> bool:
        """Whether its answer may take longer than deciding it."""
        return type(self.command) is Reserve and self.command.wait_s > 0

    steps: tuple[ShortageStep, ...] = ()
    condition: str = ""
