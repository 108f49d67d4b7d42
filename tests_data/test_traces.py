"""The whole of each recorded trace, against a count made without the readers."""

import csv
import gzip
from pathlib import Path

import pytest

from fiscus.cli.traces import read_calls

TRACES = Path(__file__).resolve().parents[2] / "shared" / "data" / "traces"
AZURE = sorted(TRACES.glob("azure_llm_2023_*.csv.gz"))
CLAUDE = sorted(TRACES.glob("claude_code_v*.csv.gz"))


def names(paths):
    return [path.name for path in paths]


def rows_of(path):
    with gzip.open(path, "rt", encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


@pytest.mark.parametrize("path", AZURE, ids=names(AZURE))
def test_every_row_of_an_azure_trace_is_a_call(path):
    rows, calls = rows_of(path), list(read_calls(path))
    assert len(calls) == len(rows) > 5_000
    assert sum(call.input_tokens for call in calls) == sum(int(row["ContextTokens"]) for row in rows)
    assert sum(call.output_tokens for call in calls) == sum(int(row["GeneratedTokens"]) for row in rows)
    assert [call.at_s for call in calls] == sorted(call.at_s for call in calls)
    assert 1_500 < calls[-1].at_s < 1_800, "half an hour"


@pytest.mark.parametrize("path", CLAUDE, ids=names(CLAUDE))
def test_every_row_of_a_claude_code_trace_is_a_call_of_its_session_and_agent(path):
    rows, calls = rows_of(path), list(read_calls(path))
    assert len(calls) == len(rows) > 20_000
    assert sorted(call.row for call in calls) == list(range(1, len(rows) + 1))
    for call in calls:
        row = rows[call.row - 1]
        assert (call.session, call.subagent or "main", call.model) == (row["trace"], row["agent"], row["model"])
        assert (call.input_tokens, call.output_tokens) == (int(row["in"]), int(row["out"]))
    assert [call.at_s for call in calls] == sorted(call.at_s for call in calls)


@pytest.mark.parametrize("path", CLAUDE, ids=names(CLAUDE))
def test_an_agent_keeps_its_own_order_and_distances(path):
    rows = rows_of(path)
    first = {}
    for call in read_calls(path):
        key, own_s = (call.session, call.subagent), float(rows[call.row - 1]["t"])
        start_s = first.setdefault(key, call.at_s - own_s)
        assert call.at_s - own_s == pytest.approx(start_s, abs=1e-3)
