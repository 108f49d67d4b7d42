"""The only writer of a ledger in a process: it batches, decides, commits, and only then answers.

    submit ─▶ bounded queue ─▶ one thread: decide each ▸ append all events in one durable commit ─▶ answer
    while a batch commits, the next one gathers: no timer, latency grows only with load

A second thread writes the views. Nothing is acknowledged before it is durable; after a commit error the journal itself
is asked whether the batch is there.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Sequence, Set
from functools import partial
from queue import Empty, SimpleQueue
from threading import Event as Flag
from threading import Lock, Thread, get_native_id
from time import perf_counter_ns
from typing import Any, Protocol

import msgspec

from fiscus.contract.errors import (
    BudgetUnavailable,
    LedgerCorrupt,
    LedgerDrift,
    StoreUnavailable,
    TreasuryError,
    UnknownFormat,
)
from fiscus.contract.forks import OF_PARENT, keep_for_parent, tell_of_forks
from fiscus.contract.logs import get_logger
from fiscus.contract.queries import AnyQuery, View
from fiscus.contract.treasury import LiveState, Readiness
from fiscus.core.checks import check_id
from fiscus.core.commands import (
    Adjust,
    Allocate,
    AnyCommand,
    ApproveOverride,
    Attend,
    Compound,
    Extend,
    Lend,
    PutBudget,
    Release,
    Request,
    RequestOverride,
    Reserve,
    SetStatus,
    Settle,
    Transfer,
)
from fiscus.core.decide import LEDGER_ACTOR, bring_due, decide
from fiscus.core.events import FORMAT, AnyEvent, Checkpoint
from fiscus.core.outcomes import AnyOutcome, Refused
from fiscus.core.state import Rules
from fiscus.treasury.clock import Clock, HostClock, LedgerTime
from fiscus.treasury.codec import decode_event
from fiscus.treasury.idempotency import EXPIRED, IDEMPOTENCY_MS, IN_USE, KeptAnswer, request_digest
from fiscus.treasury.ledger import Ledger
from fiscus.treasury.reading import read_view
from fiscus.treasury.sealing import (
    CHECKPOINT_CHUNK,
    FORGET_ROWS_MAX,
    StateDigest,
    parted,
    sealing_entry,
    seals,
    seals_to_keep,
)
from fiscus.treasury.statistics import BatchTimes, Statistics
from fiscus.treasury.store import (
    TAIL_MAX,
    AnswerRow,
    Erasure,
    HeadLost,
    KeyTaken,
    Row,
    SealRow,
    Snapshot,
    Store,
    StoredEntry,
    ViewsAhead,
    ViewsLost,
)

HAVE_IDS = frozenset({Reserve, Extend, Settle, Release, Attend})
"""Commands that carry an id or are absolute readings: they need no idempotency key."""

BOOK_OR_HOLD = frozenset({Reserve, Settle, Compound})
"""Commands that look for accounts and holds, which are loaded for a batch at once."""

ADMITTING = frozenset({Reserve, Extend, Allocate, Transfer, Lend, PutBudget, Adjust, RequestOverride, ApproveOverride})
"""Commands that may let more be spent: not decided for a tenant whose figures are in doubt."""

log = get_logger(__name__)

BATCH_MAX = 256
"""Submissions that are decided before a commit."""

QUEUE_MAX = 10_000
"""Submissions that wait at most; more are answered with BudgetUnavailable at once."""

RETRY_AFTER_S = 1
TICK_S = 0.25
"""How long the engine sleeps at most: what is due happens, and views are written, also without calls."""

SNAPSHOT_MS = 400
"""How long changes wait at most before they go to the views, if the follower is free; not so long if a reader waits."""

HURRY_MS = 50
"""How long between two times that they are written for a reader who waits, at the least."""

SNAPSHOT_ROWS = 20_000
"""How many changed rows make the engine hand them over before that."""

BACKLOG_ROWS_MAX = 400_000
"""Changed rows that the views lack before the engine waits for its follower: memory has a bound."""

BACKLOG_ROWS_FULL = 2 * BACKLOG_ROWS_MAX
"""Changed rows at which nothing is decided any more; from ``BACKLOG_ROWS_MAX`` on admissions are not."""

FOLLOWERS_LAG_MS_MAX = 60_000
"""Age of the views beyond which readiness says ``followers_behind``."""

FOLLOWER_NICENESS = 3
"""How much less the follower's thread insists on the processor than those that somebody waits for. With more they would
wait for it where others keep the processors busy, for it has the interpreter's lock at times."""

LOAD_TRIES_MAX = 20
"""How often a tenant is loaded again when the views have moved on meanwhile."""

NEWS_MS = 100
"""A node with one tenant that has had a turn since so many milliseconds need not look what others have written."""

IDLE_CHECK_MS = 10_000
PRUNE_EVERY_MS = 60_000
PRUNE_MAX = 50_000
IDLE_CLOSE_MAX = 1_000

AnyResult = AnyOutcome | View | TreasuryError
Pending = dict[tuple[str, str], KeptAnswer]


class Port(Protocol):
    """Where answers go: called once per batch, in the engine's thread."""

    def deliver(self, answers: list[tuple[Any, AnyResult]]) -> None:
        """Take answers; each comes with the token that was submitted with it."""
        ...


class Submission(msgspec.Struct, frozen=True):
    """A command or a query that waits for its turn (``wish``); ``token`` is the port's own, and may lead back here."""

    port: Port
    token: Any
    wish: Any


class Errand(msgspec.Struct, frozen=True):
    """Work between two batches, in the engine's thread."""

    run: Callable[[], None]


class Committed(msgspec.Struct, frozen=True):
    """What observers are told, before the answers go out."""

    tenant: str
    first_seq: int
    at: int
    events: Sequence[AnyEvent]


Observer = Callable[[Committed], None]
ViewObserver = Callable[[Sequence[Snapshot]], None]
"""Told of snapshots that this process has written to the views, in the follower's thread."""


class TurnUnavailable(Exception):
    """The locks could not be had; internal to the engine."""

    def __init__(self, reason: StoreUnavailable) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Engine:
    """See the module. ``start`` runs it in a thread of its own; tests call ``run_batch`` themselves.

    Args:
        store: the ledger's database; the engine closes it.
        clock: wall and monotonic time.
        rules: how long an expired hold stays in quarantine and what becomes of it.
        salt: makes the keys of commitments (16 random bytes).
        queue_max: submissions that may wait.
        batch_max: submissions in one commit.
        retention_days: seals that an archive of older entries may end with are kept; 0: only the last seal is.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock | None = None,
        rules: Rules | None = None,
        salt: Callable[[], bytes] = lambda: os.urandom(16),
        queue_max: int = QUEUE_MAX,
        batch_max: int = BATCH_MAX,
        retention_days: int = 0,
    ) -> None:
        self.store = store
        self.retention_days = retention_days
        self.statistics = Statistics()
        self.times = BatchTimes()
        self.observers: list[Observer] = []
        self.view_observers: list[ViewObserver] = []
        self.repair_observers: list[Callable[[], None]] = []
        self.live_state: Callable[[], LiveState] | None = None
        self._clock = clock or HostClock()
        self._time = LedgerTime(self._clock)
        self._format = store.journal.min_format()
        self._rules = rules or Rules()
        self._salt = salt
        self._queue_max = queue_max
        self._batch_max = batch_max
        self._queue: SimpleQueue[Submission | Errand] = SimpleQueue()
        self._ledgers: dict[str, Ledger] = {}
        self._tenants: dict[str, int] = store.journal.tenants()
        self._down: str | None = None
        self._down_reason = ""
        self._unreadable: dict[str, str] = {}
        self._drifting: dict[str, LedgerDrift] = {}
        self._backlog = 0
        self._appended = False
        self._draining = False
        self._closed = False
        self._is_copy = False
        self._stopping = Flag()
        self._thread: Thread | None = None
        self._follower: Thread | None = None
        self._snapshots: SimpleQueue[list[Snapshot] | None] = SimpleQueue()
        self._written: SimpleQueue[tuple[list[Snapshot], StoreUnavailable | None]] = SimpleQueue()
        self._following = False
        self._unloaded = list(self._tenants)
        self._changed_at: int | None = None
        self._handed_over_at: int | None = None
        self._snapshot_at = 0
        self._hurry_from = 0
        self._hurried = False
        self._awaited = False
        self._idle_checked_at = 0
        self._start_lock = Lock()
        self._entry = Lock()
        self._news = False
        self._turn_at = 0
        self._aside: Submission | Errand | None = None
        self._growing: list[Submission] | None = None
        tell_of_forks(self)

    # -- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run in the background; may be called again without effect."""
        with self._start_lock:
            if self._thread is None and not self._is_copy:
                self._follower = Thread(target=self._stand_back_and_follow, name="fiscus-follower", daemon=True)
                self._follower.start()
                self._thread = Thread(target=self._run, name="fiscus-engine", daemon=True)
                self._thread.start()
                self.store.journal.watch(self._on_news)

    def close(self) -> None:
        """Decide what was accepted, write the views, release the ledger. Later submissions are refused."""
        if self._closed:
            return
        self._closed = True
        with self._entry:
            self._draining = True
            self._stopping.set()
        if self._thread is not None:
            self._queue.put(Errand(lambda: None))
            self._thread.join()
            self._snapshots.put(None)
            assert self._follower is not None
            self._follower.join()
            self._take_written(block=False)
            self._follower = None
        with contextlib.suppress(StoreUnavailable):
            self._write_views_now()
        self.store.close()

    def forked(self) -> None:
        """See ``contract.forks``: no thread decides here, and the store is the parent's."""
        self._is_copy = self._draining = self._closed = True
        self._entry, self._start_lock = Lock(), Lock()
        keep_for_parent(self.store)

    def submit(self, port: Port, token: Any, wish: Request | AnyQuery) -> None:
        """Queue a command or query; its answer is delivered to the port.

        Raises:
            BudgetUnavailable: the queue is full, or the engine is closing. Nothing was accepted.
            TreasuryError: this process is a fork of the engine's.
        """
        if self._queue.qsize() >= self._queue_max:
            raise BudgetUnavailable(f"{self._queue_max} calls wait already", RETRY_AFTER_S)
        self._enter(Submission(port, token, wish))

    def _enter(self, item: Submission | Errand) -> None:
        """Queue it; what was queued before the engine closes is done before it ends."""
        with self._entry:
            if self._draining:
                if self._is_copy:
                    raise TreasuryError(OF_PARENT)
                raise BudgetUnavailable("the treasury is closing", RETRY_AFTER_S)
            self._queue.put(item)

    def hurry_views(self) -> None:
        """Somebody waits for the views: hand the follower what they lack now, not at the end of the interval.

        Not sooner than ``HURRY_MS`` after the last time, and not where writing them has just failed: whoever waits says
        so again.
        """
        if self._hurried or self._down is not None:
            return
        self._hurried = True
        with contextlib.suppress(BudgetUnavailable):
            self._enter(Errand(self._note_hurry))

    def _note_hurry(self) -> None:
        self._hurried, self._awaited = False, True

    def errand(self, run: Callable[[], None]) -> None:
        """Run something between two batches, in the engine's thread, and wait for it."""
        if self._thread is None and not self._is_copy:
            run()
            return
        done = Flag()
        failures: list[BaseException] = []

        def wrapped() -> None:
            try:
                run()
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                failures.append(error)
            finally:
                done.set()

        self._enter(Errand(wrapped))
        done.wait()
        if failures:
            raise failures[0]

    def readiness(self) -> Readiness:
        """Whether reserves are decided now; callable from any thread."""
        reasons = []
        if self._down is not None:
            reasons.append(self._down_reason)
        if self._time.stepped:
            reasons.append("clock_stepped")
        if self._draining:
            reasons.append("draining")
        tenants = dict.fromkeys(self._drifting, "drift") | self._unreadable
        reasons += sorted(set(tenants.values()))
        waiting = [at for at in (self._changed_at, self._handed_over_at) if at is not None]
        lag_ms = max(0, self._clock.monotonic_ms() - min(waiting)) if waiting else 0
        if lag_ms > FOLLOWERS_LAG_MS_MAX or self._backlog > BACKLOG_ROWS_MAX:
            reasons.append("followers_behind")
        default = self._ledgers.get("default")
        return Readiness(
            ready=not reasons,
            reasons=tuple(reasons),
            head_seq=default.head.seq if default is not None else 0,
            followers_seq=default.snapshot_seq if default is not None else 0,
            followers_lag_ms=lag_ms,
            queue_depth=self._queue.qsize(),
            tenants=tenants,
            epoch=self.statistics.epoch,
            live_state=self.live_state() if self.live_state is not None else None,
        )

    @property
    def now_ms(self) -> int:
        """The ledger's time (ms) as of the last batch, at most ``TICK_S`` ago; callable from any thread."""
        return self._time.last_ms

    def confirm_clock(self) -> None:
        """An operator says that the clock is right after a step."""
        self.errand(self._time.confirm)

    def look(self, tenant: str, see: Callable[[Ledger], None]) -> None:
        """Show a tenant's state in memory as it is between two batches; not one that is not in memory."""

        def show() -> None:
            ledger = self._ledgers.get(tenant)
            if ledger is not None:
                see(ledger)

        self.errand(show)

    @property
    def tenants(self) -> dict[str, int]:
        """Numbers of all tenants by name."""
        return dict(self._tenants)

    def doubt(self, tenant: str, drift: LedgerDrift) -> None:
        """Answer admissions of a tenant with this error, until ``repair``; callable from any thread."""
        self._drifting[tenant] = drift

    def repair(self, tenant: str) -> int:
        """Make the views and what is in memory of a tenant anew from the journal, and admit again.

        Nothing is decided meanwhile, for no tenant of this engine.

        Returns:
            The sequence as of which the tenant is.

        Raises:
            LedgerCorrupt: the journal itself is wrong; nothing is admitted as before.
        """
        head: list[int] = []

        def work() -> None:
            while self._following:
                self._take_written(block=True)
            self._drop(tenant)
            number = self._tenants.get(tenant)
            if number is not None:
                self.store.views.clear(number)
            ledger = self.ledger(tenant)
            self._drifting.pop(tenant, None)
            with contextlib.suppress(StoreUnavailable):  # the follower goes on with it
                self._write_views_now()
            head.append(ledger.head.seq)

        self.errand(work)
        log.warning("tenant_repaired", tenant=tenant, head_seq=head[0])
        for observe in self.repair_observers:
            observe()
        return head[0]

    def ledger(self, tenant: str) -> Ledger:
        """The tenant's ledger, loaded now if it was not; for the engine's thread."""
        ledger = self._ledgers.get(tenant)
        if ledger is None:
            number = self._tenants.get(tenant)
            if number is None:
                number = self._tenants[tenant] = self.store.journal.add_tenant(tenant)
            try:
                ledger = self._ledgers[tenant] = self._load(tenant, number)
            except (LedgerCorrupt, UnknownFormat) as error:
                if tenant not in self._unreadable:
                    log.error("tenant_unreadable", tenant=tenant, reason=error.code, detail=str(error))
                self._unreadable[tenant] = error.code
                raise
            ledger.draft.format = self._format
            self._unreadable.pop(tenant, None)
            self._time.at_least(ledger.head_at)
            if ledger.unwritten:
                self._note_change()
        return ledger

    def _load(self, tenant: str, number: int) -> Ledger:
        for _ in range(LOAD_TRIES_MAX):
            try:
                return Ledger(tenant, number, self.store, self._rules)
            except ViewsAhead:
                self.statistics.reloads += 1
        raise StoreUnavailable(f"tenant {tenant}: the views move on faster than it can be loaded")

    def checkpoint(self, tenant: str = "default") -> int:
        """Seal the state: keep its entities beside the journal and append a ``checkpoint`` entry with their digest.

        Runs in the caller's thread on one consistent view of the tables; calls go on meanwhile.

        Returns:
            The sequence as of which the state is sealed; 0: there is nothing to seal yet.
        """
        number: list[int] = []
        head: list[int] = []

        def look() -> None:
            ledger = self.ledger(tenant)
            number.append(ledger.number)
            head.append(ledger.head.seq)
            self._write_views_now()

        self.errand(look)
        if not head[0]:
            return 0
        with self.store.journal.alone(number[0]) as is_alone:
            if not is_alone:
                raise StoreUnavailable(f"tenant {tenant} is being sealed or archived already")
            return self._seal(tenant, number[0])

    def _seal(self, tenant: str, number: int) -> int:
        """Older seals are kept until the journal vouches for the new one."""
        journal = self.store.journal
        known = seals(journal, number)
        self._forget_checkpoints(number, {seal.seq for seal in known})
        with self.store.views.sealed(number) as (watermark, rows):
            digest = StateDigest()
            chunk: list[SealRow] = []
            for row in itertools.chain.from_iterable(map(parted, rows)):
                digest.add(row)
                chunk.append(row)
                if len(chunk) >= CHECKPOINT_CHUNK:
                    self.errand(partial(journal.put_checkpoint, number, watermark.seq, chunk))
                    chunk = []
            self.errand(partial(journal.put_checkpoint, number, watermark.seq, chunk))
        event = Checkpoint(
            state_seq=watermark.seq,
            chain_hash=watermark.hash.hex(),
            state_digest=digest.hexdigest(),
            format=self._format,
        )
        self.errand(partial(self._append_event, tenant, event))
        sealed = sealing_entry(journal, number, watermark.seq)
        assert sealed is not None, "it was just committed"
        first = journal.entries(number, 0, 1)
        archived_seq = first[0].seq - 1 if first else 0
        with contextlib.suppress(StoreUnavailable):  # the next seal forgets them
            self._forget_checkpoints(number, seals_to_keep([*known, sealed], self.retention_days, archived_seq))
        return watermark.seq

    def _forget_checkpoints(self, number: int, keep: set[int]) -> None:
        """Drop what is kept of other states, bit by bit between batches."""
        dropped = [FORGET_ROWS_MAX]

        def forget() -> None:
            dropped[0] = self.store.journal.forget_checkpoints(number, keep, FORGET_ROWS_MAX)

        while dropped[0] >= FORGET_ROWS_MAX:
            self.errand(forget)

    def _append_event(self, tenant: str, event: AnyEvent) -> None:
        try:
            ledgers, now = self._take_turn([tenant])
            ledger = ledgers[tenant]
            ledger.begin()
            ledger.draft.now = now
            ledger.draft.emit(event)
            self._commit(ledgers, now, {})
        except Exception as error:
            self._go_down(error)
            self._forget()
            raise
        finally:
            self.store.journal.end()

    # -- the loop -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        queue = self._queue
        while True:
            batch: list[Submission] = []
            errand: Errand | None = None
            try:
                item = self._aside or queue.get(timeout=TICK_S)
                self._aside = None
                while True:
                    if isinstance(item, Errand):
                        errand = item
                        break
                    batch.append(item)
                    if len(batch) >= self._batch_max:
                        break
                    item = queue.get_nowait()
            except Empty:
                pass
            self._growing = batch if errand is None else None
            self.run_batch(batch)
            if errand is not None:
                errand.run()
            self.after_batch()
            if self._stopping.is_set() and self._aside is None and queue.empty():
                return

    def run_batch(self, batch: Sequence[Submission], *, look_first: bool = False) -> None:
        """Answer queries on the state as it is, decide commands, commit, answer. One commit at most.

        Args:
            batch: what has been submitted.
            look_first: whether the ids of new holds are looked up, before they turn out to be taken.
        """
        if self._growing is not batch:
            self._growing = None  # it was for another batch, whose calls would not be answered with this one's
        statistics = self.statistics
        statistics.batches += 1
        self.times = BatchTimes(perf_counter_ns(), size=len(batch))
        answers: list[tuple[Submission, AnyResult]] = []
        self._appended = False
        try:
            if self._down is not None:
                self._recover()
            now = self._time.now()
            commands: list[Submission] = []
            for submission in batch:
                if type(submission.wish) is Request:
                    commands.append(submission)
                else:
                    answers.append((submission, self._read(submission.wish, now)))
            if self._drifting or self._backlog > BACKLOG_ROWS_MAX:
                commands = self._turn_away(commands, answers)
            answers += self._decide_and_commit(commands, now, look_first)
        except TurnUnavailable as error:
            # Nothing was begun: what is in memory still holds, and the next turn shows what has been written since.
            self._go_down(error.reason)
            self._refuse_rest(batch, answers, error.reason)
        except StoreUnavailable as error:
            self._go_down(error)
            self._forget()
            self._refuse_rest(batch, answers, error)
        except HeadLost as error:
            self._begin_epoch(error)
            self._one_by_one(batch, answers)
            return
        except KeyTaken:
            if not look_first:
                self._deliver(answers)
                self.run_batch(_unanswered(batch, answers), look_first=True)
                return
            if len(batch) <= 1:
                answers += [(submission, EXPIRED) for submission in batch]
            else:
                self._one_by_one(batch, answers)
                return
        except (LedgerCorrupt, UnknownFormat) as error:
            # A tenant of the batch cannot be read; the others can.
            self._forget()
            if len(batch) <= 1:
                self._refuse_rest(batch, answers, error)
            else:
                self._one_by_one(batch, answers)
                return
        except Exception as error:
            log.exception("engine_defect", batch_size=len(batch))
            self.statistics.defects += 1
            self._forget()
            if len(batch) <= 1 or self._appended:
                self._refuse_rest(batch, answers, TreasuryError(f"internal error: {type(error).__name__}: {error}"))
            else:
                self._one_by_one(batch, answers)
                return
        statistics.submissions += len(batch)
        statistics.last_batch_size = len(batch)
        if batch:
            statistics.batch_sizes.add(len(batch))
        self._deliver(answers)

    def _turn_away(self, commands: list[Submission], answers: list[tuple[Submission, AnyResult]]) -> list[Submission]:
        """Answer what must not be decided now; returns the rest."""
        rest: list[Submission] = []
        for submission in commands:
            error = self._objection(submission.wish)
            if error is None:
                rest.append(submission)
            else:
                answers.append((submission, error))
        return rest

    def _objection(self, request: Request) -> TreasuryError | None:
        behind = f"the views lack {self._backlog:,} rows and cannot be written"
        if self._backlog > BACKLOG_ROWS_FULL:
            return BudgetUnavailable(behind, RETRY_AFTER_S)
        command = request.command
        parts = command.commands if isinstance(command, Compound) else (command,)
        if not any(type(part) in ADMITTING for part in parts):
            return None
        if self._backlog > BACKLOG_ROWS_MAX:
            return BudgetUnavailable(behind, RETRY_AFTER_S)
        return self._drifting.get(request.tenant)

    def _one_by_one(self, batch: Sequence[Submission], answers: list[tuple[Submission, AnyResult]]) -> None:
        """After an attempt that wrote nothing: each by itself, so that one of them cannot spoil the others."""
        self._deliver(answers)
        for submission in _unanswered(batch, answers):
            self.run_batch([submission], look_first=True)

    @staticmethod
    def _refuse_rest(
        batch: Sequence[Submission], answers: list[tuple[Submission, AnyResult]], error: TreasuryError
    ) -> None:
        told = _without_frames(error)
        answers += [(submission, told) for submission in _unanswered(batch, answers)]

    def _deliver(self, answers: list[tuple[Submission, AnyResult]]) -> None:
        by_port: dict[int, tuple[Port, list[tuple[Any, AnyResult]]]] = {}
        for submission, result in answers:
            port = submission.port
            entry = by_port.get(id(port))
            if entry is None:
                entry = by_port[id(port)] = (port, [])
            entry[1].append((submission.token, result))
        for port, own in by_port.values():
            try:
                port.deliver(own)
            except Exception:
                # A port that fails keeps nobody else from their answers.
                log.exception("port_defect")
                self.statistics.defects += 1

    def _begin_epoch(self, error: HeadLost) -> None:
        """The journal is an older one than it was: what is in memory is void, and the journal counts."""
        log.error("journal_restored", detail=str(error), epoch=self.statistics.epoch + 1)
        self.statistics.epoch += 1
        self._tenants = self.store.journal.tenants()
        self._forget()

    def _go_down(self, error: Exception) -> None:
        """Decide nothing until the store has been opened again."""
        reason = reason_of(error)
        if self._down is None:
            log.error("ledger_down", reason=reason, detail=str(error))
        self._down_reason = reason
        self._down = str(error) if isinstance(error, TreasuryError) else f"{type(error).__name__}: {error}"

    def _recover(self) -> None:
        """After the store was away: open it again. What was uncertain has been forgotten, and is loaded when needed."""
        self.store.journal.reopen()
        self._look_at_format()
        if self.store.views.damaged:
            self._forget()
        self.store.views.reopen()
        self._tenants = self.store.journal.tenants()
        self._unloaded = [tenant for tenant in self._tenants if tenant not in self._ledgers]
        self._down = None
        log.info("ledger_up")

    def _forget(self) -> None:
        """Drop all state in memory, once nothing of it is on its way to the views any more."""
        while self._following:
            self._take_written(block=True)
        for tenant in list(self._ledgers):
            self._drop(tenant)
        self._unloaded = list(self._tenants)

    def _drop(self, tenant: str) -> None:
        """Drop the state in memory of one tenant, if there is any."""
        ledger = self._ledgers.pop(tenant, None)
        if ledger is not None:
            ledger.retire()

    def _read(self, query: AnyQuery, now: int) -> AnyResult:
        if self.ledger(query.tenant).head.seq < query.min_seq:
            self._catch_up()
        for _ in range(LOAD_TRIES_MAX):
            ledger = self.ledger(query.tenant)
            if ledger.head.seq < query.min_seq:
                return BudgetUnavailable(f"entry {query.min_seq} is not here yet", RETRY_AFTER_S)
            try:
                return read_view(ledger.draft, ledger.head.seq, query, now)
            except ViewsAhead:
                ledger.discard()
                self._catch_up()
        return BudgetUnavailable("others write faster than this node can follow", RETRY_AFTER_S)

    # -- deciding -------------------------------------------------------------------------------------------------

    def _decide_and_commit(
        self, commands: list[Submission], now: int, look_first: bool
    ) -> list[tuple[Submission, AnyResult]]:
        """Decide all, append what happened in one commit; the answers may go out when this returns.

        Raises:
            KeyTaken: an id stands in the journal already; nothing was written, and the drafts are as before.
            StoreUnavailable: nothing was written, or nobody can say now; all state in memory is void.
        """
        try:
            return self._decide_in_turn(commands, now, look_first)
        except ViewsAhead as error:
            # While this node has its turn nobody else writes: it was lost, and the commit would have failed.
            raise StoreUnavailable(f"the turn at the journal was lost: {error}") from error
        finally:
            self.store.journal.end()

    def _decide_in_turn(
        self, commands: list[Submission], now: int, look_first: bool
    ) -> list[tuple[Submission, AnyResult]]:
        ledgers, now = self._prepare(commands, now, look_first)
        decided: list[tuple[Submission, AnyResult]] = []
        pending: Pending = {}
        for submission in commands:
            request: Request = submission.wish
            ledger = ledgers[request.tenant]
            if request.idempotency_key is None or type(request.command) in HAVE_IDS:
                decided.append((submission, decide(ledger.draft, request, now)))
            else:
                decided.append((submission, self._decide_once(ledger, request, now, pending)))
        try:
            if not look_first:
                _see_that_refused_are_new(ledgers, decided)
            self._commit(ledgers, now, pending)
        except KeyTaken:
            for ledger in ledgers.values():
                ledger.discard()
            raise
        return decided

    def _commit(self, ledgers: dict[str, Ledger], now: int, kept: Pending) -> None:
        """Append the events of several drafts in one commit, make them the state, tell the observers."""
        rows_of = {tenant: ledger.rows(now, self._salt) for tenant, ledger in ledgers.items() if ledger.draft.events}
        answers = [
            AnswerRow(ledgers[tenant].number, key, now, msgspec.json.encode(answer))
            for (tenant, key), answer in kept.items()
        ]
        if rows_of or answers:
            erased = [erasure for tenant in rows_of for erasure in ledgers[tenant].erasing()]
            self._append(rows_of, ledgers, answers, erased)
            self._appended = True
        for tenant, ledger in ledgers.items():
            rows = rows_of.get(tenant)
            first_seq = ledger.head.seq + 1
            events = ledger.committed(rows or [])
            if not rows:
                continue
            self.statistics.entries += len(rows)
            self._note_change()
            self._tell(Committed(tenant, first_seq, now, events))

    def _note_change(self) -> None:
        """The views lack something from now on."""
        if self._changed_at is None:
            self._changed_at = self._clock.monotonic_ms()

    def _tell(self, committed: Committed) -> None:
        """Observers learn what is durable; one that fails changes nothing about that."""
        for observe in self.observers:
            try:
                observe(committed)
            except Exception:
                log.exception("observer_defect", tenant=committed.tenant, first_seq=committed.first_seq)

    def _append(
        self,
        rows_of: dict[str, list[Row]],
        ledgers: dict[str, Ledger],
        answers: list[AnswerRow],
        erased: list[Erasure],
    ) -> None:
        """One durable commit. After an error its outcome is unknown, so the journal is asked whether it is there.

        Raises:
            KeyTaken: nothing was written.
            StoreUnavailable: nothing was written, or nobody can say now; all state in memory is void.
        """
        journal, times = self.store.journal, self.times
        appended = [row for rows in rows_of.values() for row in rows]
        times.entries, times.commit_ns = len(appended), perf_counter_ns()
        try:
            journal.append(appended, answers, erased)
        except StoreUnavailable:
            self.statistics.commit_errors += 1
            journal.reopen()
            for tenant, rows in rows_of.items():
                last = rows[-1]
                found = journal.entries(ledgers[tenant].number, last.seq - 1, 1)
                if not found or found[0].hash != last.hash:
                    raise
            if not rows_of and not all(journal.find_answers(answer.tenant, [answer.key]) for answer in answers):
                raise
        finally:
            times.committed_ns = perf_counter_ns()
            self.statistics.commit_s.add((times.committed_ns - times.commit_ns) / 1e9)

    def _prepare(self, commands: list[Submission], now: int, look_first: bool) -> tuple[dict[str, Ledger], int]:
        """The ledgers of a batch, in order, with what it needs loaded and what is due done; and the batch's time.

        What has come meanwhile joins ``commands`` if the batch may grow.
        """
        ids: dict[str, list[str]] = {submission.wish.tenant: [] for submission in commands}
        for tenant, ledger in self._ledgers.items():
            deadline = ledger.draft.next_deadline()
            if deadline is not None and deadline[0] <= now and tenant not in ids:
                ids[tenant] = []
        if not ids:
            return {}, now
        self._prefetch_accounts(commands)  # before others wait for this node
        ledgers, now = self._take_turn(sorted(ids))
        self._prefetch_accounts(self._grow(commands, ids.keys()))
        new: dict[str, list[str]] = {tenant: [] for tenant in ids}
        for submission in commands:
            request: Request = submission.wish
            command: Any = request.command
            kind = type(command)
            if kind is Reserve and not look_first:
                new[request.tenant].append(command.id)
            elif kind is Settle or kind is Attend:
                ids[request.tenant].append(command.id)
            elif kind in BOOK_OR_HOLD:
                ids[request.tenant] += _ids_of(command)
        for tenant, ledger in ledgers.items():
            ledger.begin()
            ledger.draft.admits = not self._drifting.get(tenant) and self._backlog <= BACKLOG_ROWS_MAX
            ledger.prefetch_holds(ids[tenant], new[tenant])
            bring_due(ledger.draft, now)
        return ledgers, now

    def _prefetch_accounts(self, commands: Sequence[Submission]) -> None:
        """Load the accounts that commands may need and that are not in memory."""
        missing: dict[str, list[str]] = {}
        for submission in commands:
            request: Request = submission.wish
            command: Any = request.command
            kind = type(command)
            if kind not in BOOK_OR_HOLD or (kind is Settle and command.account is None):
                continue
            known = self.ledger(request.tenant).draft.names
            if kind is Reserve and command.account in known and not command.also:
                continue
            for name in _names_of(command):
                if name not in known:
                    missing.setdefault(request.tenant, []).append(name)
        for tenant, names in missing.items():
            self.ledger(tenant).prefetch_accounts(names)

    def _grow(self, commands: list[Submission], tenants: Set[str]) -> Sequence[Submission]:
        """Let what came while this node waited for its turn take part in it: the fewer turns, the shorter they wait.

        Args:
            commands: of the batch.
            tenants: whose locks are held; commands of others wait for the next batch.

        Returns:
            What joined the commands.
        """
        batch, self._growing = self._growing, None
        if not batch or self._drifting or self._backlog > BACKLOG_ROWS_MAX:
            return ()
        joined: list[Submission] = []
        with contextlib.suppress(Empty):
            while len(batch) + len(joined) < self._batch_max:
                item = self._queue.get_nowait()
                if isinstance(item, Errand) or not isinstance(item.wish, Request) or item.wish.tenant not in tenants:
                    self._aside = item
                    break
                joined.append(item)
        batch += joined
        commands += joined
        self.times.size = len(batch)
        return joined

    def _take_turn(self, tenants: Sequence[str]) -> tuple[dict[str, Ledger], int]:
        """Take the locks of tenants and fold what others have written; from here on what is in memory is current.

        Returns:
            The ledgers, and the batch's time: the store's, where it has a clock.

        Raises:
            TurnUnavailable: no lock is held.
            HeadLost: the journal is not the one that this node has followed.
        """
        journal = self.store.journal
        while True:
            ledgers = {tenant: self.ledger(tenant) for tenant in tenants}
            began_ns = perf_counter_ns()
            try:
                turn = journal.begin({ledger.number: ledger.head for ledger in ledgers.values()})
            except StoreUnavailable as error:
                raise TurnUnavailable(error) from error
            finally:
                self.times.turn_ns = perf_counter_ns()
                self.statistics.head_wait_s.add((self.times.turn_ns - began_ns) / 1e9)
            self._turn_at = self._clock.monotonic_ms()
            if turn.tails:
                stale = self._follow_tails(turn.tails)
                if stale or any(len(tail) >= TAIL_MAX for tail in turn.tails.values()):
                    journal.end()  # nobody waits for what takes longer
                    self._reload(stale)
                    self._catch_up()
                    continue
            now = self._time.now(turn.now_ms)
            return ledgers, max(now, *(ledger.head_at for ledger in ledgers.values()))

    def _decide_once(self, ledger: Ledger, request: Request, now: int, pending: Pending) -> AnyOutcome:
        """A command with an idempotency key: the kept answer if it was decided before, else decide and keep it."""
        assert request.idempotency_key is not None
        wrong = check_id("Idempotency-Key", request.idempotency_key)
        if wrong is not None:
            return wrong
        key = request.idempotency_key
        digest = request_digest(request)
        known = pending.get((request.tenant, key))
        stored = None if known is not None else self.store.journal.find_answers(ledger.number, [key]).get(key)
        if stored is not None:
            if not stored.answer or stored.at < now - IDEMPOTENCY_MS:
                return EXPIRED
            answer = msgspec.json.decode(stored.answer, type=KeptAnswer)
            return answer.outcome if answer.digest == digest else IN_USE
        if known is not None:
            return known.outcome if known.digest == digest else IN_USE
        outcome = decide(ledger.draft, request, now)
        if not isinstance(outcome, Refused):
            pending[request.tenant, key] = KeptAnswer(digest=digest, outcome=outcome)
        return outcome

    # -- other nodes ----------------------------------------------------------------------------------------------

    def _on_news(self) -> None:
        """Others may have written; called from any thread."""
        if self._news or self._down is not None:
            return
        # A turn shows what was written in the tenants of its batch; of others one has to look.
        if len(self._ledgers) <= 1 and self._clock.monotonic_ms() - self._turn_at < NEWS_MS:
            return
        self._news = True
        with contextlib.suppress(BudgetUnavailable):
            self._enter(Errand(self._look_around))

    def _look_around(self) -> None:
        """Between two batches: follow the journal while this node writes nothing itself."""
        self._news = False
        if self._down is not None:
            return
        try:
            self._catch_up()
        except HeadLost as error:
            self._begin_epoch(error)
        except TreasuryError as error:
            self._go_down(error)
            self._forget()  # an entry may be folded half
        except Exception as error:
            log.exception("follower_defect")
            self.statistics.defects += 1
            self._go_down(error)
            self._forget()

    def _catch_up(self) -> None:
        """Fold what others have written, for all tenants in memory, until there is nothing new."""
        while True:
            tails = self.store.journal.tails({ledger.number: ledger.head for ledger in self._ledgers.values()})
            if not tails:
                return
            self._reload(self._follow_tails(tails))
            if all(len(tail) < TAIL_MAX for tail in tails.values()):
                return

    def _follow_tails(self, tails: dict[int, list[StoredEntry]]) -> list[Ledger]:
        """Fold entries of others and tell the observers; returns the ledgers that have to be loaded anew."""
        stale: list[Ledger] = []
        by_number = {ledger.number: ledger for ledger in self._ledgers.values()}
        for number, entries in tails.items():
            ledger = by_number[number]
            try:
                events = ledger.follow(entries)
            except ViewsAhead:
                events = [decode_event(entry.body, entry.private) for entry in entries]
                stale.append(ledger)
            self.statistics.followed += len(entries)
            self._time.at_least(entries[-1].at)
            self._note_change()
            self._tell(Committed(ledger.name, entries[0].seq, entries[-1].at, events))
        return stale

    def _reload(self, stale: Sequence[Ledger]) -> None:
        """Load tenants anew: what changed in memory is in the views, for they are ahead of it."""
        for ledger in stale:
            self.statistics.reloads += 1
            while self._following:
                self._take_written(block=True)
            self._drop(ledger.name)
            self.ledger(ledger.name)

    # -- following ------------------------------------------------------------------------------------------------

    def after_batch(self) -> None:
        """Between batches: take note of written views, hand over the next snapshot, close idle accounts."""
        try:
            self._after_batch()
        except StoreUnavailable as error:
            self._go_down(error)
            self._forget()
        except UnknownFormat as error:
            self._go_down(error)
        except Exception as error:
            # Whatever it is, the next batch starts from the journal again.
            log.exception("follower_defect")
            self._go_down(error)
            self.statistics.defects += 1
            self._forget()

    def _after_batch(self) -> None:
        self._take_written(block=False)
        now = self._clock.monotonic_ms()
        if self._down is None:
            self._load_next()
            # Only while nothing is on its way to the views is it known which accounts have been used lately.
            if now - self._idle_checked_at >= IDLE_CHECK_MS and not self._following:
                self._idle_checked_at = now
                self._look_at_format()
                self._look_for_tenants()
                if self._turn_at and not self._time.stepped:
                    # Before its first turn a node knows its own clock only, which may be wrong.
                    self.store.journal.forget_answers(self._time.now() - IDEMPOTENCY_MS)
                    with contextlib.suppress(ViewsAhead):  # others have written meanwhile: the next time will do
                        self._close_idle()
        unwritten = sum(ledger.unwritten for ledger in self._ledgers.values())
        while unwritten > BACKLOG_ROWS_MAX and self._following:
            self._take_written(block=True)
            unwritten = sum(ledger.unwritten for ledger in self._ledgers.values())
        self._backlog = unwritten
        is_due = now - self._snapshot_at >= SNAPSHOT_MS or unwritten >= SNAPSHOT_ROWS
        if self._awaited:
            self._awaited = False
            is_due = is_due or now >= self._hurry_from
        if unwritten and not self._following and is_due:
            self._snapshot_at, self._hurry_from = now, now + HURRY_MS
            snapshots = self._take_snapshots()
            if snapshots:
                self._following = True
                self._handed_over_at, self._changed_at = self._changed_at, None
                self._snapshots.put(snapshots)
        if self._down is None and self._aside is None and self._queue.empty():
            self.store.journal.tidy()

    def _take_snapshots(self) -> list[Snapshot]:
        """What the views lack of each tenant; one of which others have written more to them is loaded anew."""
        snapshots: list[Snapshot] = []
        for ledger in list(self._ledgers.values()):
            if ledger.unwritten:
                try:
                    snapshots.append(ledger.snapshot())
                except ViewsAhead:
                    self._reload([ledger])
        return snapshots

    def _look_at_format(self) -> None:
        """Write what all nodes can read; stop when others may write what this version cannot."""
        self._format = self.store.journal.min_format()
        if self._format > FORMAT:
            raise UnknownFormat(f"the nodes may write format {self._format}, this version reads {FORMAT}")
        for ledger in self._ledgers.values():
            ledger.draft.format = self._format

    def _look_for_tenants(self) -> None:
        """Others may have made some; what is due in them happens here too, should the others end."""
        for tenant, number in self.store.journal.tenants().items():
            if tenant not in self._tenants:
                self._tenants[tenant] = number
                self._unloaded.append(tenant)

    def _load_next(self) -> None:
        """Load a tenant that nobody has asked for yet, so that what is due happens without being asked."""
        while self._unloaded:
            tenant = self._unloaded.pop()
            if tenant not in self._ledgers:
                with contextlib.suppress(LedgerCorrupt, UnknownFormat):  # who asks for it is told
                    self.ledger(tenant)
                return

    def _take_written(self, *, block: bool) -> None:
        try:
            snapshots, error = self._written.get(block=block)
        except Empty:
            return
        self._following = False
        if error is not None and self._handed_over_at is not None:
            self._changed_at = self._handed_over_at
        self._handed_over_at = None
        if error is not None and self.store.views.damaged:
            self._go_down(error)
        self._note_written(snapshots, error)

    def _note_written(self, snapshots: Sequence[Snapshot], error: StoreUnavailable | None) -> None:
        """Tell the ledgers what became of their snapshots."""
        if error is not None:
            self._hurry_from = self._clock.monotonic_ms() + SNAPSHOT_MS
        by_number = {ledger.number: ledger for ledger in self._ledgers.values()}
        for snapshot in snapshots:
            ledger = by_number.get(snapshot.tenant)
            if ledger is None:
                continue
            if error is None:
                self.statistics.snapshots += 1
                ledger.snapshot_written(snapshot)
            elif isinstance(error, ViewsLost):
                # Another node has dropped the views: what they lack is more than what has changed here.
                self.statistics.reloads += 1
                self._drop(ledger.name)
                self._unloaded.append(ledger.name)
            else:
                ledger.snapshot_failed(snapshot)

    def _stand_back_and_follow(self) -> None:
        _stand_back()
        self._follow()

    def _follow(self) -> None:
        """The follower: write what it is handed, and drop what has ended and is not told of any more."""
        pruned_at = 0
        while True:
            snapshots = self._snapshots.get()
            if snapshots is None:
                return
            error: StoreUnavailable | None = None
            now = max(snapshot.watermark.at for snapshot in snapshots)
            try:
                self._tell_views(self.store.views.write(snapshots, now))
                if now - pruned_at >= PRUNE_EVERY_MS:
                    pruned_at = now
                    self.store.views.prune_ended(now - IDEMPOTENCY_MS, PRUNE_MAX)
            except StoreUnavailable as failure:
                error = failure
            except Exception as failure:
                # The engine waits for this thread: it goes on, whatever it is.
                log.exception("follower_defect")
                error = StoreUnavailable(f"{type(failure).__name__}: {failure}")
            self._written.put((snapshots, error))

    def _tell_views(self, written: Sequence[Snapshot]) -> None:
        for observe in self.view_observers:
            try:
                observe(written)
            except Exception:
                log.exception("view_observer_defect")

    def _write_views_now(self) -> None:
        """Bring the views to the head, in this thread; between batches or after the threads have ended."""
        while self._following and self._follower is not None:
            self._take_written(block=True)
        snapshots = self._take_snapshots()
        if snapshots:
            at = max(snapshot.watermark.at for snapshot in snapshots)
            try:
                self._tell_views(self.store.views.write(snapshots, at))
            except StoreUnavailable as error:
                self._note_written(snapshots, error)
                raise
            self._note_written(snapshots, None)
        self._changed_at = None

    def _close_idle(self) -> None:
        """Close accounts that a template opened and that nobody has used for its ``idle_close_s``."""
        now = self._time.now()
        closings: list[Submission] = []
        for ledger in self._ledgers.values():
            touched = ledger.touched_accounts()
            for template in ledger.draft.templates.values():
                if template.idle_close_s is None or template.removed:
                    continue
                before = now - template.idle_close_s * 1000
                found = self.store.views.idle_accounts(ledger.number, template.pattern, before, IDLE_CLOSE_MAX)
                for number in found:
                    if number not in touched and ledger.is_idle(number):
                        command = SetStatus(account=ledger.draft.accounts[number].display_name, status="closed")
                        wish = Request(tenant=ledger.name, command=command, actor=LEDGER_ACTOR)
                        closings.append(Submission(NOWHERE, None, wish))
        if closings:
            self.run_batch(closings)


class _Nowhere:
    """A port that nobody waits at."""

    def deliver(self, answers: list[tuple[Any, AnyResult]]) -> None:
        """Drop them."""


NOWHERE = _Nowhere()


def _unanswered(batch: Sequence[Submission], answers: Sequence[tuple[Submission, AnyResult]]) -> list[Submission]:
    answered = {id(submission) for submission, _ in answers}
    return [submission for submission in batch if id(submission) not in answered]


def _stand_back() -> None:
    """Let other threads of this process go first, where the system tells them apart."""
    if sys.platform == "linux":
        thread = get_native_id()
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + FOLLOWER_NICENESS)


def _without_frames(error: TreasuryError) -> TreasuryError:
    """An error as an answer: who gets it must not keep alive what was on the stack when it was raised."""
    cause: BaseException | None = error
    while cause is not None:
        cause.__traceback__ = None
        cause = cause.__cause__ or cause.__context__
    return error


def _see_that_refused_are_new(ledgers: dict[str, Ledger], decided: Sequence[tuple[Submission, AnyResult]]) -> None:
    """The ids of new holds were not looked up; what is refused is not appended, where a taken one would show.

    Raises:
        KeyTaken: one of them is known: it is answered as before.
    """
    refused: dict[str, list[str]] = {}
    for submission, result in decided:
        if type(result) is Refused:
            request: Request = submission.wish
            if type(request.command) is Reserve:
                refused.setdefault(request.tenant, []).append(request.command.id)
    for tenant, ids in refused.items():
        if ledgers[tenant].knows_any(ids):
            raise KeyTaken("of a hold that would be refused now")


def _names_of(command: AnyCommand) -> list[str]:
    """Names of the accounts that a hold or what is booked without one may need."""
    if isinstance(command, Compound):
        return [name for part in command.commands for name in _names_of(part)]
    if not isinstance(command, Reserve | Settle) or command.account is None:
        return []
    return [command.account, *command.also]


def _ids_of(command: AnyCommand) -> list[str]:
    """Ids of the holds that a command may need."""
    parts = command.commands if isinstance(command, Compound) else (command,)
    return [part.id for part in parts if isinstance(part, Reserve | Settle)]


def reason_of(error: Exception) -> str:
    """What readiness says when nothing can be decided, by the error that was the reason.

    >>> reason_of(StoreUnavailable("away")), reason_of(ValueError("a defect"))
    ('store_unavailable', 'internal_error')
    """
    if isinstance(error, StoreUnavailable):
        return "store_unavailable"
    return error.code if isinstance(error, TreasuryError) else "internal_error"
