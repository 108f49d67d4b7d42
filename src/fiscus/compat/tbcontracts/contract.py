"""What an agent may use, and how it stands among the others."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

RESERVE_SHARE = 0.1


@dataclass
class BudgetContract:
    """The contract of one agent.

    Attributes:
        agent_name: who.
        priority: ≥ 1; budget flows to the more important, never from them.
        max_tokens: what it may use.
        min_reserve: what it keeps when others ask; a tenth of ``max_tokens`` unless said.
        confidence_threshold: from this confidence on its next call is not made; None: there is no gate.
        last_confidence: of its last result.
        gate_s: for how long the gate stays closed, in seconds; None: until it is reset.
        created_at: seconds since the epoch.

    >>> BudgetContract("researcher", max_tokens=2_000).min_reserve
    200
    """

    agent_name: str
    priority: int = 1
    max_tokens: int = 1000
    min_reserve: int | None = None
    confidence_threshold: float | None = None
    last_confidence: float | None = field(default=None, repr=False)
    created_at: float = field(default_factory=time.time)
    gate_s: int | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        name_given: object = self.agent_name
        if not isinstance(name_given, str) or not name_given:
            raise ValueError("agent_name must be a text that is not empty")
        for name in ("priority", "max_tokens", "min_reserve", "gate_s"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise ValueError(f"{name} must be an integer")
        if self.priority < 1:
            raise ValueError("priority must be >= 1")
        if self.max_tokens < 0:
            raise ValueError("max_tokens must be >= 0")
        if self.min_reserve is None:
            self.min_reserve = int(self.max_tokens * RESERVE_SHARE)
        if not 0 <= self.min_reserve <= self.max_tokens:
            raise ValueError("min_reserve must be between 0 and max_tokens")
        if self.confidence_threshold is not None and not 0 <= self.confidence_threshold <= 1:
            raise ValueError("confidence_threshold must be between 0 and 1")
        if self.gate_s is not None and self.confidence_threshold is None:
            raise ValueError("gate_s goes with confidence_threshold")

    @property
    def reserve(self) -> int:
        """``min_reserve`` as a number."""
        return self.min_reserve or 0
