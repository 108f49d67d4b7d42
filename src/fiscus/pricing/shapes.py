"""Reading JSON that may have any shape: what is not what it should be is text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

_encoder = msgspec.json.Encoder(enc_hook=repr)


def json_text(value: Any) -> str:
    """A value as compact JSON; what JSON cannot say, as Python writes it."""
    try:
        return _encoder.encode(value).decode()
    except (msgspec.EncodeError, TypeError, ValueError, RecursionError, OverflowError):
        return repr(value)


def items_of(value: Any) -> list[Any]:
    """A list as it is; nothing as no items; anything else as one item."""
    if value is None:
        return []
    return value if isinstance(value, list) else list(value) if isinstance(value, tuple) else [value]


def mapping_of(value: Any) -> Mapping[str, Any]:
    """An object as it is, anything else as an empty one."""
    return value if type(value) is dict or isinstance(value, Mapping) else {}


def text_of(value: Any) -> str:
    """A text as it is, nothing as no text, anything else as JSON."""
    return value if isinstance(value, str) else "" if value is None else json_text(value)


def rest_of(value: Mapping[str, Any], known: frozenset[str] | set[str]) -> Iterator[str]:
    """What an object has beside what is known, each as JSON with its name."""
    for name, one in value.items():
        if name not in known and one is not None:
            yield json_text({name: one})


def words(text: str) -> list[str]:
    """The words of a text, for long lists of names."""
    return text.split()
