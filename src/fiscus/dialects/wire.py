"""What the dialects share: reading JSON that others wrote, writing events, the codes of refusals."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from functools import lru_cache
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from fiscus.core.checks import check_text
from fiscus.core.records import LIST_LENGTH_MAX
from fiscus.dialects.facts import Code, Malformed, Problem, ProviderError
from fiscus.dialects.scan import repeated

NULL: Final = msgspec.Raw(b"null")
"""Stands for a field that is missing: msgspec takes no union of what is kept as it stands."""

METADATA_BYTES_MAX = 65_536
CHOICES_MAX = 128
BOUND_MAX: Final = 2**31 - 1
"""A bound of the output that is larger is no request that any provider takes."""

_ELSEWHERE = frozenset(("n_predict",))
"""Fields that bound the output at some servers (llama.cpp) in whatever dialect they are asked, before the dialect's."""

T = TypeVar("T")
_PATH = re.compile(r" - at `\$\.?(.*)`$")


def decoder(type: type[T]) -> msgspec.json.Decoder[T]:
    """A decoder that keeps decimal numbers exact, such as costs."""
    return msgspec.json.Decoder(type, float_hook=Decimal)


_ANY, _MEMBERS, _ENCODER = (
    decoder(object),
    decoder(dict[str, msgspec.Raw]),
    msgspec.json.Encoder(decimal_format="number"),
)


def anything(raw: bytes | msgspec.Raw | None) -> Any:
    """The value, or None if it cannot be read."""
    if raw is None:
        return None
    try:
        return _ANY.decode(raw)
    except RecursionError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, ArithmeticError):
        # Half of a pair of surrogates, where a provider cut a character in two; bytes that are no text; a number that
        # no decimal can be.
        try:
            return json.loads(bytes(raw).decode("utf-8-sig", "replace"), parse_int=_integer, parse_float=_number)
        except (ValueError, RecursionError):
            return None


def _integer(written: str) -> int | float:
    try:
        return int(written)
    except ValueError:  # more digits than are read
        return float(written)


def _number(written: str) -> Decimal | float:
    try:
        return Decimal(written)
    except ArithmeticError:
        return float(written)


def read(
    decoder: msgspec.json.Decoder[T], body: bytes, keys: Collection[str], inside: Collection[str] = ()
) -> T | Malformed:
    """A request's body as far as it is looked at.

    Args:
        decoder: for what is looked at.
        body: the whole body.
        keys: names that may stand only once, since they decide what a call costs.
        inside: names of objects within which that holds, too.
    """
    try:
        request = decoder.decode(body)
    except msgspec.ValidationError as error:
        found = _PATH.search(str(error))
        detail = _PATH.sub("", str(error))
        return Malformed(detail=detail, field=found.group(1) or None if found is not None else None)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Malformed(detail=f"the body is not JSON: {error!s:.200}")
    except ArithmeticError:
        return Malformed(detail="the body has a number that is larger than can be read")
    twice = repeated(body, keys, inside)
    if twice is not None:
        return Malformed(detail=f"{twice} stands twice: which of the two counts, readers do not agree on", field=twice)
    names = _spellings(tuple(keys), tuple(inside))
    fields = _MEMBERS.decode(body)
    wrong = _respelt(fields, names)
    for name in inside:
        if wrong is None and name in fields and memoryview(fields[name])[0] == 0x7B:
            wrong = _respelt(_MEMBERS.decode(fields[name]), names)
    return wrong or request


def _respelt(found: Collection[str], names: Mapping[str, str]) -> Malformed | None:
    """Why a field cannot stay that the dialect does not have, and that servers take for one that decides the cost.

    Those that are written in Go read names without regard to case, also of letters beyond ASCII.
    """
    for key in found:
        if key not in names and (name := names.get(key.casefold())) is not None:
            return Malformed(detail=f"{key} is {name} to some servers, and not to others: spell it {name}", field=key)
        if key in _ELSEWHERE:
            return Malformed(detail=f"{key} bounds the output at some servers: say it as this API does", field=key)
    return None


@lru_cache(maxsize=64)
def _spellings(keys: tuple[str, ...], inside: tuple[str, ...]) -> dict[str, str]:
    """Each name by itself, and by what it comes to where case is not regarded."""
    return {spelt: name for name in (*inside, *keys) for spelt in (name.casefold(), name)}


def given(raw: msgspec.Raw) -> bool:
    """Whether a field that is kept as it stands has a value."""
    return raw is not NULL and bytes(raw) != bytes(NULL)


def texts(raw: msgspec.Raw) -> dict[str, str]:
    """The text values of an object such as ``metadata``, as many and as long as a record takes."""
    if raw is NULL or len(memoryview(raw)) > METADATA_BYTES_MAX:
        return {}
    value = anything(raw)
    if not isinstance(value, dict):
        return {}
    kept = [(key, told) for key, told in value.items() if text(key) is not None and text(told) is not None]
    return dict(kept[:LIST_LENGTH_MAX])


def text(value: object) -> str | None:
    """A text, if it is one that a record takes."""
    return value if isinstance(value, str) and check_text("text", value) is None else None


def names(values: Iterable[object]) -> tuple[str, ...]:
    """The first texts of several values."""
    return tuple(islice((found for value in values if (found := text(value)) is not None), LIST_LENGTH_MAX))


def once(values: Iterable[str]) -> tuple[str, ...]:
    """Each value once, in order, at most as many as a record takes."""
    return tuple(dict.fromkeys(values))[:LIST_LENGTH_MAX]


def bounded(field: str, value: int | None, least: int = 0, most: int = BOUND_MAX) -> Malformed | None:
    """None, or why a number cannot be taken."""
    if value is None or least <= value <= most:
        return None
    return Malformed(detail=f"must be an integer in {least} … {most}", field=field)


def encoded(value: object) -> bytes:
    """As compact JSON; decimal numbers stay numbers."""
    try:
        return _ENCODER.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"), default=float).encode()


def event(value: object, name: str | None = None) -> bytes:
    """One Server-Sent Event.

    >>> event({"type": "ping"}, "ping")
    b'event: ping\\ndata: {"type":"ping"}\\n\\n'
    """
    head = b"event: %s\n" % name.encode() if name is not None else b""
    return b"%sdata: %s\n\n" % (head, encoded(value))


def provider_error(value: object) -> ProviderError | None:
    """An error as providers word it: an object with a message, or a text."""
    if isinstance(value, str):
        return ProviderError(message=value)
    if not isinstance(value, Mapping):
        return None
    message = value.get("message")
    codes = (value.get(name) for name in ("code", "status", "type"))
    told = (text(str(code) if isinstance(code, int) else code) for code in codes)
    return ProviderError(
        message=message if isinstance(message, str) else "",
        code=next((code for code in told if code is not None), None),
    )


class Wording(NamedTuple):
    """How the gateway's own problems read in the dialects.

    Attributes:
        status: of the answer.
        openai, anthropic: the ``type`` of the error there.
        gemini: the ``status`` of the error there.
    """

    status: int
    openai: str
    anthropic: str
    gemini: str


WORDINGS: Mapping[Code, Wording] = {
    # 402, since nobody retries it and nobody takes it for the rate limit of a provider: a 429 is retried by every
    # client that does not know ``x-should-retry``. Anthropic's own 402 is a billing error.
    "budget_exceeded": Wording(402, "insufficient_quota", "billing_error", "RESOURCE_EXHAUSTED"),
    "budget_busy": Wording(429, "rate_limit_error", "rate_limit_error", "RESOURCE_EXHAUSTED"),
    "forbidden": Wording(403, "permission_error", "permission_error", "PERMISSION_DENIED"),
    "unauthenticated": Wording(401, "authentication_error", "authentication_error", "UNAUTHENTICATED"),
    "unknown_model": Wording(404, "invalid_request_error", "not_found_error", "NOT_FOUND"),
    "unknown_route": Wording(404, "invalid_request_error", "not_found_error", "NOT_FOUND"),
    "invalid": Wording(400, "invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT"),
    "too_large": Wording(413, "invalid_request_error", "request_too_large", "INVALID_ARGUMENT"),
    "unavailable": Wording(503, "server_error", "overloaded_error", "UNAVAILABLE"),
    "upstream_error": Wording(502, "server_error", "api_error", "INTERNAL"),
    "upstream_timeout": Wording(504, "server_error", "timeout_error", "DEADLINE_EXCEEDED"),
}


def status_of(problem: Problem) -> int:
    """The status of the answer."""
    return problem.status if problem.status is not None else WORDINGS[problem.code].status


def refusal_headers(problem: Problem) -> tuple[tuple[str, str], ...]:
    """Headers of a refusal: the SDKs of OpenAI and Anthropic do what ``x-should-retry`` says."""
    headers = [("content-type", "application/json"), ("x-fiscus-code", problem.code)]
    if problem.retry_after_s is not None:
        headers.append(("retry-after", str(problem.retry_after_s)))
    headers.append(("x-should-retry", "false" if problem.retry_after_s is None else "true"))
    return tuple(headers)


def own(problem: Problem) -> dict[str, object]:
    """What stands under ``fiscus`` in each error: our code, and what a program can go by."""
    return {"code": problem.code, "retry_after_s": problem.retry_after_s, **problem.detail}
