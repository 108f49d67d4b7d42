"""Text that is in the arguments and in the result of a function, and how many tokens it probably has. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

DEPTH_MAX = 8
PARTS_MAX = 100_000
TEXT_ATTRIBUTES = ("raw", "output", "result", "content", "text")
"""Where objects of agent frameworks and of providers have their text; the first that has some counts."""


def texts_in(value: object) -> Iterator[str]:
    """All texts in a value: itself, items of collections, values of mappings, the text of messages and answers.

    What lies deeper than ``DEPTH_MAX``, or behind ``PARTS_MAX`` other parts, is not looked at; cycles end there.

    >>> list(texts_in({"answer": "yes", "because": ["a", "b"], "sure": 0.9}))
    ['yes', 'a', 'b']
    """
    parts = 0
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting and parts < PARTS_MAX:
        part, depth = waiting.pop()
        parts += 1
        if isinstance(part, str):
            yield part
        elif depth < DEPTH_MAX:
            waiting.extend((inner, depth + 1) for inner in reversed(_parts(part)))


def _parts(value: object) -> list[object]:
    if isinstance(value, Mapping):
        return list(value.values())[:PARTS_MAX]
    if isinstance(value, list | tuple | AbstractSet):
        return list(value)[:PARTS_MAX]
    for name in TEXT_ATTRIBUTES:
        inner = _attribute(value, name)
        if inner:
            return [inner]
    return []


def _attribute(value: object, name: str) -> object:
    """A part of an object that may hold text; nothing where it has none, or computes it and fails."""
    if isinstance(value, type) or type(value).__module__ == "builtins":
        return None
    try:
        inner = getattr(value, name, None)
    except Exception:  # noqa: BLE001  (a property of somebody else's class: whatever it raises, there is no text)
        return None
    return inner if isinstance(inner, str | list | tuple | Mapping) else None


def count_tokens(text: str) -> int:
    """Tokens of a text by OpenAI's ``cl100k_base``, from the file in this package.

    >>> count_tokens("hello world"), count_tokens("")
    (2, 0)
    """
    from fiscus.pricing.tokenizers import pieces, vocabulary

    encode = vocabulary("cl100k_base").encode_ordinary
    return sum(len(encode(piece)) for piece in pieces(text))
