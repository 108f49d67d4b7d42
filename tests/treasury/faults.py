"""A real store whose every step of writing can be watched, and made to fail or to be the last.

A step is named ``journal: before commit``, ``views: after entities`` and so on. The database under it is the real one:
an error *before* a step is one that left it undone, an error *after* it one that nobody can tell from that.
"""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fiscus.contract.errors import StoreUnavailable
from fiscus.stores.sqlite.journal import SqliteJournal
from fiscus.stores.sqlite.store import SqliteStore
from fiscus.stores.sqlite.views import SqliteViews

Hook = Callable[[str], None]

STEPS = {
    "BEGIN": "begin",
    "COMMIT": "commit",
    "INSERT INTO journal": "entries",
    "INSERT INTO answers": "answers",
    "INSERT INTO private": "private parts",
    "DELETE FROM private": "erasure",
    "INSERT INTO tenants": "tenant",
    "UPDATE answers": "forgetting answers",
    "DELETE FROM checkpoints": "forgetting the old seal",
    "INSERT OR REPLACE INTO checkpoints": "sealed entities",
    "INSERT OR REPLACE INTO entities": "entities",
    "INSERT OR REPLACE INTO usage": "usage",
    "UPDATE usage": "erasure",
    "INSERT OR REPLACE INTO watermarks": "watermark",
}
APPEND_STEPS = ("begin", "entries", "private parts", "answers", "erasure", "commit")
CHECKPOINT_STEPS = ("forgetting the old seal", "sealed entities")
VIEWS_STEPS = ("begin", "entities", "usage", "erasure", "watermark", "commit")


def points(place: str, steps: Iterable[str]) -> list[str]:
    """Before and after each step."""
    return [f"{place}: {when} {step}" for step in steps for when in ("before", "after")]


def step_of(statement: str) -> str | None:
    """The name of what a statement does, if it writes."""
    text = "\n".join(line for line in statement.splitlines() if not line.startswith("--")).lstrip()
    return next((step for start, step in STEPS.items() if text.startswith(start)), None)


class WatchedConnection:
    """A connection that tells a hook before and after each step."""

    def __init__(self, connection: sqlite3.Connection, place: str, hook: Hook) -> None:
        self._connection = connection
        self._place = place
        self._hook = hook

    def execute(self, statement: str, values: Any = ()) -> Any:
        return self._watched(statement, lambda: self._connection.execute(statement, values))

    def executemany(self, statement: str, rows: Iterable[Any]) -> Any:
        return self._watched(statement, lambda: self._connection.executemany(statement, rows))

    def _watched(self, statement: str, run: Callable[[], Any]) -> Any:
        step = step_of(statement)
        if step is None:
            return run()
        self._hook(f"{self._place}: before {step}")
        result = run()
        self._hook(f"{self._place}: after {step}")
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class WatchedJournal(SqliteJournal):
    """A journal whose writer is watched, also after it was reopened."""

    def __init__(self, path: Path, hook: Hook) -> None:
        self._hook = hook
        super().__init__(path)

    def _open_writer(self) -> Any:
        try:
            self._hook("journal: before open")
        except sqlite3.Error as error:
            raise StoreUnavailable(f"sqlite: {error}") from error
        return WatchedConnection(super()._open_writer(), "journal", self._hook)


class WatchedViews(SqliteViews):
    """Views whose writer is watched."""

    def __init__(self, path: Path, hook: Hook) -> None:
        super().__init__(path)
        self._writer = WatchedConnection(self._writer, "views", hook)  # type: ignore[assignment]


def watched_store(path: Path, hook: Hook) -> SqliteStore:
    """The embedded store, watched."""
    store = SqliteStore(path)
    store.journal.close()
    store.views.close()
    store.journal = WatchedJournal(store.path, hook)
    store.views = WatchedViews(store.path.with_name(store.path.name + "-views"), hook)
    return store


class Faults:
    """A hook that raises at points that it was told, as often as it was told, or at random."""

    def __init__(self, seed: int = 0) -> None:
        self.seen: Counter[str] = Counter()
        self.raised: Counter[str] = Counter()
        self.probability = 0.0
        self._left: Counter[str] = Counter()
        self._random = random.Random(seed)

    def arm(self, point: str, times: int = 1) -> None:
        """Fail the next ``times`` times that this point is reached."""
        self._left[point] = times

    def __call__(self, point: str) -> None:
        self.seen[point] += 1
        if self._left[point] > 0:
            self._left[point] -= 1
        elif self._random.random() >= self.probability:
            return
        self.raised[point] += 1
        raise sqlite3.OperationalError(f"made to fail: {point}")
