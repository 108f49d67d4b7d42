"""The bounds on fields that the ledger checks (``core.checks``), as JSON Schema: they document, they decide nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fiscus.core.checks import (
    APPROVER_KEYS_MAX,
    ATTRIBUTES_MAX,
    FEES,
    GATE_S_MAX,
    LABELS_MAX,
    OVERRIDE_DURATION_S_MAX,
    OVERRIDE_OPEN_S_MAX,
    OVERRIDE_PERCENT_MAX,
    PRICE_NANOUSD_MAX,
    PRICE_PATTERN_LENGTH_MAX,
    PRIORITY_MAX,
    RATES,
    REASON_LENGTH_MAX,
    ROLES,
    TEMPLATE_BUDGETS_MAX,
    THRESHOLDS_MAX,
    TIER_RATES,
)
from fiscus.core.commands import ALSO_LENGTH_MAX, ID_LENGTH_MAX, LEASE_S_MAX
from fiscus.core.records import LIST_LENGTH_MAX, TEXT_LENGTH_MAX
from fiscus.core.units import AMOUNT_MAX, UNITS

REFERENCE = "#/components/schemas/{name}"
_PRINTABLE = r"[^\p{C}\p{Z}/]"

SHARED: dict[str, dict[str, Any]] = {
    "Id": {
        "type": "string",
        "minLength": 1,
        "maxLength": ID_LENGTH_MAX,
        "pattern": r"^(?: |[^\p{C}\p{Z}])+$",
        "description": "Printable characters.",
    },
    "Name": {
        "type": "string",
        "minLength": 1,
        "maxLength": ID_LENGTH_MAX,
        "pattern": rf"^{_PRINTABLE}(?:(?: |{_PRINTABLE})*{_PRINTABLE})?$",
        "description": "Printable characters without a slash, no space at the ends.",
    },
    "Pattern": {
        "type": "string",
        "minLength": 2,
        "maxLength": ID_LENGTH_MAX,
        "pattern": r"^[^\p{C}\p{Z}/*](?: |[^\p{C}\p{Z}/*])*\*$",
        "description": "The beginning of a name, and one star: `thread:*`.",
    },
    "HeaderId": {
        "type": "string",
        "minLength": 1,
        "maxLength": ID_LENGTH_MAX,
        "pattern": r"^[^\p{C}\p{Z}](?:(?: |[^\p{C}\p{Z}])*[^\p{C}\p{Z}])?$",
        "description": "Printable characters, no space at the ends, which a header does not keep.",
    },
    "ETags": {
        "type": "string",
        "maxLength": 1024,
        "pattern": r'^(\*|(W/)?"[^"\p{C}]*"(, ?(W/)?"[^"\p{C}]*")*)$',
        "description": "`*`, or versions in quotes.",
    },
    "Amount": {"type": "integer", "minimum": 0, "maximum": AMOUNT_MAX, "description": "In the unit it is for."},
    "Amounts": {
        "type": "object",
        "properties": {unit: {"type": "integer", "minimum": 0, "maximum": AMOUNT_MAX} for unit in UNITS},
        "additionalProperties": False,
        "description": "An amount per unit.",
    },
}
"""Schemas that stand once in the document."""

ID: dict[str, Any] = {"$ref": REFERENCE.format(name="Id")}
HEADER_ID: dict[str, Any] = {"$ref": REFERENCE.format(name="HeaderId")}
ETAGS: dict[str, Any] = {"$ref": REFERENCE.format(name="ETags")}
NAME: dict[str, Any] = {"$ref": REFERENCE.format(name="Name")}
PATTERN: dict[str, Any] = {"$ref": REFERENCE.format(name="Pattern")}
AMOUNT: dict[str, Any] = {"$ref": REFERENCE.format(name="Amount")}
AMOUNTS: dict[str, Any] = {"$ref": REFERENCE.format(name="Amounts")}
EVENT_ID: dict[str, Any] = {"type": "string", "pattern": "^[0-9]{1,16}$"}
POSITIVE: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": AMOUNT_MAX}
_NO_CONTROL = r"^(?: |[^\p{C}\p{Z}])+$"
_NO_NUL = r"^[^\u0000]*$"
TEXT: dict[str, Any] = {"type": "string", "maxLength": TEXT_LENGTH_MAX, "pattern": _NO_NUL}
REASON: dict[str, Any] = {"type": "string", "maxLength": REASON_LENGTH_MAX, "pattern": _NO_NUL}
PERIOD: dict[str, Any] = {
    "type": "string",
    "pattern": "^(hour|day|week|month|quarter|year|lifetime|every:[1-9][0-9]{0,7}|every [1-9][0-9]{0,7} seconds)$",
}


def _texts(count_max: int) -> dict[str, Any]:
    return {
        "type": "object",
        "maxProperties": count_max,
        "propertyNames": ID,
        "additionalProperties": TEXT,
    }


FIELDS: dict[str, dict[str, Any]] = {
    "id": ID,
    "account": NAME,
    "parent": NAME,
    "source": NAME,
    "target": NAME,
    "budget": NAME,
    "pattern": PATTERN,
    "also": {"type": "array", "items": NAME, "maxItems": ALSO_LENGTH_MAX, "uniqueItems": True},
    "lease_s": {"type": "integer", "minimum": 1, "maximum": LEASE_S_MAX},
    "attributes": _texts(ATTRIBUTES_MAX),
    "match": _texts(ATTRIBUTES_MAX),
    "labels": _texts(LABELS_MAX),
    "if_labels": _texts(LABELS_MAX),
    "metadata": _texts(LIST_LENGTH_MAX),
    "priority": {"type": "integer", "minimum": 1, "maximum": PRIORITY_MAX},
    "reason": REASON,
    "period": PERIOD,
    "confidence": {"type": "number", "minimum": 0, "maximum": 1},
    "value": {"type": "number"},
    "max_children": POSITIVE,
    "max_new_per_minute": POSITIVE,
    "idle_close_s": POSITIVE,
    "requests_per_minute": POSITIVE,
    "confidence_threshold": {"type": "number", "minimum": 0, "maximum": 1},
    "gate_s": {"type": "integer", "minimum": 1, "maximum": GATE_S_MAX},
    "valid_s": {"type": "integer", "minimum": 1, "maximum": OVERRIDE_DURATION_S_MAX},
    "open_s": {"type": "integer", "minimum": 1, "maximum": OVERRIDE_OPEN_S_MAX},
    "max_duration_s": {"type": "integer", "minimum": 1, "maximum": OVERRIDE_DURATION_S_MAX},
    "max_percent": {"type": "integer", "minimum": 0, "maximum": OVERRIDE_PERCENT_MAX},
    "approver_keys": {"type": "array", "items": ID, "maxItems": APPROVER_KEYS_MAX},
}
"""By the name of the field, in every body."""

_SIGNED = {"type": "integer", "minimum": -AMOUNT_MAX, "maximum": AMOUNT_MAX, "not": {"const": 0}}
_SOME = {**AMOUNTS, "description": "Not all of them 0."}
_WHY = {**REASON, "minLength": 1}
_OVERRIDES = ("RequestOverride", "OverrideBody", "ApproveOverride", "ApprovalBody")

_PATTERN_OF_PRICE = {"type": "string", "minLength": 1, "maxLength": PRICE_PATTERN_LENGTH_MAX, "pattern": _NO_CONTROL}


def _prices(names: Sequence[str], *, required: Sequence[str] = ()) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"type": "integer", "minimum": 0, "maximum": PRICE_NANOUSD_MAX} for name in names},
        "additionalProperties": False,
        **({"required": list(required)} if required else {}),
    }


FIELDS_OF: dict[tuple[str, str], dict[str, Any]] = {
    ("PriceBody", "provider"): _PATTERN_OF_PRICE,
    ("PriceBody", "model"): _PATTERN_OF_PRICE,
    ("PriceBody", "service_tier"): _PATTERN_OF_PRICE,
    ("PriceBody", "rates"): _prices(RATES, required=("input", "output")),
    ("PriceBody", "fees"): _prices(FEES),
    ("PriceTier", "rates"): _prices(TIER_RATES),
    ("Transfer", "amount"): POSITIVE,
    ("TransferBody", "amount"): POSITIVE,
    ("LoanPart", "amount"): POSITIVE,
    ("LoanPart", "source"): NAME,
    ("Alternative", "amounts"): _SOME,
    ("Alternative", "model"): ID,
    ("Adjust", "amount"): _SIGNED,
    ("AdjustmentBody", "amount"): _SIGNED,
    ("Adjust", "reason"): _WHY,
    ("AdjustmentBody", "reason"): _WHY,
    ("Reserve", "amounts"): _SOME,
    ("HoldBody", "amounts"): _SOME,
    **{(name, "amount"): POSITIVE for name in _OVERRIDES},
    **{(name, "reason"): {**TEXT, "minLength": 1} for name in _OVERRIDES[:2]},
    **{(name, "reason"): TEXT for name in (*_OVERRIDES[2:], "DenyOverride", "RevokeOverride", "DecisionBody")},
    ("OverridePolicy", "approvers"): {"type": "array", "items": {"enum": list(ROLES)}, "maxItems": len(ROLES)},
}
"""By the name of the type and of the field, where that is not enough."""

_MAP_OF_INTEGERS = {"type": "object", "additionalProperties": {"type": "integer"}}
_LIST_OF_TEXTS = {"type": "array", "items": {"type": "string"}}


def bounded(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a body, or of something in one, with its bounds."""
    properties = {
        field: _field(FIELDS_OF.get((name, field)) or FIELDS.get(field), value)
        for field, value in schema.get("properties", {}).items()
    }
    return {**schema, "properties": properties} if properties else schema


def _field(known: dict[str, Any] | None, schema: dict[str, Any]) -> dict[str, Any]:
    """A property with what is known of it by name, else by its kind; None and defaults stay allowed."""
    kinds = schema.get("anyOf")
    if isinstance(kinds, list):
        rest = {key: value for key, value in schema.items() if key != "anyOf"}
        return {"anyOf": [kind if kind == {"type": "null"} else _kind(known, kind) for kind in kinds], **rest}
    default = {"default": schema["default"]} if "default" in schema else {}
    return {**_kind(known, {key: value for key, value in schema.items() if key != "default"}), **default}


def _kind(known: dict[str, Any] | None, schema: dict[str, Any]) -> dict[str, Any]:
    if known is not None:
        return known
    if schema == {"type": "integer"}:
        return AMOUNT
    if schema == {"type": "string"}:
        return TEXT
    if schema == _MAP_OF_INTEGERS:
        return AMOUNTS
    if schema == _LIST_OF_TEXTS:
        return {"type": "array", "items": TEXT, "maxItems": LIST_LENGTH_MAX}
    if schema.get("type") == "object" and "enum" in schema.get("additionalProperties", {}):
        return {**schema, "maxProperties": THRESHOLDS_MAX, "propertyNames": {"pattern": "^([1-9][0-9]{0,2}|1000)$"}}
    if schema.get("type") == "array" and "$ref" in schema.get("items", {}):
        return {**schema, "maxItems": TEMPLATE_BUDGETS_MAX}
    return schema


def unbounded(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of an answer: amounts per unit are told from other mappings."""
    properties = {
        field: ({**AMOUNTS, **({"default": value["default"]} if "default" in value else {})})
        if {key: part for key, part in value.items() if key != "default"} == _MAP_OF_INTEGERS
        else value
        for field, value in schema.get("properties", {}).items()
    }
    return {**schema, "properties": properties} if properties else schema
