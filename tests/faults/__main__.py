"""All faults, one after the other: ``python -m tests.faults [--only NAME …] [--rounds N] [--quick]``.

Writes ``build/faults.json``, and (when everything was run in full) ``docs/reliability.md``.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from tests.faults import FAULTS
from tests.faults.finding import Finding
from tests.faults.report import write_json, write_page


def main() -> int:
    """See the module; returns 1 if something does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), metavar="NAME", help=", ".join(FAULTS))
    parser.add_argument("--rounds", type=int, help="of each fault, in place of its own number")
    parser.add_argument("--quick", action="store_true", help="a few rounds of each and short times, as make test does")
    parser.add_argument("--page", action="store_true", help="write docs/reliability.md whatever was run")
    options = parser.parse_args()
    findings: list[Finding] = []
    for name in options.only or FAULTS:
        module = FAULTS[name]
        began = time.monotonic()
        print(f"{name}: {module.finding().title}", flush=True)
        try:
            found = module.quick() if options.quick else module.run(*([options.rounds] if options.rounds else []))
        except Exception:
            traceback.print_exc()
            found = module.finding()
            found.faults.append(f"ended early: {traceback.format_exc().strip().splitlines()[-1][:500]}")
        found.figures["took_s"] = round(time.monotonic() - began)
        print(_line(found), flush=True)
        findings.append(found)
        write_json(findings)
    is_full = not options.only and not options.rounds and not options.quick
    if is_full or options.page:
        write_page(findings)
    return int(not all(found.holds for found in findings))


def _line(found: Finding) -> str:
    if found.skipped is not None:
        return f"  skipped: {found.skipped}"
    counts = ", ".join(f"{name} {getattr(found, name)}" for name in ("rounds", "lost", "doubled", "overspend", "drift"))
    figures = ", ".join(f"{name} {value}" for name, value in found.figures.items())
    faults = "".join(f"\n  FAULT: {sentence}" for sentence in found.faults)
    return f"  {'holds' if found.holds else 'DOES NOT HOLD'}: {counts}; {figures}{faults}"


if __name__ == "__main__":
    sys.exit(main())
