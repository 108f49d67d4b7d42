"""Keeps Redis as of the views, in a thread of its own that nobody ever waits for.

    follower writes views ─▶ observe: a bounded queue ─▶ thread: entries to the stream ▸ accounts ▸ sequence
    each second: does Redis have what the views have? ─▶ refresh ended windows, catch up, or write all of it anew

Every write is guarded in Redis by the journal's sequence, so that a late one changes nothing. Whatever goes wrong here
costs freshness, and nothing else.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Condition, Thread
from uuid import uuid4

import msgspec

from fiscus.contract.errors import TreasuryError
from fiscus.contract.logs import get_logger
from fiscus.contract.treasury import LiveState, LiveStateName
from fiscus.core.events import NameErased, StatusChanged
from fiscus.core.outcomes import Balance
from fiscus.stores.redis.accounts import Economy, account_state
from fiscus.stores.redis.keys import AGENT_PREFIX, Keys, keys_of
from fiscus.stores.redis.reader import LedgerReader
from fiscus.stores.redis.server import AccountState, Look, Publication, RedisServer, ServerUnavailable
from fiscus.stores.redis.stream import stream_entries
from fiscus.treasury.codec import decode_event, genesis, kind_of
from fiscus.treasury.store import Snapshot, Store, StoredEntry, Watermark

QUEUE_ROWS_MAX = 200_000
"""Changed rows that wait for the thread at most; beyond it snapshots are dropped, and all is written anew."""

DIRTY_MAX = 100_000
"""Accounts that Redis lacks at most before all of it is written anew instead."""

LOOK_MS = 1_000
"""How often it is looked whether Redis has what the views have."""

AGAIN_MS = 50
"""Pause after another node was found to be writing."""

RETRY_MS = 500
"""Pause after Redis did not answer, or the views could not be read."""

DEFECT_PAUSE_MS = 5_000
GRACE_MS = 2_000
"""How long Redis may stand still behind the views, while other nodes may be writing, before it counts as a gap."""

SETTLE_MS = 100
"""How long it is waited for the snapshot of a write to the views that has just been seen."""

SETTLE_TRIES_MAX = 20
SEEN_BELOW = (b"status_changed", b"name_erased")
"""Kinds of entries after which the accounts below look different, though nothing has happened to them."""

ACCOUNTS_PER_STEP = 200
ENTRIES_PER_STEP = 500
ENDED_MAX = 500
"""Accounts with ended windows that are refreshed after one look."""

LEAVE_S_MAX = 0.1
"""Longest that others are left alone between two steps."""

CLOSE_MS = 1_500
"""How long the end waits for Redis to have everything."""

log = get_logger(__name__)


class Closing(Exception):
    """The end has come; internal to this module."""


class Unsettled(Exception):
    """The views move on faster than they can be read, or another node is writing; it is tried again soon."""


class Tenant:
    """What the thread knows of one tenant.

    Attributes:
        target: the end of the last snapshot that was heard of.
        dirty: accounts that changed in the snapshots after entry ``base``; None: nothing is to be written.
        published: what Redis has reached, as far as is known.
        streamed: the last entry in the stream, as far as is known; None: it is not known.
        told: terminations up to this entry have been told.
        must_rebuild: something was lost on the way.
        token: of the last rebuild that this process began.
        stuck: the sequence that Redis stands still at, and since when (ms).
    """

    def __init__(self, store: Store, number: int, name: str, keys: Keys) -> None:
        self.number = number
        self.name = name
        self.keys = keys
        self.reader = LedgerReader(store, number)
        self.target = Watermark(0, genesis(name), 0, 0, 0, 0)
        self.dirty: set[int] = set()
        self.base: int | None = None
        self.since_ms: int | None = None
        self.published = 0
        self.streamed: int | None = None
        self.told: int | None = None
        self.stuck: tuple[int, int] | None = None
        self.looked_ms: int | None = None
        self.complete_ms: int | None = None
        self.must_rebuild = False
        self.token: str | None = None
        self.state: LiveStateName = "starting"

    def take(self) -> tuple[set[int], int]:
        """What is to be written, and after which entry it changed; what comes now is for the next time."""
        assert self.base is not None, "there is something to write"
        taken, base = self.dirty, self.base
        self.dirty, self.base = set(), None
        return taken, base

    def put_back(self, taken: set[int], base: int) -> None:
        """It was not written."""
        self.dirty |= taken
        self.base = base if self.base is None else min(base, self.base)


class Projector:
    """See the module.

    Args:
        store: whose views and journal are copied; it is read only.
        server: where to.
        now_ms: the ledger's time.
        economy: how agents are shown; None: without them.
        monotonic_ms: a clock that nobody sets.
    """

    def __init__(
        self,
        store: Store,
        server: RedisServer,
        *,
        now_ms: Callable[[], int],
        economy: Economy | None = None,
        monotonic_ms: Callable[[], int] = lambda: time.monotonic_ns() // 1_000_000,
    ) -> None:
        self._store = store
        self._server = server
        self._economy = economy
        self._now_ms = now_ms
        self._monotonic_ms = monotonic_ms
        self._tenants: dict[int, Tenant] = {}
        self._news = Condition()
        self._queue: deque[tuple[int, Sequence[Snapshot]]] = deque()
        self._queued_rows = 0
        self._dropped = False
        self._closing_ms: int | None = None
        self._thread: Thread | None = None
        self._paused_until_ms = 0
        self._started_ms = monotonic_ms()
        self._rebuilds = 0
        self._failures = 0
        self._reachable = True

    # -- for others -----------------------------------------------------------------------------------------------

    def observe(self, snapshots: Sequence[Snapshot]) -> None:
        """Take note of what was written to the views; returns at once."""
        rows = sum(len(snapshot.entities) for snapshot in snapshots)
        with self._news:
            if self._queued_rows + rows > QUEUE_ROWS_MAX:
                self._dropped = True
            else:
                self._queue.append((self._monotonic_ms(), snapshots))
                self._queued_rows += rows
            self._news.notify()

    def start(self) -> None:
        """Run in the background."""
        self._thread = Thread(target=self._run, name="fiscus-live-state", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is known, if Redis takes it within ``CLOSE_MS``, and end. Call it before the store is closed."""
        with self._news:
            self._closing_ms = self._monotonic_ms() + CLOSE_MS
            self._news.notify()
        if self._thread is not None:
            self._thread.join()
        self._server.close()

    def _check_open(self) -> None:
        """Give up what takes long when the end has come."""
        if self._closing_ms is not None and self._monotonic_ms() >= self._closing_ms:
            raise Closing

    def status(self) -> LiveState:
        """How far it is; callable from any thread."""
        now_ms = self._monotonic_ms()
        tenants = list(self._tenants.values())
        served = self._economy.tenant if self._economy is not None else None
        shown = next((tenant for tenant in tenants if tenant.name == served), tenants[0] if tenants else None)
        waiting = [since for tenant in tenants if (since := tenant.since_ms) is not None]
        waiting += [
            self._started_ms if tenant.complete_ms is None else tenant.complete_ms
            for tenant in tenants
            if tenant.state != "current"
        ]
        states: list[LiveStateName] = [tenant.state for tenant in tenants if tenant.state != "current"]
        state: LiveStateName = states[0] if states else "current" if tenants else "starting"
        return LiveState(
            state=state if self._reachable else "unreachable",
            as_of_seq=shown.published if shown is not None else 0,
            lag_entries=sum(max(0, tenant.target.seq - tenant.published) for tenant in tenants),
            lag_ms=max(0, now_ms - min(waiting)) if waiting else 0,
            rebuilds=self._rebuilds,
            failures=self._failures,
        )

    # -- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_over():
            self.turn(self._wait_ms())

    def turn(self, wait_ms: int = 0) -> None:
        """One turn of the thread: take what waits, or wait for it, then bring Redis up to date; never raises.

        For the thread, and for who has not started one.
        """
        try:
            self._absorb(wait_ms)
            if self._monotonic_ms() < self._paused_until_ms:
                return
            self._find_tenants()
            for tenant in self._tenants.values():
                self._work(tenant)
            self._reachable = True
        except Closing:
            return
        except ServerUnavailable as error:
            self._give_up("live_state_unreachable", error)
        except (TreasuryError, Unsettled) as error:
            self._pause("live_state_waits", error, RETRY_MS)
        except Exception as error:
            # Whatever it is, all of it is read and written anew.
            log.exception("live_state_defect")
            for tenant in self._tenants.values():
                self._restart(tenant)
            self._pause("live_state_waits", error, DEFECT_PAUSE_MS)

    def _is_over(self) -> bool:
        if self._closing_ms is None:
            return False
        if not self._reachable or self._monotonic_ms() >= self._closing_ms:
            return True
        try:
            heads = {number: self._store.journal.head(number) for number in self._tenants}
        except TreasuryError:
            return True
        return all(head is None or self._tenants[number].published >= head.seq for number, head in heads.items())

    def _wait_ms(self) -> int:
        """How long to wait for news: until the next look or the end of a pause."""
        if self._closing_ms is not None:
            return 20
        now_ms = self._monotonic_ms()
        if now_ms < self._paused_until_ms:
            return self._paused_until_ms - now_ms
        looks = [tenant.looked_ms for tenant in self._tenants.values()]
        if not looks:
            return LOOK_MS
        return max(0, min(looked + LOOK_MS if looked is not None else 0 for looked in looks) - now_ms)

    def _give_up(self, event: str, error: Exception) -> None:
        self._failures += 1
        for tenant in self._tenants.values():
            tenant.looked_ms = tenant.streamed = None
            tenant.state = "unreachable"
        if self._reachable:
            log.warning(event, error=str(error))
        self._reachable = False
        self._paused_until_ms = self._monotonic_ms() + RETRY_MS

    def _pause(self, event: str, error: Exception, pause_ms: int) -> None:
        log.warning(event, error=f"{type(error).__name__}: {error}")
        self._paused_until_ms = self._monotonic_ms() + pause_ms

    def _find_tenants(self) -> None:
        """Take note of tenants that are new."""
        if self._tenants and all(tenant.looked_ms is not None for tenant in self._tenants.values()):
            return
        for name, number in self._store.journal.tenants().items():
            self._tenant(number, name)

    def _tenant(self, number: int, name: str) -> Tenant:
        tenant = self._tenants.get(number)
        if tenant is None:
            is_economy = self._economy is not None and self._economy.tenant == name
            tenant = Tenant(self._store, number, name, keys_of(name, is_economy=is_economy))
            self._tenants = {**self._tenants, number: tenant}
        return tenant

    def _absorb(self, wait_ms: int) -> None:
        """Take all that waits; if nothing does, wait for it."""
        with self._news:
            if not self._queue and not self._dropped and wait_ms > 0:
                self._news.wait(wait_ms / 1_000)
            taken, self._queue = self._queue, deque()
            self._queued_rows = 0
            dropped, self._dropped = self._dropped, False
        for at_ms, snapshots in taken:
            for snapshot in snapshots:
                self._take(snapshot, at_ms)
        if dropped:
            log.warning("live_state_overflow")
            for tenant in self._tenants.values():
                self._restart(tenant)

    def _take(self, snapshot: Snapshot, at_ms: int) -> None:
        tenant = self._tenants.get(snapshot.tenant)
        if tenant is None:
            names = {number: name for name, number in self._store.journal.tenants().items()}
            tenant = self._tenant(snapshot.tenant, names[snapshot.tenant])
        if snapshot.watermark.seq < tenant.target.seq:
            log.warning("live_state_restored", tenant=tenant.name, known_seq=tenant.target.seq)
            self._restart(tenant)
        tenant.dirty |= tenant.reader.merge(snapshot)
        if tenant.base is None or snapshot.after > tenant.target.seq:
            # Before ``after`` another node has written, and it says so in Redis itself.
            tenant.base = snapshot.after
        if tenant.since_ms is None:
            tenant.since_ms = at_ms
        tenant.target = snapshot.watermark
        if len(tenant.dirty) > DIRTY_MAX:
            self._restart(tenant)

    def _restart(self, tenant: Tenant) -> None:
        """Forget what is to be written: the next look sees a gap, and all is written anew."""
        tenant.dirty, tenant.base = set(), None
        tenant.reader = LedgerReader(self._store, tenant.number)
        tenant.must_rebuild = True
        tenant.looked_ms = None

    def _work(self, tenant: Tenant) -> None:
        if tenant.base is not None and tenant.looked_ms is not None:
            self._publish(tenant)
        looked_ms = tenant.looked_ms
        if looked_ms is None or self._monotonic_ms() - looked_ms >= LOOK_MS:
            self._look(tenant)

    # -- what has changed -----------------------------------------------------------------------------------------

    def _publish(self, tenant: Tenant) -> None:
        """Write what has changed since Redis was written last, then the sequence."""
        target = tenant.target
        taken, base = tenant.take()
        verdict = ""
        try:
            taken |= self._stream(tenant, base, target.seq)
            verdict = self._write(tenant, taken, base, target)
        finally:
            if verdict not in ("done", "newer"):
                tenant.put_back(taken, base)
        if verdict == "done":
            self._complete(tenant, target.seq)
        elif verdict == "newer":
            tenant.looked_ms = None
            tenant.since_ms = None
        elif verdict == "pool":
            self._look(tenant, must_rebuild=True)
        else:
            tenant.state = "behind"
            tenant.looked_ms = None
            self._paused_until_ms = self._monotonic_ms() + AGAIN_MS

    def _write(self, tenant: Tenant, numbers: set[int], base: int, target: Watermark) -> str:
        order = sorted(numbers)
        steps = [order[start : start + ACCOUNTS_PER_STEP] for start in range(0, len(order), ACCOUNTS_PER_STEP)] or [[]]
        pool_number = self._pool_number(tenant)
        for index, step in enumerate(steps):
            self._check_open()
            began_s = time.monotonic()
            pool, accounts = self._settled(tenant, step, pool_number)
            publication = Publication(
                after=base, seq=target.seq, chain=target.hash.hex(), as_of=tenant.reader.seq, pool=_pool_text(pool)
            )
            is_last = index == len(steps) - 1
            verdict = self._server.publish(tenant.keys, "last" if is_last else "step", publication, accounts)
            if verdict != "done":
                return verdict
            if not is_last:
                _leave_time(began_s)
        return "done"

    def _settled(
        self, tenant: Tenant, numbers: Iterable[int], pool_number: int | None
    ) -> tuple[Balance | None, list[AccountState]]:
        """Accounts, and the pool, all as of ``tenant.reader.seq``.

        Raises:
            Unsettled: the views move on faster than they can be read.
        """
        numbers = list(numbers)
        for _ in range(SETTLE_TRIES_MAX):
            reader = tenant.reader
            before = reader.loads
            found = self._states(tenant, reader, numbers, pool_number)
            if reader.loads == before:
                return found
            mark = self._store.views.watermark(tenant.number)
            if mark is None or mark.seq == reader.seq:
                return found
            # The snapshot is on its way to this thread, or it was another node that wrote.
            self._absorb(SETTLE_MS)
            if tenant.reader.seq < mark.seq:
                tenant.reader.restart(mark)
        raise Unsettled(f"tenant {tenant.name}: the views move on")

    def _states(
        self, tenant: Tenant, reader: LedgerReader, numbers: Iterable[int], pool_number: int | None
    ) -> tuple[Balance | None, list[AccountState]]:
        now_ms = self._now_ms()
        economy = self._economy if tenant.keys.is_economy else None
        pool: Balance | None = None
        if economy is not None and pool_number is not None:
            account = reader.show(pool_number, now_ms)
            pool = economy.pool_balance(account.answer) if account is not None else None
        states = []
        for number in numbers:
            shown = reader.show(number, now_ms)
            if shown is not None:
                states.append(account_state(number, shown, as_of=reader.seq, now_ms=now_ms, pool=pool, economy=economy))
        return pool, states

    def _pool_number(self, tenant: Tenant, reader: LedgerReader | None = None) -> int | None:
        if self._economy is None or not tenant.keys.is_economy:
            return None
        return (reader or tenant.reader).number(self._economy.pool_account)

    def _stream(self, tenant: Tenant, base: int, upto: int) -> set[int]:
        """Append entries to the stream; returns further accounts that look different by what happened above them."""
        further: set[int] = set()
        if tenant.streamed is None:
            tenant.streamed = self._server.append(tenant.keys, [])
        oldest = upto - self._server.stream_length_max
        for page in self._entries(tenant, min(base, max(tenant.streamed, oldest)), upto):
            for entry in page:
                if entry.seq > base and kind_of(entry.body) in SEEN_BELOW:
                    event = decode_event(entry.body, entry.private)
                    assert isinstance(event, StatusChanged | NameErased)
                    further.update(tenant.reader.below(event.account))
            self._append(tenant, [entry for entry in page if entry.seq > oldest])
        return further

    def _append(self, tenant: Tenant, page: list[StoredEntry]) -> None:
        streamed = tenant.streamed or 0
        new = [entry for entry in page if entry.seq > streamed]
        if not new:
            return
        told = streamed if tenant.told is None else max(streamed, tenant.told)
        reader = tenant.reader if tenant.keys.is_economy else None
        entries = stream_entries(new, reader, told_seq=told)
        tenant.streamed = self._server.append(tenant.keys, entries, may_jump=new[0].seq > streamed + 1)
        tenant.told = max(told, tenant.streamed)

    def _entries(self, tenant: Tenant, after: int, upto: int) -> Iterator[list[StoredEntry]]:
        while after < upto:
            self._check_open()
            page = self._store.journal.entries(tenant.number, after, min(ENTRIES_PER_STEP, upto - after))
            if not page:
                return
            yield page
            after = page[-1].seq

    def _complete(self, tenant: Tenant, seq: int) -> None:
        """Redis has everything up to an entry."""
        tenant.published = seq
        tenant.stuck = None
        if tenant.base is None:
            tenant.since_ms = None
            tenant.state = "current"
            tenant.complete_ms = self._monotonic_ms()

    # -- looking --------------------------------------------------------------------------------------------------

    def _look(self, tenant: Tenant, *, must_rebuild: bool = False) -> None:
        """Compare Redis with the views: refresh what has ended, or wait, or write all anew."""
        look = self._server.look(tenant.keys)
        mark = self._store.views.watermark(tenant.number)
        seq = mark.seq if mark is not None else 0
        first_look = tenant.looked_ms is None
        tenant.must_rebuild = tenant.must_rebuild or must_rebuild
        tenant.looked_ms = self._monotonic_ms()
        tenant.streamed = look.stream_seq
        if tenant.told is None:
            tenant.told = look.stream_seq or seq
        tenant.published = look.seq or 0
        if look.rebuilder not in (None, tenant.token):
            tenant.state = "rebuilding"
            return
        is_fork = look.seq is not None and (
            look.seq > seq or not self._is_in_journal(tenant, mark, look.seq, look.chain)
        )
        if look.seq is None or is_fork or tenant.must_rebuild:
            self._rebuild(tenant, look, is_fork=is_fork)
        elif look.seq == seq:
            self._complete(tenant, seq)
            if mark is not None:
                if tenant.reader.seq < seq:
                    tenant.reader.restart(mark)  # other nodes have written meanwhile
                self._refresh(tenant)
        elif tenant.base is not None and tenant.base <= look.seq:
            tenant.state = "behind"
            if first_look:
                self._publish(tenant)
        else:
            self._wait_or_rebuild(tenant, look, look.seq)

    def _wait_or_rebuild(self, tenant: Tenant, look: Look, seq: int) -> None:
        """Something is missing that this node cannot write: another node does, or it has died."""
        now_ms = self._monotonic_ms()
        tenant.state = "behind"
        if tenant.stuck is None or tenant.stuck[0] != seq:
            tenant.stuck = (seq, now_ms)
        elif now_ms - tenant.stuck[1] >= GRACE_MS:
            self._rebuild(tenant, look, is_fork=False)

    def _is_in_journal(self, tenant: Tenant, mark: Watermark | None, seq: int, chain: str | None) -> bool:
        """Whether an entry is of this journal's history; what the views are as of may have been archived since."""
        if seq == 0:
            return chain == genesis(tenant.name).hex()
        if mark is not None and seq == mark.seq:
            return chain == mark.hash.hex()
        entries = self._store.journal.entries(tenant.number, seq - 1, 1)
        return bool(entries) and entries[0].seq == seq and entries[0].hash.hex() == chain

    def _refresh(self, tenant: Tenant) -> None:
        """Write accounts anew that are shown with a window that has ended."""
        ended = self._server.ended(tenant.keys, self._now_ms(), ENDED_MAX)
        for start in range(0, len(ended), ACCOUNTS_PER_STEP):
            step = ended[start : start + ACCOUNTS_PER_STEP]
            pool, accounts = self._settled(tenant, step, self._pool_number(tenant))
            seq = tenant.reader.seq
            publication = Publication(seq=seq, chain="", as_of=seq, pool=_pool_text(pool))
            if self._server.publish(tenant.keys, "refresh", publication, accounts) != "done":
                return

    # -- all of it ------------------------------------------------------------------------------------------------

    def _rebuild(self, tenant: Tenant, look: Look, *, is_fork: bool) -> None:
        """Write everything anew from one consistent view, and remove what does not belong there."""
        token = tenant.token = uuid4().hex
        started_ms = self._monotonic_ms()
        reader, mark = LedgerReader.sealed(self._store, tenant.number, tenant.name, self._check_open)
        stream = self._server.last_entry(tenant.keys)
        is_fork = is_fork or (stream is not None and not self._is_in_journal(tenant, mark, *stream))
        tenant.looked_ms = None
        if self._server.begin(tenant.keys, token, look, is_fork=is_fork) != "begun":
            return
        tenant.state, tenant.must_rebuild, tenant.published = "rebuilding", False, 0
        log.info("live_state_rebuild", tenant=tenant.name, found_seq=look.seq, seq=mark.seq, is_fork=is_fork)
        publication = Publication(seq=mark.seq, chain=mark.hash.hex(), as_of=mark.seq, token=token)
        if self._fill(tenant, reader, publication, is_fork=is_fork):
            self._rebuilds += 1
            if tenant.target.seq <= mark.seq:
                tenant.target, tenant.dirty, tenant.base = mark, set(), None
            if tenant.reader.seq > mark.seq and tenant.target is mark:
                tenant.reader = LedgerReader(self._store, tenant.number)  # of a journal that has been restored since
            self._complete(tenant, mark.seq)
            log.info("live_state_rebuilt", tenant=tenant.name, duration_ms=self._monotonic_ms() - started_ms)

    def _fill(self, tenant: Tenant, reader: LedgerReader, publication: Publication, *, is_fork: bool) -> bool:
        """The steps of a rebuild; False if another node has taken it over."""
        numbers, pool_number = reader.numbers(), self._pool_number(tenant, reader)
        accounts: set[str] = set()
        agents: set[str] = set()
        for start in range(0, len(numbers), ACCOUNTS_PER_STEP):
            self._check_open()
            began_s = time.monotonic()
            pool, states = self._states(tenant, reader, numbers[start : start + ACCOUNTS_PER_STEP], pool_number)
            live = [state for state in states if state.fields]
            accounts.update(state.name for state in live)
            agents.update(state.name.removeprefix(AGENT_PREFIX) for state in live if state.agent)
            publication = msgspec.structs.replace(publication, pool=_pool_text(pool))
            if self._server.publish(tenant.keys, "rebuild", publication, live) != "done":
                return False
            self._absorb(0)
            _leave_time(began_s)
        tenant.streamed = 0 if is_fork else self._server.append(tenant.keys, [])
        first = max(tenant.streamed, publication.seq - self._server.stream_length_max)
        for page in self._entries(tenant, first, publication.seq):
            self._append(tenant, page)
        self._server.sweep(tenant.keys, accounts, agents)
        if not numbers:
            publication = msgspec.structs.replace(publication, pool="none")
        return self._server.publish(tenant.keys, "rebuilt", publication, []) == "done"


def _leave_time(began_s: float) -> None:
    """Half of the time is for others."""
    time.sleep(min(LEAVE_S_MAX, time.monotonic() - began_s))


def _pool_text(pool: Balance | None) -> str:
    return str(pool.available) if pool is not None else "none"
