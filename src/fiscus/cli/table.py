"""The tables of ``demo`` and ``replay``: balances while calls run, and the reconciliation at the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from rich import box
from rich.table import Table
from rich.text import Text

from fiscus.cli.output import printable
from fiscus.core.outcomes import Balance
from fiscus.core.units import NANOUSD_PER_USD

NANOUSD_PER_CENT = NANOUSD_PER_USD // 100
SHOWN_PER_LEVEL = 40
SUMMED_LEVELS = frozenset({"thread", "subagent"})


class LiveRow(msgspec.Struct, frozen=True, kw_only=True):
    """One account while calls run.

    Attributes:
        depth: how far below the root, for indentation.
        tokens, cost: its balances.
        refused: calls that its budgets refused so far.
        calls_per_s: admitted calls of it and those below, lately.
    """

    account: str
    depth: int
    tokens: Balance
    cost: Balance
    refused: int
    calls_per_s: float


class ReconciledRow(msgspec.Struct, frozen=True, kw_only=True):
    """One account at the end; ``produced`` by the provider's count, ``booked`` by the books."""

    account: str
    level: str
    tokens_produced: int
    tokens_booked: int
    cost_produced: int
    cost_booked: int
    refused: int
    difference: int
    overspend: int

    @property
    def is_right(self) -> bool:
        """Whether the books are exactly what was produced, and no limit was passed."""
        return not (self.difference or self.overspend)


def live_table(title: str, rows: Iterable[LiveRow]) -> Table:
    """Balances of some accounts: limit, spent and held in tokens, spent and limit in dollars, refusals and rate."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("account")
    for column in ("tokens: limit", "spent", "held", "cost: limit", "spent", "held", "refused", "calls/s"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            _name("  " * row.depth + row.account + (" (allocated)" if row.tokens.allocated else "")),
            _tokens(row.tokens.limit),
            _used(row.tokens, _tokens(row.tokens.spent)),
            _tokens(row.tokens.held + row.tokens.quarantined),
            dollars(row.cost.limit),
            _used(row.cost, dollars(row.cost.spent)),
            dollars(row.cost.held + row.cost.quarantined),
            Text(f"{row.refused:,}", style="red" if row.refused else ""),
            f"{row.calls_per_s:.0f}",
        )
    return table


def reconciliation_table(rows: Sequence[ReconciledRow]) -> Table:
    """What was produced against what is on the books.

    Accounts that are wrong are shown first, every one. Of the others, all threads are one row, and so are all
    sub-agents, and the accounts of another level beyond the first ``SHOWN_PER_LEVEL``.
    """
    table = Table(title="Reconciliation", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("account")
    columns = ("tokens produced", "tokens booked", "cost produced", "cost booked", "refused", "difference", "overspend")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in (row for row in rows if not row.is_right):
        table.add_row(*_reconciled(row), style="bold red")
    levels: dict[str, list[ReconciledRow]] = {}
    for row in rows:
        if row.is_right:
            levels.setdefault(row.level, []).append(row)
    for level, right in levels.items():
        shown = 0 if level in SUMMED_LEVELS else SHOWN_PER_LEVEL
        for row in right[:shown]:
            table.add_row(*_reconciled(row))
        if right[shown:]:
            table.add_row(
                *_reconciled(_sum(f"{len(right[shown:]):,} {'more ' if shown else ''}{level}s", right[shown:]))
            )
    return table


def _reconciled(row: ReconciledRow) -> tuple[Text | str, ...]:
    return (
        _name(row.account),
        f"{row.tokens_produced:,}",
        f"{row.tokens_booked:,}",
        dollars(row.cost_produced),
        dollars(row.cost_booked),
        f"{row.refused:,}",
        f"{row.difference:,}",
        f"{row.overspend:,}",
    )


def _sum(name: str, rows: Sequence[ReconciledRow]) -> ReconciledRow:
    return ReconciledRow(
        account=name,
        level=rows[0].level,
        tokens_produced=sum(row.tokens_produced for row in rows),
        tokens_booked=sum(row.tokens_booked for row in rows),
        cost_produced=sum(row.cost_produced for row in rows),
        cost_booked=sum(row.cost_booked for row in rows),
        refused=sum(row.refused for row in rows),
        difference=sum(row.difference for row in rows),
        overspend=sum(row.overspend for row in rows),
    )


def dollars(nanousd: int) -> str:
    """Nano-USD to the cent, rounded down.

    >>> dollars(1_234_567_890_123)
    '$1,234.56'
    """
    cents = nanousd // NANOUSD_PER_CENT
    return f"${cents // 100:,}.{cents % 100:02d}"


def _name(name: str) -> Text:
    """A name as it is: no markup in it, and cut rather than folded when the terminal is narrow."""
    return Text(printable(name), no_wrap=True, overflow="ellipsis")


def _tokens(amount: int) -> str:
    """Tokens rounded down to what fits a narrow terminal.

    >>> _tokens(9_999), _tokens(999_999), _tokens(12_345_678)
    ('9,999', '999k', '12.3M')
    """
    if amount < 10_000:
        return f"{amount:,}"
    return f"{amount // 1_000}k" if amount < 1_000_000 else f"{amount // 1_000_000:,}.{amount // 100_000 % 10}M"


def _used(balance: Balance, text: str) -> Text:
    """An amount, coloured by how much of the limit is spent."""
    share = balance.spent / balance.limit if balance.limit else 1.0
    return Text(text, style="red" if share >= 0.95 else "yellow" if share >= 0.75 else "green")
