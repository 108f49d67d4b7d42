"""What routes answer besides the contract's own outcomes and views."""

from __future__ import annotations

import msgspec

from fiscus.contract.queries import TemplateView, Usage
from fiscus.core.outcomes import (
    AccountAnswer,
    AdjustmentAnswer,
    AllocationAnswer,
    Balance,
    BudgetAnswer,
    BudgetView,
    HoldAnswer,
    KeyAnswer,
    OverrideAnswer,
    Refused,
    Spooled,
    TemplateAnswer,
    TransferAnswer,
)

BatchOutcome = (
    HoldAnswer
    | AccountAnswer
    | BudgetAnswer
    | AllocationAnswer
    | TransferAnswer
    | AdjustmentAnswer
    | OverrideAnswer
    | TemplateAnswer
    | Spooled
    | Refused
)


class AccountsPageAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Accounts in the order in which they were opened; ``next`` is the cursor of the next page, null at the end."""

    as_of_seq: int
    accounts: tuple[AccountAnswer, ...]
    next: str | None


class UsagePageAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Calls in the order of their booking; ``next`` is the cursor of the next page, null at the end."""

    as_of_seq: int
    usage: tuple[Usage, ...]
    next: str | None


class BudgetsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The budgets of an account with their running windows."""

    as_of_seq: int
    account: str
    budgets: tuple[BudgetView, ...]


class BudgetReadAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One budget with its running window."""

    as_of_seq: int
    budget: BudgetView


class BalancesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The running windows of all budgets of an account."""

    as_of_seq: int
    account: str
    balances: tuple[Balance, ...]


class TemplateReadAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One template."""

    as_of_seq: int
    template: TemplateView


class KeyIssued(msgspec.Struct, frozen=True, kw_only=True):
    """A key and its secret, which is shown this once and stored nowhere."""

    key: KeyAnswer
    secret: str


class BatchItem(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one command: the status that its own route would have had, and the outcome."""

    status: int
    answer: BatchOutcome


class BatchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One item per command, in order."""

    answers: tuple[BatchItem, ...]


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The process answers and can go on. Whether calls are admitted is said by ``/ready``.

    The body is the one that clients of the token economy service know (D31).
    """

    status: str
    service: str
