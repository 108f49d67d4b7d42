"""Whether an agent that is sure enough already may go on."""

from __future__ import annotations

from fiscus.compat.tbcontracts.contract import BudgetContract


class ConfidenceGate:
    """Stops the next call of an agent whose last result was as sure as its contract asks for."""

    def allow(self, contract: BudgetContract) -> bool:
        """True without a threshold, and while nothing is known; else while the confidence is below the threshold.

        >>> ConfidenceGate().allow(BudgetContract("a", confidence_threshold=0.8, last_confidence=0.8))
        False
        """
        if contract.confidence_threshold is None or contract.last_confidence is None:
            return True
        return contract.last_confidence < contract.confidence_threshold
