"""Moves what others do not need to an agent that is short of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fiscus.compat.tbcontracts.contract import BudgetContract
from fiscus.compat.tbcontracts.errors import UnknownAgentError
from fiscus.compat.tbcontracts.ledger import Ledger
from fiscus.compat.tbcontracts.telemetry import TelemetryRecorder


class Reallocator:
    """Who gives, in which order, and how much, is ``fiscus.policy.reallocation``'s; the ledger moves it, or nothing."""

    def __init__(
        self, ledger: Ledger, contracts: Mapping[str, BudgetContract], *, telemetry: TelemetryRecorder | None = None
    ) -> None:
        self._ledger = ledger
        self._contracts = contracts
        self._telemetry = telemetry or TelemetryRecorder()

    def find_donors(self, exclude: str) -> list[BudgetContract]:
        """Who could give something to this agent: the least important first, the most idle first.

        Raises:
            KeyError: there is no such agent.
        """
        names = self._ledger.books.donor_names(self._account(exclude))
        return [self._contracts[name] for name in names if name in self._contracts]

    def reallocate(self, needy: str, shortfall: int) -> int:
        """Move up to ``shortfall`` tokens to an agent.

        Returns:
            How many were moved: 0 … ``shortfall``.

        Raises:
            KeyError: there is no such agent.
        """
        account = self._account(needy)
        if shortfall <= 0:
            return 0
        moves = self._ledger.books.move(account, shortfall)
        self.tell(needy, shortfall, moves)
        return sum(amount for _, amount in moves)

    def tell(self, needy: str, shortfall: int, moves: Sequence[tuple[str, int]]) -> None:
        """Make a span of each move."""
        for donor, amount in moves:
            self._telemetry.reallocate(needy, donor, amount, shortfall)

    def _account(self, agent: str) -> str:
        account = self._ledger.books.find(agent)
        if account is None or agent not in self._contracts:
            raise UnknownAgentError(agent)
        return account
