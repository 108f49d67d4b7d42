"""What a forked process does with the treasuries that its parent had open.

A fork copies memory, open files and connections, but no threads. A copy that went on as if nothing had happened would
wait for ever for a thread that is not there, answer from what it remembers, or write between the lines of its parent.
So whatever has threads, locks, files or connections is told of the fork in the child, and lets go of them.
"""

from __future__ import annotations

import os
from typing import Any, Protocol
from weakref import WeakSet

OF_PARENT = "this treasury was opened before this process was forked off: it is the parent's; let both use a service"
"""Why a copy answers nothing."""


class Forkable(Protocol):
    """Something that a fork does not copy whole."""

    def forked(self) -> None:
        """Let go of what is the parent's, without touching it. Called in the child, by its only thread."""
        ...


_known: WeakSet[Any] = WeakSet()
_kept: list[Any] = []


def tell_of_forks(one: Forkable) -> None:
    """Have something told of forks for as long as it lives."""
    _known.add(one)


def keep_for_parent(*copies: object) -> None:
    """Keep copies until the process ends: throwing them away would end what the parent still uses."""
    _kept.extend(copies)


def _told() -> None:
    for one in list(_known):
        one.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_told)
