"""The readers of recorded traces, on small files made here; the real ones are read in ``tests_data``."""

import gzip
from pathlib import Path

import pytest

from fiscus.cli.traces import AZURE_MODEL, SESSION_GAP_S, content_digest, read_calls
from fiscus.contract.errors import Invalid

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:49.0000000,7,1
"""

CLAUDE = """trace,agent,subagent_type,seq,t,type,model,in,out,api_time,stop
0004,main,,0,0.0,n,claude-opus-4-5-20251101,84352,154,15.87,tool_use
0004,main,,1,200.0,n,claude-opus-4-5-20251101,84806,268,,tool_use
0004,main,,2,300.0,n,claude-opus-4-5-20251101,85000,1,2.0,tool_use
0004,agent_001,Explore,0,0.0,n,claude-haiku-4-5-20251001,18251,62,2.27,tool_use
0004,agent_001,Explore,1,5.5,n,claude-haiku-4-5-20251001,18300,62,2.27,tool_use
0007,main,,0,0.0,n,claude-opus-4-6,9000,10,1.0,end_turn
"""


def written(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    data = text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("name", ["trace.csv", "trace.csv.gz", "gzip-by-another-name"])
def test_an_azure_file_is_read_in_time_order_compressed_or_not(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(AZURE.encode() if name == "trace.csv" else gzip.compress(AZURE.encode()))
    calls = list(read_calls(path))
    assert [(call.row, round(call.at_s, 6)) for call in calls] == [(1, 0.0), (3, 2.319410), (2, 4.314579)]
    assert [(call.input_tokens, call.output_tokens) for call in calls] == [(374, 44), (7, 1), (396, 109)]
    assert {call.model for call in calls} == {AZURE_MODEL}
    assert all(call.duration_s > 0 for call in calls)


def test_sessions_start_a_minute_apart_and_their_calls_are_merged_in_time_order(tmp_path):
    calls = list(read_calls(written(tmp_path, CLAUDE)))
    assert [call.at_s for call in calls] == sorted(call.at_s for call in calls)
    at_s = {call.row: call.at_s for call in calls}
    assert at_s[1] == 0
    assert at_s[6] == SESSION_GAP_S, "the second session"
    assert (at_s[4], at_s[5]) == (200, 205.5), "the only sub-agent starts with the middle call of its session"
    assert {call.row: call.subagent for call in calls}[4] == "agent_001"


def test_a_missing_duration_is_filled_in_by_the_rule(tmp_path):
    durations = {call.row: call.duration_s for call in read_calls(written(tmp_path, CLAUDE))}
    assert durations[1] == 15.87
    assert durations[2] == pytest.approx(0.5 + 84806 / 20_000 + 268 / 65)


AZURE_ROW = "2023-11-16 18:15:46.6805900"
BAD = [
    ("TIMESTAMP,ContextTokens,GeneratedTokens\n" + AZURE_ROW + ",12\n", "line 2", "has 2 columns"),
    ("TIMESTAMP,ContextTokens,GeneratedTokens\n" + AZURE_ROW + ",-1,5\n", "line 2, column ContextTokens", "'-1'"),
    ("TIMESTAMP,ContextTokens,GeneratedTokens\n" + AZURE_ROW + ",1,5.0\n", "line 2, column GeneratedTokens", "'5.0'"),
    (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n" + AZURE_ROW + ",9007199254740992,5\n",
        "line 2, column ContextTokens",
        "2^53",
    ),
    ("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,5\n", "line 2, column TIMESTAMP", "'yesterday'"),
    ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-13-40 18:15:46,1,5\n", "line 2, column TIMESTAMP", "exists"),
    (CLAUDE.replace("200.0", "nan"), "line 3, column t", "'nan'"),
    (CLAUDE.replace("200.0", "-1"), "line 3, column t", "'-1'"),
    (CLAUDE.replace("84806", ""), "line 3, column in", "''"),
    (CLAUDE.replace("claude-opus-4-6", "a\x1b[31m"), "line 7, column model", "a name"),
    ("a,b\n1,2\n", "line 1", "TIMESTAMP"),
    ("", "line 1", "TIMESTAMP"),
]


@pytest.mark.parametrize(("text", "field", "why"), BAD, ids=[f"{field}-{why}" for _, field, why in BAD])
def test_a_wrong_value_is_named_with_its_line_and_column(tmp_path, text, field, why):
    with pytest.raises(Invalid) as caught:
        list(read_calls(written(tmp_path, text)))
    assert caught.value.refused.field == field
    assert why in str(caught.value)
    assert "trace.csv" in str(caught.value)


def test_a_truncated_gzip_file_is_an_error_that_names_the_line(tmp_path):
    whole = gzip.compress((AZURE + "2023-11-16 18:15:51.0000000,1,1\n" * 5000).encode())
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Invalid, match=r"trace\.csv\.gz: line \d+: "):
        list(read_calls(path))
    with pytest.raises(Invalid, match=r"trace\.csv\.gz"):
        content_digest(path)


def test_bytes_that_are_not_text_are_an_error(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_bytes(AZURE.encode() + b"\xff\xfe,1,1\n")
    with pytest.raises(Invalid, match=r"trace\.csv: line \d+"):
        list(read_calls(path))


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(Invalid, match=r"nothing\.csv: cannot be read"):
        list(read_calls(tmp_path / "nothing.csv"))


def test_a_row_far_behind_its_place_in_time_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("fiscus.cli.traces.REORDER_ROWS_MAX", 1)
    rows = "".join(f"2023-11-16 18:15:5{second}.0000000,1,1\n" for second in (0, 3, 4, 1))
    with pytest.raises(Invalid, match="data row 4"):
        list(read_calls(written(tmp_path, "TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)))


def test_a_trace_is_the_same_under_another_name_and_compressed(tmp_path):
    plain, packed = written(tmp_path, AZURE), written(tmp_path, AZURE, "other.csv.gz")
    assert content_digest(plain) == content_digest(packed)
    assert content_digest(plain) != content_digest(written(tmp_path, CLAUDE, "third.csv"))
