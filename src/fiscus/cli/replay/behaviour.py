"""How the callers of a replay behave: most of them well, a seeded part of them not."""

from __future__ import annotations

from enum import StrEnum
from hashlib import blake2b

import msgspec


class Kind(StrEnum):
    """What a caller does."""

    WELL = "well"
    """Reserves, calls, settles."""
    KILLED = "killed"
    """Dies in the middle of the call: neither settles nor releases. Only the provider knows what it used."""
    RETRIES = "retries"
    """Lost an answer and sends everything twice, at the same time, with the same id."""
    LATE = "late"
    """Hangs after the call and settles when its lease has ended."""


_FAULTS = (Kind.KILLED, Kind.RETRIES, Kind.LATE)


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """One caller's fate. ``share`` is how much of the output was produced when it was killed, 0 … 1."""

    kind: Kind
    share: float = 1.0


def behaviour(seed: int, row: int, chaos: float) -> Behaviour:
    """The fate of the caller of ``row``; ``chaos`` is the part that misbehaves, 0 … 1, a third in each way."""
    drawn = uniform(f"{seed}/behaviour/{row}")
    if drawn >= chaos:
        return Behaviour(kind=Kind.WELL)
    kind = _FAULTS[int(drawn / chaos * len(_FAULTS))]
    return Behaviour(kind=kind, share=uniform(f"{seed}/share/{row}") if kind is Kind.KILLED else 1.0)


def uniform(key: str) -> float:
    """A number in [0, 1) that only depends on ``key``."""
    return int.from_bytes(blake2b(key.encode(), digest_size=6).digest(), "big") / 2**48
