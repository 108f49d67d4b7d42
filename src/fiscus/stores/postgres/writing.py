"""Writing the views: of all nodes on a database one does it at a time, the others wait until it has come so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from time import monotonic

import msgspec

from fiscus.contract.errors import StoreUnavailable
from fiscus.core.state import KINDS
from fiscus.stores.postgres.connecting import LOCK_MS_MAX
from fiscus.stores.postgres.keys import columns
from fiscus.stores.postgres.line import Call, Line, bools, byteas, int4, int4s, int8, int8s, number, texts
from fiscus.stores.postgres.session import Session
from fiscus.stores.queries import queries
from fiscus.treasury.store import EntityRow, Snapshot, UsageRow, ViewsLost, Watermark

SQL = queries(__package__, "following.sql")
NUMBER = {kind: position for position, kind in enumerate(KINDS)}

WRITE_S_MAX = 30.0
WRITE_STATEMENT_MS_MAX = 25_000
LEADER_IDLE_MS_MAX = 5_000
"""A node that writes nothing for so long, because it stands still, does not lead any more."""

WAIT_S_MAX = 2.0
"""How long a node waits until the one that writes has come as far as it has itself."""

WAIT_STEP_S = 0.05
ROWS_PER_STATEMENT_MAX = 5_000

WRITING: Mapping[str, str | int] = {
    "application_name": "fiscus views",
    "synchronous_commit": "off",  # the views are made again from the journal
    "lock_timeout": LOCK_MS_MAX,
    "statement_timeout": WRITE_STATEMENT_MS_MAX,
    "idle_in_transaction_session_timeout": LEADER_IDLE_MS_MAX,
    "idle_session_timeout": LEADER_IDLE_MS_MAX,
    "transaction_timeout": int(WRITE_S_MAX * 1_000),
}

TRUE = b"\x01"
BEGIN: Call = (b"begin", ())
COMMIT: Call = (b"commit", ())


class _Template(msgspec.Struct):
    template: str | None = None


_template = msgspec.json.Decoder(_Template)


class ViewsWriter:
    """The connection that writes the views, and holds the lock of the one that may."""

    def __init__(self, url: str) -> None:
        self._session = Session(url, WRITING, SQL, WRITE_S_MAX)
        self._leader: Line | None = None

    def close(self) -> None:
        """Close the connection; another node may write then. Who waits stops waiting."""
        self._session.close()

    def write(self, snapshots: Sequence[Snapshot], now: int) -> list[Snapshot]:
        """Write snapshots, or wait until the node that may do so has come so far; returns those written here.

        Raises:
            StoreUnavailable: nothing was written, or the other node has not come so far in two seconds.
        """
        waiting = list(snapshots)
        deadline = monotonic() + WAIT_S_MAX
        while waiting:
            written = self._session.do(partial(self._write, waiting, now))
            if written is not None:
                return written
            marks = self._session.do(partial(self._marks, waiting))
            waiting = [one for one in waiting if one.watermark.seq > marks.get(one.tenant, 0)]
            if waiting and (monotonic() > deadline or self._session.closing.wait(WAIT_STEP_S)):
                raise StoreUnavailable("postgresql: the node that writes the views has not come so far yet")
        return []

    def run(self, *calls: Call) -> int:
        """Run changes of the views in one transaction, whoever leads; returns how many rows the last one changed."""
        return self._session.ask([BEGIN, *calls, COMMIT])[-2].command_tuples or 0

    def _lead(self, line: Line) -> bool:
        """Whether this node may write. What it was told holds as long as the connection does."""
        if self._leader is not line:
            (result,) = line.run([(b"lead", ())])
            if result.get_value(0, 0) != TRUE:
                return False
            self._leader = line
        return True

    @staticmethod
    def _marks(snapshots: Sequence[Snapshot], line: Line) -> dict[int, int]:
        (result,) = line.run([(b"marks", (int4s([one.tenant for one in snapshots]),))])
        get = result.get_value
        return {number(get(row, 0)): number(get(row, 1)) for row in range(result.ntuples)}

    def _write(self, snapshots: Sequence[Snapshot], now: int, line: Line) -> list[Snapshot] | None:
        """Write what the views have not reached yet, in one transaction; None: another node writes.

        The lock of the one that writes belongs to this very connection: were it lost, nothing would be written.
        """
        if not self._lead(line):
            return None
        looks = [call for snapshot in snapshots for call in _look(snapshot)]
        results = line.run([BEGIN, *looks], WRITE_S_MAX)[1:]
        written = []
        calls: list[Call] = []
        for snapshot, held, fits in zip(snapshots, results[::2], results[1::2], strict=True):
            reached = number(held.get_value(0, 0)) if held.ntuples else 0
            if snapshot.watermark.seq <= reached:
                continue
            if fits.get_value(0, 0) != TRUE:
                raise StoreUnavailable(
                    f"postgresql: the journal of tenant {snapshot.tenant} has not got entry {snapshot.watermark.seq}, "
                    "which the views would be as of: it was restored"
                )
            if snapshot.after > reached:
                line.close()  # whoever has dropped the views may write them again
                raise ViewsLost(
                    f"postgresql: the views of tenant {snapshot.tenant} are as of entry {reached}, "
                    f"what comes next as of entry {snapshot.after}"
                )
            written.append(snapshot)
            calls += _calls(snapshot, now)
        line.run([*calls, COMMIT], WRITE_S_MAX)
        return written


def _look(snapshot: Snapshot) -> tuple[Call, Call]:
    tenant, mark = int4(snapshot.tenant), snapshot.watermark
    return (b"hold_mark", (tenant,)), (b"fits", (tenant, int8(mark.seq), int8(mark.at), mark.hash))


def _calls(snapshot: Snapshot, now: int) -> list[Call]:
    tenant = snapshot.tenant
    calls: list[Call] = []
    for start in range(0, len(snapshot.entities), ROWS_PER_STATEMENT_MAX):
        calls.append(_put_entities(tenant, snapshot.entities[start : start + ROWS_PER_STATEMENT_MAX], now))
    for start in range(0, len(snapshot.usage), ROWS_PER_STATEMENT_MAX):
        calls.append(_put_usage(tenant, snapshot.usage[start : start + ROWS_PER_STATEMENT_MAX]))
    for account, seq in snapshot.erased:
        calls.append((b"erase_usage", (int4(tenant), int8(account), int8(seq))))
    calls.append(_set_watermark(tenant, snapshot.watermark))
    return calls


def _put_entities(tenant: int, rows: Sequence[EntityRow], now: int) -> Call:
    keys = [columns(row.key) for row in rows]
    return b"put_entities", (
        int4(tenant),
        int4s([NUMBER[row.kind] for row in rows]),
        int8s([one[0] for one in keys]),
        texts([one[1] for one in keys]),
        byteas([row.body for row in rows]),
        texts([row.name for row in rows]),
        int8s([row.owner for row in rows]),
        texts([_template.decode(row.body).template if row.kind == "account" else None for row in rows]),
        bools([row.carved for row in rows]),
        bools([row.live for row in rows]),
        int8s([row.due_at for row in rows]),
        int4s([row.due_rank for row in rows]),
        int4s([row.due_depth for row in rows]),
        int8(now),
    )


def _put_usage(tenant: int, rows: Sequence[UsageRow]) -> Call:
    return b"put_usage", (
        int4(tenant),
        int8s([row.seq for row in rows]),
        int8s([row.at for row in rows]),
        texts([row.hold for row in rows]),
        int8s([row.account for row in rows]),
        byteas([row.also for row in rows]),
        byteas([row.amounts for row in rows]),
        byteas([row.uncovered for row in rows]),
        bools([row.estimated for row in rows]),
        texts([row.model for row in rows]),
        texts([row.provider for row in rows]),
        byteas([row.record for row in rows]),
    )


def _set_watermark(tenant: int, mark: Watermark) -> Call:
    counts = (mark.at, mark.accounts, mark.budgets, mark.cells)
    return b"set_watermark", (int4(tenant), int8(mark.seq), mark.hash, *(int8(count) for count in counts))
