"""The tables of ``demo`` and ``replay``: balances while calls run, and the reconciliation at the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from rich import box
from rich.table import Table
from rich.text import Text

from fiscus.core.outcomes import Balance
from fiscus.core.units import NANOUSD_PER_USD, Unit

NANOUSD_PER_CENT = NANOUSD_PER_USD // 100
RECONCILED_ROWS = 30


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
    tokens_produced: int
    tokens_booked: int
    cost_produced: int
    cost_booked: int
    refused: int
    difference: int
    overspend: int


def live_table(title: str, rows: Iterable[LiveRow]) -> Table:
    """Balances of some accounts: limit, spent and held in tokens, spent and limit in dollars, refusals and rate."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("account", no_wrap=True)
    for column in ("tokens: limit", "spent", "held", "cost: limit", "spent", "held", "refused", "calls/s"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            Text("  " * row.depth + row.account + (" (allocated)" if row.tokens.allocated else "")),
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

    Of the accounts that are right, ``RECONCILED_ROWS`` are shown and the rest is one row; those that are wrong come
    first, every one.
    """
    table = Table(title="Reconciliation", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("account", no_wrap=True)
    columns = ("tokens produced", "tokens booked", "cost produced", "cost booked", "refused", "difference", "overspend")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    wrong = [row for row in rows if row.difference or row.overspend]
    right = [row for row in rows if not (row.difference or row.overspend)]
    shown = [*wrong, *right[:RECONCILED_ROWS]]
    for row in shown:
        style = "" if row in right else "bold red"
        table.add_row(
            Text(row.account),
            f"{row.tokens_produced:,}",
            f"{row.tokens_booked:,}",
            dollars(row.cost_produced),
            dollars(row.cost_booked),
            f"{row.refused:,}",
            f"{row.difference:,}",
            f"{row.overspend:,}",
            style=style,
        )
    hidden = right[RECONCILED_ROWS:]
    if hidden:
        table.add_row(
            Text(f"… {len(hidden):,} more"), "", "", "", "", f"{sum(row.refused for row in hidden):,}", "0", "0"
        )
    return table


def dollars(nanousd: int) -> str:
    """Nano-USD to the cent, rounded down.

    >>> dollars(1_234_567_890_123)
    '$1,234.56'
    """
    cents = nanousd // NANOUSD_PER_CENT
    return f"${cents // 100:,}.{cents % 100:02d}"


def _tokens(amount: int) -> str:
    """Tokens in thousands from a million on, so that a table fits a terminal.

    >>> _tokens(999_999), _tokens(12_345_678)
    ('999,999', '12,345k')
    """
    return f"{amount:,}" if amount < 1_000_000 else f"{amount // 1_000:,}k"


def _used(balance: Balance, text: str) -> Text:
    """An amount, coloured by how much of the limit is spent."""
    share = balance.spent / balance.limit if balance.limit else 1.0
    return Text(text, style="red" if share >= 0.95 else "yellow" if share >= 0.75 else "green")


UNIT_NAMES: dict[Unit, str] = {"tokens": "tokens", "cost": "cost_nanousd"}
"""How the units that are reconciled are called in the summary."""
