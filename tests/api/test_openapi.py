"""The OpenAPI document and the page beside it say everything that the table of routes says."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from fiscus.api import ApiOptions
from fiscus.api.bodies import Parameters
from fiscus.api.openapi import codes_of, document
from fiscus.api.problems import STATUSES
from fiscus.api.routes import ROUTES
from fiscus.app import ROUTES_OF_SERVICE
from scripts import openapi
from tests.api.service import Api, ledger

DOCUMENT = json.loads(json.dumps(document(ROUTES, "1.2.3")))
PAGE = (Path(__file__).parents[2] / "docs/reference/http.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_is_documented_with_its_parameters_and_headers(route):
    section = next((part for part in PAGE.split("\n## ") if f"`{route.method} {route.path}`" in part), None)
    assert section is not None, f"docs/reference/http.md does not name {route.method} {route.path}"
    everywhere = PAGE.split("\n## ")[1]
    for name in (*route.parameters.__struct_fields__, *route.headers):
        assert f"`{name}" in section or f"`{name}" in everywhere, f"{route.method} {route.path}: {name}"


@pytest.mark.parametrize("code", STATUSES)
def test_every_code_is_documented_with_its_status(code):
    assert re.search(rf"^\| {STATUSES[code]} \| .*`{code}`", PAGE, re.MULTILINE)


def test_every_field_that_a_route_of_the_page_names_exists():
    addresses = {f"{route.method} {route.path}" for route in ROUTES_OF_SERVICE}
    named = set(re.findall(r"`((?:GET|POST|PUT|DELETE) /[^`]*)`", PAGE))
    assert named == addresses


def test_the_document_has_every_route_and_nothing_else():
    described = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert described == {(route.method, route.path) for route in ROUTES}
    ids = [operation["operationId"] for methods in DOCUMENT["paths"].values() for operation in methods.values()]
    assert len(set(ids)) == len(ids) == len(ROUTES)


def test_every_reference_of_the_document_leads_somewhere():
    for reference in set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(DOCUMENT))):
        place: Any = DOCUMENT
        for part in reference.split("/"):
            place = place[part]
        assert place


def test_every_schema_is_a_json_schema():
    for name, schema in DOCUMENT["components"]["schemas"].items():
        jsonschema_rs.validator_for({**schema, "components": DOCUMENT["components"]})
        assert schema.get("description"), name


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_says_which_problems_it_answers(route):
    responses = DOCUMENT["paths"][route.path][route.method.lower()]["responses"]
    answered = {str(route.status), *(["202"] if route.spools or route.waits else [])}
    assert {str(STATUSES[code]) for code in codes_of(route)} | answered == responses.keys()
    assert all(code in STATUSES for code in route.problems)


def test_the_bounds_of_fields_are_in_the_schemas():
    schemas = DOCUMENT["components"]["schemas"]
    assert schemas["Amounts"]["properties"]["tokens"]["maximum"] == 2**53 - 1
    assert schemas["HoldBody"]["properties"]["lease_s"]["maximum"] == 86_400
    assert schemas["HoldBody"]["properties"]["account"]["$ref"] == "#/components/schemas/Name"
    assert schemas["HoldBody"]["additionalProperties"] is False
    assert schemas["UsageBody"]["required"] == ["id", "account"]
    assert schemas["BatchBody"]["properties"]["operations"]["maxItems"] == 1_000


def test_every_parameter_of_a_route_is_in_the_document():
    for route in ROUTES:
        operation = DOCUMENT["paths"][route.path][route.method.lower()]
        named = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "query"}
        assert named == set(route.parameters.__struct_fields__)
    assert Parameters.__struct_fields__ == ()


def test_the_committed_document_is_current(capsys):
    assert openapi.main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_document_is_noticed_and_written_anew(tmp_path, capsys):
    assert openapi.main(["--check"], root=tmp_path) == 1
    assert "make docs" in capsys.readouterr().err
    assert openapi.main([], root=tmp_path) == 0
    assert openapi.main(["--check"], root=tmp_path) == 0


def test_what_becomes_of_one_document_does_not_touch_the_next():
    document(ROUTES, "1.2.3")["paths"]["/v1/holds/{id}"]["get"]["parameters"][0]["schema"].clear()
    assert json.loads(json.dumps(document(ROUTES, "1.2.3"))) == DOCUMENT


async def test_a_service_shows_its_own_document_with_the_routes_of_others():
    async with ledger() as treasury:
        options = ApiOptions(version="1.2.3", extra_paths={"/x": {}}, extra_schemas={"X": {}})
        shown = (await Api(treasury, options).get("/v1/openapi.json")).json
    assert shown["openapi"] == "3.1.0"
    assert shown["info"]["version"] == "1.2.3"
    assert shown["paths"] == {**DOCUMENT["paths"], "/x": {}}
    assert shown["components"]["schemas"] == {**DOCUMENT["components"]["schemas"], "X": {}}
