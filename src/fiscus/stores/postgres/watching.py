"""News of other nodes: LISTEN and a slow poll; and telling them of what this one appends.

NOTIFY stands outside of the commits: it takes a lock that all databases share.
"""

from __future__ import annotations

import contextlib
import os
import selectors
from collections.abc import Callable, Mapping
from threading import Thread
from time import monotonic

import psycopg

from fiscus.contract.logs import get_logger
from fiscus.stores.postgres.connecting import HOT_STATEMENT_MS_MAX, Connection, connect

POLL_S = 0.2
"""How often one looks though nobody has said anything."""

TELL_EVERY_S = 0.03
"""How often others are told at most."""

RETRY_S_MAX = 2.0
MONTHS_EVERY_S = 3_600.0
MONTHS_AHEAD = 3
LISTEN = "LISTEN fiscus"
NOTIFY = "NOTIFY fiscus"
MAKE_MONTHS = "SELECT make_months($1::integer)"

WATCHING: Mapping[str, str | int] = {
    "application_name": "fiscus watch",
    "synchronous_commit": "off",
    "statement_timeout": HOT_STATEMENT_MS_MAX,
    "lock_timeout": 1_000,
}

log = get_logger(__name__)


class Watch:
    """A thread with a connection of its own; ``start`` begins, ``close`` ends it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._on_news: Callable[[], None] | None = None
        self._appended = False
        self._closing = False
        self._thread: Thread | None = None
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def start(self, on_news: Callable[[], None]) -> None:
        """Call back when others have written, and at least every 200 ms."""
        assert self._thread is None, "one watcher for each store"
        self._on_news = on_news
        self._thread = Thread(target=self._run, name="fiscus-watch", daemon=True)
        self._thread.start()

    def tell(self) -> None:
        """This node has appended: the others are told soon. Costs nothing while they are about to be."""
        if not self._appended and self._thread is not None:
            self._appended = True
            self._wake()

    def close(self) -> None:
        """End the thread."""
        if not self._closing:
            self._closing = True
            self._wake()
            if self._thread is not None:
                self._thread.join()
            os.close(self._wake_read)
            os.close(self._wake_write)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b".")

    def _run(self) -> None:
        retry_s = 0.05
        while not self._closing:
            try:
                with connect(self._url, WATCHING) as connection:
                    connection.execute(LISTEN)
                    retry_s = 0.05
                    self._watch(connection)
            except psycopg.Error as error:
                log.debug("watch_lost", detail=str(error))
                self._pause(retry_s)
                retry_s = min(2 * retry_s, RETRY_S_MAX)

    def _pause(self, seconds: float) -> None:
        """Without a connection: the poll goes on, for it is the caller that looks."""
        until = monotonic() + seconds
        while not self._closing and monotonic() < until:
            self._tell_here()
            with selectors.DefaultSelector() as selector:
                selector.register(self._wake_read, selectors.EVENT_READ)
                selector.select(min(POLL_S, max(0.0, until - monotonic())))
            self._drain()

    def _watch(self, connection: Connection) -> None:
        told_at = polled_at = months_at = 0.0
        with selectors.DefaultSelector() as selector:
            selector.register(connection.pgconn.socket, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            while not self._closing:
                now = monotonic()
                if now - months_at >= MONTHS_EVERY_S:
                    months_at = now
                    connection.execute(MAKE_MONTHS, (MONTHS_AHEAD,))
                    now = monotonic()  # others are told no more often because that took a while
                if self._appended and now - told_at >= TELL_EVERY_S:
                    told_at = now
                    self._appended = False
                    connection.execute(NOTIFY)
                others = [note for note in connection.notifies(timeout=0) if note.pid != connection.info.backend_pid]
                if others or now - polled_at >= POLL_S:
                    polled_at = now
                    self._tell_here()
                wait_s = polled_at + POLL_S - now
                if self._appended:
                    wait_s = min(wait_s, told_at + TELL_EVERY_S - now)
                selector.select(max(0.001, wait_s))
                self._drain()

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_read, 512):
                pass

    def _tell_here(self) -> None:
        """Whoever is called back looks for itself whether there is anything."""
        assert self._on_news is not None
        try:
            self._on_news()
        except Exception:
            log.exception("watch_defect")
