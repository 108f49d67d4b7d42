"""Events as bytes: what the journal keeps, what stands beside it, and the hash chain over both."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Any

import msgspec

from fiscus.contract.errors import LedgerCorrupt, UnknownFormat
from fiscus.core.events import AnyEvent, Private

TAG = b'{"kind":"'
"""How a body begins."""

_encoder = msgspec.json.Encoder()
_events: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)
_private: msgspec.json.Decoder[Private] = msgspec.json.Decoder(Private)


class SealedPrivate(msgspec.Struct, frozen=True, gc=False):
    """The erasable part of an event: its account, the key of its commitment, and its bytes."""

    account: int
    salt: bytes
    body: bytes


def genesis(tenant: str) -> bytes:
    """The hash before the first entry of a tenant; the same in every format of events."""
    return hashlib.sha256(f"fiscus:1:{tenant}".encode()).digest()


def link(before: bytes, seq: int, at: int, body: bytes) -> bytes:
    """The chain hash after an entry: SHA-256 over the hash before, sequence, time (ms) and body.

    >>> link(b"", 1, 0, b"{}") != link(b"", 2, 0, b"{}")
    True
    """
    return hashlib.sha256(before + seq.to_bytes(8, "big") + at.to_bytes(8, "big") + body).digest()


def commitment(salt: bytes, body: bytes) -> str:
    """Hex of the keyed hash by which an event vouches for its private part; void once the key is erased."""
    return hmac.new(salt, body, hashlib.sha256).hexdigest()


def encode_event(
    event: AnyEvent, concerned: Callable[[AnyEvent], int], salt: Callable[[], bytes]
) -> tuple[bytes, SealedPrivate | None]:
    """An event's body for the journal, and its private part with a new key, if it has one.

    Args:
        event: what happened.
        concerned: says with which account's name the private part is erased.
        salt: makes the key of the commitment.
    """
    private: Private | None = getattr(event, "private", None)
    if private is None:
        return _encoder.encode(event), None
    key = salt()
    private_body = _encoder.encode(private)
    body = _encoder.encode(msgspec.structs.replace(event, private=None))
    body = body[:-1] + b',"commitment":"' + commitment(key, private_body).encode() + b'"}'
    return body, SealedPrivate(concerned(event), key, private_body)


def decode_event(body: bytes, private: bytes | None) -> AnyEvent:
    """The event of an entry, with its private part where that has not been erased."""
    try:
        event = _events.decode(body)
    except msgspec.ValidationError as error:
        raise UnknownFormat(f"an entry of the journal cannot be read: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LedgerCorrupt(f"an entry of the journal is damaged: {error}") from error
    if private is None:
        return event
    changed: Any = msgspec.structs.replace(event, private=_private.decode(private))
    return changed  # type: ignore[no-any-return]


class _Commitment(msgspec.Struct, frozen=True):
    commitment: str | None = None


def commitment_holds(body: bytes, salt: bytes, private: bytes) -> bool:
    """Whether the private part is what the event vouched for."""
    expected = msgspec.json.decode(body, type=_Commitment).commitment
    return expected is not None and hmac.compare_digest(expected, commitment(salt, private))


def has_commitment(body: bytes) -> bool:
    """Whether an event vouches for a private part."""
    return b'"commitment":"' in body and msgspec.json.decode(body, type=_Commitment).commitment is not None


def kind_of(body: bytes) -> bytes:
    """The kind of an entry, without reading all of it.

    >>> kind_of(b'{"kind":"held","id":"a"}')
    b'held'
    """
    assert body.startswith(TAG), "a body begins with its kind"
    return body[len(TAG) : body.index(b'"', len(TAG))]
