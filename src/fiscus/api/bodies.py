"""Bodies and parameters of requests: their types, and how bytes become one of them or a problem that names the field.

A body is the command without what stands in the address: its type is derived from the command, never written twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, dataclass_transform
from urllib.parse import parse_qsl, unquote

import msgspec
from msgspec import Meta

from fiscus.api.problems import Problem, problem
from fiscus.contract.queries import PAGE_LENGTH_DEFAULT, PAGE_LENGTH_MAX, Query
from fiscus.contract.rehearsal import Rehearse
from fiscus.core import commands
from fiscus.core.commands import COMPOUND_LENGTH_MAX, Command, SingleCommand, Status
from fiscus.core.outcomes import OverrideState
from fiscus.core.units import AMOUNT_MAX, Unit

LOCATED_BYTES_MAX = 65_536
"""A body that is longer is not searched for the key of a mapping whose value is wrong."""

LOCATED_KEYS_MAX = 64
PARAMETERS_MAX = 32

NO_KINDS: Mapping[str, Any] = {}

BodyDecoder = msgspec.json.Decoder[Any]
_RawMapping = dict[str, msgspec.Raw]


def body_of(
    command: type[Command | Query],
    name: str,
    *,
    without: Sequence[str] = (),
    required: Sequence[str] = (),
    kinds: Mapping[str, Any] = NO_KINDS,
) -> Any:
    """The type of a body: a command without its tag and without the fields that stand in the address.

    ``name`` is what the OpenAPI document calls it; ``required`` are fields that are optional in the command, not here;
    ``kinds`` are types of fields that differ from the command's.
    """
    fields: list[Any] = []
    for field in msgspec.structs.fields(command):
        if field.name in without:
            continue
        kind = kinds.get(field.name, field.type)
        if field.name in required:
            fields.append((field.name, _without_none(kind)))
        elif field.required:
            fields.append((field.name, kind))
        elif field.default_factory is not msgspec.NODEFAULT:
            fields.append((field.name, kind, msgspec.field(default_factory=field.default_factory)))
        else:
            fields.append((field.name, kind, msgspec.field(default=field.default)))
    struct = msgspec.defstruct(name, fields, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True)
    struct.__doc__ = command.__doc__
    return struct


def _without_none(kind: Any) -> Any:
    rest = [member for member in getattr(kind, "__args__", (kind,)) if member is not type(None)]
    assert len(rest) == 1
    return rest[0]


HoldBody = body_of(commands.Reserve, "HoldBody")
ExtendBody = body_of(commands.Extend, "ExtendBody", without=["id"])
SettleBody = body_of(commands.Settle, "SettleBody", without=["id"])
ReleaseBody = body_of(commands.Release, "ReleaseBody", without=["id"])
UsageBody = body_of(commands.Settle, "UsageBody", required=["account"])
AccountBody = body_of(commands.PutAccount, "AccountBody", without=["account"])
StatusBody = body_of(commands.SetStatus, "StatusBody", without=["account", "status"])
BudgetBody = body_of(commands.PutBudget, "BudgetBody", without=["account", "budget", "if_version"])
AllocationBody = body_of(commands.Allocate, "AllocationBody", without=["account", "unit"])
TransferBody = body_of(commands.Transfer, "TransferBody")
LoanBody = body_of(commands.Lend, "LoanBody")
AdjustmentBody = body_of(commands.Adjust, "AdjustmentBody", without=["account"])
OverrideBody = body_of(commands.RequestOverride, "OverrideBody")
ApprovalBody = body_of(commands.ApproveOverride, "ApprovalBody", without=["id"])
DecisionBody = body_of(commands.DenyOverride, "DecisionBody", without=["id"])
GateBody = body_of(commands.ResetGate, "GateBody", without=["account"])
PriceBody = body_of(commands.PutPrice, "PriceBody", without=["price"])
TemplateBody = body_of(commands.PutTemplate, "TemplateBody", without=["pattern"])
DeclaredTemplate = body_of(commands.PutTemplate, "DeclaredTemplate")
RehearsalBody = body_of(
    Rehearse,
    "RehearsalBody",
    without=Query.__struct_fields__,
    kinds={"templates": tuple[DeclaredTemplate, ...]},  # type: ignore[valid-type]
)
KeyBody = body_of(commands.PutKey, "KeyBody", without=["key", "digest"])


class BatchBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Up to 1,000 commands, each with its name in ``op``; ``atomic``: all of them or none."""

    operations: Annotated[tuple[SingleCommand, ...], Meta(min_length=1, max_length=COMPOUND_LENGTH_MAX)]
    atomic: bool = False


JournalSequence = Annotated[int, Meta(ge=0, le=AMOUNT_MAX)]
PageLength = Annotated[int, Meta(ge=1, le=PAGE_LENGTH_MAX)]


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Parameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters after the ``?``. A subclass says which ones a route has."""


class ReadParameters(Parameters):
    """``min_seq``: answer only from a state that has at least this sequence of the journal in it."""

    min_seq: JournalSequence = 0


class PricesParameters(ReadParameters):
    """``unless_version``: of the answer that is known; if it is the same still, no prices are told."""

    unless_version: JournalSequence = 0


class PageParameters(ReadParameters):
    """``cursor``: the ``next`` of the page before. ``limit``: how many at most."""

    cursor: str | None = None
    limit: PageLength = PAGE_LENGTH_DEFAULT


class ReallocationParameters(ReadParameters):
    """``amount`` of a ``unit`` that is to be free for a call."""

    unit: Unit = "tokens"
    amount: Annotated[int, Meta(ge=1, le=AMOUNT_MAX)] = 1


class AccountsParameters(PageParameters):
    """Which accounts: by the beginning of the name, by the name of the parent, by their own status."""

    prefix: str | None = None
    parent: str | None = None
    status: Status | None = None


class OverridesParameters(PageParameters):
    """Which overrides: in a state, for an account or one below it."""

    state: OverrideState | None = None
    account: str | None = None


class UsageParameters(PageParameters):
    """Which calls: paid by an account or one below it, booked since (inclusive) and until (exclusive)."""

    account: str | None = None
    since: Annotated[datetime, Meta(tz=True)] | None = None
    until: Annotated[datetime, Meta(tz=True)] | None = None


class JournalParameters(ReadParameters):
    """``after``: a sequence number; the page begins with the next entry that the caller may see.

    ``kinds``: only entries of these, with commas between them; of the entries up to ``limit`` they are picked.
    """

    after: JournalSequence = 0
    limit: PageLength = PAGE_LENGTH_DEFAULT
    kinds: Annotated[str, Meta(pattern=r"^[a-z_]+(\.[a-z_]+)?(,[a-z_]+(\.[a-z_]+)?)*$", max_length=2_000)] | None = None


class EventsParameters(Parameters):
    """``after``: a sequence number; ``account``: only what concerns it or one below it.

    ``progress``: also what calls that run through the gateway have used so far (``call.progress``, without an id).
    """

    after: JournalSequence | None = None
    account: str | None = None
    progress: bool = False


_INTEGERS = frozenset(("min_seq", "unless_version", "limit", "after", "amount", "horizon_days"))
_BOOLEANS = frozenset(("progress", "top"))
_STEP = re.compile(r"\[\d+\]|[^.\[\]]+")
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_INTEGER = re.compile(r"-?[0-9]{1,20}")
_PLACE = re.compile(r"(?: - at `(?:key` in `)?\$(?P<path>[^`]*)`)?$")
_MISSING = re.compile(r"^Object (?:missing required|contains unknown) field `(?P<name>[^`]*)`")


def decode_text(raw: bytes) -> str | None:
    """Percent-decode a part of an address; None when it is not percent-encoded UTF-8."""
    try:
        text = raw.decode("ascii")
        if "%" not in text:
            return text
        return None if _PERCENT.search(text) else unquote(text, encoding="utf-8", errors="strict")
    except UnicodeDecodeError:
        return None


def decode_parameters(raw: bytes, kind: type[Parameters]) -> Parameters | Problem:
    """Read what stands after the ``?``: no parameter twice, none that the route does not know."""
    given: dict[str, Any] = {}
    try:
        text = raw.decode("ascii")
        if _PERCENT.search(text):
            return problem("malformed", "the query has a % without two hexadecimal digits")
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=PARAMETERS_MAX, errors="strict")
    except ValueError:  # also UnicodeDecodeError
        return problem("malformed", f"the query is not percent-encoded UTF-8 of at most {PARAMETERS_MAX} parameters")
    for name, value in pairs:
        if name in given:
            return problem("invalid", f"{name}: is given twice", field=name)
        if name in _BOOLEANS and value in ("true", "false"):
            given[name] = value == "true"
        else:
            given[name] = int(value) if name in _INTEGERS and _INTEGER.fullmatch(value) else value
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        return invalid_problem(error, None)


def decode_body(body: bytes, decoder: BodyDecoder) -> Any:
    """The body as the decoder's type, or a ``Problem``."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        return invalid_problem(error, (body, decoder))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _malformed(body, error)


def _malformed(body: bytes, error: Exception) -> Problem:
    """JSON has neither NaN nor infinity: a body that is otherwise well formed is told which field has one."""
    if isinstance(error, UnicodeDecodeError):
        return problem("malformed", "the body is not valid UTF-8")
    if isinstance(error, RecursionError):
        return problem("malformed", "the body is nested too deeply")
    path = _not_finite(body) if len(body) <= LOCATED_BYTES_MAX else None
    if path is not None:
        return problem("invalid", f"{path}: must be a finite number; JSON has no other", field=path)
    return problem("malformed", f"the body is not JSON: {error}")


_NOT_FINITE = object()


def _not_finite(body: bytes) -> str | None:
    """The path of the first NaN or infinity."""
    try:
        value = json.loads(body, parse_constant=lambda _: _NOT_FINITE)
    except (ValueError, RecursionError):
        return None
    return next(_paths_of(value, ""), None)


def _paths_of(value: Any, path: str) -> Iterator[str]:
    if value is _NOT_FINITE:
        yield path
    elif isinstance(value, dict):
        for key, member in value.items():
            yield from _paths_of(member, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from _paths_of(member, f"{path}[{index}]")


def invalid_problem(error: msgspec.ValidationError, source: tuple[bytes, BodyDecoder] | None) -> Problem:
    """A problem whose ``field`` is the path that the error names, with the key where a mapping's value is wrong."""
    text = str(error)
    place = _PLACE.search(text)
    path = ((place["path"] if place else None) or "").removeprefix(".")
    sentence = text[: place.start()] if place else text
    missing = _MISSING.match(sentence)
    if missing:
        path = f"{path}.{missing['name']}" if path else missing["name"]
    if source is not None and path.count("[...]") == 1 and len(source[0]) <= LOCATED_BYTES_MAX:
        path = _with_key(path, text, *source)
    return problem("invalid", f"{path}: {sentence}" if path else f"the body: {sentence}", field=path or None)


def _with_key(path: str, text: str, body: bytes, decoder: BodyDecoder) -> str:
    """Put the key in for ``[...]``: the one that is refused in the same words when it stands there alone."""
    before, _, after = path.partition("[...]")
    steps = [int(step[1:-1]) if step.startswith("[") else step for step in _STEP.findall(before)]
    try:
        levels: list[Any] = []
        raw = msgspec.Raw(body)
        for step in steps:
            levels.append(msgspec.json.decode(raw, type=list[msgspec.Raw] if isinstance(step, int) else _RawMapping))
            raw = levels[-1][step]
        mapping = msgspec.json.decode(raw, type=_RawMapping)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError):
        return path
    for key in list(mapping)[:LOCATED_KEYS_MAX]:
        alone = msgspec.json.encode({key: mapping[key]})
        for level, step in zip(reversed(levels), reversed(steps), strict=True):
            level[step] = msgspec.Raw(alone)
            alone = msgspec.json.encode(level)
        try:
            decoder.decode(alone)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if str(error) == text:
                return f"{before}.{key}{after}"
    return path
