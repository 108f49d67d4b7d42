import json

import pytest

from fiscus.api.economy.bodies import AllocateBody, ConsumeBody, Faults, read_body


def allocate(**fields) -> AllocateBody | Faults:
    return read_body(json.dumps({"agent_id": "a", "requested_tokens": 100} | fields).encode(), AllocateBody)


def consume(**fields) -> ConsumeBody | Faults:
    body = {"agent_id": "a", "tokens_consumed": 1, "value_generated": 0} | fields
    return read_body(json.dumps(body).encode(), ConsumeBody)


def test_a_request_says_who_asks_for_how_much_and_how_hard_the_task_is():
    # covers D17, D21, D22
    assert allocate() == AllocateBody(agent_id="a", requested_tokens=100, task_complexity=0.5)
    assert allocate(task_complexity=1).task_complexity == 1.0
    assert allocate(parent_agent_id="p").parent_agent_id == "p"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("requested_tokens", 0),
        ("requested_tokens", -1),
        ("requested_tokens", 10_000.5),
        ("requested_tokens", float("nan")),
        ("requested_tokens", float("inf")),
        ("requested_tokens", 2**63),
        ("requested_tokens", "many"),
        ("requested_tokens", True),
        ("requested_tokens", None),
        ("task_complexity", 0.09),
        ("task_complexity", 1.01),
        ("agent_id", ""),
        ("agent_id", "a" * 10_000),
        ("agent_id", 7),
        ("parent_agent_id", ""),
    ],
)
def test_a_request_out_of_bounds_is_refused_at_the_field(field, value):
    # covers D22, D36
    faults = allocate(**{field: value})
    assert isinstance(faults, Faults)
    [fault] = faults.detail
    assert fault.loc == (("body",) if value != value or value == float("inf") else ("body", field))
    assert fault.msg


@pytest.mark.parametrize("requested_tokens", [0.5, 1, 10_000, 10_000.0])
def test_a_request_within_bounds_is_taken(requested_tokens):
    # covers D22
    assert isinstance(allocate(requested_tokens=requested_tokens), AllocateBody)


@pytest.mark.parametrize("field", ["tokens_consumed", "value_generated"])
def test_a_report_needs_tokens_and_value_of_at_least_nothing(field):
    # covers D25
    assert isinstance(consume(**{field: 0}), ConsumeBody)
    assert isinstance(consume(**{field: -0.1}), Faults)
    assert isinstance(consume(**{field: float("nan")}), Faults)


def test_a_report_takes_amounts_up_to_what_json_keeps_exactly():
    # covers D25
    assert consume(tokens_consumed=2**53 - 1).tokens_consumed == 2**53 - 1
    assert isinstance(consume(tokens_consumed=2**53), Faults)
    assert consume(value_generated=1e308).value_generated == 1e308


@pytest.mark.parametrize("field", ["agent_id", "tokens_consumed", "value_generated"])
def test_a_missing_field_is_named_as_existing_clients_know_it(field):
    # covers D25, D36
    body = {"agent_id": "a", "tokens_consumed": 1, "value_generated": 0}
    del body[field]
    faults = read_body(json.dumps(body).encode(), ConsumeBody)
    assert isinstance(faults, Faults)
    [fault] = faults.detail
    assert (fault.type, fault.loc, fault.msg) == ("missing", ("body", field), "Field required")


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"null", b"{", b"\xff", b"tokens", b'{"agent_id":"a","x":' + b"[" * 5_000, b'{"agent_id":"\\ud800"}'],
)
def test_a_body_that_is_no_object_is_refused(raw):
    # covers D36
    faults = read_body(raw, AllocateBody)
    assert isinstance(faults, Faults)
    assert faults.detail[0].loc[0] == "body"


def test_unknown_fields_are_passed_over():
    # covers D21
    assert isinstance(allocate(purpose="test"), AllocateBody)
