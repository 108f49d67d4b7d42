"""The token economy's part of the OpenAPI document, made from its routes and types."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from fiscus.api.economy.bodies import AGENT_FIELDS, AGENT_ID_LENGTH_MAX, Faults, Problem
from fiscus.api.economy.routes import ROUTES, EconomyRoute
from fiscus.api.schemas import SHARED
from fiscus.core.commands import ID_LENGTH_MAX

PREFIX = "TokenEconomy"
REFERENCE = "#/components/schemas/" + PREFIX + "{name}"

Schema = dict[str, Any]

AGENT_ID: Schema = SHARED["Name"] | {"maxLength": AGENT_ID_LENGTH_MAX}
IDEMPOTENCY_KEY: Schema = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Makes a repeat of the request answer the same, without a second effect.",
    "schema": {
        "type": "string",
        "minLength": 1,
        "maxLength": ID_LENGTH_MAX,
        "pattern": r"^[^\p{C}\p{Z}](?:(?: |[^\p{C}\p{Z}])*[^\p{C}\p{Z}])?$",
    },
}


def economy_paths() -> dict[str, Schema]:
    """What belongs under ``paths``."""
    paths: dict[str, Schema] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return paths


def economy_schemas() -> dict[str, Schema]:
    """What belongs under ``components/schemas``; the names carry a prefix of their own."""
    types: list[type[msgspec.Struct]] = [Problem, Faults]
    for route in ROUTES:
        types += [route.answer] if route.body is None else [route.answer, route.body]
    _, schemas = msgspec.json.schema_components(types, ref_template=REFERENCE)
    return {PREFIX + name: _bounded(schema) for name, schema in sorted(schemas.items())}


def _bounded(schema: Schema) -> Schema:
    """A body's schema with the bounds on names of agents, which the ledger checks."""
    properties = dict(schema["properties"])
    for name in AGENT_FIELDS:
        if "minLength" in properties.get(name, {}):
            properties[name] = AGENT_ID
        elif any("minLength" in either for either in properties.get(name, {}).get("anyOf", ())):
            properties[name] = {"anyOf": [AGENT_ID, {"type": "null"}], "default": None}
    return {**schema, "properties": properties}


def _operation(route: EconomyRoute) -> Schema:
    last = re.sub(r"\W+", "_", route.path.removeprefix("/api/v1/")).strip("_")
    parameters: list[Schema] = [
        {"name": name, "in": "path", "required": True, "schema": AGENT_ID}
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]
    operation: Schema = {
        "operationId": f"{route.method.lower()}_{last}",
        "summary": route.summary,
        "tags": ["token economy"],
        "parameters": parameters if route.body is None else [*parameters, IDEMPOTENCY_KEY],
        "responses": _responses(route),
        "security": [{"bearer": []}, {"key": []}, {}],
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _of(route.body)}}}
    return operation


def _responses(route: EconomyRoute) -> Schema:
    responses: Schema = {"200": _response("Done.", _of(route.answer))}
    for status in route.refusals:
        responses[str(status)] = _response("Why not, in ``detail``.", _of(Problem), also="application/problem+json")
    if route.body is not None:
        responses["422"] = _response("What is wrong, and where.", _of(Faults))
    return responses


def _response(description: str, schema: Schema, also: str | None = None) -> Schema:
    kinds = ["application/json"] if also is None else ["application/json", also]
    return {"description": description, "content": {kind: {"schema": schema} for kind in kinds}}


def _of(kind: type[msgspec.Struct]) -> Schema:
    return {"$ref": REFERENCE.format(name=kind.__name__)}
