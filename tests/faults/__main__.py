"""All faults, one after the other: ``python -m tests.faults [--only NAME …] [--rounds N] [--quick]``.

Writes ``build/faults.json``, where what was run before stays; and ``docs/reliability.md``, once everything was run in
full, be it all at once or one by one.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from tests.faults import FAULTS
from tests.faults.finding import Finding
from tests.faults.report import read_json, write_json, write_page


def main() -> int:
    """See the module; returns 1 if something does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), metavar="NAME", help=", ".join(FAULTS))
    parser.add_argument("--rounds", type=int, help="of each fault, in place of its own number")
    parser.add_argument("--quick", action="store_true", help="a few rounds of each and short times, as make test does")
    parser.add_argument("--page", action="store_true", help="write docs/reliability.md whatever was run")
    options = parser.parse_args()
    known = read_json()
    findings: dict[str, Finding] = {}
    for name, module in FAULTS.items():
        if options.only and name in known:
            findings[name] = module.finding()
            findings[name].read(known[name])
    run: list[Finding] = []
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
        found.full = not options.rounds and not options.quick
        print(_line(found), flush=True)
        run.append(found)
        findings[name] = found
        in_order = [findings[name] for name in FAULTS if name in findings]
        write_json(in_order)
        if options.page or (len(in_order) == len(FAULTS) and all(one.full for one in in_order)):
            write_page(in_order)
    return int(not all(found.holds for found in run))


def _line(found: Finding) -> str:
    if found.skipped is not None:
        return f"  skipped: {found.skipped}"
    counts = ", ".join(f"{name} {getattr(found, name)}" for name in ("rounds", "lost", "doubled", "overspend", "drift"))
    figures = ", ".join(f"{name} {value}" for name, value in found.figures.items())
    faults = "".join(f"\n  FAULT: {sentence}" for sentence in found.faults)
    return f"  {'holds' if found.holds else 'DOES NOT HOLD'}: {counts}; {figures}{faults}"


if __name__ == "__main__":
    sys.exit(main())
