"""What reading for alerts remembers: what was told already, and which budgets are watched. Bounded."""

from __future__ import annotations

from typing import Any

import msgspec

from fiscus.alerts.rules import Watched

TOLD_MAX = 10_000
WATCHED_MAX = 1_000
NAMES_MAX = 10_000
FOR_EVER_MS = 2**53


class Memory(msgspec.Struct, kw_only=True, omit_defaults=True):
    """See the module.

    Attributes:
        told: key → until when it is not told again, ms since the epoch.
        watched: number of a budget → what was seen of it.
    """

    told: dict[str, int] = {}
    watched: dict[int, Watched] = {}

    def may_tell(self, key: str, now_ms: int, until_ms: int) -> bool:
        """Whether something may be told, which is then not told again until an instant."""
        if self.told.get(key, 0) > now_ms:
            return False
        _put(self.told, key, until_ms, TOLD_MAX)
        return True

    def forget(self, now_ms: int) -> None:
        """Let go of what may be told again by now."""
        for key in [key for key, until_ms in self.told.items() if until_ms <= now_ms]:
            del self.told[key]

    def watch(self, budget: int, account: str, name: str) -> None:
        """Look at a budget from now on."""
        if budget not in self.watched:
            _put(self.watched, budget, Watched(account=account, budget=name), WATCHED_MAX)


def _put(table: dict[Any, Any], key: Any, value: Any, length_max: int) -> None:
    """Keep something, and let go of the oldest beyond the bound."""
    table.pop(key, None)
    table[key] = value
    if len(table) > length_max:
        del table[next(iter(table))]


class Chains:
    """Which accounts stand above which; that never changes."""

    def __init__(self) -> None:
        self._parents: dict[str, str | None] = {}

    def known(self, account: str) -> bool:
        """Whether its parent was told."""
        return account in self._parents

    def put(self, account: str, parent: str | None) -> None:
        """Take note of a parent."""
        _put(self._parents, account, parent, NAMES_MAX)

    def chain(self, account: str | None) -> tuple[str, ...]:
        """An account and those above it, as far as they are known."""
        found: list[str] = []
        while account is not None and len(found) <= 16:
            found.append(account)
            account = self._parents.get(account)
        return tuple(found)
