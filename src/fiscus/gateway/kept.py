"""What is known of the keys that were used last, and of no more of them than fit in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

KEYS_MAX = 4_096

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Kept(Generic[Key, Value]):
    """What is known of each of the keys that were used last."""

    def __init__(self, make: Callable[[], Value]) -> None:
        self._make = make
        self._known: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        """What is known of a key."""
        return self._known.get(key)

    def used(self, key: Key) -> Value:
        """What is known of a key, to which something is added."""
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._make()
            if len(self._known) > KEYS_MAX:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return known
