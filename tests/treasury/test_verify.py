"""What ``verify`` finds beside the chain: usage of the views, and private parts."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
import pytest

from fiscus.cli.importing import Point, append_files
from fiscus.core.commands import Adjust, EraseName, PutAccount, PutBudget, PutKey, Reserve, SetStatus, Settle
from fiscus.core.records import CallRecord
from fiscus.core.state import Key
from fiscus.stores.sqlite.copying import reading
from fiscus.stores.sqlite.store import SqliteStore
from fiscus.treasury import verify as verify_module
from fiscus.treasury.journal_file import export_journal, opened
from fiscus.treasury.private_parts import NOBODY, PrivateParts
from fiscus.treasury.verify import verify
from tests.treasury.clock import ManualClock
from tests.treasury.desk import Desk

CALLS = 5


class Books:
    """A ledger in files that are opened anew for each look."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "fiscus.db"
        self.clock = ManualClock()

    def do(self, *commands) -> None:
        """One command after another, and the views are brought to the head."""
        desk = Desk(SqliteStore(self.path), self.clock)
        for command in commands:
            self.clock.advance(1_000)
            outcome = desk.do(command)
            assert not hasattr(outcome, "code"), outcome
        desk.write_views()
        desk.engine.close()

    def spoil(self, statement: str, *values) -> None:
        """Change a file: the views for usage and entities, else the journal."""
        file = f"{self.path}-views" if " usage" in statement or " entities" in statement else str(self.path)
        with sqlite3.connect(file) as connection:
            assert connection.execute(statement, values).rowcount >= 1, statement

    def faults(self) -> list[tuple[str, int]]:
        store = SqliteStore(self.path)
        try:
            return [(fault.invariant, fault.seq) for fault in verify(store, from_start=True).faults]
        finally:
            store.close()

    def entry(self, kind: str, number: int = 0) -> int:
        """The sequence of an entry of a kind."""
        with sqlite3.connect(self.path) as connection:
            found = connection.execute(
                "SELECT seq FROM journal WHERE instr(body, cast(? AS blob)) = 1 ORDER BY seq", (f'{{"kind":"{kind}"',)
            ).fetchall()
        return found[number][0]


@pytest.fixture
def books(tmp_path):
    """Two agents; ``agent:a`` has settled some calls with a record, and its budget was raised for a reason."""
    books = Books(tmp_path)
    record = CallRecord(cost_nanousd=7, user_id="ada")
    books.do(
        PutAccount(account="global"),
        PutBudget(account="global", unit="tokens", limit=1_000),
        PutAccount(account="agent:a", parent="global", labels={"owner": "ada"}),
        PutAccount(account="agent:b", parent="global"),
        Adjust(id="more", account="global", budget="tokens-lifetime", amount=5, reason="a good one"),
        *(
            command
            for number in range(CALLS)
            for command in (
                Reserve(id=f"h{number}", account="agent:a", amounts={"tokens": 10}),
                Settle(id=f"h{number}", total={"tokens": 7}, final=True, record=record),
            )
        ),
        PutAccount(account="agent:c", parent="global"),
    )
    assert books.faults() == []
    return books


# covers E12
@pytest.mark.parametrize("page", [2, 5_000])
@pytest.mark.parametrize(
    ("statement", "number"),
    [
        ("UPDATE usage SET amounts = cast('{\"tokens\":8,\"calls\":1}' AS blob) WHERE hold = 'h1'", 1),
        ("UPDATE usage SET account = 1 WHERE hold = 'h3'", 3),
        ("UPDATE usage SET record = cast('{\"cost_nanousd\":1}' AS blob) WHERE hold = 'h3'", 3),
        ("UPDATE usage SET record = NULL WHERE hold = 'h2'", 2),
        ("UPDATE usage SET model = 'another' WHERE hold = 'h4'", 4),
        ("DELETE FROM usage WHERE hold = 'h4'", 4),
        ("DELETE FROM usage", 0),
    ],
)
def test_the_first_usage_that_is_not_what_was_booked_is_named(books, monkeypatch, page, statement, number):
    monkeypatch.setattr(verify_module, "PAGE", page)
    books.spoil(statement)
    assert books.faults() == [("E12", books.entry("settled", number))]


# covers E12
@pytest.mark.parametrize("record", [None, CallRecord(model="m", cost_nanousd=7)])
@pytest.mark.parametrize("written", ['{"user_id":"eve"}', '{"model":"m","cost_nanousd":7,"user_id":"eve"}'])
def test_a_record_that_nobody_has_written_is_found(books, record, written):
    """Nothing of it is private, so that nothing of it can be gone."""
    books.do(Settle(id="plain", account="agent:a", total={"tokens": 7}, record=record))
    assert books.faults() == []
    books.spoil("UPDATE usage SET record = cast(? AS blob) WHERE hold = 'plain'", written)
    assert books.faults() == [("E12", books.entry("settled", -1))]


# covers E12
@pytest.mark.parametrize(("kind", "number"), [("held", 2), ("account_opened", 0), ("account_opened", -1)])
def test_usage_that_nobody_booked_is_found(books, kind, number):
    seq = books.entry(kind, number)
    books.spoil(
        "INSERT INTO usage SELECT tenant, ?, at, 'x', account, also, amounts, uncovered, estimated, model, provider, "
        "record FROM usage WHERE hold = 'h0'",
        seq,
    )
    store = SqliteStore(books.path)
    (fault,) = verify(store, from_start=True).faults
    assert (fault.invariant, f"usage of entry {seq}, where nothing was booked" in fault.detail) == ("E12", True)
    store.close()


# covers E9
@pytest.mark.parametrize(
    ("kind", "number"), [("account_opened", 1), ("adjusted", 0), ("settled", 0), ("settled", CALLS - 1)]
)
def test_a_private_part_that_is_gone_without_an_erasure_is_found_at_its_entry(books, kind, number):
    seq = books.entry(kind, number)
    books.spoil("DELETE FROM private WHERE seq = ?", seq)
    assert ("E9", seq) in books.faults()


# covers E9
def test_the_name_of_an_account_of_which_nothing_else_is_private_is_missed_where_the_views_know_it(books):
    books.spoil("DELETE FROM private WHERE seq = ?", books.entry("account_opened", 2))
    (fault,) = books.faults()
    assert fault[0] == "E12"


# covers R22
def test_what_was_erased_is_not_missed(books):
    books.do(SetStatus(account="agent:a", status="closed", reason="over"), EraseName(account="agent:a"))
    assert books.faults() == []
    late = Settle(id="h0", total={"tokens": 9}, record=CallRecord(cost_nanousd=9))
    books.do(late)
    assert books.faults() == []


# covers R22
@pytest.mark.parametrize("sealed", ["no", "before", "after"])
def test_what_a_key_was_called_is_forgotten_with_its_account(books, sealed):
    books.do(PutKey(key="k1", digest="d" * 64, role="account", account="agent:a", label="of Ada"))
    for when in ("before", "after"):
        if sealed == when:
            desk = Desk(SqliteStore(books.path), books.clock)
            desk.engine.checkpoint()
            desk.engine.close()
        if when == "before":
            assert b"of Ada" in b"".join(file.read_bytes() for file in books.path.parent.glob("fiscus.db*"))
            books.do(SetStatus(account="agent:a", status="closed", reason="over"), EraseName(account="agent:a"))
    assert books.faults() == []
    store = SqliteStore(books.path)
    assert verify(store).faults == ()
    (key,) = [msgspec.json.decode(body, type=Key) for body in (store.views.load(1, "key", "k1"),) if body is not None]
    assert (key.label, key.account is None) == ("", False)
    rows = [row for seq in store.journal.checkpoints(1) for row in store.journal.checkpoint(1, seq)]
    assert b"of Ada" not in b"".join(body for _, _, body in rows)
    store.close()


# covers R22
@pytest.mark.parametrize("upto", ["name_erased", "settled", "account_opened"])
def test_what_was_erased_before_an_export_is_not_missed_wherever_that_is_cut(books, tmp_path, upto):
    books.do(SetStatus(account="agent:a", status="closed", reason="over"), EraseName(account="agent:a"))
    file = tmp_path / "export.jsonl"
    with reading(books.path) as ledger, opened(file, "wb") as output:
        export_journal(ledger, ledger.heads(), output, lambda done, total: None)
    copy = SqliteStore(tmp_path / "copy.db")
    append_files(copy, [file], Point(seq=books.entry(upto, -1)), lambda done, total: None)
    assert verify(copy, from_start=True).faults == ()
    copy.close()


# covers E12
def test_views_that_are_as_of_the_checkpoint_it_begins_with_are_compared(books):
    """As after a process that was killed when it had sealed the state and had not written its views again."""
    desk = Desk(SqliteStore(books.path), books.clock)
    store = desk.engine.store
    sealed_seq = desk.engine.checkpoint()
    assert store.views.watermark(1).seq == sealed_seq
    assert verify(store).faults == ()
    books.spoil("UPDATE entities SET body = CAST(replace(body, '1000', '1001') AS BLOB) WHERE kind = 2")
    assert [(fault.invariant, fault.seq) for fault in verify(store).faults] == [("E12", sealed_seq)]
    desk.engine.close()


# covers E9
def test_what_is_gone_of_each_account_is_judged_by_itself():
    """An archive up to entry 100 behind an export whose first private part is gone with the account that was erased."""
    parts = PrivateParts()
    for seq, account in ((3, 1), (50, 2), (60, NOBODY), (102, 3)):
        parts.lose(seq, seq, account)
    parts.keep(103, 2)
    parts.erase(3, 200)
    assert list(parts.unexplained([100], lambda number: True)) == []
    assert list(parts.unexplained([55], lambda number: True)) == [(60, NOBODY)]
    assert list(parts.unexplained([], lambda number: number == 1)) == [(3, 1), (50, 2), (60, NOBODY)]
