"""What people see of a replay: a live table on a terminal, else a plain line now and then."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from fiscus.cli.output import WIDTH_PIPED_COLUMNS, printable
from fiscus.cli.replay.driver import Tally
from fiscus.cli.replay.fleet import Fleet
from fiscus.cli.replay.performance import Summary
from fiscus.cli.table import LiveRow, ReconciledRow, dollars, live_table, reconciliation_table

PLAIN_PERIOD_S = 2.0


def console(*, stderr: bool = False) -> Console:
    """Standard output (or standard error) as people should see it."""
    made = Console(stderr=stderr, highlight=False)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, width=WIDTH_PIPED_COLUMNS)


class Terminal:
    """A table that is redrawn in place."""

    def __init__(self, output: Console) -> None:
        self._output = output
        self._live = Live(console=output, auto_refresh=False, transient=True)

    def planned(self, fleet: Fleet, source: str) -> None:
        """Say what will be sent, and begin the table."""
        self._output.print(_plan(fleet, source), markup=False)
        self._live.start()

    def running(self, tally: Tally, total: int, seconds: float, rows: Sequence[LiveRow]) -> None:
        """Redraw the table."""
        self._live.update(live_table(_headline(tally, total, seconds), rows), refresh=True)

    def stage(self, text: str) -> None:
        """Say what is being waited for, below the last table."""
        self._live.update(Group(*([self._live.renderable] if self._live.is_started else []), Text(text)), refresh=True)

    def close(self) -> None:
        """Take the table away."""
        self._live.stop()


class Plain:
    """A line every ``PLAIN_PERIOD_S``, for logs and pipes."""

    def __init__(self, output: Console) -> None:
        self._output = output
        self._last_s = 0.0

    def planned(self, fleet: Fleet, source: str) -> None:
        """Say what will be sent."""
        self._output.print(_plan(fleet, source), markup=False)

    def running(self, tally: Tally, total: int, seconds: float, rows: Sequence[LiveRow]) -> None:
        """Write a line if the last one is old enough."""
        if seconds - self._last_s < PLAIN_PERIOD_S or not rows:
            return
        self._last_s = seconds
        root = rows[0]
        spent = f"spent {root.tokens.spent:,} tokens, {dollars(root.cost.spent)}; held {root.tokens.held:,} tokens"
        self._output.print(f"{_headline(tally, total, seconds)}; {spent}", markup=False)

    def stage(self, text: str) -> None:
        """Write it."""
        self._output.print(text, markup=False)

    def close(self) -> None:
        """Nothing to take away."""


class Silent:
    """For programs: only the result is told."""

    def planned(self, fleet: Fleet, source: str) -> None:
        """Say nothing."""

    def running(self, tally: Tally, total: int, seconds: float, rows: Sequence[LiveRow]) -> None:
        """Say nothing."""

    def stage(self, text: str) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Nothing to take away."""


def screen(output: Console) -> Terminal | Plain:
    """What fits the output."""
    return Terminal(output) if output.is_terminal else Plain(output)


def tell(output: Console, summary: Summary, rows: Sequence[ReconciledRow]) -> None:
    """Show the reconciliation and the last word on it."""
    output.print(reconciliation_table(rows))
    output.print(
        f"{summary.calls:,} calls in {summary.seconds:.1f} s, at most {summary.in_flight_max} in flight:"
        f" {summary.admitted:,} admitted, {summary.refused:,} refused;"
        f" {summary.killed:,} killed, {summary.late:,} settled late, {summary.retried:,} sent twice",
        markup=False,
    )
    if summary.repeated:
        output.print(f"{summary.repeated:,} of them had been settled by an earlier run: nothing changed", markup=False)
    verdict = "the books are exactly what the calls produced" if summary.right else "THE BOOKS ARE WRONG"
    output.print(
        f"overspend {summary.overspend_tokens:,} tokens, {summary.overspend_cost_nanousd:,} nano-USD;"
        f" difference {summary.difference_tokens:,} tokens, {summary.difference_cost_nanousd:,} nano-USD: {verdict}",
        style="green" if summary.right else "bold red",
        markup=False,
    )


def _plan(fleet: Fleet, source: str) -> str:
    budgets = 2 * len(fleet.accounts)
    tight = sum(account.tight for account in fleet.accounts.values())
    allocated = [account.name for account in fleet.accounts.values() if account.allocated]
    carved = f", {allocated[0]} has an allocation" if allocated else ""
    return (
        f"{printable(source)}: {fleet.root.calls:,} calls; {len(fleet.accounts):,} accounts with {budgets:,} budgets,"
        f" {tight:,} of them too small on purpose{carved}"
    )


def _headline(tally: Tally, total: int, seconds: float) -> str:
    return (
        f"{seconds:5.1f} s  {tally.calls:,} of {total:,} calls, {tally.in_flight} in flight;"
        f" {tally.admitted:,} admitted, {tally.refused:,} refused,"
        f" {tally.killed:,} killed, {tally.late:,} late, {tally.retried:,} sent twice"
    )
