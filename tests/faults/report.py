"""Findings as ``build/faults.json`` and as the page ``docs/reliability.md``."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fiscus import __version__
from tests.faults.finding import Finding

ROOT = Path(__file__).parents[2]
JSON = ROOT / "build" / "faults.json"
PAGE = ROOT / "docs" / "reliability.md"

INTRODUCTION = """# Reliability

What is done to Fiscus on purpose, what must hold all the same, and what was measured. This page is written by `make
faults`.

Everything is real: nodes are `fiscus serve` processes, PostgreSQL and Valkey are servers of their own, connections
are cut by a proxy or by the kernel. Callers repeat each operation with the same id until it is answered, and write
down what they were told. Afterwards all nodes stop, and the journal is read again from its first entry:

- **lost**: an operation that was acknowledged, also with 202, and is not on the books as it was answered
- **doubled**: an operation with more than one effect, a refused one that is there all the same, or one nobody asked for
- **overspend**: an admission that left a cell beyond its limit, or a cell with P + H + Q > L, at any entry
- **drift**: cells of the views that are not what a fresh fold of the journal says, after the last node has stopped

Besides, `verify` checks the chain and every invariant at every entry, and each account is charged exactly what its
caller was told. E1 … E13 are the invariants of [the architecture](architecture.md).

"""

HOW_TO_RUN = """## How to run

```
make faults                             # all of it, in full
make faults FAULTS="kill outage"        # some of it; what was run before stays in the figures
python -m tests.faults --quick          # a short round of each, as make test does
python -m tests.faults --only commit --rounds 500
```

Figures are written to `build/faults.json`. Nothing but the development requirements is needed. Some faults need more,
and are skipped by name where it is missing: a full disk needs the right to mount, clocks that step need a C compiler.
A network is cut in the kernel where network namespaces may be made, else by a proxy; `means` says which.
"""


def read_json() -> dict[str, dict[str, Any]]:
    """What ``build/faults.json`` says by now, by fault."""
    return {known["fault"]: known for known in json.loads(JSON.read_text())} if JSON.exists() else {}


def write_json(findings: Sequence[Finding]) -> None:
    """Write ``build/faults.json``."""
    JSON.parent.mkdir(exist_ok=True)
    JSON.write_text(json.dumps([found.as_json() for found in findings], indent=2) + "\n")


def write_page(findings: Sequence[Finding]) -> None:
    """Write ``docs/reliability.md``."""
    PAGE.write_text(page(findings))


def page(findings: Sequence[Finding]) -> str:
    """The page.

    >>> "| nothing |" in page([Finding("nothing", "Nothing is done.", "all")])
    True
    """
    parts = [INTRODUCTION, _table(findings)]
    parts += [_section(found) for found in findings]
    parts.append(HOW_TO_RUN)
    where = f"Python {platform.python_version()}, {os.cpu_count()} processors, Linux {platform.release()}"
    parts.append(f"\nMeasured with Fiscus {__version__} on {where}.\n")
    return "".join(parts)


def _table(findings: Sequence[Finding]) -> str:
    lines = ["| fault | rounds | operations | lost | doubled | overspend | drift | |", "| --- " * 8 + "|"]
    for found in findings:
        if found.skipped is not None:
            lines.append(f"| {found.fault} | | | | | | | skipped: {found.skipped} |")
            continue
        operations = found.figures.get("operations", 0)
        counts = (found.rounds, operations, found.lost, found.doubled, found.overspend, found.drift)
        verdict = "holds" if found.holds else "**does not hold**"
        lines.append(f"| [{found.fault}](#{found.fault}) | " + " | ".join(f"{n:,}" for n in counts) + f" | {verdict} |")
    return "\n".join(lines) + "\n\n"


def _section(found: Finding) -> str:
    lines = [f"## {found.fault}", "", found.title, "", f"Must hold: {found.must}.", ""]
    if found.skipped is not None:
        return "\n".join([*lines, f"Skipped: {found.skipped}.", "", ""])
    figures = [f"| {name.replace('_', ' ')} | {value} |" for name, value in _rows(found.figures)]
    lines += ["| figure | |", "| --- | --- |", f"| rounds | {found.rounds:,} |", *figures, ""]
    lines += [f"- does not hold: {sentence[:300]}" for sentence in found.faults]
    return "\n".join([*lines, *([""] if found.faults else []), ""])


def _rows(figures: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and texts; the four figures of times as one."""
    for name, value in figures.items():
        of_times, _, which = name.partition("_ms_p50")
        if of_times != name and not which:
            parts = (f"{figure} {_text(figures[f'{of_times}_ms_{figure}'])} ms" for figure in ("p50", "p99", "max"))
            yield of_times, f"{', '.join(parts)} (of {figures[f'{of_times}_count']:,})"
        elif not name.endswith(("_ms_p99", "_ms_max", "_count")):
            yield name, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_text(one)}" for name, one in value.items())
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
