import json
import re

from fiscus.api.economy import economy_paths, economy_schemas
from fiscus.api.economy.openapi import PREFIX


def test_every_address_of_the_token_economy_is_described():
    # covers D21, D25, D28, D30
    assert {(method, path) for path, methods in economy_paths().items() for method in methods} == {
        ("post", "/api/v1/tokens/allocate"),
        ("post", "/api/v1/tokens/consume"),
        ("post", "/api/v1/tokens/pause"),
        ("post", "/api/v1/tokens/resume"),
        ("get", "/api/v1/tokens/status"),
        ("get", "/api/v1/tokens/agent/{agent_id}"),
    }


def test_every_schema_that_is_named_is_there():
    text = json.dumps([economy_paths(), economy_schemas()])
    named = set(re.findall(rf"#/components/schemas/({PREFIX}\w+)", text))
    assert named <= economy_schemas().keys()


def test_the_bounds_of_a_request_are_in_its_schema():
    # covers D22
    properties = economy_schemas()["TokenEconomyAllocateBody"]["properties"]
    assert properties["requested_tokens"]["exclusiveMinimum"] == 0
    assert properties["requested_tokens"]["maximum"] == 10_000
    assert properties["task_complexity"] | {"description": ""} == {
        "type": "number",
        "minimum": 0.1,
        "maximum": 1.0,
        "default": 0.5,
        "description": "",
    }
