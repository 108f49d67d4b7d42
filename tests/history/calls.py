"""What is written down of a call: who asked for what, when it was sent, when the answer came, and what it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from fiscus.core.commands import AnyCommand
from fiscus.core.outcomes import AnyOutcome


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One operation as its caller saw it.

    Attributes:
        caller: unique over all processes.
        sent_ns, answered_ns: of the monotonic clock that all processes of this machine share.
        key: the idempotency key, for commands without an id.
    """

    caller: str
    sent_ns: int
    answered_ns: int
    command: AnyCommand
    outcome: AnyOutcome
    key: str | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Call).decode


def written(calls: Iterable[Call]) -> bytes:
    """Calls as lines."""
    return b"".join(_encode(call) + b"\n" for call in calls)


def read(lines: bytes) -> Iterator[Call]:
    """Lines as calls."""
    return map(_decode, lines.splitlines())
