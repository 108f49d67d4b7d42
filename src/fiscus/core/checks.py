"""What a command must look like before anything is decided: each check names the field that is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from math import isfinite
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import UNSET

from fiscus.core.commands import (
    ALSO_LENGTH_MAX,
    ALTERNATIVES_MAX,
    COMPOUND_LENGTH_MAX,
    ID_LENGTH_MAX,
    LEASE_S_MAX,
    LOAN_PARTS_MAX,
    LOANS_MAX,
    WAIT_S_MAX,
    Adjust,
    Allocate,
    ApproveOverride,
    Attend,
    Compound,
    Deallocate,
    DenyOverride,
    EndAdjustment,
    EraseName,
    Extend,
    GiveBack,
    GrantStrategy,
    Lend,
    OverridePolicy,
    PutAccount,
    PutBudget,
    PutKey,
    PutPrice,
    PutTemplate,
    Release,
    RemoveBudget,
    RemovePrice,
    RemoveTemplate,
    RequestOverride,
    Reserve,
    ResetGate,
    RevokeKey,
    RevokeOverride,
    Role,
    SetStatus,
    Settle,
    ShortageStep,
    TemplateBudget,
    Transfer,
)
from fiscus.core.outcomes import Refused
from fiscus.core.records import LIST_LENGTH_MAX, TEXT_LENGTH_MAX, CallRecord, CostSource, Outcome, Provenance, Tokens
from fiscus.core.units import AMOUNT_MAX, UNITS, completed
from fiscus.core.windows import parse_period, zone

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
CALENDAR_END_MS = (datetime.max.replace(tzinfo=UTC) - EPOCH) // MILLISECOND
"""The last instant that can be written as people do."""

REASON_LENGTH_MAX = 2_000
LABELS_MAX = 64
ATTRIBUTES_MAX = 32
THRESHOLDS_MAX = 16
THRESHOLD_PERCENT_MAX = 1_000
PRIORITY_MAX = 1_000_000
TEMPLATE_BUDGETS_MAX = 32
APPROVER_KEYS_MAX = 32
OVERRIDE_PERCENT_MAX = 10_000
OVERRIDE_DURATION_S_MAX = 31_536_000
OVERRIDE_OPEN_S_MAX = 604_800
GATE_S_MAX = 31_536_000
PRICE_TIERS_MAX = 16
PRICE_PATTERN_LENGTH_MAX = 256
PRICE_NANOUSD_MAX = 1_000_000 * 1_000_000_000
"""A price above one dollar a token is a slip of the pen."""
TIER_RATES = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
RATES = (
    *TIER_RATES,
    *("audio_input", "audio_cache_read", "image_input", "image_cache_read", "video_input"),
    *("reasoning", "audio_output", "image_output", "video_output"),
)
FEES = ("requests", "web_searches", "file_searches", "code_executions", "audio_seconds", "characters", "pages")
ROLES: tuple[Role, ...] = get_args(Role)
UNIT_NAMES = frozenset(UNITS)
_SURROGATES = re.compile("[\ud800-\udfff]")
SHORTAGE_STEPS = frozenset(get_args(ShortageStep))
GRANT_STRATEGIES: tuple[str, ...] = get_args(GrantStrategy)


@lru_cache(maxsize=1_024)  # one batch tells many the same
def to_datetime(at_ms: int) -> datetime:
    """An instant as people write it (UTC).

    >>> to_datetime(1_500).isoformat()
    '1970-01-01T00:00:01.500000+00:00'
    """
    return EPOCH + timedelta(milliseconds=at_ms)


def to_ms(at: datetime) -> int:
    """An aware datetime in ms since the epoch, rounded down."""
    return (at - EPOCH) // MILLISECOND


def invalid(field: str, detail: str) -> Refused:
    """A refusal that names the field."""
    return Refused(code="invalid", detail=f"{field}: {detail}", field=field)


def check_id(field: str, value: str) -> Refused | None:
    """1 … 128 printable characters."""
    if type(value) is not str or not value:
        return invalid(field, "must be a text of 1 to 128 characters")
    if len(value) > ID_LENGTH_MAX:
        return invalid(field, f"is {len(value)} characters long; at most {ID_LENGTH_MAX} are allowed")
    if not value.isprintable():
        return invalid(field, "must not contain control characters")
    return None


def check_name(field: str, value: str) -> Refused | None:
    """An id without a slash and without space at its ends."""
    wrong = check_id(field, value)
    if wrong is not None:
        return wrong
    if "/" in value:
        return invalid(field, "must not contain '/'")
    if value != value.strip():
        return invalid(field, "must not begin or end with a space")
    return None


def check_text(field: str, value: str | None, length_max: int = TEXT_LENGTH_MAX) -> Refused | None:
    """Free text of bounded length that can be written as UTF-8."""
    if value is None:
        return None
    if type(value) is not str:
        return invalid(field, "must be a text")
    if len(value) > length_max:
        return invalid(field, f"is {len(value)} characters long; at most {length_max} are allowed")
    if not _is_writable(value):
        return invalid(field, "must not contain NUL or lone surrogates")
    return None


def _is_writable(text: str) -> bool:
    """Whether every store can write a text: one that is all ASCII, as most are, is not looked through."""
    return "\x00" not in text and (text.isascii() or _SURROGATES.search(text) is None)


def check_texts(field: str, values: Mapping[str, str] | None, count_max: int) -> Refused | None:
    """A bounded mapping of ids to texts."""
    if not values:
        return None
    if len(values) > count_max:
        return invalid(field, f"has {len(values)} entries; at most {count_max} are allowed")
    for key, value in values.items():
        wrong = check_id(field, key)
        if wrong is None and not (type(value) is str and len(value) <= TEXT_LENGTH_MAX and _is_writable(value)):
            wrong = check_text(f"{field}.{key}", value)
        if wrong is not None:
            return wrong
    return None


def check_amount(field: str, value: int, least: int = 0) -> Refused | None:
    """An integer in ``least`` … 2^53 − 1."""
    if type(value) is not int:
        return invalid(field, "must be an integer")
    if not least <= value <= AMOUNT_MAX:
        return invalid(field, f"must be in {least} … {AMOUNT_MAX}, not {value}")
    return None


def check_amounts(field: str, amounts: Mapping[Any, int]) -> Refused | None:
    """Known units, each with an amount."""
    for unit, amount in amounts.items():
        if unit not in UNIT_NAMES:
            return invalid(field, f"unknown unit {unit!r}; units are {', '.join(UNITS)}")
        if type(amount) is not int or not 0 <= amount <= AMOUNT_MAX:
            return check_amount(f"{field}.{unit}", amount)
    return None


def check_instant(field: str, at: datetime | None) -> Refused | None:
    """None, or an aware datetime between 1970 and 9999."""
    if at is None:
        return None
    if at.tzinfo is None:
        return invalid(field, "must carry a time zone")
    if not 1970 <= at.year <= 9998:
        return invalid(field, "must lie between 1970 and 9998")
    return None


def check_time(field: str, at: object) -> Refused | None:
    """None, or an aware datetime that the calendar has in UTC, too."""
    if at is None:
        return None
    if not isinstance(at, datetime) or at.utcoffset() is None:
        return invalid(field, "must be a time with its zone")
    try:
        at.astimezone(UTC)
    except OverflowError:
        return invalid(field, "must lie between the years 1 and 9999 in UTC")
    return None


def check_lease(seconds: int) -> Refused | None:
    """1 … 86,400 seconds."""
    if type(seconds) is not int or not 1 <= seconds <= LEASE_S_MAX:
        return invalid("lease_s", f"must be an integer in 1 … {LEASE_S_MAX}")
    return None


def check_also(also: tuple[str, ...]) -> Refused | None:
    """At most 8 different names."""
    if len(also) > ALSO_LENGTH_MAX:
        return invalid("also", f"names {len(also)} accounts; at most {ALSO_LENGTH_MAX} are allowed")
    if len(set(also)) != len(also):
        return invalid("also", "names an account twice")
    for index, name in enumerate(also):
        wrong = check_name(f"also[{index}]", name)
        if wrong is not None:
            return wrong
    return None


RECORD_WORDS: dict[str, tuple[str, ...]] = {"cost_source": get_args(CostSource), "outcome": get_args(Outcome)}
"""Fields of a record that are one word of a few."""


def _kind(field: msgspec.structs.FieldInfo) -> type | None:
    """Text, count or list of texts; None: it is checked by itself."""
    kinds = {get_origin(one) or one for one in (field.type, *get_args(field.type))}
    if dict in kinds:
        return None
    if Literal in kinds:
        return str
    return next((kind for kind in (tuple, str, int) if kind in kinds), None)


KINDS = {field.name: _kind(field) for kind in (CallRecord, Provenance) for field in msgspec.structs.fields(kind)}
WORDS_OF_KINDS: dict[type, str] = {str: "a text", int: "an integer", tuple: "a list of texts"}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_record(record: CallRecord | None) -> Refused | None:
    """Counts ≥ 0, value finite, confidence in 0 … 1, bounded texts."""
    if record is None:
        return None
    if type(record) is not CallRecord:
        return invalid("record", "must be a CallRecord")
    tokens = record.tokens
    if tokens is not None:
        if type(tokens) is not Tokens:
            return invalid("record.tokens", "must be Tokens")
        for field, count in zip(tokens.__struct_fields__, msgspec.structs.astuple(tokens), strict=True):
            if type(count) is not int or not 0 <= count <= AMOUNT_MAX:
                return check_amount(f"record.tokens.{field}", count)
    for field in ("cost_nanousd", "duration_ms", "time_to_first_token_ms"):
        value = getattr(record, field)
        if value is not None and (type(value) is not int or not 0 <= value <= AMOUNT_MAX):
            return check_amount(f"record.{field}", value)
    if record.value is not None and not (_is_number(record.value) and isfinite(record.value)):
        return invalid("record.value", "must be a finite number")
    if record.confidence is not None and not (_is_number(record.confidence) and 0 <= record.confidence <= 1):
        return invalid("record.confidence", "must be in 0 … 1")
    if type(record.tokens_estimated) is not bool:
        return invalid("record.tokens_estimated", "must be true or false")  # type: ignore[unreachable]  # a program gave it
    if record.provenance is not None and type(record.provenance) is not Provenance:
        return invalid("record.provenance", "must be a Provenance")
    if type(record.metadata) is not dict:
        return invalid("record.metadata", "must be texts by name")
    for field, words in RECORD_WORDS.items():
        if (word := getattr(record, field)) is not None and word not in words:
            return invalid(f"record.{field}", f"must be one of {', '.join(words)}")
    return (
        _check_fields("record", record)
        or check_texts("record.metadata", record.metadata, LIST_LENGTH_MAX)
        or (_check_fields("record.provenance", record.provenance) if record.provenance is not None else None)
    )


def _check_fields(field: str, struct: msgspec.Struct) -> Refused | None:
    """Bounded texts and lists of texts, sizes ≥ 0."""
    for name, value in zip(struct.__struct_fields__, msgspec.structs.astuple(struct), strict=True):
        if value is None:
            continue
        kind = KINDS[name]
        if type(value) is str and kind is str and len(value) <= TEXT_LENGTH_MAX and _is_writable(value):
            continue  # as nearly all are: their names are not put together
        wrong = None
        if kind is not None and type(value) is not kind:
            return invalid(f"{field}.{name}", f"must be {WORDS_OF_KINDS[kind]}")
        if type(value) is str:
            wrong = check_text(f"{field}.{name}", value)
        elif type(value) is tuple and value:
            if len(value) > LIST_LENGTH_MAX:
                return invalid(f"{field}.{name}", f"has more than {LIST_LENGTH_MAX} entries")
            wrong = next((bad for text in value if (bad := check_text(f"{field}.{name}", text)) is not None), None)
        elif type(value) is int:
            wrong = check_amount(f"{field}.{name}", value)
        if wrong is not None:
            return wrong
    return None


def check_reserve(command: Reserve) -> Refused | None:
    """See ``Reserve``."""
    wrong = check_id("id", command.id) or check_name("account", command.account)
    if wrong is not None:
        return wrong
    amounts = command.amounts
    if amounts:
        wrong = check_amounts("amounts", amounts)
        if wrong is not None:
            return wrong
        if not any(amounts.values()):
            return invalid(f"amounts.{next(iter(amounts))}", "must be positive: a hold of nothing holds nothing")
    if type(command.lease_s) is not int or not 1 <= command.lease_s <= LEASE_S_MAX:
        return check_lease(command.lease_s)
    if command.wait_s and (type(command.wait_s) is not int or not 0 <= command.wait_s <= WAIT_S_MAX):
        return invalid("wait_s", f"must be an integer in 0 … {WAIT_S_MAX}")
    if command.also and (wrong := check_also(command.also)) is not None:
        return wrong
    if command.attributes and (wrong := check_texts("attributes", command.attributes, ATTRIBUTES_MAX)) is not None:
        return wrong
    if command.leave and (wrong := check_amounts("leave", command.leave)) is not None:
        return wrong
    if (command.least or command.alternatives or command.loans) and (wrong := _check_help(command)) is not None:
        return wrong
    return check_name("parent", command.parent) if command.parent is not None else None


def check_attend(command: Attend) -> Refused | None:
    """See ``Attend``."""
    return check_id("id", command.id)


def _check_help(command: Reserve) -> Refused | None:
    """What a reserve says for the case that there is no room."""
    amounts = completed(command.amounts)
    for unit, least in command.least.items():
        if unit not in amounts:
            return invalid(f"least.{unit}", "is not among amounts")
        if type(least) is not int or not 1 <= least <= amounts[unit]:
            return invalid(f"least.{unit}", f"must be an integer in 1 … {amounts[unit]}, which is asked")
    if len(command.alternatives) > ALTERNATIVES_MAX:
        return invalid("alternatives", f"has more than {ALTERNATIVES_MAX} entries")
    for index, other in enumerate(command.alternatives):
        field = f"alternatives[{index}]"
        wrong = check_id(f"{field}.model", other.model) or check_amounts(f"{field}.amounts", other.amounts)
        if wrong is not None:
            return wrong
        if not any(other.amounts.values()):
            return invalid(f"{field}.amounts", "must be positive: a hold of nothing holds nothing")
    return _check_different("loans", command.loans, LOANS_MAX)


def _check_different(field: str, ids: tuple[str, ...], length_max: int) -> Refused | None:
    """A bounded list of ids, none twice."""
    if len(ids) > length_max:
        return invalid(field, f"has more than {length_max} entries")
    if len(set(ids)) != len(ids):
        return invalid(field, "names one twice")
    return next((wrong for i, id in enumerate(ids) if (wrong := check_id(f"{field}[{i}]", id)) is not None), None)


def check_shortage(steps: tuple[str, ...]) -> Refused | None:
    """Steps that there are, each at most once, nothing behind ``deny``."""
    if not SHORTAGE_STEPS.issuperset(steps):
        return invalid("shortage", f"names a step that there is not; steps are {', '.join(get_args(ShortageStep))}")
    if len(set(steps)) != len(steps):
        return invalid("shortage", "names a step twice")
    if "deny" in steps[:-1]:
        return invalid("shortage", "names a step behind deny, which ends the list")
    return None


def _check_grant_strategy(strategy: str | None) -> Refused | None:
    """None, or one that there is."""
    if strategy is None or strategy in GRANT_STRATEGIES:
        return None
    return invalid("grant_strategy", f"must be one of {', '.join(GRANT_STRATEGIES)}")


def check_settle(command: Settle) -> Refused | None:
    """See ``Settle``."""
    wrong = check_id("id", command.id)
    if wrong is not None:
        return wrong
    if command.total and (wrong := check_amounts("total", command.total)) is not None:
        return wrong
    if command.account is not None:
        wrong = (
            check_name("account", command.account)
            or check_also(command.also)
            or check_texts("attributes", command.attributes, ATTRIBUTES_MAX)
            or (check_name("parent", command.parent) if command.parent is not None else None)
        )
        if wrong is not None:
            return wrong
    return check_record(command.record) if command.record is not None else None


def check_extend(command: Extend) -> Refused | None:
    """See ``Extend``."""
    return (
        check_id("id", command.id)
        or check_amounts("to", command.to)
        or check_lease(command.lease_s)
        or check_amounts("leave", command.leave)
    )


def check_release(command: Release) -> Refused | None:
    """See ``Release``."""
    return check_id("id", command.id) or (
        check_name("account", command.account) if command.account is not None else None
    )


def check_put_account(command: PutAccount) -> Refused | None:
    """See ``PutAccount``."""
    wrong = check_name("account", command.account)
    if wrong is None and command.parent is not None:
        wrong = check_name("parent", command.parent)
        if wrong is None and command.parent == command.account:
            wrong = invalid("parent", "is the account itself: the tree would have a cycle")
    if wrong is None and command.priority is not None:
        wrong = _check_priority(command.priority)
    if wrong is None and command.min_reserve is not None:
        wrong = check_amounts("min_reserve", command.min_reserve)
    if wrong is None and command.confidence_threshold is not UNSET:
        wrong = _check_threshold(command.confidence_threshold)
    if wrong is None and command.gate_s is not UNSET:
        wrong = _check_seconds("gate_s", command.gate_s, GATE_S_MAX)
    if wrong is None and command.shortage is not None:
        wrong = check_shortage(command.shortage)
    if wrong is None and command.grant_strategy is not UNSET:
        wrong = _check_grant_strategy(command.grant_strategy)
    return (
        wrong
        or check_texts("labels", command.labels, LABELS_MAX)
        or check_texts("if_labels", command.if_labels, LABELS_MAX)
    )


def _check_threshold(threshold: float | None) -> Refused | None:
    """None, or 0 … 1."""
    if threshold is None:
        return None
    if type(threshold) not in (int, float) or not 0 <= threshold <= 1:  # NaN is neither
        return invalid("confidence_threshold", "must be a number in 0 … 1")
    return None


def _check_seconds(field: str, seconds: int | None, most: int) -> Refused | None:
    """None, or 1 … ``most``."""
    return _check_within(field, seconds, 1, most) if seconds is not None else None


def _check_within(field: str, value: int, least: int, most: int) -> Refused | None:
    """``least`` … ``most``."""
    if type(value) is not int or not least <= value <= most:
        return invalid(field, f"must be an integer in {least} … {most}")
    return None


def _check_priority(priority: int) -> Refused | None:
    if type(priority) is not int or not 1 <= priority <= PRIORITY_MAX:
        return invalid("priority", f"must be an integer in 1 … {PRIORITY_MAX}")
    return None


def check_budget(command: PutBudget | TemplateBudget, field: str = "") -> Refused | None:
    """Limit, period, zone, thresholds, match and carry-over of a budget."""
    if command.unit not in UNIT_NAMES:
        return invalid(f"{field}unit", f"unknown unit; units are {', '.join(UNITS)}")
    wrong = (
        check_amount(f"{field}limit", command.limit)
        or (check_name(f"{field}budget", command.budget) if command.budget is not None else None)
        or check_texts(f"{field}match", command.match, ATTRIBUTES_MAX)
        or (check_amount(f"{field}carry_max", command.carry_max) if command.carry_max is not None else None)
    )
    if wrong is not None:
        return wrong
    try:
        parse_period(command.period)
    except ValueError as error:
        return invalid(f"{field}period", str(error))
    try:
        zone(command.zone)
    except ValueError as error:
        return invalid(f"{field}zone", str(error))
    if len(command.thresholds) > THRESHOLDS_MAX:
        return invalid(f"{field}thresholds", f"has more than {THRESHOLDS_MAX} entries")
    for percent in command.thresholds:
        if type(percent) is not int or not 1 <= percent <= THRESHOLD_PERCENT_MAX:
            return invalid(f"{field}thresholds", f"percentages are integers in 1 … {THRESHOLD_PERCENT_MAX}")
    return _check_policy(f"{field}override", command.override) if command.override is not None else None


def _check_policy(field: str, policy: OverridePolicy) -> Refused | None:
    """Roles and keys that there can be, a share and a duration within bounds."""
    for role in policy.approvers:
        if role not in ROLES:
            return invalid(f"{field}.approvers", f"unknown role {role!r}; roles are {', '.join(ROLES)}")
    if len(policy.approvers) > len(ROLES):
        return invalid(f"{field}.approvers", "names a role twice")
    if len(policy.approver_keys) > APPROVER_KEYS_MAX:
        return invalid(f"{field}.approver_keys", f"names more than {APPROVER_KEYS_MAX} keys")
    for key in policy.approver_keys:
        wrong = check_id(f"{field}.approver_keys", key)
        if wrong is not None:
            return wrong
    return _check_within(f"{field}.max_percent", policy.max_percent, 0, OVERRIDE_PERCENT_MAX) or _check_within(
        f"{field}.max_duration_s", policy.max_duration_s, 1, OVERRIDE_DURATION_S_MAX
    )


def check_put_budget(command: PutBudget) -> Refused | None:
    """See ``PutBudget``."""
    if command.if_version is not None and (wrong := check_amount("if_version", command.if_version)) is not None:
        return wrong
    return check_name("account", command.account) or check_budget(command)


def check_remove_budget(command: RemoveBudget) -> Refused | None:
    """See ``RemoveBudget``."""
    return check_name("account", command.account) or check_name("budget", command.budget)


def check_set_status(command: SetStatus) -> Refused | None:
    """See ``SetStatus``."""
    if command.status not in ("active", "suspended", "terminated", "closed"):
        return invalid("status", "must be active, suspended, terminated or closed")
    return check_name("account", command.account) or check_text("reason", command.reason, REASON_LENGTH_MAX)


def check_allocate(command: Allocate) -> Refused | None:
    """See ``Allocate``."""
    if command.unit not in UNIT_NAMES:
        return invalid("unit", f"unknown unit; units are {', '.join(UNITS)}")
    return (
        check_name("account", command.account)
        or check_amount("to", command.to)
        or check_instant("valid_until", command.valid_until)
        or check_text("reason", command.reason, REASON_LENGTH_MAX)
        or (check_amount("if_version", command.if_version) if command.if_version is not None else None)
    )


def check_deallocate(command: Deallocate) -> Refused | None:
    """See ``Deallocate``."""
    if command.unit not in UNIT_NAMES:
        return invalid("unit", f"unknown unit; units are {', '.join(UNITS)}")
    return check_name("account", command.account)


def check_transfer(command: Transfer) -> Refused | None:
    """See ``Transfer``."""
    if command.unit not in UNIT_NAMES:
        return invalid("unit", f"unknown unit; units are {', '.join(UNITS)}")
    wrong = (
        check_name("source", command.source)
        or check_name("target", command.target)
        or check_amount("amount", command.amount, least=1)
        or check_text("reason", command.reason, REASON_LENGTH_MAX)
    )
    if wrong is None and command.source == command.target:
        return invalid("target", "is the source itself")
    return wrong


def check_lend(command: Lend) -> Refused | None:
    """See ``Lend``."""
    if command.unit not in UNIT_NAMES:
        return invalid("unit", f"unknown unit; units are {', '.join(UNITS)}")
    wrong = (
        check_id("id", command.id)
        or check_name("account", command.account)
        or check_instant("valid_until", command.valid_until)
        or check_text("reason", command.reason, REASON_LENGTH_MAX)
    )
    if wrong is not None:
        return wrong
    if not 1 <= len(command.parts) <= LOAN_PARTS_MAX:
        return invalid("parts", f"must be 1 to {LOAN_PARTS_MAX} parts")
    for index, part in enumerate(command.parts):
        field = f"parts[{index}]"
        wrong = check_name(f"{field}.source", part.source) or check_amount(f"{field}.amount", part.amount, least=1)
        if wrong is not None:
            return wrong
        if part.source == command.account:
            return invalid(f"{field}.source", "is the one that borrows")
    if len({part.source for part in command.parts}) != len(command.parts):
        return invalid("parts", "names an account twice")
    return None


def check_give_back(command: GiveBack) -> Refused | None:
    """See ``GiveBack``."""
    return check_id("id", command.id)


def check_adjust(command: Adjust) -> Refused | None:
    """See ``Adjust``."""
    if type(command.amount) is not int or command.amount == 0 or abs(command.amount) > AMOUNT_MAX:
        return invalid("amount", f"must be an integer other than 0, at most {AMOUNT_MAX} either way")
    if not command.reason:
        return invalid("reason", "must say why")
    return (
        check_id("id", command.id)
        or check_name("account", command.account)
        or check_name("budget", command.budget)
        or check_text("reason", command.reason, REASON_LENGTH_MAX)
        or check_instant("valid_until", command.valid_until)
    )


def check_end_adjustment(command: EndAdjustment) -> Refused | None:
    """See ``EndAdjustment``."""
    return check_id("id", command.id) or check_name("account", command.account)


def check_request_override(command: RequestOverride) -> Refused | None:
    """See ``RequestOverride``."""
    if not command.reason:
        return invalid("reason", "must say why")
    if command.valid_s is not None and command.valid_until is not None:
        return invalid("valid_s", "and valid_until exclude each other")
    return (
        check_id("id", command.id)
        or check_name("account", command.account)
        or check_name("budget", command.budget)
        or check_amount("amount", command.amount, least=1)
        or check_text("reason", command.reason)
        or _check_seconds("valid_s", command.valid_s, OVERRIDE_DURATION_S_MAX)
        or check_instant("valid_until", command.valid_until)
        or _check_within("open_s", command.open_s, 1, OVERRIDE_OPEN_S_MAX)
    )


def check_approve_override(command: ApproveOverride) -> Refused | None:
    """See ``ApproveOverride``."""
    return (
        check_id("id", command.id)
        or check_text("reason", command.reason)
        or (check_amount("amount", command.amount, least=1) if command.amount is not None else None)
    )


def check_end_override(command: DenyOverride | RevokeOverride) -> Refused | None:
    """See ``DenyOverride`` and ``RevokeOverride``."""
    return check_id("id", command.id) or check_text("reason", command.reason)


def check_reset_gate(command: ResetGate) -> Refused | None:
    """See ``ResetGate``."""
    return check_name("account", command.account) or check_text("task", command.task)


def check_pattern(pattern: str) -> Refused | None:
    """``prefix*`` with one star, at the end, after at least one character."""
    wrong = check_name("pattern", pattern)
    if wrong is None and (not pattern.endswith("*") or pattern.count("*") != 1 or len(pattern) < 2):
        return invalid("pattern", "must be a prefix of at least one character followed by one '*'")
    return wrong


def check_put_template(command: PutTemplate) -> Refused | None:
    """See ``PutTemplate``."""
    wrong = (
        check_pattern(command.pattern)
        or (check_name("parent", command.parent) if command.parent is not None else None)
        or check_amounts("allocations", command.allocations)
        or _check_priority(command.priority)
        or check_amount("max_children", command.max_children, least=1)
        or check_amount("max_new_per_minute", command.max_new_per_minute, least=1)
        or (check_amount("idle_close_s", command.idle_close_s, least=1) if command.idle_close_s is not None else None)
        or _check_threshold(command.confidence_threshold)
        or _check_seconds("gate_s", command.gate_s, GATE_S_MAX)
        or check_shortage(command.shortage)
        or _check_grant_strategy(command.grant_strategy)
    )
    if wrong is not None:
        return wrong
    if command.gate_s is not None and command.confidence_threshold is None:
        return invalid("gate_s", "goes with confidence_threshold")
    if len(command.budgets) > TEMPLATE_BUDGETS_MAX:
        return invalid("budgets", f"has more than {TEMPLATE_BUDGETS_MAX} entries")
    names = [budget.budget or f"{budget.unit}-{budget.period}" for budget in command.budgets]
    if len(set(names)) != len(names):
        return invalid("budgets", "two budgets have the same name")
    for index, budget in enumerate(command.budgets):
        wrong = check_budget(budget, f"budgets[{index}].")
        if wrong is not None:
            return wrong
    return None


def check_remove_template(command: RemoveTemplate) -> Refused | None:
    """See ``RemoveTemplate``."""
    return check_pattern(command.pattern)


def check_put_price(command: PutPrice) -> Refused | None:
    """See ``PutPrice``."""
    wrong = (
        check_id("price", command.price)
        or _check_pattern("provider", command.provider)
        or _check_pattern("model", command.model)
        or _check_prices("rates", command.rates, RATES)
        or _check_prices("fees", command.fees, FEES)
        or (_check_pattern("service_tier", command.service_tier) if command.service_tier is not None else None)
        or check_instant("valid_from", command.valid_from)
        or check_instant("valid_to", command.valid_to)
    )
    if wrong is not None:
        return wrong
    for name in ("input", "output"):
        if name not in command.rates:
            return invalid(f"rates.{name}", "is missing")
    if len(command.tiers) > PRICE_TIERS_MAX:
        return invalid("tiers", f"has more than {PRICE_TIERS_MAX} entries")
    above = -1
    for index, tier in enumerate(command.tiers):
        field = f"tiers[{index}]"
        wrong = check_amount(f"{field}.above_input_tokens", tier.above_input_tokens, least=above + 1)
        wrong = wrong or _check_prices(f"{field}.rates", tier.rates, TIER_RATES)
        if wrong is not None:
            return wrong
        above = tier.above_input_tokens
    return None


def _check_pattern(field: str, value: str) -> Refused | None:
    """1 … 256 printable characters."""
    if type(value) is not str or not 0 < len(value) <= PRICE_PATTERN_LENGTH_MAX or not value.isprintable():
        return invalid(field, f"must be a text of 1 to {PRICE_PATTERN_LENGTH_MAX} characters")
    return None


def _check_prices(field: str, prices: Mapping[str, int], names: tuple[str, ...]) -> Refused | None:
    """Known names, each with nano-USD."""
    for name, price in prices.items():
        if name not in names:
            return invalid(f"{field}.{name:.50}", f"is none of {', '.join(names)}")
        if type(price) is not int or not 0 <= price <= PRICE_NANOUSD_MAX:
            return invalid(f"{field}.{name}", f"must be nano-USD, an integer in 0 … {PRICE_NANOUSD_MAX}")
    return None


def check_remove_price(command: RemovePrice) -> Refused | None:
    """See ``RemovePrice``."""
    return check_id("price", command.price)


def check_put_key(command: PutKey) -> Refused | None:
    """See ``PutKey``."""
    wrong = (
        check_id("key", command.key)
        or check_id("digest", command.digest)
        or check_text("label", command.label)
        or check_instant("expires_at", command.expires_at)
    )
    if wrong is not None:
        return wrong
    if command.role not in ("admin", "operator", "viewer", "account"):
        return invalid("role", "must be admin, operator, viewer or account")
    if (command.role == "account") != (command.account is not None):
        return invalid("account", "goes with the role 'account', and with no other")
    if command.requests_per_minute is not None:
        wrong = check_amount("requests_per_minute", command.requests_per_minute, least=1)
    return wrong or (check_name("account", command.account) if command.account is not None else None)


def check_revoke_key(command: RevokeKey) -> Refused | None:
    """See ``RevokeKey``."""
    return check_id("key", command.key)


def check_erase_name(command: EraseName) -> Refused | None:
    """See ``EraseName``."""
    return check_name("account", command.account)


def check_compound(command: Compound) -> Refused | None:
    """1 … 1,000 commands, each as it must be."""
    if not 1 <= len(command.commands) <= COMPOUND_LENGTH_MAX:
        return invalid("commands", f"must be 1 to {COMPOUND_LENGTH_MAX} commands")
    for index, part in enumerate(command.commands):
        wrong = check(part)
        if wrong is None and isinstance(part, Reserve) and part.wait_s:
            wrong = invalid("wait_s", "a hold within a compound cannot wait")
        if wrong is not None:
            return Refused(code="invalid", detail=wrong.detail, field=f"commands[{index}].{wrong.field}", index=index)
    return None


CHECKS: dict[type[Any], Callable[[Any], Refused | None]] = {
    Reserve: check_reserve,
    Settle: check_settle,
    Extend: check_extend,
    Release: check_release,
    Attend: check_attend,
    PutAccount: check_put_account,
    SetStatus: check_set_status,
    PutBudget: check_put_budget,
    RemoveBudget: check_remove_budget,
    Allocate: check_allocate,
    Deallocate: check_deallocate,
    Transfer: check_transfer,
    Lend: check_lend,
    GiveBack: check_give_back,
    Adjust: check_adjust,
    EndAdjustment: check_end_adjustment,
    RequestOverride: check_request_override,
    ApproveOverride: check_approve_override,
    DenyOverride: check_end_override,
    RevokeOverride: check_end_override,
    ResetGate: check_reset_gate,
    PutTemplate: check_put_template,
    RemoveTemplate: check_remove_template,
    PutPrice: check_put_price,
    RemovePrice: check_remove_price,
    PutKey: check_put_key,
    RevokeKey: check_revoke_key,
    EraseName: check_erase_name,
    Compound: check_compound,
}


def check(command: Any) -> Refused | None:
    """The first thing that is wrong with a command, or None."""
    mistyped = _check_types(command)
    try:
        wrong = CHECKS[type(command)](command)
    except (AttributeError, TypeError):
        if mistyped is None:
            raise
        return mistyped
    return wrong or mistyped


def _check_types(command: Any) -> Refused | None:
    """What is not of its type: in process nobody else looks, and what is written must be readable again."""
    try:
        msgspec.convert(msgspec.to_builtins(command, str_keys=False), type(command))
    except (msgspec.ValidationError, TypeError) as error:
        detail, _, place = str(error).partition(" - at `$.")
        return invalid(re.split(r"[.\[`]", place)[0] if place else "command", detail)
    return None
