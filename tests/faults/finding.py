"""What a fault has shown: the figures, and whether what must hold did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.books import Judgement


@dataclass
class Finding:
    """One row of the table of faults.

    Attributes:
        fault: its name, as ``--only`` takes it.
        title: what is done, in one sentence.
        must: what must hold.
        rounds: how often it was done.
        lost: operations that were acknowledged and are not in the journal.
        doubled: operations with more than one effect, or that were never asked for.
        overspend: admissions beyond a limit, and cells beyond it.
        drift: cells of the views that are not what a fresh fold of the journal says.
        faults: everything else that does not hold, as sentences.
        figures: the row's own.
        skipped: why it could not be done here.
    """

    fault: str
    title: str
    must: str
    rounds: int = 0
    lost: int = 0
    doubled: int = 0
    overspend: int = 0
    drift: int = 0
    faults: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    skipped: str | None = None
    full: bool = True
    """Whether it was done as often and as long as it should be; a short round shows that it works."""

    @property
    def holds(self) -> bool:
        """Whether all of it holds."""
        return not (self.lost or self.doubled or self.overspend or self.drift or self.faults)

    def take(self, judgement: Judgement) -> None:
        """Add what one ledger was found to be."""
        self.lost += len(judgement.lost)
        self.doubled += len(judgement.doubled)
        self.overspend += len(judgement.overspend)
        self.drift += len(judgement.drift)
        kinds = ("lost", judgement.lost), ("doubled", judgement.doubled), ("overspend", judgement.overspend)
        for kind, sentences in (*kinds, ("drift", judgement.drift), ("", judgement.faults)):
            self.faults += [f"{kind}: {sentence}" if kind else sentence for sentence in sentences[:5]]
        self.figures["operations"] = self.figures.get("operations", 0) + judgement.operations
        self.figures["entries"] = self.figures.get("entries", 0) + judgement.entries

    def expect(self, holds: bool, sentence: str) -> None:
        """Note a sentence about what does not hold."""
        if not holds:
            self.faults.append(sentence)

    def as_json(self) -> dict[str, Any]:
        """As it stands in ``build/faults.json``."""
        counts = {name: getattr(self, name) for name in ("fault", "rounds", "lost", "doubled", "overspend", "drift")}
        if self.skipped is not None:
            return counts | {"skipped": self.skipped}
        return counts | self.figures | {"holds": self.holds, "faults": self.faults, "full": self.full}

    def read(self, known: dict[str, Any]) -> None:
        """Take over what ``as_json`` once said of this fault."""
        rest = {name: value for name, value in known.items() if name not in ("fault", "holds")}
        for name in ("rounds", "lost", "doubled", "overspend", "drift", "faults", "skipped", "full"):
            if name in rest:
                setattr(self, name, rest.pop(name))
        self.figures = rest


def percentile(values: Sequence[float], percent: float) -> float:
    """By the nearest rank; 0 of none.

    >>> percentile([1, 2, 3, 4], 50)
    2
    """
    if not values:
        return 0.0
    ranked = sorted(values)
    return ranked[max(0, min(len(ranked) - 1, -(-int(percent * len(ranked)) // 100) - 1))]


def times(name: str, seconds: Sequence[float]) -> dict[str, Any]:
    """Count, p50, p99 and maximum of times, in milliseconds."""
    figures = {"p50": percentile(seconds, 50), "p99": percentile(seconds, 99), "max": max(seconds, default=0.0)}
    return {f"{name}_ms_{which}": round(1_000 * value, 1) for which, value in figures.items()} | {
        f"{name}_count": len(seconds)
    }
