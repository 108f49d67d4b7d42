"""Retention: what a checkpoint has sealed and nobody needs any more goes to a file, and then from the ledger.

    plan ▸ write the file, without private parts ▸ sync ▸ read it back, hash by hash ▸ drop entries, then usage

A crash at any point leaves the entries in the ledger, in the file, or in both; the next round goes on.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import msgspec
import structlog

from fiscus.contract.errors import ArchiveUnavailable, ConfigurationInvalid, StoreUnavailable
from fiscus.core.events import FORMAT
from fiscus.treasury.engine import Engine
from fiscus.treasury.journal_file import Header, check_file, opened, sync_file, write_entries
from fiscus.treasury.sealing import Seal, base_seal, seals
from fiscus.treasury.store import Row

DAY_MS = 86_400_000
PAGE = 2_000
DROP_ROWS = 5_000
"""How much is dropped at once where that would keep calls waiting."""

CPU_SHARE = 0.25
"""Of one core, while a service answers calls beside it."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class ArchivePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is archived of a tenant.

    Attributes:
        after_seq: the entry that was archived last; 0: none.
        upto_seq: the last entry that goes now, as of which a state is sealed.
        upto_at: when that entry was written, ms.
        file: where it goes.
        done: whether it has gone.
    """

    tenant: str
    number: int
    after_seq: int
    upto_seq: int
    upto_at: int
    entries: int
    file: str
    done: bool = False


class Archivist:
    """Archives the tenants of an engine.

    Args:
        engine: running.
        directory: where files go; made when the first one does.
        retention_days: how old entries become, ≥ 1.
        keeps_usage: whether usage stays when its entries go.
        cpu_share: of one core, at most; 1: as fast as it goes.
    """

    def __init__(
        self,
        engine: Engine,
        directory: Path,
        retention_days: int,
        *,
        keeps_usage: bool = False,
        cpu_share: float = CPU_SHARE,
    ) -> None:
        self._engine = engine
        self._journal = engine.store.journal
        self._directory = directory
        self._retention_days = retention_days
        self._keeps_usage = keeps_usage
        self._cpu_share = cpu_share
        self._stopping = False

    def stop(self) -> None:
        """Let ``run`` end at the next page; what is left is done another time. From any thread."""
        self._stopping = True

    def plan(self) -> list[ArchivePlan]:
        """What ``run`` would archive now; nothing is changed.

        Raises:
            StoreUnavailable: the store is away.
        """
        found = (self._plan(tenant, number) for tenant, number in sorted(self._engine.tenants.items()))
        return [plan for plan in found if plan is not None]

    def run(self) -> list[ArchivePlan]:
        """Archive what there is, if no other node does; returns what has gone.

        Raises:
            StoreUnavailable: the store is away, or somebody reads what is to be dropped. Nothing is lost.
            LedgerCorrupt: the journal or a file is not what its hashes say; nothing is dropped.
            ArchiveUnavailable: the file cannot be written.
        """
        numbers = sorted(self._engine.tenants.values())
        with self._journal.alone(*numbers) as is_alone:
            if not is_alone:
                log.info("archive_elsewhere")
                return []
            self._drop_leftovers()
            plans = self.plan()
            seals_of = {plan.number: self._seal_of(plan) for plan in plans}
            for plan in plans:
                self._write(plan, seals_of[plan.number])
            if plans:
                self._drop({plan.number: plan.upto_seq for plan in plans})
        for plan in plans:
            log.info("archived", tenant=plan.tenant, file=plan.file, upto_seq=plan.upto_seq, entries=plan.entries)
        return [msgspec.structs.replace(plan, done=True) for plan in plans]

    # -- planning ---------------------------------------------------------------------------------------------------

    def _plan(self, tenant: str, number: int) -> ArchivePlan | None:
        first = self._journal.entries(number, 0, 1)
        mark = self._engine.store.views.watermark(number)
        if not first or mark is None:
            return None
        after_seq = first[0].seq - 1
        before = self._engine.now_ms - self._retention_days * DAY_MS
        for seal in reversed(seals(self._journal, number)):
            if not after_seq < seal.seq <= mark.seq:
                continue
            last = self._journal.entries(number, seal.seq - 1, 1)[0]
            if last.seq == seal.seq and last.at < before:
                return ArchivePlan(
                    tenant=tenant,
                    number=number,
                    after_seq=after_seq,
                    upto_seq=seal.seq,
                    upto_at=last.at,
                    entries=seal.seq - after_seq,
                    file=str(archive_file(self._directory, tenant, after_seq, seal.seq)),
                )
        return None

    def _seal_of(self, plan: ArchivePlan) -> Seal:
        """The state that the journal begins with from now on."""
        seal = base_seal(self._journal, plan.number, plan.upto_seq)
        if seal is None or seal.seq != plan.upto_seq:
            raise StoreUnavailable(f"tenant {plan.tenant}: the state as of entry {plan.upto_seq} is not kept any more")
        return seal

    # -- writing ----------------------------------------------------------------------------------------------------

    def _write(self, plan: ArchivePlan, seal: Seal) -> None:
        """Make the file, unless an earlier round has; it is whole, durable and read back when this returns."""
        path = Path(plan.file)
        try:
            if not path.exists():
                self._make(path, plan)
            header, last_hash = check_file(path, self._pacing())
        except OSError as error:
            raise ArchiveUnavailable(f"{error.filename or path}: {error.strerror or error}") from error
        except (EOFError, zlib.error) as error:
            raise ArchiveUnavailable(f"{path}: is damaged: {error}") from error
        except ConfigurationInvalid as error:
            raise ArchiveUnavailable(str(error)) from error
        if (header.tenant, header.head_seq, last_hash) != (plan.tenant, plan.upto_seq, seal.hash):
            raise ArchiveUnavailable(f"{path}: holds another journal up to entry {plan.upto_seq}; put it elsewhere")
        if header.after_seq > plan.after_seq:
            raise ArchiveUnavailable(f"{path}: begins after entry {header.after_seq}, and {plan.after_seq} is the last")

    def _make(self, path: Path, plan: ArchivePlan) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = path.with_name(f".{os.getpid()}.{path.name}")
        header = Header(
            tenant=plan.tenant,
            format=FORMAT,
            entries=plan.entries,
            head_seq=plan.upto_seq,
            answers=0,
            after_seq=plan.after_seq,
            after_hash=self._hash_before(plan),
        )
        try:
            partial.touch(mode=0o600)
            with opened(partial, "wb") as output:
                write_entries(header, self._rows(plan), output)
            sync_file(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        sync_file(path.parent)

    def _hash_before(self, plan: ArchivePlan) -> str:
        """What the first entry follows; empty if that is the beginning."""
        if not plan.after_seq:
            return ""
        base = base_seal(self._journal, plan.number, plan.after_seq)
        if base is None or base.seq != plan.after_seq:
            raise ArchiveUnavailable(
                f"entries of tenant {plan.tenant} up to {plan.after_seq} were dropped when all up to {plan.upto_seq} "
                f"had been archived; put that file back to {self._directory}"
            )
        return base.hash.hex()

    def _rows(self, plan: ArchivePlan) -> Iterator[Row]:
        after = plan.after_seq
        pace = self._pacing()
        while after < plan.upto_seq:
            entries = self._journal.entries(plan.number, after, min(PAGE, plan.upto_seq - after))
            if not entries or entries[0].seq != after + 1:
                raise StoreUnavailable(f"tenant {plan.tenant}: entry {after + 1} is not there any more")
            for entry in entries:
                yield Row(plan.number, entry.seq, entry.at, None, entry.body, entry.hash)
            after = entries[-1].seq
            pace(after, None)

    def _pacing(self) -> Callable[[int, int | None], None]:
        """Called again and again, keeps to the share of the processor."""
        began_s = [time.thread_time()]

        def pace(_done: int, _total: int | None) -> None:
            if self._stopping:
                raise StoreUnavailable("archiving was stopped")
            used_s = time.thread_time() - began_s[0]
            if self._cpu_share < 1:
                time.sleep(used_s * (1 / self._cpu_share - 1))
            began_s[0] = time.thread_time()

        return pace

    # -- dropping ---------------------------------------------------------------------------------------------------

    def _drop_leftovers(self) -> None:
        """What an interrupted round has left beside entries that are gone."""
        archived = {}
        for number in self._engine.tenants.values():
            first = self._journal.entries(number, 0, 1)
            if first and first[0].seq > 1:
                archived[number] = first[0].seq - 1
        if archived:
            self._drop(archived)

    def _drop(self, upto: dict[int, int]) -> None:
        """Drop entries, then usage, bit by bit where somebody would wait for it."""
        dropped = [1]

        def drop() -> None:
            dropped[0] = self._journal.drop_entries(upto, DROP_ROWS)

        while dropped[0]:
            if self._journal.drops_between_batches:
                self._engine.errand(drop)
            else:
                drop()
        views = self._engine.store.views
        while not self._keeps_usage and views.drop_usage(upto, DROP_ROWS):
            pass


def archive_file(directory: Path, tenant: str, after_seq: int, upto_seq: int) -> Path:
    """Where entries of a tenant go: the file that holds them already, or a new one."""
    name = quote(tenant, safe="")
    for path in sorted(directory.glob(f"{name}-*-{upto_seq:015d}.jsonl.gz")):
        first = path.name.removeprefix(f"{name}-").partition("-")[0]
        if first.isdigit() and int(first) <= after_seq + 1:
            return path
    return directory / f"{name}-{after_seq + 1:015d}-{upto_seq:015d}.jsonl.gz"
