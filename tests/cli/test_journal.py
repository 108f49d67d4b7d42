"""verify, backup, export, import, checkpoint: on real ledgers, at rest and in use."""

import asyncio
import json
import re
import shutil
import sqlite3
import stat
from itertools import count

import aiohttp
import pytest

from fiscus import open_sync
from fiscus.core.commands import PutAccount
from tests.cli.processes import LEDGER, answer, answers, fiscus, service

pytestmark = pytest.mark.slow

HOLDS = 12


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A ledger with a small tree and holds that were settled, made once."""
    folder = tmp_path_factory.mktemp("made")
    with service(folder) as running:
        asyncio.run(make_and_use(running.url))
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """A copy of it for each test."""
    for file in made.iterdir():
        shutil.copy2(file, tmp_path)
    return tmp_path


async def make_and_use(url):
    operations = [
        {"op": "put_account", "account": "global"},
        {"op": "put_account", "account": "team:a", "parent": "global", "labels": {"owner": "ada"}},
        {"op": "put_budget", "account": "global", "unit": "tokens", "limit": 100_000},
    ]
    async with aiohttp.ClientSession(f"{url}/") as session:
        async with session.post("v1/batch", json={"operations": operations, "atomic": True}) as response:
            assert response.status == 200, await response.text()
        for number in range(HOLDS):
            body = {"id": f"h{number}", "account": "team:a", "amounts": {"tokens": 100}}
            async with session.post("v1/holds", json=body) as response:
                assert response.status < 300, await response.text()
            total = {"total": {"tokens": 40}}
            async with session.post(f"v1/holds/h{number}/settle", json=total) as response:
                assert response.status < 300, await response.text()


def head_of(folder, **settings):
    return answers(folder, "events", **settings)[-1]


def flip_a_bit_of(path, text: bytes):
    """Change one byte of the file: the first one of ``text`` in it."""
    whole = bytearray(path.read_bytes())
    assert whole.count(text) == 1
    whole[whole.index(text)] ^= 1
    path.write_bytes(whole)


# -- verify -----------------------------------------------------------------------------------------------------------


# covers E9
def test_a_ledger_that_is_whole_is_verified(folder):
    report = answer(folder, "verify")
    assert (report["from_seq"], report["faults"]) == (0, [])
    assert report["entries"] == report["head_seq"] == head_of(folder)["seq"]
    assert fiscus(folder, "verify").stdout == (
        f"sqlite:///fiscus.db: {report['entries']} entries verified, 1 to {report['head_seq']}; chain unbroken, "
        "every invariant holds\n"
    )


# covers E9
@pytest.mark.parametrize("number", [0, HOLDS - 1])
def test_one_flipped_byte_in_the_journal_is_found_at_its_entry(folder, number):
    held = f'"kind":"held","id":"h{number}"'.encode()
    seq = next(e["seq"] for e in answers(folder, "events") if e["kind"] == "held" and e["data"]["id"] == f"h{number}")
    flip_a_bit_of(folder / LEDGER, held)
    broken = fiscus(folder, "verify", code=1)
    assert broken.stdout.startswith(
        f"sqlite:///fiscus.db: first broken entry {seq}: E9: entry {seq}: the hash does not"
    )
    faults = answers(folder, "verify", code=1)[0]["faults"]
    assert [(fault["invariant"], fault["seq"]) for fault in faults] == [("E9", seq)]


# covers E9
def test_an_entry_that_is_missing_is_found(folder):
    with sqlite3.connect(folder / LEDGER) as ledger:
        ledger.execute("DELETE FROM journal WHERE seq = 5")
    broken = fiscus(folder, "verify", code=1)
    assert "first broken entry 5: E9: entry 5 is missing; 6 follows" in broken.stdout


# covers E12
def test_views_that_say_otherwise_than_the_journal_are_found(folder):
    with sqlite3.connect(folder / f"{LEDGER}-views") as views:
        changed = views.execute(
            "UPDATE entities SET body = cast(replace(cast(body AS text), 'ada', 'eve') AS blob) "
            "WHERE instr(body, cast('ada' AS blob))"
        ).rowcount
        assert changed
    broken = fiscus(folder, "verify", code=1)
    assert "E12: the views say otherwise of account 2" in broken.stdout


# covers E12
@pytest.mark.parametrize(
    ("statement", "hold"),
    [
        ("UPDATE usage SET amounts = cast('{\"tokens\":1,\"calls\":1}' AS blob) WHERE hold = 'h1'", "h1"),
        ("DELETE FROM usage WHERE hold = 'h2'", "h2"),
    ],
)
def test_usage_that_is_not_what_was_booked_is_found(folder, statement, hold):
    with sqlite3.connect(folder / f"{LEDGER}-views") as views:
        assert views.execute(statement).rowcount == 1
    fault = answers(folder, "verify", code=1)[0]["faults"][0]
    booked = [e["seq"] for e in answers(folder, "events") if e["kind"] == "settled" and e["data"]["id"] == hold]
    assert (fault["invariant"], fault["seq"]) == ("E12", *booked)


def test_a_private_part_that_was_erased_is_not_missed(folder):
    fiscus(folder, "accounts", "put", "agent:gone", "--parent", "team:a", "--label", "owner=eve")
    fiscus(folder, "accounts", "terminate", "agent:gone", "--reason", "over")
    fiscus(folder, "accounts", "erase", "agent:gone", "--yes")
    assert answer(folder, "verify", "--from-start")["faults"] == []
    fiscus(folder, "checkpoint")
    assert answer(folder, "verify")["faults"] == []


def test_what_is_exported_is_imported_however_long_an_answer_is(folder):
    """An answer to a thousand commands about an account with many budgets has some twenty megabytes."""
    with open_sync(f"sqlite:///{folder / LEDGER}") as treasury:
        for number in range(40):
            treasury.put_budget("team:a", "tokens", 1_000, budget=f"budget-{number}")
        treasury.compound([PutAccount(account="team:a")] * 1_000, idempotency_key="k")
    fiscus(folder, "export", "long.jsonl")
    assert max(map(len, (folder / "long.jsonl").read_bytes().splitlines())) > 16_777_216
    fiscus(folder, "--store", "sqlite:///copy.db", "import", "long.jsonl")
    assert answer(folder, "--store", "sqlite:///copy.db", "verify")["faults"] == []


def test_what_stands_before_a_checkpoint_is_checked_from_the_start_only(folder):
    sealed = answer(folder, "checkpoint")["state_seq"]
    assert sealed == head_of(folder)["seq"] - 1
    flip_a_bit_of(folder / LEDGER, b'"kind":"held","id":"h3"')
    report = answer(folder, "verify")
    assert (report["from_seq"], report["entries"], report["faults"]) == (sealed, 1, [])
    assert "first broken entry" in fiscus(folder, "verify", "--from-start", code=1).stdout


def test_a_fault_behind_a_checkpoint_is_found_from_there(folder):
    fiscus(folder, "checkpoint")
    fiscus(folder, "accounts", "put", "agent:late", "--parent", "team:a")
    flip_a_bit_of(folder / LEDGER, b'"account_opened","account":3')
    assert answers(folder, "verify", code=1)[0]["faults"][0]["seq"] == head_of_file(folder)


def head_of_file(folder):
    with sqlite3.connect(folder / LEDGER) as ledger:
        return ledger.execute("SELECT max(seq) FROM journal").fetchone()[0]


def test_a_file_that_is_no_ledger_is_said_to_be_none(tmp_path):
    (tmp_path / LEDGER).write_bytes(b"this is not a database at all, but long enough to be read as one" * 20)
    refused = fiscus(tmp_path, "verify", code=1)
    assert refused.stderr == "fiscus: sqlite: file is not a database\n"


def test_beside_a_service_a_copy_is_verified(folder):
    with service(folder):
        done = fiscus(folder, "verify")
        assert "chain unbroken, every invariant holds" in done.stdout
        assert done.stderr.strip() == (
            "a service has the ledger open: verifying a copy of its journal, without the views"
        )


def test_what_reads_the_file_is_not_asked_of_a_service_elsewhere(tmp_path):
    for arguments in (["verify"], ["backup", "b.db"], ["export", "e.jsonl"]):
        refused = fiscus(tmp_path, *arguments, "--url", "http://127.0.0.1:9", code=1)
        assert "this reads the ledger's file: run it where that is" in refused.stderr


# -- backup -----------------------------------------------------------------------------------------------------------


# covers E11
async def test_a_backup_of_a_ledger_under_load_has_all_that_was_acknowledged_before_it_and_verifies(folder):
    acknowledged: list[str] = []
    numbers, stop = count(), asyncio.Event()
    busy = asyncio.Event()
    with service(folder) as running:
        async with aiohttp.ClientSession(f"{running.url}/") as session:

            async def call() -> None:
                while not stop.is_set():
                    hold = f"load-{next(numbers)}"
                    body = {"id": hold, "account": "team:a", "amounts": {"tokens": 1}}
                    async with session.post("v1/holds", json=body) as response:
                        assert response.status < 300
                    acknowledged.append(hold)
                    if len(acknowledged) > 200:
                        busy.set()

            async with asyncio.TaskGroup() as group:
                for _ in range(16):
                    group.create_task(call())
                await busy.wait()
                before = set(acknowledged)
                done = await asyncio.to_thread(fiscus, folder, "backup", "copy.db")
                stop.set()
    seq = int(re.fullmatch(r"copy\.db: tenant default up to entry ([\d,]+)\n", done.stdout)[1].replace(",", ""))
    report = answer(folder, "verify", "--store", "sqlite:///copy.db")
    assert (report["head_seq"], report["faults"]) == (seq, [])
    copied = answers(folder, "events", "--store", "sqlite:///copy.db")
    assert copied == answers(folder, "events")[:seq]
    assert before <= {entry["data"]["id"] for entry in copied if entry["kind"] == "held"}


def test_a_backup_is_readable_by_its_owner_only_and_never_overwrites(folder):
    done = fiscus(folder, "backup", "copy.db")
    assert "the keys in it need fiscus.db-pepper" in done.stderr
    assert stat.S_IMODE((folder / "copy.db").stat().st_mode) == 0o600
    refused = fiscus(folder, "backup", "copy.db", code=1)
    assert refused.stderr == "fiscus: copy.db: is there already\n"
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


# -- export and import ------------------------------------------------------------------------------------------------


def test_an_export_and_its_import_are_the_same_journal(folder):
    fiscus(folder, "export", "journal.jsonl")
    assert stat.S_IMODE((folder / "journal.jsonl").stat().st_mode) == 0o600
    done = fiscus(folder, "import", "journal.jsonl", "--store", "sqlite:///new.db")
    assert re.search(r"tenant default, \d+ entries verified and imported", done.stdout)
    assert answers(folder, "events", "--store", "sqlite:///new.db") == answers(folder, "events")
    assert answers(folder, "accounts", "list", "--store", "sqlite:///new.db") == answers(folder, "accounts", "list")
    fiscus(folder, "verify", "--store", "sqlite:///new.db")
    fiscus(folder, "export", "again.jsonl", "--store", "sqlite:///new.db")
    assert (folder / "again.jsonl").read_bytes() == (folder / "journal.jsonl").read_bytes()


# covers E7
async def test_after_an_import_a_repeat_has_no_second_effect(folder):
    key = {"Idempotency-Key": "once"}
    put = {"operations": [{"op": "put_account", "account": "agent:new", "parent": "team:a"}]}
    hold = {"id": "h0", "account": "team:a", "amounts": {"tokens": 100}}

    async def ask(running):
        async with aiohttp.ClientSession(f"{running.url}/") as session:
            async with session.post("v1/batch", json=put, headers=key) as response:
                made = await response.json()
            async with session.post("v1/holds", json=hold) as response:
                return made, await response.json()

    with service(folder) as running:
        first = await ask(running)
    fiscus(folder, "export", "journal.jsonl")
    fiscus(folder, "import", "journal.jsonl", "--store", "sqlite:///new.db")
    head = head_of(folder)["seq"]
    with service(folder, "--store", "sqlite:///new.db") as running:
        assert await ask(running) == first
    assert answers(folder, "events", "--store", "sqlite:///new.db")[-1]["seq"] == head


def test_only_an_empty_ledger_is_imported_into(folder):
    fiscus(folder, "export", "journal.jsonl")
    refused = fiscus(folder, "import", "journal.jsonl", code=1)
    assert refused.stderr == "fiscus: sqlite:///fiscus.db is not empty; import makes a new ledger only\n"


BROKEN = {
    "a changed body": (lambda line: line.replace("global", "globaI"), r"journal\.jsonl:2: entry 1: its private part"),
    "a changed amount": (
        lambda line: line.replace('\\"limit\\":100000', '\\"limit\\":100001'),
        "the hash does not fit",
    ),
    "an entry that is left out": (lambda line: "" if '"seq":5,' in line else line, "entry 5 is missing; 6 follows"),
    "half a file": (lambda line: "" if '"seq":9,' in line else line, "entry 9 is missing"),
    "a newer format": (lambda line: line.replace('"format":2', '"format":3'), "has format 3, this version reads 2"),
    "something else": (lambda line: "{}\n", "journal.jsonl:1: is not the header of a journal"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=list(BROKEN))
def test_an_export_that_was_changed_makes_no_ledger(folder, change, message):
    fiscus(folder, "export", "journal.jsonl")
    lines = (folder / "journal.jsonl").read_text().splitlines(keepends=True)
    (folder / "journal.jsonl").write_text("".join(map(change, lines)))
    refused = fiscus(folder, "import", "journal.jsonl", "--store", "sqlite:///new.db", code=1)
    assert re.search(message, refused.stderr), refused.stderr
    assert "there is no ledger" in fiscus(folder, "verify", "--store", "sqlite:///new.db", code=1).stderr


def test_a_file_that_ends_too_early_makes_no_ledger(folder):
    fiscus(folder, "export", "journal.jsonl")
    whole = (folder / "journal.jsonl").read_bytes()
    (folder / "journal.jsonl").write_bytes(whole[: len(whole) // 2])
    refused = fiscus(folder, "import", "journal.jsonl", "--store", "sqlite:///new.db", code=1)
    assert "the file ends in the middle of a line" in refused.stderr
    (folder / "journal.jsonl").write_bytes(whole[: whole.index(b"\n", len(whole) // 2) + 1])
    refused = fiscus(folder, "import", "journal.jsonl", "--store", "sqlite:///new.db", code=1)
    assert "the file ends before the journal does" in refused.stderr


def test_what_was_erased_is_in_no_export(folder):
    fiscus(folder, "accounts", "put", "user:bob", "--parent", "global", "--label", "mail=bob@example.org")
    fiscus(folder, "accounts", "close", "user:bob")
    fiscus(folder, "accounts", "erase", "user:bob", "--yes")
    fiscus(folder, "export", "journal.jsonl")
    assert "bob" not in (folder / "journal.jsonl").read_text()
    fiscus(folder, "import", "journal.jsonl", "--store", "sqlite:///new.db")
    fiscus(folder, "verify", "--store", "sqlite:///new.db")


def test_an_export_has_one_header_and_one_object_a_line(folder):
    done = answer(folder, "export", "journal.jsonl")
    header, *lines = map(json.loads, (folder / "journal.jsonl").read_text().splitlines())
    assert (header["tenant"], header["entries"]) == ("default", done["head_seq"])
    assert [line["seq"] for line in lines if "seq" in line] == list(range(1, done["head_seq"] + 1))
