"""What the tables of demo and replay show."""

from datetime import UTC, datetime
from io import StringIO

import pytest
from rich.console import Console

from fiscus.cli.table import SHOWN_PER_LEVEL, LiveRow, ReconciledRow, live_table, reconciliation_table
from fiscus.core.outcomes import Balance


def shown(table, width: int = 200) -> str:
    output = StringIO()
    Console(file=output, width=width).print(table)
    return output.getvalue()


def reconciled(account: str, level: str, booked: int = 100, **fields) -> ReconciledRow:
    return ReconciledRow(
        **{
            "account": account,
            "level": level,
            "tokens_produced": 100,
            "tokens_booked": booked,
            "cost_produced": 2_000_000_000,
            "cost_booked": 2_000_000_000,
            "refused": 1,
            "difference": abs(100 - booked),
            "overspend": 0,
            **fields,
        }
    )


def live(account: str, depth: int = 0, limit: int = 1_000_000, spent: int = 12_345) -> LiveRow:
    def balance(unit) -> Balance:
        return Balance(
            account=account,
            budget=f"{unit}-lifetime",
            unit=unit,
            mode="enforce",
            limit=limit,
            covered=spent,
            held=50,
            quarantined=7,
            uncovered=0,
            spent=spent,
            available=0,
            overdrawn=0,
            window_start=datetime(2026, 1, 1, tzinfo=UTC),
            window_end=None,
        )

    return LiveRow(
        account=account, depth=depth, tokens=balance("tokens"), cost=balance("cost"), refused=3, calls_per_s=9.6
    )


def test_threads_are_summed_up_and_the_accounts_above_them_shown():
    rows = [reconciled("global", "global"), *(reconciled(f"thread:{n}", "thread") for n in range(5))]
    text = shown(reconciliation_table(rows))
    assert "global" in text
    assert "thread:0" not in text
    [line] = [line for line in text.splitlines() if "5 threads" in line]
    assert line.split()[2:] == ["500", "500", "$10.00", "$10.00", "5", "0", "0"]


def test_an_account_that_is_wrong_is_always_shown_and_first():
    rows = [*(reconciled(f"thread:{n}", "thread") for n in range(50)), reconciled("thread:bad", "thread", booked=99)]
    lines = shown(reconciliation_table(rows)).splitlines()
    places = [next(i for i, line in enumerate(lines) if name in line) for name in ("thread:bad", "50 threads")]
    assert places == sorted(places)


def test_a_level_with_very_many_accounts_is_cut_and_the_rest_summed():
    rows = [reconciled(f"agent:{n}", "agent") for n in range(SHOWN_PER_LEVEL + 3)]
    assert "3 more agents" in shown(reconciliation_table(rows))


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_row_is_one_line_on_any_terminal(width):
    rows = [live("global"), live("subagent:a-very-long-name-of-a-session.agent_001", depth=5)]
    lines = [line for line in shown(live_table("now", rows), width).splitlines() if "$" in line]
    assert len(lines) == 2


def test_a_live_row_tells_limit_spent_held_refusals_and_rate():
    [line] = [line for line in shown(live_table("now", [live("global")])).splitlines() if "global" in line]
    assert line.split() == ["global", "1.0M", "12k", "57", "$0.00", "$0.00", "$0.00", "3", "10"]


def test_a_name_is_text_and_neither_markup_nor_control_characters():
    text = shown(live_table("now", [live("user:[red]x[/red]\x1b[2J")]))
    assert "user:[red]x[/red]" in text
    assert "\x1b[2J" not in text
