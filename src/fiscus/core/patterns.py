"""Which pattern of several stands for a name."""

from __future__ import annotations

from collections.abc import Iterable


def best_pattern(name: str, patterns: Iterable[str]) -> str | None:
    """The longest of the patterns that match; the star at their end stands for one or more characters.

    >>> best_pattern("agent:research-1", ["agent:*", "agent:research-*", "thread:*"])
    'agent:research-*'
    >>> best_pattern("agent:", ["agent:*"]) is None
    True
    """
    matching = (pattern for pattern in patterns if name.startswith(pattern[:-1]) and len(name) >= len(pattern))
    return max(matching, key=len, default=None)
