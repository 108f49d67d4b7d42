"""Sums of usage, and usage by where it came from: every store says what a plain loop over the rows says."""

from __future__ import annotations

import json
import random
from collections import defaultdict

import pytest

from fiscus.treasury.store import UsageAsked, UsageRow
from tests.stores.places import AT_MS, account, snapshot

NOW_MS = AT_MS + 1_000
DAY_MS = 86_400_000
PARENTS = {1: None, 2: 1, 3: 2, 4: 1}
KEYS = ("provider", "model", "account", "also", "day", "hour", "user_id", "provenance.task_type", "tools")
SUMS = ("calls", "tokens", "input_tokens", "output_tokens", "cost")


def rows_of(seed: int, count: int = 120) -> list[dict]:
    """Rows as the books have them: some without a record, without a price, with less than before, or very large."""
    chance = random.Random(seed)
    rows = []
    for seq in range(1, count + 1):
        record = None
        if chance.random() < 0.9:
            record = {"user_id": chance.choice(["bob", "ann \u00e9\"'"])} if chance.random() < 0.7 else {}
            if chance.random() < 0.5:
                record["tools"] = chance.choice([["search"], ["search", "run"]])
            if chance.random() < 0.5:
                record["provenance"] = {"task_type": chance.choice(["plan", "code"]), "workflow_id": f"w{seq % 3}"}
                if chance.random() < 0.8:
                    record["provenance"]["request_id"] = f"r{seq}"
                if chance.random() < 0.5:
                    record["provenance"]["parent_request_id"] = f"r{chance.randrange(1, count)}"
        amounts = {"calls": chance.choice([0, 1, 1, 1]), "tokens": chance.choice([0, 17, -5, 2**53 - 1])}
        if chance.random() < 0.8:
            amounts["cost"] = chance.choice([0, 123_456_789, -7, 2**53 - 1])
        if chance.random() < 0.5:
            amounts |= {"input_tokens": chance.randrange(1_000), "output_tokens": 3}
        rows.append(
            {
                "seq": seq,
                "at": AT_MS + chance.randrange(-40, 40) * DAY_MS // 3,
                "hold": f"h{seq}",
                "account": chance.choice([1, 2, 3, 4]),
                "also": chance.choice([[], [4], [1, 4]]),
                "amounts": amounts,
                "estimated": chance.random() < 0.1,
                "model": chance.choice(["m1", "m2", None]),
                "provider": chance.choice(["p", None]),
                "record": record,
            }
        )
    return rows


def stored(row: dict) -> UsageRow:
    dump = lambda value: json.dumps(value, separators=(",", ":")).encode()  # noqa: E731
    return UsageRow(
        row["seq"], row["at"], row["hold"], row["account"], dump(row["also"]), dump(row["amounts"]), b"{}",
        row["estimated"], row["model"], row["provider"], None if row["record"] is None else dump(row["record"]),
    )  # fmt: skip


def is_below(number: int | None, top: int | None) -> bool:
    while number is not None:
        if number == top:
            return True
        number = PARENTS[number]
    return top is None


def key_of(row: dict, key: str) -> str | None:
    record = row["record"] or {}
    match key:
        case "provider" | "model":
            return row[key]
        case "account":
            return str(row["account"])
        case "also":
            return json.dumps(row["also"], separators=(",", ":"))
        case "day":
            return str(row["at"] // DAY_MS)
        case "hour":
            return str(row["at"] // 3_600_000)
        case "tools":
            return json.dumps(record["tools"]) if "tools" in record else None
    for part in key.split("."):
        record = record.get(part) or {}
    return record or None


def loop(rows: list[dict], asked: UsageAsked) -> dict[tuple, tuple]:
    """The same by a plain loop."""
    found: dict[tuple, list[int]] = defaultdict(lambda: [0] * 7)
    for row in rows:
        said = (row["record"] or {}).get("provenance") or {}
        if (
            row["seq"] > asked.upto
            or not is_below(row["account"], asked.within)
            or (asked.since is not None and row["at"] < asked.since)
            or (asked.until is not None and row["at"] >= asked.until)
            or any(getattr(asked, name) not in (None, row[name]) for name in ("provider", "model"))
            or any(getattr(asked, name) not in (None, said.get(name)) for name in ("task_type", "workflow_id"))
        ):
            continue
        sums = found[tuple(key_of(row, key) for key in asked.keys)]
        for index, unit in enumerate(SUMS):
            sums[index] += row["amounts"].get(unit, 0)
        sums[5] += row["amounts"]["calls"] if "cost" not in row["amounts"] else 0
        sums[6] += row["estimated"]
    return {key: tuple(sums) for key, sums in found.items() if sums[0] >= asked.calls_min}


def filled(store, rows: list[dict]) -> None:
    accounts = [account(number, f"a{number}", parent) for number, parent in PARENTS.items()]
    other = UsageRow(1, AT_MS, "x", 1, b"[]", b'{"calls":9}', b"{}", False, "m1", "p", None)
    store.views.write([snapshot(1, len(rows), accounts, [stored(row) for row in rows])], NOW_MS)
    store.views.write([snapshot(2, 1, [account(1, "eve")], [other])], NOW_MS)


def tools(keys: tuple) -> tuple:
    """Lists as JSON may be written with or without spaces."""
    return tuple(json.dumps(json.loads(key)) if key and key.startswith("[") else key for key in keys)


# covers R2, R3
@pytest.mark.parametrize("seed", range(3))
def test_sums_are_what_a_plain_loop_says(store, seed):
    rows = rows_of(seed)
    filled(store, rows)
    chance = random.Random(seed)
    for _ in range(25):
        asked = UsageAsked(
            keys=tuple(chance.sample(KEYS, chance.randrange(0, 5))),
            within=chance.choice([None, None, 1, 2, 3]),
            since=chance.choice([None, AT_MS - 5 * DAY_MS]),
            until=chance.choice([None, AT_MS + 5 * DAY_MS]),
            upto=chance.choice([60, 2**62]),
            provider=chance.choice([None, None, "p"]),
            model=chance.choice([None, None, "m1"]),
            task_type=chance.choice([None, None, "plan"]),
            workflow_id=chance.choice([None, None, "w1"]),
            calls_min=chance.choice([0, 0, 2]),
        )
        sums = {
            tools(one.keys): (
                one.calls, one.tokens, one.input_tokens, one.output_tokens, one.cost_nanousd, one.unpriced_calls,
                one.estimated_calls,
            )
            for one in store.views.usage_sums(1, asked)
        }  # fmt: skip
        assert sums == {tools(key): value for key, value in loop(rows, asked).items()}, asked


def test_a_sum_may_be_longer_than_the_integers_of_a_database(store):
    most = 2**53 - 1
    rows = [
        {**row, "amounts": {"calls": 1, "tokens": most, "cost": most}, "estimated": False} for row in rows_of(7, 1_100)
    ]
    filled(store, rows)
    (one,) = store.views.usage_sums(1, UsageAsked())
    assert (one.calls, one.tokens, one.cost_nanousd) == (1_100, 1_100 * most, 1_100 * most)
    assert one.tokens > 2**63


def test_groups_are_in_the_order_of_their_keys_and_bounded(store):
    filled(store, rows_of(1))
    asked = UsageAsked(keys=("model", "user_id"))
    keys = [one.keys for one in store.views.usage_sums(1, asked)]
    assert keys == sorted(keys, key=lambda key: tuple((part is not None, part or "") for part in key))
    assert [one.keys for one in store.views.usage_sums(1, UsageAsked(keys=("model", "user_id"), limit=2))] == keys[:2]
    assert store.views.usage_sums(3, asked) == []
    assert store.views.usage_sums(3, UsageAsked()) == []


# covers R13, R14
@pytest.mark.parametrize("field", ["request_id", "parent_request_id", "workflow_id"])
def test_usage_is_found_by_where_it_came_from(store, field):
    rows = rows_of(5)
    filled(store, rows)

    def said(row: dict) -> str | None:
        provenance = (row["record"] or {}).get("provenance")
        if provenance is None:
            return None
        return provenance.get(field, row["hold"] if field == "request_id" else None)

    wanted = sorted({value for row in rows if (value := said(row)) is not None})[:20]
    assert len(wanted) >= 3
    for within, upto, limit in ((None, 2**62, 1_000), (2, 2**62, 1_000), (None, 50, 1_000), (None, 2**62, 2)):
        found = store.views.usage_of(1, field, [*wanted, 'it\'s "nobody"'], within, upto, limit)
        expected = [
            row["seq"]
            for row in rows
            if said(row) in wanted and is_below(row["account"], within) and row["seq"] <= upto
        ]
        assert [row.seq for row in found] == expected[:limit]
    assert found[0] == stored(rows[found[0].seq - 1])
    assert store.views.usage_of(1, field, [], None, 2**62, 10) == []
    assert store.views.usage_of(2, field, wanted, None, 2**62, 10) == []


def test_what_was_erased_came_from_nowhere(store):
    rows = rows_of(5)
    filled(store, rows)
    row = next(row for row in rows if (row["record"] or {}).get("provenance", {}).get("request_id"))
    id = row["record"]["provenance"]["request_id"]
    assert [one.seq for one in store.views.usage_of(1, "request_id", [id], None, 2**62, 10)] == [row["seq"]]
    store.views.write([snapshot(1, len(rows) + 1, erased=[(row["account"], len(rows))], after=len(rows))], NOW_MS)
    assert store.views.usage_of(1, "request_id", [id], None, 2**62, 10) == []
    assert store.views.usage_sums(1, UsageAsked(keys=("model",))) != []
