"""Drift: a sample of cells, as the views and this engine's memory have them, against a fresh fold of the journal.

The fold begins with the last checkpoint, or with the first entry, and goes on from round to round in tables of its own,
which nobody else reads or writes: each entry is folded once more, at a pace that leaves the processor to the calls. A
tenant whose cells differ is not admitted to anything until an operator has it repaired; settlements are booked.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from random import Random
from threading import Event as Flag
from threading import Thread
from typing import Literal

import msgspec

from fiscus.contract.errors import LedgerCorrupt, LedgerDrift, TreasuryError
from fiscus.contract.logs import get_logger
from fiscus.core.state import Cell, Rules
from fiscus.treasury.engine import Engine
from fiscus.treasury.idempotency import IDEMPOTENCY_MS
from fiscus.treasury.ledger import Ledger
from fiscus.treasury.sealing import last_seal, sealed_snapshot
from fiscus.treasury.store import Head, Journal, StoredEntry, Views, Watermark

log = get_logger(__name__)

CELLS_MAX = 1_000
"""Cells of one sample. In the views they are the next ones by number, so that every cell has its turn."""

CHUNK = 100
"""Entries that are folded at once, in about a millisecond."""

CPU_SHARE = 0.05
"""Part of one core that folding takes at most; when more is written than that allows, the check comes later."""

ROWS_MAX = 2_000
"""Changed rows of the fold that are kept in memory before they go to its own tables."""

BEHIND_MAX = 1_000_000
"""Entries that the fold may be behind a seal; when it is further behind it begins with that."""

PRUNE_MAX = 50_000
LOOKS_MAX = 100
LOOK_WAIT_S = 0.05
"""How often, and how far apart, the views are looked at until they stand still and are far enough."""

LOGGED_MAX = 20
"""Cells that one round names in the log; all are counted."""

Place = Literal["views", "memory", "journal"]

_encode = msgspec.json.Encoder().encode
_decode_cell = msgspec.json.Decoder(Cell).decode


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as the journal says, as of an entry.

    Attributes:
        place: where; ``journal``: it contradicts itself.
        cell: its number; 0: all of it.
    """

    place: Place
    seq: int
    cell: int
    detail: str
    account: str = ""
    budget: str = ""


class Statistics(msgspec.Struct):
    """What has been checked, from the start of the process.

    Attributes:
        rounds: of one tenant each; those that could not be finished are not counted.
        cells_checked: of all rounds, in the views and in memory.
        finished_at: when the last round ended, seconds since the epoch; 0: none has yet.
        entries_behind: entries that were still to be folded when the last look was taken.
    """

    rounds: int = 0
    cells_checked: int = 0
    finished_at: float = 0
    entries_behind: int = 0


class Sample(msgspec.Struct, frozen=True):
    """Cells as they are somewhere, as of ``head``: number → body, None: it is not there."""

    place: Place
    head: Head
    cells: dict[int, bytes | None]


class Stopped(Exception):
    """The process ends; internal."""


class Drift:
    """Checks the tenants of an engine, in a thread of its own between ``start`` and ``stop``.

    Args:
        engine: whose memory and views are checked, and which stops admitting.
        views: empty tables for the fold; as large as the engine's own without the usage.
        cpu_share: of one core, at most.
        random: chooses where to begin.
    """

    def __init__(
        self, engine: Engine, views: Views, *, cpu_share: float = CPU_SHARE, random: Random | None = None
    ) -> None:
        self.statistics = Statistics()
        self.cells: dict[str, int] = {}
        """Of each tenant that was checked, how many cells of its last sample differ."""
        self._engine = engine
        self._journal = engine.store.journal
        self._views = views
        self._cpu_share = cpu_share
        self._random = random or Random()  # noqa: S311  (nothing secret)
        self._replica: _Replica | None = None
        self._epoch = engine.statistics.epoch
        self._next: dict[str, int] = {}
        self._stopping = Flag()
        self._wake = Flag()
        self._thread: Thread | None = None
        engine.repair_observers.append(self.wake)

    # -- life -----------------------------------------------------------------------------------------------------

    def start(self, interval_s: float) -> None:
        """Check all tenants now, and again after each interval."""
        self._thread = Thread(target=self._run, args=(interval_s,), name="fiscus-drift", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Do the next round now."""
        self._wake.set()

    def stop(self, wait_s: float | None = None) -> bool:
        """End the thread; call it before the engine is closed. False if it has not ended in time."""
        self._stopping.set()
        self._wake.set()
        if self._thread is None:
            return True
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def _run(self, interval_s: float) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            for tenant in self._engine.tenants:
                if not self._stopping.is_set():
                    self._check_safely(tenant)
            self._wake.wait(interval_s)

    def _check_safely(self, tenant: str) -> None:
        try:
            self.check(tenant)
        except Stopped:
            return
        except TreasuryError as error:
            # The store is away, or the engine closes: there is nothing to compare.
            log.info("drift_check_failed", tenant=tenant, code=error.code, detail=str(error))
        except Exception:
            log.exception("drift_check_defect", tenant=tenant)

    # -- one round --------------------------------------------------------------------------------------------------

    def check(self, tenant: str) -> tuple[Difference, ...]:
        """Check a sample of a tenant's cells; on a difference, say so and let the engine stop admitting.

        Returns:
            What differs, in the order of the journal; each was seen twice.

        Raises:
            TreasuryError: the engine or the store cannot be asked.
        """
        number = self._engine.tenants.get(tenant)
        if number is None:
            return ()
        if self._epoch != self._engine.statistics.epoch:
            self._epoch = self._engine.statistics.epoch
            self._begin_anew(number)
        try:
            found = self._compare_samples(tenant, number)
        except LedgerCorrupt:
            # Either the journal is another one than was folded so far (it was restored), or it is broken.
            self._begin_anew(number)
            try:
                found = self._compare_samples(tenant, number)
            except LedgerCorrupt as error:
                found = [Difference(place="journal", seq=self._folded_seq + 1, cell=0, detail=str(error))]
        self.statistics.rounds += 1
        self.statistics.finished_at = time.time()
        self.cells[tenant] = len(found)
        if found:
            self._report(tenant, found)
        return tuple(found)

    def _compare_samples(self, tenant: str, number: int) -> list[Difference]:
        """Look, and where something differs look again: it must still differ."""
        replica = self._open(tenant, number)
        found = self._compare(replica, self._look(tenant, number, replica, ()))
        if found:
            again = self._look(tenant, number, replica, {one.cell for one in found})
            found = self._compare(replica, again)
        self._keep(replica)
        return found

    def _report(self, tenant: str, found: Sequence[Difference]) -> None:
        for one in found[:LOGGED_MAX]:
            log.error(
                "drift",
                tenant=tenant,
                place=one.place,
                seq=one.seq,
                account=one.account,
                budget=one.budget,
                cell=one.cell,
                detail=one.detail,
            )
        places = " and ".join(sorted({one.place for one in found}))
        detail = f"{len(found)} cells of tenant {tenant} are in {places} otherwise than its journal says"
        if any(one.place == "journal" for one in found):
            detail = f"the journal of tenant {tenant} contradicts itself"
        self._engine.doubt(tenant, LedgerDrift(f"{detail}; an operator repairs it (fiscus repair)", 60))

    # -- what there is ----------------------------------------------------------------------------------------------

    def _look(self, tenant: str, number: int, replica: Ledger, cells: Iterable[int]) -> list[Sample]:
        """The cells in memory and in the views; those that are given, or else the next ones and some in memory."""
        given = sorted(cells)
        head = self._journal.head(number)
        if replica.head.seq and (head is None or head.seq < replica.head.seq):
            raise LedgerCorrupt(f"the journal has no entry {replica.head.seq} any more")
        samples: list[Sample] = []
        self._engine.look(tenant, lambda ledger: samples.append(self._in_memory(ledger, given)))
        in_views = self._in_views(tenant, number, replica.head.seq, given or list(samples[0].cells if samples else ()))
        if in_views is not None:
            samples.append(in_views)
        self.statistics.entries_behind = max((one.head.seq for one in samples), default=0) - replica.head.seq
        return sorted(samples, key=lambda sample: sample.head.seq)

    def _in_memory(self, ledger: Ledger, given: Sequence[int]) -> Sample:
        """In the engine's thread, between two batches."""
        cells = ledger.draft.cells
        numbers = given or self._random.sample(list(cells), min(CELLS_MAX, len(cells)))
        bodies = {
            number: _encode(msgspec.structs.replace(cells[number], stamp=0)) for number in numbers if number in cells
        }
        return Sample("memory", ledger.head, dict(bodies))

    def _in_views(self, tenant: str, number: int, at_least: int, more: Sequence[int]) -> Sample | None:
        """Cells as of one watermark that the fold has not passed; None: there are no views, or they are far behind."""
        views = self._engine.store.views
        for _ in range(LOOKS_MAX):
            mark = views.watermark(number)
            if mark is None:
                return None
            if mark.seq >= at_least:
                numbers = sorted(
                    {*self._next_numbers(tenant, mark.cells), *(cell for cell in more if cell <= mark.cells)}
                )
                bodies = views.load_many(number, "cell", numbers)
                if views.watermark(number) == mark:
                    self._next[tenant] += CELLS_MAX
                    return Sample("views", Head(mark.seq, mark.hash), {cell: bodies.get(cell) for cell in numbers})
            self._pause(LOOK_WAIT_S)
        return None

    def _next_numbers(self, tenant: str, cells: int) -> list[int]:
        """The cells whose turn it is."""
        if not cells:
            self._next.setdefault(tenant, 0)
            return []
        first = self._next.setdefault(tenant, self._random.randrange(cells))
        return [(first + index) % cells + 1 for index in range(min(CELLS_MAX, cells))]

    # -- what there should be ---------------------------------------------------------------------------------------

    def _compare(self, replica: _Replica, samples: Iterable[Sample]) -> list[Difference]:
        """Fold up to each sample and compare."""
        found: list[Difference] = []
        for sample in samples:
            if sample.head.seq < replica.head.seq:
                continue
            self._fold(replica, sample.head.seq)
            if replica.head.hash != sample.head.hash:
                detail = f"it is as of another entry {sample.head.seq} than the journal has"
                found.append(Difference(place=sample.place, seq=sample.head.seq, cell=0, detail=detail))
                continue
            for number, body in sample.cells.items():
                difference = self._compare_cell(replica, sample.place, number, body)
                if difference is not None:
                    found.append(difference)
            self.statistics.cells_checked += len(sample.cells)
        return found

    def _compare_cell(self, replica: Ledger, place: Place, number: int, body: bytes | None) -> Difference | None:
        draft, seq = replica.draft, replica.head.seq
        expected = draft.cells.find(number)
        if expected is None:
            if body is None:
                return None
            return Difference(place=place, seq=seq, cell=number, detail="there is no such window in the journal")
        expected.stamp = 0
        detail = _difference(body, expected)
        if not detail:
            return None
        account, budget = draft.accounts[expected.account], draft.budgets[expected.budget]
        return Difference(
            place=place, seq=seq, cell=number, account=account.display_name, budget=budget.name, detail=detail
        )

    def _fold(self, replica: _Replica, seq: int) -> None:
        """Fold the journal up to an entry, never faster than the share of the processor allows."""
        while replica.head.seq < seq:
            began_s = time.thread_time()
            after = replica.head.seq
            entries = self._journal.entries(replica.number, after, min(CHUNK, seq - after))
            if not entries:
                raise LedgerCorrupt(f"the journal ends with entry {after}; {seq} was there")
            self._follow(replica, entries)
            if replica.unwritten > ROWS_MAX:
                self._keep(replica)
            self._pause((time.thread_time() - began_s) * (1 / self._cpu_share - 1))

    def _follow(self, replica: _Replica, entries: Sequence[StoredEntry]) -> None:
        try:
            replica.follow(entries)
        except LedgerCorrupt:
            raise
        except Exception:
            # It may have been folded in part: the next round begins with the last checkpoint.
            self._begin_anew(replica.number)
            raise

    def _pause(self, seconds: float) -> None:
        if self._stopping.wait(seconds) if seconds > 0 else self._stopping.is_set():
            raise Stopped

    def _keep(self, replica: _Replica) -> None:
        """Write what the fold has changed to its own tables, so that it may leave memory."""
        if replica.unwritten:
            snapshot = replica.snapshot()
            at = snapshot.watermark.at
            self._views.write([msgspec.structs.replace(snapshot, usage=[], erased=[])], at)
            replica.snapshot_written(snapshot)
            self._views.prune_ended(at - IDEMPOTENCY_MS, PRUNE_MAX)

    @property
    def _folded_seq(self) -> int:
        return self._replica.head.seq if self._replica is not None else 0

    def _begin_anew(self, number: int) -> None:
        self._replica = None
        self._views.clear(number)

    def _open(self, tenant: str, number: int) -> _Replica:
        """The fold of a tenant as far as it has come; one is in memory at a time."""
        mark, seal = self._views.watermark(number), last_seal(self._journal, number)
        if mark is not None and seal is not None and seal.seq - mark.seq > BEHIND_MAX:
            self._begin_anew(number)
        if self._replica is None or self._replica.number != number:
            if self._views.watermark(number) is None:
                self._start_from_checkpoint(number)
            self._replica = _Replica(tenant, number, _OwnStore(self._journal, self._views), Rules())
        return self._replica

    def _start_from_checkpoint(self, number: int) -> None:
        """Begin with the state that was sealed last, if what is kept of it is what the journal vouches for."""
        seal = last_seal(self._journal, number)
        if seal is not None:
            self._views.write([sealed_snapshot(self._journal, number, seal)], int(time.time() * 1_000))


class _Replica(Ledger):
    """A tenant folded anew: it starts from tables of its own, which are right by what made them."""

    def ended_slack(self) -> int:
        """Few: nobody waits for it, so that it may load again what it needs."""
        return 1_000

    def _fits(self, watermark: Watermark) -> bool:
        return True

    def _load_tail(self) -> None:
        """It is folded bit by bit later."""


class _OwnStore:
    """The journal of all, and tables of one's own."""

    def __init__(self, journal: Journal, views: Views) -> None:
        self.journal = journal
        self.views = views

    def publish_address(self, address: str) -> None:
        """Nobody looks for it."""

    def close(self) -> None:
        """Both are closed by their owners."""


def _difference(body: bytes | None, expected: Cell) -> str:
    """In which fields a cell is otherwise than it should be; empty: in none."""
    if body is None:
        return "it is missing"
    try:
        found = _decode_cell(body)
    except msgspec.DecodeError:
        return "it cannot be read"
    fields = [name for name in Cell.__struct_fields__ if getattr(found, name) != getattr(expected, name)]
    return ", ".join(f"{name} is {getattr(found, name)} and should be {getattr(expected, name)}" for name in fields)
