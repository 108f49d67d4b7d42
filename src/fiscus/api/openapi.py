"""The OpenAPI 3.1 document, made from the table of routes and the types of bodies and answers; never by hand."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from types import MappingProxyType
from typing import Any

import msgspec

from fiscus.api.answers import KeyIssued
from fiscus.api.calls import Route
from fiscus.api.problems import CONTENT_TYPE, STATUSES, Problem
from fiscus.api.schemas import ETAGS, HEADER_ID, ID, NAME, PATTERN, REFERENCE, SHARED, bounded, unbounded
from fiscus.core.outcomes import (
    AccountAnswer,
    AdjustmentAnswer,
    BudgetAnswer,
    HoldAnswer,
    LoanAnswer,
    Spooled,
    TemplateAnswer,
)
from fiscus.core.units import UNITS

PATH_SCHEMAS: dict[str, dict[str, Any]] = {
    "account": NAME,
    "budget": NAME,
    "id": ID,
    "key": ID,
    "pattern": PATTERN,
    "price": ID,
    "unit": {"enum": list(UNITS)},
    "kind": {"enum": ["usage", "cost", "optimization"]},
    "request_id": {"type": "string", "minLength": 1, "maxLength": 512},
    "workflow_id": {"type": "string", "minLength": 1, "maxLength": 512},
}

HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Idempotency-Key": ("Makes a repeat of the request answer the same, without a second effect.", HEADER_ID),
    "If-Match": ("Do it only at this version (an ETag), or `*`: only if there is one.", ETAGS),
    "If-None-Match": ("`*`: do it only if there is none yet.", ETAGS),
    "Last-Event-ID": (
        "The id of the last event seen; the next one follows it.",
        {"type": "string", "pattern": "^[0-9]{1,16}$"},
    ),
}

LINKS: dict[Any, tuple[str, dict[str, str]]] = {
    HoldAnswer: ("/v1/holds/{id}", {"id": "$response.body#/id"}),
    AccountAnswer: ("/v1/accounts/{account}", {"account": "$response.body#/account"}),
    BudgetAnswer: (
        "/v1/accounts/{account}/budgets/{budget}",
        {"account": "$response.body#/budget/account", "budget": "$response.body#/budget/budget"},
    ),
    AdjustmentAnswer: (
        "/v1/accounts/{account}/adjustments/{id}",
        {"account": "$response.body#/account", "id": "$response.body#/id"},
    ),
    LoanAnswer: ("/v1/loans/{id}", {"id": "$response.body#/id"}),
    TemplateAnswer: ("/v1/templates/{pattern}", {"pattern": "$response.body#/pattern"}),
    KeyIssued: ("/v1/keys/{key}", {"key": "$response.body#/key/key"}),
}
"""Answer → the addresses that it leads to."""

ALWAYS = ("malformed", "forbidden", "too_large", "invalid", "internal")
UNAVAILABLE = ("budget_unavailable", "drift", "treasury_error", "ledger_busy", "ledger_corrupt", "unknown_format")


def document(
    routes: Sequence[Route],
    version: str,
    *,
    paths: Mapping[str, Any] = MappingProxyType({}),
    schemas: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """The whole document as plain data.

    ``paths`` and ``schemas`` are what is said elsewhere of routes that are not in the table.
    """
    described: dict[str, dict[str, Any]] = {}
    for route in routes:
        described.setdefault(route.path, {})[route.method.lower()] = _operation(route, routes)
    whole = {
        "openapi": "3.1.0",
        "info": {
            "title": "Fiscus",
            "summary": "A treasury for AI agents: budgets that hold before the money is spent.",
            "description": "Amounts are integers of at most 2^53 − 1; cost is in nano-USD. Times are RFC 3339 in UTC.",
            "version": version or "0",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {**described, **paths},
        "components": {
            "schemas": {**_components(routes), **schemas},
            "responses": _problem_responses(routes),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            },
        },
    }
    return deepcopy(whole)  # the caller's own: constants of ours are in it


def codes_of(route: Route) -> frozenset[str]:
    """Every code of a problem that a route may answer."""
    codes = {*ALWAYS, *UNAVAILABLE, *route.problems}
    if route.access != "open":
        codes |= {"unauthorized", "rate_limited"}
    if route.method in ("POST", "PUT"):
        codes.add("unsupported_media_type")
    if "Idempotency-Key" in route.headers:
        codes |= {"conflict", "idempotency_expired"}
    return frozenset(codes)


def _operation(route: Route, routes: Sequence[Route]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "description": _access_text(route),
        "parameters": [*_path_parameters(route), *_query_parameters(route), *_header_parameters(route)],
        "responses": _responses(route, routes),
        "security": [] if route.access == "open" else [{"bearer": []}, {"key": []}, {}],
    }
    if route.body is not None:
        schema = {"$ref": REFERENCE.format(name=route.body.__name__)}
        operation["requestBody"] = {
            "required": not route.body_optional,
            "content": {"application/json": {"schema": schema}},
        }
    return operation


def _access_text(route: Route) -> str:
    return {
        "open": "Needs no key.",
        "read": "For every key; one that is bound to an account sees that and what is below.",
        "read_all": "For keys that are not bound to an account.",
        "write": "For administrators, operators, and keys bound to an account, for that and what is below.",
        "operate": "For administrators and operators.",
        "administer": "For administrators.",
    }[route.access]


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": PATH_SCHEMAS[name]}
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    (schema,), components = msgspec.json.schema_components([route.parameters], ref_template=REFERENCE)
    properties = components[schema["$ref"].rpartition("/")[2]]["properties"]
    return [
        {"name": name, "in": "query", "required": False, "schema": _without_null(properties[name])}
        for name in properties
    ]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter that is not given is not null: it is not there."""
    if schema.get("default", 0) is None:
        schema = {name: value for name, value in schema.items() if name != "default"}
    kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    if len(kinds) == 1:
        return kinds[0]  # type: ignore[no-any-return]  # a schema
    if isinstance(schema.get("enum"), list):
        return {"enum": [value for value in schema["enum"] if value is not None]}
    return schema


def _header_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "required": False, "description": HEADERS[name][0], "schema": HEADERS[name][1]}
        for name in route.headers
    ]


def _responses(route: Route, routes: Sequence[Route]) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": "Done.",
        "content": {route.content_type: {"schema": _answer_schema(route)}},
    }
    if route.etag:
        answer["headers"] = {"ETag": {"description": "The version.", "schema": {"type": "string"}}}
    links = _links(route, routes)
    if links:
        answer["links"] = links
    responses = {str(route.status): answer}
    if route.spools:
        responses["202"] = {
            "description": "The ledger is away: kept on the disk, it will be booked with the same id.",
            "content": {"application/json": {"schema": {"$ref": REFERENCE.format(name=Spooled.__name__)}}},
        }
    if route.waits:
        responses["202"] = {
            "description": "It waits for room (wait_s): ask again with the same id, and it keeps its place.",
            "content": {"application/json": {"schema": {"$ref": REFERENCE.format(name=route.answer.__name__)}}},
        }
    for status, codes in _by_status(route).items():
        responses[str(status)] = {"$ref": f"#/components/responses/{_response_name(status, codes)}"}
    if route.unready:
        unready = {route.content_type: {"schema": _answer_schema(route)}}
        responses["503"] = {"description": "Calls are not admitted, and why.", "content": unready}
    return responses


def _response_name(status: int, codes: list[str]) -> str:
    return ".".join([str(status), *codes])


def _problem_responses(routes: Sequence[Route]) -> dict[str, Any]:
    """Every set of codes that some route answers with one status."""
    responses = {}
    for route in routes:
        for status, codes in _by_status(route).items():
            responses[_response_name(status, codes)] = _problem_response(codes)
    return dict(sorted(responses.items()))


def _by_status(route: Route) -> dict[int, list[str]]:
    by_status: dict[int, list[str]] = {}
    for code in sorted(codes_of(route)):
        by_status.setdefault(STATUSES[code], []).append(code)
    return dict(sorted(by_status.items()))


def _answer_schema(route: Route) -> dict[str, Any]:
    if route.content_type == "text/event-stream":
        return {"type": "string", "description": "Events; the data of each is an Entry."}
    if route.answer is dict:
        return {"type": "object"}
    return {"type": "string"} if route.answer is str else {"$ref": REFERENCE.format(name=route.answer.__name__)}


def _problem_response(codes: list[str]) -> dict[str, Any]:
    schema = {"allOf": [{"$ref": REFERENCE.format(name="Problem")}, {"properties": {"code": {"enum": codes}}}]}
    response: dict[str, Any] = {
        "description": ", ".join(codes),
        "content": {CONTENT_TYPE: {"schema": schema}},
    }
    if STATUSES[codes[0]] in (429, 503):
        response["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 0}}}
    return response


def _links(route: Route, routes: Sequence[Route]) -> dict[str, Any]:
    """From an answer to the operations that take what it names."""
    found = LINKS.get(route.answer)
    if found is None:
        return {}
    prefix, parameters = found
    names = set(re.findall(r"\{(\w+)\}", prefix))
    return {
        other.operation: {"operationId": other.operation, "parameters": parameters}
        for other in routes
        if other.path.startswith(prefix) and set(re.findall(r"\{(\w+)\}", other.path)) == names
    }


def _components(routes: Iterable[Route]) -> dict[str, Any]:
    """The schemas of all types. Those of bodies carry the bounds that the ledger checks."""
    routes = list(routes)
    answers = [route.answer for route in routes if route.answer not in (dict, str)]
    if any(route.spools for route in routes):
        answers.append(Spooled)
    bodies = [route.body for route in routes if route.body is not None]
    _, of_answers = msgspec.json.schema_components([Problem, *answers], ref_template=REFERENCE)
    _, of_bodies = msgspec.json.schema_components(bodies, ref_template=REFERENCE)
    components = {name: unbounded(schema) for name, schema in of_answers.items()}
    components |= {name: bounded(name, schema) for name, schema in of_bodies.items()}
    components |= SHARED
    return {name: _described(components[name]) for name in sorted(components)}


def _described(schema: dict[str, Any]) -> dict[str, Any]:
    """Move what a docstring says about attributes to the properties it is about."""
    text = inspect.cleandoc(schema.get("description", ""))
    summary, _, attributes = text.partition("\n\nAttributes:\n")
    properties = {name: dict(value) for name, value in schema.get("properties", {}).items()}
    for names, sentence in re.findall(r"^    (\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE):
        for name in names.split(", "):
            if name in properties:
                properties[name]["description"] = " ".join(sentence.split())
    described = {**schema, "description": " ".join(summary.split())}
    if properties:
        described["properties"] = properties
    return described
