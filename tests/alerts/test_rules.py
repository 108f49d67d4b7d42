"""What usage and balances show: tables of figures just below and just beyond each limit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from fiscus.alerts.measures import HOLDS_MAX, NAMES_MAX, Kept, Measures
from fiscus.alerts.rules import Finding, Rules, Watched, look, usage_findings
from fiscus.contract.queries import Usage
from fiscus.core.outcomes import Balance
from fiscus.core.records import CallRecord, Tokens

NOW = datetime(2026, 11, 25, 12, 30, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1_000)
HOUR_AGO_MS = NOW_MS - 3_600_000


def usage(
    seq: int,
    tokens: int,
    *,
    ago_s: float = 0,
    hold: str = "",
    account: str = "agent:x",
    tools: tuple[str, ...] = (),
    tool_tokens: int = 0,
    value: float | None = None,
) -> Usage:
    record = CallRecord(tokens=Tokens(input=tokens, tool_definitions=tool_tokens), tools=tools, value=value)
    return Usage(
        seq=seq,
        at=NOW - timedelta(seconds=ago_s),
        hold=hold or str(seq),
        account=account,
        also=(),
        amounts={"tokens": tokens},
        uncovered={},
        estimated=False,
        record=record,
    )


def found(usages: list[Usage], *, began_ms: int = HOUR_AGO_MS) -> list[str]:
    measures = Measures(Kept(began_ms=began_ms))
    measures.add(usages)
    return [finding.name for finding in usage_findings(measures, Rules(), NOW_MS)]


# covers D66, N22
@pytest.mark.parametrize(
    ("name", "below", "beyond"),
    [
        ("high_token_consumption", [usage(1, 300_000)], [usage(1, 300_001)]),
        ("high_token_consumption", [usage(1, 900_000, ago_s=360)], [usage(1, 900_000, ago_s=200)]),
        ("low_efficiency", [usage(1, 100, value=50)], [usage(1, 100, value=49.9)]),
        ("low_efficiency", [usage(1, 100)], [usage(1, 100, value=-1e308)]),
        (
            "tool_use_high",
            [usage(seq, 10, tools=("a",) if seq < 10 else ()) for seq in range(20)],
            [usage(seq, 10, tools=("a",) if seq < 11 else ()) for seq in range(20)],
        ),
        (
            "tool_use_high",
            [usage(seq, 10, tools=("a",)) for seq in range(19)],
            [usage(s, 1, tools=("a",)) for s in range(20)],
        ),
        (
            "tool_overhead_high",
            [usage(seq, 10, tool_tokens=3) for seq in range(20)],
            [usage(seq, 10, tool_tokens=3 + (seq == 0)) for seq in range(20)],
        ),
        (
            "agent_share_high",
            [usage(seq, 10, account=f"agent:{'x' if seq < 12 else 'y'}") for seq in range(20)],
            [usage(seq, 10, account=f"agent:{'x' if seq < 13 else 'y'}") for seq in range(20)],
        ),
        (
            "agent_share_high",
            [usage(seq, 10) for seq in range(20)],
            [*(usage(seq, 10) for seq in range(20)), usage(21, 1, account="agent:y")],
        ),
        (
            "tool_spike",
            [usage(seq, 1, tools=("grep",)) for seq in range(9)],
            [usage(seq, 1, tools=("grep",)) for seq in range(10)],
        ),
        (
            "tool_spike",
            [usage(s, 1, ago_s=600 + 40 * s, tools=("a",)) for s in range(66)]
            + [usage(99 + s, 1, tools=("a",)) for s in range(15)],
            [usage(s, 1, ago_s=600 + 400 * s, tools=("a",)) for s in range(6)]
            + [usage(99 + s, 1, tools=("a",)) for s in range(15)],
        ),
    ],
)
def test_a_rule_speaks_beyond_its_limit_and_not_at_it(name, below, beyond):
    assert name not in found(below)
    assert name in found(beyond)


def test_what_needs_a_whole_span_waits_until_it_was_seen():
    assert "low_efficiency" not in found([usage(1, 100, value=1)], began_ms=NOW_MS - 29 * 60_000)
    assert "tool_spike" not in found([usage(s, 1, tools=("a",)) for s in range(50)], began_ms=NOW_MS - 14 * 60_000)


def test_running_totals_of_one_call_are_one_request_whose_record_counts_once():
    measures = Measures(Kept())
    measures.add([usage(seq, 10, hold="a", tools=("grep",), tool_tokens=4, value=float(seq)) for seq in range(1, 6)])
    total = measures.over(NOW_MS, 5)
    assert (total.requests, total.tokens, total.tool_requests, total.tool_tokens) == (1, 50, 1, 4)
    assert (total.value, total.valued_tokens, total.tools) == (5.0, 50, {"grep": 1})


def test_measures_survive_a_restart_as_they_are():
    measures = Measures(Kept(began_ms=HOUR_AGO_MS))
    measures.add([usage(seq, 10, ago_s=60 * seq, tools=("grep",), value=0.5) for seq in range(30)])
    again = Measures(msgspec.json.decode(msgspec.json.encode(measures.kept()), type=Kept))
    assert again.over(NOW_MS, 60) == measures.over(NOW_MS, 60)
    assert (again.usage_after, again.began_ms) == (29, HOUR_AGO_MS)


def test_measures_are_bounded():
    measures = Measures(Kept())
    measures.add([usage(seq, 1, ago_s=seq, account=f"agent:{seq}", tools=(f"t{seq}",)) for seq in range(7_200)])
    measures.add([usage(10_000 + seq, 1, account=f"agent:{seq}") for seq in range(HOLDS_MAX + 10)])
    measures.forget(NOW_MS)
    kept = measures.kept()
    assert len(kept.minutes) <= 61
    assert max(len(minute.accounts) for minute in kept.minutes) <= NAMES_MAX
    assert measures.over(NOW_MS, 1).tokens >= HOLDS_MAX
    assert len(measures._calls) == HOLDS_MAX


def balance(available: int, limit: int = 100, start: datetime = NOW) -> Balance:
    used = limit - available
    return Balance(
        account="agent:x",
        budget="main",
        unit="tokens",
        mode="enforce",
        limit=limit,
        covered=used,
        held=0,
        quarantined=0,
        uncovered=0,
        spent=used,
        available=available,
        overdrawn=max(0, -available),
        window_start=start,
        window_end=None,
    )


def looks(*seen: tuple[float, Balance]) -> list[list[Finding]]:
    watched = Watched(account="agent:x", budget="main")
    return [list(look(watched, one, Rules(), NOW_MS + int(at_s * 1_000))) for at_s, one in seen]


# covers D66
@pytest.mark.parametrize(
    ("seen", "told"),
    [
        ([(0, 9), (600, 9)], True),
        ([(0, 9), (599, 9)], False),
        ([(0, 10), (900, 10)], False),
        ([(0, 9), (300, 50), (600, 9), (900, 9)], False),
        ([(0, 9), (300, 50), (600, 9), (1_200, 9)], True),
    ],
)
def test_little_left_is_told_when_it_lasts(seen, told):
    findings = looks(*((at_s, balance(available)) for at_s, available in seen))
    assert ["budget_nearly_gone" in [one.name for one in found] for found in findings][-1] is told


def test_a_new_window_begins_anew():
    other = NOW + timedelta(days=1)
    first, second, third = looks((0, balance(5)), (700, balance(5)), (1_400, balance(5, start=other)))
    assert [one.name for one in second] == ["budget_nearly_gone"]
    assert first == third == []


# covers D66
@pytest.mark.parametrize(
    ("seen", "told"),
    [
        ([(0, 40), (300, 20)], True),  # 20 in five minutes, 20 are left
        ([(0, 40), (240, 20)], False),  # nobody can say yet
        ([(0, 40), (3_000, 29)], False),  # it lasts for more than two hours
        ([(0, 60), (300, 31)], False),  # not yet beyond 70 %
        ([(0, 20), (1_000, 20)], False),  # nobody draws on it
    ],
)
def test_a_budget_that_runs_out_within_the_hour_is_told(seen, told):
    findings = looks(*((at_s, balance(available)) for at_s, available in seen))
    assert ("budget_near_exhaustion" in [one.name for one in findings[-1]]) is told
