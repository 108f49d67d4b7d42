"""Keys of entities as the tables have them: numbers sort before texts, as themselves."""

from __future__ import annotations

TEXT_NUMBER = 2**63 - 1
"""What stands in the column of numbers beside a text."""


def columns(key: int | str) -> tuple[int, str]:
    """The columns ``number`` and ``id`` of a key.

    >>> columns(7), columns("7")
    ((7, ''), (9223372036854775807, '7'))
    """
    return (TEXT_NUMBER, key) if isinstance(key, str) else (key, "")


def key(number: int, id: str) -> int | str:
    """The key of two columns."""
    return id if number == TEXT_NUMBER else number
