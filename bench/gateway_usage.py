"""Every recorded exchange that carries a usage, through the gateway: how many stand on the books exactly as recorded.

And what was counted of their input beforehand, against what the providers billed: by provider, how large the error
was, and how often more was billed than the upper bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from bench.counting import pairs, table
from bench.measuring import Figures, run_as_child, say
from tests_data.dialects.recorded import exchanges
from tests_data.gateway.replay import replayed, usage_of

LEAST = 60


def measure(scale: float) -> Figures:
    """Replay a part of the exchanges, and count all requests."""
    spoken = [one for one in exchanges() if one.status == 200]
    step = max(1, round(1 / scale)) if scale else max(1, len(spoken) // LEAST)
    chosen = spoken[::step]
    say(f"replaying {len(chosen):,} of {len(spoken):,} recorded exchanges through the gateway")
    answers = asyncio.run(replayed(chosen))
    usages = [usage_of(one, booking) for one, (_, _, booking) in zip(chosen, answers, strict=True)]
    told = [usage for usage in usages if usage is not None]
    rows = list(table(pairs())) if scale else []
    if rows:
        say(lines(rows))
    return {
        "usage_matches": sum(recorded == booked for recorded, booked in told),
        "usage_exchanges": len(told),
        "input_counts": rows,
        "input_short": sum(row["short"] for row in rows),
    }


def lines(rows: Sequence[dict[str, Any]]) -> str:
    """The errors of the counts for people."""
    head = f"{'provider':22}{'label':16}{'requests':>9}{'median':>9}{'p95':>9}{'short':>7}{'unseen':>8}"
    return "\n".join((head, *map(_line, rows)))


def _line(row: dict[str, Any]) -> str:
    median, p95 = ("" if row[name] is None else format(row[name], ".4f") for name in ("error_median", "error_p95"))
    return (
        f"{row['provider']:22}{row['label']:16}{row['pairs']:9,}{median:>9}{p95:>9}"
        f"{row['short']:7}{row['short_unseen']:8}"
    )


if __name__ == "__main__":
    run_as_child(measure)
