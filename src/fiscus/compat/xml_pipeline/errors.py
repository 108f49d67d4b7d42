"""The exceptions that programs written for the budgets of xml-pipeline catch; they stand in the tree of Fiscus."""

from __future__ import annotations

from fiscus.contract.errors import FiscusError


class BudgetExhaustedError(FiscusError):
    """The thread has not got what the call needs. Do not call; end the thread, or raise its limit.

    Attributes:
        thread_id: whose budget.
        used: tokens that it has used.
        max_tokens: that it may use.
    """

    code = "budget_exceeded"

    def __init__(self, thread_id: str, used: int, max_tokens: int, text: str | None = None) -> None:
        super().__init__(text or f"Thread {thread_id[:8]}... budget exhausted: {used}/{max_tokens} tokens used")
        self.thread_id = thread_id
        self.used = used
        self.max_tokens = max_tokens


class ThreadEndedError(BudgetExhaustedError):
    """The thread was cleaned up: it does not begin again with a fresh budget. Begin another thread."""

    code = "account_closed"

    def __init__(self, thread_id: str, used: int, max_tokens: int) -> None:
        super().__init__(thread_id, used, max_tokens, f"Thread {thread_id[:8]}... has ended: {used} tokens used")
