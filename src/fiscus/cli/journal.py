"""``verify``, ``backup``, ``export``, ``import``, ``checkpoint`` and ``repair``: the journal as a whole.

These read the ledger's own file, also while a service has it open: in one consistent view that is never written to.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fiscus.cli.connection import connected, require_ledger
from fiscus.cli.importing import Imported, append_files, read_files, read_point
from fiscus.cli.invocation import EXIT_ERROR, Invocation
from fiscus.cli.output import progress, write_json, write_line, write_note
from fiscus.contract.errors import ConfigurationInvalid, LedgerBusy
from fiscus.treasury.journal_file import JournalReader, export_journal, opened, sync_file

if TYPE_CHECKING:  # not imported before it is needed: `fiscus --help` is fast
    from fiscus.settings import Settings
    from fiscus.treasury.store import Store


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
    """Copy the journal to a new file; what else belongs to a ledger is made from it again.

    Raises:
        ConfigurationInvalid: the ledger is in PostgreSQL, which has tools of its own.
    """
    from fiscus.app import pepper_path
    from fiscus.stores.sqlite.copying import copy_journal

    settings = invocation.settings()
    if _is_in_postgres(invocation, settings):
        raise ConfigurationInvalid(
            "a ledger in PostgreSQL is not one file: back the database up with pg_dump or pg_basebackup, "
            "or write its journal with `fiscus export`, from which `fiscus import` makes a ledger again"
        )
    ledger = _ledger_file(invocation, settings)
    with _made_whole(destination) as partial, progress("copying") as tell:
        heads = copy_journal(ledger, partial, tell)
    for head in heads:
        answer = Copied(file=str(destination), tenant=head.name, head_seq=head.seq)
        invocation.output.answer(answer, f"{destination}: tenant {head.name} up to entry {head.seq:,}")
    if pepper_path(ledger).exists():
        write_note(f"the keys in it need {pepper_path(ledger)}; keep that too, apart from the copy")


def export_ledger(invocation: Invocation, file: Path) -> None:
    """Write the journal as JSON lines, with hashes: all tenants, or the one of ``--tenant``; compressed for ``.gz``."""
    settings = invocation.settings()
    with _reading(invocation, settings) as journal, _made_whole(file) as partial, progress("exporting") as tell:
        heads = [head for head in journal.heads() if invocation.tenant in {None, head.name}]
        if not heads:
            raise ConfigurationInvalid(f"{settings.store_url}: there is no tenant {invocation.tenant}")
        with opened(partial, "wb") as output:
            export_journal(journal, heads, output, tell)
        sync_file(partial)
    for head in heads:
        answer = Copied(file=str(file), tenant=head.name, head_seq=head.seq)
        invocation.output.answer(answer, f"{file}: tenant {head.name}, {head.entries:,} entries")


def import_ledger(invocation: Invocation, files: Sequence[Path], until: str | None) -> None:
    """Make a ledger from an exported journal, each entry verified; nothing is made if one is wrong.

    Args:
        invocation: names the ledger: a new file, or a PostgreSQL database that is empty or has a part of this journal.
        files: an export; or archives in order, and the export that they were taken from.
        until: the last entry's sequence number, or a time; None: all.
    """
    from fiscus.app import ledger_path
    from fiscus.stores import open_store
    from fiscus.stores.sqlite.store import SqliteStore

    settings = invocation.settings()
    point = read_point(until) if until is not None else None
    url = settings.store_url
    if _is_in_postgres(invocation, settings):
        with progress("verifying") as tell:
            for _ in read_files(files, lambda _: 0, point, tell):
                pass
        with closing(open_store(url)) as store, progress("importing") as tell:
            imported = append_files(store, files, point, tell)
        _tell_imported(invocation, url, imported)
        return
    ledger = ledger_path(url)
    if ledger is None or invocation.url is not None:
        raise ConfigurationInvalid("import makes a ledger: name it with --store sqlite:///PATH or postgresql://…")
    if ledger.exists():
        with _locked_and_empty(url):
            pass
    ledger.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=ledger.absolute().parent) as folder:
        made = Path(folder) / ledger.name
        with closing(SqliteStore(made)) as store, progress("importing") as tell:
            imported = append_files(store, files, point, tell)
        with _locked_and_empty(url):
            # Under the lock of the empty ledger, whose own file and views go away with this.
            for suffix in ("-wal", "-shm", "-views", "-views-wal", "-views-shm"):
                ledger.with_name(ledger.name + suffix).unlink(missing_ok=True)
            made.replace(ledger)
    _tell_imported(invocation, url, imported)


def _tell_imported(invocation: Invocation, url: str, imported: Sequence[Imported]) -> None:
    for answer in imported:
        text = f"{url}: tenant {answer.tenant}, {answer.entries:,} entries verified and imported"
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


async def archive_ledger(invocation: Invocation, *, dry_run: bool) -> None:
    """Archive what is old and sealed, or say what would be."""
    from fiscus.app import archive
    from fiscus.cli.options import ledger_options

    async with connected(invocation) as connection:
        if connection.local is None:
            raise ConfigurationInvalid(
                f"the service at {connection.place} has the ledger, and archives by itself: see archive_interval_s"
            )
        plans = await archive(connection.local, ledger_options(connection.settings), dry_run=dry_run)
    for plan in plans:
        what = "archived" if plan.done else "would be archived"
        text = f"{plan.file}: tenant {plan.tenant}, entries {plan.after_seq + 1:,} to {plan.upto_seq:,} {what}"
        invocation.output.answer(plan, text)
    if not plans and not invocation.json:
        write_line(f"{connection.place}: nothing is old enough and sealed")


def _is_in_postgres(invocation: Invocation, settings: Settings) -> bool:
    from fiscus.stores import POSTGRES_SCHEMES

    return invocation.url is None and settings.store_url.startswith(POSTGRES_SCHEMES)


@contextmanager
def _reading(invocation: Invocation, settings: Settings) -> Iterator[JournalReader]:
    """One consistent view of the ledger's journal, whoever else has it open."""
    if _is_in_postgres(invocation, settings):
        from fiscus.stores.postgres.copying import reading as reading_database

        with reading_database(settings.store_url) as journal:
            yield journal
        return
    from fiscus.stores.sqlite.copying import reading

    with reading(_ledger_file(invocation, settings)) as file_journal:
        yield file_journal


@contextmanager
def _store_to_read(invocation: Invocation, settings: Settings) -> Iterator[Store]:
    """The ledger itself, or, while a service has its file open, a copy of its journal."""
    from fiscus.stores import SQLITE_SCHEME, open_store
    from fiscus.stores.sqlite.copying import copy_journal

    if _is_in_postgres(invocation, settings):
        with closing(open_store(settings.store_url)) as store:
            yield store
        return
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
