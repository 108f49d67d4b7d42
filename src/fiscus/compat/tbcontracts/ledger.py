"""The books of a set of agents: what each was allocated, what it has consumed. They stand in a ledger of Fiscus."""

from __future__ import annotations

from dataclasses import dataclass

from fiscus.compat.places import ledger_at
from fiscus.compat.tbcontracts.books import NAMESPACE_DEFAULT, Books, Figures
from fiscus.compat.tbcontracts.contract import BudgetContract
from fiscus.compat.tbcontracts.errors import BudgetExceededError, UnknownAgentError
from fiscus.contract.errors import BudgetOverrun
from fiscus.sdk import SyncTreasury


@dataclass(frozen=True)
class LedgerEntry:
    """One consumption; ``timestamp`` is in seconds since the epoch."""

    agent_name: str
    tokens: int
    timestamp: float
    note: str = ""


class Ledger:
    """What agents were allocated and have consumed. Consumption only ever goes up, and survives a restart.

    Args:
        place: which ledger of Fiscus; see ``fiscus.compat.places``.
        namespace: agents of the same name in other namespaces are other agents.
        parent: an account whose budgets bind all these agents together.
    """

    def __init__(
        self,
        place: str | SyncTreasury | None = None,
        *,
        namespace: str = NAMESPACE_DEFAULT,
        parent: str | None = None,
    ) -> None:
        self.books = Books(ledger_at(place), namespace, parent)

    def register(self, agent: str, allocated: int) -> None:
        """Allocate tokens to an agent. Again, with another number: it gets, or gives back, the difference."""
        self.books.register(BudgetContract(agent, max_tokens=allocated, min_reserve=0), keep_terms=True)

    def record(self, agent: str, tokens: int, note: str = "") -> LedgerEntry:
        """Book tokens that were used.

        Raises:
            KeyError: the agent is not registered.
            ValueError: ``tokens`` is no integer ≥ 0.
            BudgetExceededError: it had less left. What it used is booked all the same.
        """
        account = self._known(agent)
        try:
            at = self.books.book(account, tokens, note)
        except BudgetOverrun as overrun:
            raise BudgetExceededError(agent, tokens, overrun.available, has_run=True) from overrun
        return LedgerEntry(agent, tokens, at, note)

    def remaining(self, agent: str) -> int:
        """What is left: allocated − consumed."""
        return self._figures(agent).remaining

    def consumed(self, agent: str) -> int:
        """What it has used."""
        return self._figures(agent).consumed

    def allocated(self, agent: str) -> int:
        """What it may use in all."""
        return self._figures(agent).allocated

    def adjust_allocation(self, agent: str, delta: int) -> None:
        """Raise an allocation, or lower it, but not below what is used.

        Raises:
            ValueError: more is used.
        """
        self.books.adjust(self._known(agent), delta)

    def history(self, agent: str | None = None) -> list[LedgerEntry]:
        """All consumption, of one agent or of all, in its order."""
        account = None if agent is None else self._known(agent)
        return [LedgerEntry(*row) for row in self.books.history(account)]

    def snapshot(self) -> dict[str, dict[str, int]]:
        """``{agent: {allocated, consumed, remaining}}`` of all that were registered here."""
        return {
            name: {
                "allocated": figures.allocated,
                "consumed": figures.consumed,
                "remaining": figures.remaining,
            }
            for name, figures in self.books.all_figures().items()
        }

    def _figures(self, agent: str) -> Figures:
        return self.books.figures(self._known(agent))

    def _known(self, agent: str) -> str:
        account = self.books.find(agent)
        if account is None:
            raise UnknownAgentError(agent, f"Unknown agent '{agent}'. Register it first.")
        return account
