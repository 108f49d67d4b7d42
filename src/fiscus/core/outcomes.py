"""What becomes of a command: an answer, or a refusal that explains itself. Both are values."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, dataclass_transform

import msgspec

from fiscus.core.commands import (
    ExhaustionPolicy,
    GrantStrategy,
    Mode,
    OverridePolicy,
    PriceTier,
    Role,
    Severity,
    ShortageStep,
    Status,
)
from fiscus.core.units import Amounts, Unit

HoldState = Literal["held", "settled", "released", "expired", "waiting", "refused"]
StrategySource = Literal["account", "template", "above"]
OverrideState = Literal["pending", "approved", "denied", "expired", "withdrawn", "revoked", "ended"]

RefusalCode = Literal[
    "budget_exceeded",
    "budget_busy",
    "gated",
    "account_suspended",
    "account_terminated",
    "account_closed",
    "forbidden",
    "conflict",
    "already_settled",
    "precondition_failed",
    "unknown_account",
    "unknown_hold",
    "unknown_budget",
    "unknown_allocation",
    "unknown_adjustment",
    "unknown_override",
    "unknown_request",
    "unknown_loan",
    "unknown_template",
    "unknown_price",
    "unknown_key",
    "unit_not_bounded",
    "also_not_shared",
    "other_windows",
    "lower_priority",
    "below_use",
    "too_many_accounts",
    "too_many_overrides",
    "beyond_policy",
    "idempotency_expired",
    "invalid",
]


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="outcome", gc=False):
    """Base of all outcomes; ``outcome`` names it on the wire."""


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """One window of one budget (a cell). Amounts are integers in ``unit``.

    ``available = limit − (covered + held + quarantined + uncovered)``, negative when overdrawn;
    ``spent = covered + uncovered``; ``overdrawn = max(0, −available)``.
    """

    account: str
    budget: str
    unit: Unit
    mode: Mode
    limit: int
    covered: int
    held: int
    quarantined: int
    uncovered: int
    spent: int
    available: int
    overdrawn: int
    window_start: datetime
    window_end: datetime | None
    allocated: bool = False
    match: dict[str, str] = {}


class Refused(Outcome, tag="refused"):
    """The command changed nothing.

    Attributes:
        code: stable; mapped to a status in one place.
        detail: a sentence for people that names what bound.
        field: path of the field that is wrong, for ``invalid`` and the like.
        binding: the cell that lacks room, as it was when the command was decided.
        requested: what was asked of it.
        retry_after_s: for ``budget_busy``.
        resets_at: for ``budget_exceeded``, when its window ends; for ``gated``, when it opens; None: never.
        index: position of the refusing command in a compound.
        steps: what was tried for it in vain.
        shortage: what the account's list says is to be tried for it; nothing has been yet.
    """

    code: RefusalCode
    detail: str
    field: str | None = None
    binding: Balance | None = None
    requested: int | None = None
    retry_after_s: int | None = None
    resets_at: datetime | None = None
    index: int | None = None
    steps: tuple[ShortageStep, ...] = ()
    shortage: tuple[ShortageStep, ...] = ()


class LoanShare(msgspec.Struct, frozen=True, kw_only=True):
    """What one account has lent, and what of it came back; the rest was used, or is still lent."""

    account: str
    amount: int
    returned: int


class LoanAnswer(Outcome, tag="loan"):
    """A loan after a command.

    Attributes:
        account: who borrows.
        hold: the hold that it was made for, if any.
        used: what stays where it is because it was used, once it has ended.
        valid_until: when it ends at the latest.
    """

    id: str
    account: str
    unit: Unit
    amount: int
    returned: int
    used: int
    active: bool
    parts: tuple[LoanShare, ...]
    hold: str | None = None
    valid_until: datetime | None = None


class HoldAnswer(Outcome, tag="hold"):
    """A hold after a command.

    Attributes:
        reserved: the bound per unit (0 for usage booked without a hold).
        booked: the last reading; ``covered`` of it was held, ``uncovered`` was not.
        expires_at: end of the lease while ``held``.
        warnings: budgets in mode ``warn`` that would have refused.
        place: while ``waiting``: how many wait for the same budget up to this one; nothing is held yet.
        waits_until: while ``waiting``: when it is refused.
        steps: what was tried because there was no room, the last one with success.
        loans: what was lent for it.
        model: the alternative that was taken.
    """

    id: str
    account: str
    state: HoldState
    reserved: Amounts
    booked: Amounts = {}
    uncovered: Amounts = {}
    expires_at: datetime | None = None
    warnings: tuple[str, ...] = ()
    place: int | None = None
    waits_until: datetime | None = None
    steps: tuple[ShortageStep, ...] = ()
    loans: tuple[LoanAnswer, ...] = ()
    model: str | None = None


class Spooled(Outcome, tag="spooled"):
    """Accepted for good, but not on the books yet: the ledger is away. It gets this, with the same id, when it is back.

    Attributes:
        id: of the hold or call.
        state: so that readers of a hold's ``state`` see it.
    """

    id: str
    state: Literal["spooled"]


class BudgetView(msgspec.Struct, frozen=True, kw_only=True):
    """A budget as it was set, with its version and the window that runs; ``number`` is that in the journal.

    Attributes:
        valid_until: of an allocation, when it ends for good; None: not by time.
        lapsed: an allocation that has ended for good: it is not carved again by itself.
    """

    budget: str
    account: str
    unit: Unit
    version: int
    limit: int
    period: str
    zone: str
    thresholds: dict[int, Severity]
    mode: Mode
    match: dict[str, str]
    on_exhaustion: ExhaustionPolicy
    carry_over: str
    carry_max: int | None
    carry_debt: bool
    allocated: bool
    balance: Balance | None
    override: OverridePolicy | None = None
    number: int = 0
    valid_until: datetime | None = None
    lapsed: bool = False


class GateView(msgspec.Struct, frozen=True, kw_only=True):
    """A confidence gate that is closed.

    Attributes:
        task: its name, where the settlement that closed it said so; empty: that of calls that name no task.
        key: what stands for the task in the journal.
        opens_at: None: when it is reset.
    """

    task: str | None
    key: str
    opens_at: datetime | None


class AccountAnswer(Outcome, tag="account"):
    """An account with its budgets. ``status_effective`` counts the ancestors' in; ``gates`` are the closed ones.

    Attributes:
        shortage: its own list of what is tried for reserves that lack room.
        loans: what it has borrowed or lent and is not given back yet.
        grant_strategy: its own; ``grant_strategy_effective`` counts, and ``grant_strategy_from`` says who says so.
            None: nobody does, and the setting of the service counts.
    """

    account: str
    number: int
    parent: str | None
    status: Status
    status_effective: Status
    labels: dict[str, str]
    priority: int
    min_reserve: Amounts
    budgets: tuple[BudgetView, ...]
    confidence_threshold: float | None = None
    gate_s: int | None = None
    gates: tuple[GateView, ...] = ()
    shortage: tuple[ShortageStep, ...] = ()
    loans: tuple[LoanAnswer, ...] = ()
    grant_strategy: GrantStrategy | None = None
    grant_strategy_effective: GrantStrategy | None = None
    grant_strategy_from: StrategySource | None = None


class BudgetAnswer(Outcome, tag="budget"):
    """A budget after a command."""

    budget: BudgetView


class AllocationAnswer(Outcome, tag="allocation"):
    """An allocation after a command; ``size`` is 0 after it ended."""

    account: str
    unit: Unit
    size: int
    balance: Balance | None


class TransferAnswer(Outcome, tag="transfer"):
    """Both ends of a transfer after it."""

    source: AllocationAnswer
    target: AllocationAnswer
    amount: int


class AdjustmentAnswer(Outcome, tag="adjustment"):
    """An adjustment after a command."""

    id: str
    account: str
    budget: str
    amount: int
    active: bool
    valid_until: datetime | None
    balance: Balance


class OverrideAnswer(Outcome, tag="override"):
    """An override: what was asked, by which key, and what became of it.

    Attributes:
        asked, amount: what was asked; what was granted, 0 until then.
        requested_by, decided_by: public ids of the keys (empty: without one); ``fiscus``: the budget's policy.
        closes_at: when the request ends without a decision.
        valid_until: when what was granted ends; before the decision, when it was asked to.
        reason, decision: why it was asked, why it was decided so; kept for the newest ones of an account.
        balance: the window that it was asked for.
    """

    id: str
    account: str
    budget: str
    unit: Unit
    state: OverrideState
    asked: int
    amount: int
    requested_by: str
    requested_at: datetime
    closes_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    valid_until: datetime | None
    reason: str | None
    decision: str | None
    balance: Balance


class TemplateAnswer(Outcome, tag="template"):
    """A template was stored or removed."""

    pattern: str
    active: bool


class PriceTermsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a model costs from ``valid_from`` until ``valid_to`` or the next terms; fields as in PutPrice."""

    valid_from: datetime
    valid_to: datetime | None
    rates: Annotated[dict[str, int], msgspec.Meta(description="Nano-USD per million tokens.")]
    fees: Annotated[dict[str, int], msgspec.Meta(description="Nano-USD for 1,000 of them.")]
    tiers: tuple[PriceTier, ...]


class PriceAnswer(Outcome, tag="price"):
    """A price of our own; the last 16 of its terms, the newest last."""

    price: str
    provider: str
    model: str
    service_tier: str | None
    active: bool
    terms: tuple[PriceTermsAnswer, ...]


class KeyAnswer(Outcome, tag="key"):
    """A key was stored or revoked; nothing here is secret."""

    key: str
    role: Role
    account: str | None
    active: bool
    may_open: bool
    expires_at: datetime | None
    requests_per_minute: int | None
    label: str


class ErasedAnswer(Outcome, tag="erased"):
    """A name was erased; the account is known by its number from now on."""

    number: int


class CompoundAnswer(Outcome, tag="compound"):
    """One answer per command, in order."""

    answers: tuple[
        HoldAnswer
        | AccountAnswer
        | BudgetAnswer
        | AllocationAnswer
        | TransferAnswer
        | LoanAnswer
        | AdjustmentAnswer
        | OverrideAnswer
        | TemplateAnswer
        | Spooled
        | Refused,
        ...,
    ]


Answer = (
    HoldAnswer
    | AccountAnswer
    | BudgetAnswer
    | AllocationAnswer
    | TransferAnswer
    | LoanAnswer
    | AdjustmentAnswer
    | OverrideAnswer
    | TemplateAnswer
    | PriceAnswer
    | KeyAnswer
    | ErasedAnswer
    | Spooled
    | CompoundAnswer
)
AnyOutcome = Answer | Refused
