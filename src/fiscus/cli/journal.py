"""``verify``, ``backup``, ``export``, ``import``, ``checkpoint`` and ``repair``: the journal as a whole.

These read the ledger's own file, also while a service has it open: in one consistent view that is never written to.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fiscus.cli.connection import connected, require_ledger
from fiscus.cli.invocation import EXIT_ERROR, Invocation
from fiscus.cli.journal_file import Header, export_journal, read_journal
from fiscus.cli.output import Progress, progress, write_json, write_line, write_note
from fiscus.contract.errors import ConfigurationInvalid, LedgerBusy

if TYPE_CHECKING:  # not imported before it is needed: `fiscus --help` is fast
    from fiscus.settings import Settings
    from fiscus.treasury.store import Row, Store

APPEND_ROWS = 1_000


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``backup`` and ``export``, per tenant."""

    file: str
    tenant: str
    head_seq: int


def verify_ledger(invocation: Invocation, *, from_start: bool) -> int:
    """Check the hash chain, E1 … E13, and (unless a service has the ledger) the views against the journal.

    Returns:
        0, or 1 if something does not hold.
    """
    from fiscus.treasury.verify import verify

    settings = invocation.settings()
    with _store_to_read(invocation, settings) as store, progress("verifying") as tell:
        report = verify(store, settings.tenant, from_start=from_start, progress=tell)
    if invocation.json:
        write_json(report)
    elif not report.faults:
        write_line(
            f"{settings.store_url}: {report.entries:,} entries verified, {report.from_seq + 1:,} to "
            f"{report.head_seq:,}; chain unbroken, every invariant holds"
        )
    else:
        first = report.faults[0]
        write_line(f"{settings.store_url}: first broken entry {first.seq}: {first.invariant}: {first.detail}")
        for fault in report.faults[1:]:
            write_line(f"  entry {fault.seq}: {fault.invariant}: {fault.detail}")
    return EXIT_ERROR if report.faults else 0


def backup_ledger(invocation: Invocation, destination: Path) -> None:
    """Copy the journal to a new file; what else belongs to a ledger is made from it again."""
    from fiscus.app import pepper_path
    from fiscus.stores.sqlite.copying import copy_journal

    settings = invocation.settings()
    ledger = _ledger_file(invocation, settings)
    with _made_whole(destination) as partial, progress("copying") as tell:
        heads = copy_journal(ledger, partial, tell)
    for head in heads:
        answer = Copied(file=str(destination), tenant=head.name, head_seq=head.seq)
        invocation.output.answer(answer, f"{destination}: tenant {head.name} up to entry {head.seq:,}")
    if pepper_path(ledger).exists():
        write_note(f"the keys in it need {pepper_path(ledger)}; keep that too, apart from the copy")


def export_ledger(invocation: Invocation, file: Path) -> None:
    """Write the journal as JSON lines, with hashes: all tenants, or the one of ``--tenant``."""
    from fiscus.stores.sqlite.copying import reading

    settings = invocation.settings()
    ledger = _ledger_file(invocation, settings)
    with reading(ledger) as journal, _made_whole(file) as partial, progress("exporting") as tell:
        heads = [head for head in journal.heads() if invocation.tenant in {None, head.name}]
        if not heads:
            raise ConfigurationInvalid(f"{ledger}: there is no tenant {invocation.tenant}")
        with partial.open("wb") as output:
            export_journal(journal, heads, output, tell)
            output.flush()
            os.fsync(output.fileno())
    for head in heads:
        answer = Copied(file=str(file), tenant=head.name, head_seq=head.seq)
        invocation.output.answer(answer, f"{file}: tenant {head.name}, {head.entries:,} entries")


def import_ledger(invocation: Invocation, file: Path) -> None:
    """Make a ledger from an exported journal, each entry verified; nothing is made if one is wrong."""
    from fiscus.app import ledger_path
    from fiscus.stores.sqlite.store import SqliteStore

    settings = invocation.settings()
    ledger = ledger_path(settings.store_url)
    if ledger is None or invocation.url is not None:
        raise ConfigurationInvalid("import makes a ledger's file: name it with --store sqlite:///PATH")
    if ledger.exists():
        with _locked_and_empty(settings.store_url):
            pass
    ledger.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=ledger.absolute().parent) as folder:
        made = Path(folder) / ledger.name
        with closing(SqliteStore(made)) as store, progress("importing") as tell:
            imported = _append_all(store, file, tell)
        with _locked_and_empty(settings.store_url):
            # Under the lock of the empty ledger, whose own file and views go away with this.
            for suffix in ("-wal", "-shm", "-views", "-views-wal", "-views-shm"):
                ledger.with_name(ledger.name + suffix).unlink(missing_ok=True)
            made.replace(ledger)
    for answer in imported:
        text = f"{settings.store_url}: tenant {answer.tenant}, {answer.entries:,} entries verified and imported"
        invocation.output.answer(answer, text)


@contextmanager
def _locked_and_empty(url: str) -> Iterator[None]:
    """Hold the lock of a ledger that has no entries.

    Raises:
        ConfigurationInvalid: it has some.
        LedgerBusy: another process has it open.
    """
    from fiscus.stores import open_store

    with closing(open_store(url)) as store:
        if any(store.journal.head(number) is not None for number in store.journal.tenants().values()):
            raise ConfigurationInvalid(f"{url} is not empty; import makes a new ledger only")
        yield


async def seal_ledger(invocation: Invocation) -> None:
    """Seal the state, so that ``verify`` can begin there."""
    from fiscus.app import Sealed, seal

    async with connected(invocation) as connection:
        if connection.local is not None:
            answer = Sealed(state_seq=await seal(connection.local, connection.tenant))
        else:
            answer = await connection.post("/v1/checkpoint", {}, Sealed)
    invocation.output.answer(answer, f"{connection.place}: sealed as of entry {answer.state_seq:,}")


async def repair_ledger(invocation: Invocation) -> None:
    """Make views and memory anew from the journal."""
    from fiscus.app import Repaired, repair

    async with connected(invocation) as connection:
        if connection.local is not None:
            answer = Repaired(head_seq=await repair(connection.local, connection.tenant))
        else:
            answer = await connection.post("/v1/repair", {}, Repaired)
    invocation.output.answer(answer, f"{connection.place}: made anew from its journal, {answer.head_seq:,} entries")


def _append_all(store: Store, file: Path, tell: Progress) -> list[Header]:
    """Append all entries of an exported journal to an empty store; returns its headers.

    Raises:
        ConfigurationInvalid, LedgerCorrupt, UnknownFormat: as ``read_journal``.
    """
    from fiscus.treasury.store import AnswerRow

    headers: list[Header] = []
    rows: list[Row] = []
    answers: list[AnswerRow] = []
    with file.open("rb") as source:
        for item in read_journal(source, str(file), store.journal.add_tenant, tell):
            if isinstance(item, Header):
                headers.append(item)
            elif isinstance(item, AnswerRow):
                answers.append(item)
            else:
                rows.append(item)
            if len(rows) + len(answers) >= APPEND_ROWS:
                store.journal.append(rows, answers)
                rows, answers = [], []
    store.journal.append(rows, answers)
    return headers


@contextmanager
def _store_to_read(invocation: Invocation, settings: Settings) -> Iterator[Store]:
    """The ledger itself, or, while a service has it open, a copy of its journal."""
    from fiscus.stores import SQLITE_SCHEME, open_store
    from fiscus.stores.sqlite.copying import copy_journal

    ledger = _ledger_file(invocation, settings)
    with ExitStack() as stack:
        try:
            store = open_store(settings.store_url)
        except LedgerBusy:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fiscus-verify-"))
            copy = Path(folder) / ledger.name
            with progress("copying") as tell:
                copy_journal(ledger, copy, tell)
            write_note("a service has the ledger open: verifying a copy of its journal, without the views")
            store = open_store(f"{SQLITE_SCHEME}{copy}")
        yield stack.enter_context(closing(store))


def _ledger_file(invocation: Invocation, settings: Settings) -> Path:
    """The ledger's file, which must be there.

    Raises:
        ConfigurationInvalid: it is not on this machine.
    """
    from fiscus.app import ledger_path

    ledger = ledger_path(settings.store_url)
    if invocation.url is not None or ledger is None:
        raise ConfigurationInvalid("this reads the ledger's file: run it where that is, with --store sqlite:///PATH")
    require_ledger(settings, creates=False)
    return ledger


@contextmanager
def _made_whole(destination: Path) -> Iterator[Path]:
    """A file beside ``destination`` that takes its name when all has gone well; readable by its owner only.

    Raises:
        ConfigurationInvalid: there is something of that name.
    """
    if destination.exists():
        raise ConfigurationInvalid(f"{destination}: is there already")
    with tempfile.TemporaryDirectory(prefix=".fiscus-", dir=destination.absolute().parent) as folder:
        partial = Path(folder) / destination.name
        partial.touch(mode=0o600)
        yield partial
        partial.replace(destination)
