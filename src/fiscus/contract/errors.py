"""All exceptions of Fiscus, as one tree.

A refusal (``Refusal``) is a decision of the ledger: it was asked and said no. An error (``TreasuryError``) means that
it could not be asked, or that nobody knows what became of the question. One is never reported as the other.
"""

from __future__ import annotations

from fiscus.core.outcomes import Balance, Refused


class FiscusError(Exception):
    """Base of everything that Fiscus raises.

    Attributes:
        code: stable, for programs.
        retryable: whether the same call may succeed later without anybody changing anything.
    """

    code = "error"
    retryable = False


class Refusal(FiscusError):
    """The ledger said no and changed nothing. ``refused`` says why, down to the cell that binds."""

    code = "refused"

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.detail)
        self.refused = refused
        self.code = refused.code

    @property
    def binding(self) -> Balance | None:
        """The window of the budget that lacks room, as it was when the call was refused."""
        return self.refused.binding


class BudgetExceeded(Refusal):
    """It does not fit, even with no call in flight. Wait for ``refused.resets_at``, or ask for less or for more."""


class BudgetBusy(Refusal):
    """It would fit if calls in flight had ended. Try again after ``refused.retry_after_s`` seconds."""

    retryable = True


class Gated(Refusal):
    """The task is done with enough confidence: make no more calls of it. ``refused.resets_at`` says until when.

    Whoever wants more all the same resets the gate (``Treasury.reset_gate``).
    """


class AccountNotActive(Refusal):
    """The account or one above it is suspended, terminated or closed. Ask an operator."""


class Forbidden(Refusal):
    """This key may not do that. Use a key whose account covers it."""


class Conflict(Refusal):
    """The request contradicts what is there: another body for a known id, a changed version, a hold that has ended."""


class Unknown(Refusal):
    """There is no such account, hold, budget, allocation, adjustment, override, loan, template, price or key."""


class Invalid(Refusal):
    """The request is wrong; ``refused.field`` names the field. Correct it and ask again."""


REFUSALS: dict[str, type[Refusal]] = {
    "budget_exceeded": BudgetExceeded,
    "budget_busy": BudgetBusy,
    "gated": Gated,
    "account_suspended": AccountNotActive,
    "account_terminated": AccountNotActive,
    "account_closed": AccountNotActive,
    "forbidden": Forbidden,
    "conflict": Conflict,
    "already_settled": Conflict,
    "precondition_failed": Conflict,
    "other_windows": Conflict,
    "lower_priority": Conflict,
    "below_use": Conflict,
    "idempotency_expired": Conflict,
    "beyond_policy": Conflict,
    "too_many_accounts": BudgetBusy,
    "too_many_overrides": BudgetBusy,
    "unknown_account": Unknown,
    "unknown_hold": Unknown,
    "unknown_budget": Unknown,
    "unknown_allocation": Unknown,
    "unknown_adjustment": Unknown,
    "unknown_loan": Unknown,
    "unknown_override": Unknown,
    "unknown_request": Unknown,
    "unknown_template": Unknown,
    "unknown_price": Unknown,
    "unknown_key": Unknown,
    "unit_not_bounded": Invalid,
    "also_not_shared": Invalid,
    "invalid": Invalid,
}


def refusal(refused: Refused) -> Refusal:
    """The exception for a refusal.

    >>> refusal(Refused(code="budget_busy", detail="wait")).retryable
    True
    """
    return REFUSALS[refused.code](refused)


class TreasuryError(FiscusError):
    """The treasury could not answer. Nothing was admitted; whether something was booked may be unknown."""

    code = "treasury_error"


class BudgetUnavailable(TreasuryError):
    """The ledger is away, overloaded or starting. Do not call; retry with the same id after ``retry_after_s``."""

    code = "budget_unavailable"
    retryable = True

    def __init__(self, detail: str, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class StoreUnavailable(BudgetUnavailable):
    """The database is away or refused the write; the outcome of the batch is resolved before anything else."""


class LedgerDrift(BudgetUnavailable):
    """What is kept of this tenant says otherwise than its journal, so that nothing more is admitted.

    What has been spent is booked as before. An operator repairs it (``fiscus repair``).
    """

    code = "drift"


class EntriesArchived(TreasuryError):
    """The journal's entries behind this cursor were archived. Begin with entry ``first_seq``, or read the archive."""

    code = "gone"

    def __init__(self, detail: str, first_seq: int | None = None) -> None:
        super().__init__(detail)
        self.first_seq = first_seq


class ArchiveUnavailable(TreasuryError):
    """Entries cannot be archived: the file cannot be written, or is not what it should be. Nothing was dropped."""

    code = "archive_unavailable"


class LedgerBusy(TreasuryError):
    """Another process has this ledger open. Talk to it at ``address`` (``fiscus.connect``) instead."""

    code = "ledger_busy"

    def __init__(self, path: str, address: str | None) -> None:
        super().__init__(f"{path} is open in another process" + (f", which serves it at {address}" if address else ""))
        self.address = address


class LedgerCorrupt(TreasuryError):
    """The journal contradicts itself (a gap, a broken hash). Stop, run ``fiscus verify``, restore a backup."""

    code = "ledger_corrupt"


class UnknownFormat(TreasuryError):
    """The journal was written by a newer Fiscus. Upgrade this one."""

    code = "unknown_format"


class SpoolUnavailable(TreasuryError):
    """The ledger is away, and the local spool is full or cannot be written: this reading is not on the books.

    Make room where the message says, and settle again with the same id; make no more calls until then.
    """

    code = "spool_unavailable"


class ProviderFailed(FiscusError):
    """The provider of a model answered with an error, or not at all. What it billed is booked, the rest is free again.

    The gateway has tried again where that could help. ``status`` is the provider's (504, 502: it gave no answer).
    """

    code = "provider_failed"

    def __init__(self, detail: str, *, status: int, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.retry_after_s = retry_after_s
        self.retryable = status == 429 or status >= 500


class BudgetOverrun(FiscusError):
    """A call is over that used more than its account had left. All of it is booked: make no more calls.

    Attributes:
        account: whose call it was.
        used: how many tokens it used.
        available: how many of them there was budget for.
        result: what the function returned.
    """

    code = "budget_overrun"

    def __init__(self, account: str, used: int, available: int, result: object = None) -> None:
        super().__init__(f"{account}: the call used {used} tokens, and {available} were left; all of them are booked")
        self.account = account
        self.used = used
        self.available = available
        self.result = result


class ConfigurationInvalid(FiscusError):
    """A setting or a declared file is wrong, and nothing was done. The message names file, line and field.

    Attributes:
        field: path of the first field of a declaration that is wrong; None: it is no declaration.
    """

    code = "configuration_invalid"

    def __init__(self, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.field = field
