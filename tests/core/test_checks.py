"""What is wrong with a command is said before anything is decided, by naming the field (design.md §7)."""

from datetime import UTC, datetime
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.core import checks
from fiscus.core.checks import CHECKS, check, check_id, check_name, to_datetime, to_ms
from fiscus.core.commands import (
    Adjust,
    Allocate,
    Alternative,
    AnyCommand,
    ApproveOverride,
    Attend,
    Compound,
    Deallocate,
    DenyOverride,
    EndAdjustment,
    EraseName,
    Extend,
    GiveBack,
    Lend,
    LoanPart,
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
    SetStatus,
    Settle,
    TemplateBudget,
    Transfer,
)
from fiscus.core.records import CallRecord, Provenance, Tokens
from fiscus.core.units import AMOUNT_MAX
from tests.core.builders import Ledger, rows

LONG = "x" * 129
AWARE = datetime(2030, 1, 1, tzinfo=UTC)
NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001  what is checked is that it has no zone
FAR = datetime(9999, 1, 1, tzinfo=UTC)


def reserve(**fields):
    return Reserve(**{"id": "h", "account": "a", "amounts": {"tokens": 1}, **fields})


def settle(**fields):
    return Settle(**{"id": "h", "account": "a", "total": {"tokens": 1}, **fields})


def budget(**fields):
    return PutBudget(**{"account": "a", "unit": "tokens", "limit": 1, **fields})


def lend(*parts, **fields):
    shares = tuple(LoanPart(source=source, amount=amount) for source, amount in parts or [("b", 1)])
    return Lend(**{"id": "l", "account": "a", "unit": "tokens", "parts": shares, **fields})


def allocate(**fields):
    return Allocate(**{"account": "a", "unit": "tokens", "to": 1, **fields})


def transfer(**fields):
    return Transfer(**{"source": "a", "target": "b", "unit": "tokens", "amount": 1, **fields})


def adjust(**fields):
    return Adjust(**{"id": "x", "account": "a", "budget": "t", "amount": 1, "reason": "why", **fields})


def override(**fields):
    return RequestOverride(**{"id": "o", "account": "a", "budget": "t", "amount": 1, "reason": "why", **fields})


def policy(**fields):
    return budget(override=OverridePolicy(**fields))


def gate(threshold=0.5, **fields):
    return PutAccount(account="a", confidence_threshold=threshold, **fields)


def template(**fields):
    return PutTemplate(**{"pattern": "t:*", **fields})


def key(**fields):
    return PutKey(**{"key": "k", "digest": "d", "role": "admin", **fields})


def record(**fields):
    return settle(record=CallRecord(**fields))


WRONG = [
    (reserve(id=""), "id"),
    (reserve(id=LONG), "id"),
    (reserve(id="a\nb"), "id"),
    (reserve(id="a\x00"), "id"),
    (reserve(id="\ud800"), "id"),
    (reserve(id="x" * 10_000), "id"),
    (reserve(account=""), "account"),
    (reserve(account="a/b"), "account"),
    (reserve(account=" a"), "account"),
    (reserve(account="a "), "account"),
    (reserve(amounts={"tokens": 0}), "amounts.tokens"),
    (reserve(amounts={"tokens": -1}), "amounts.tokens"),
    (reserve(amounts={"tokens": AMOUNT_MAX + 1}), "amounts.tokens"),
    (reserve(amounts={"tokens": 2**63}), "amounts.tokens"),
    (reserve(amounts={"tokens": 1.0}), "amounts.tokens"),
    (reserve(amounts={"tokens": True}), "amounts.tokens"),
    (reserve(amounts={"tokens": float("nan")}), "amounts.tokens"),
    (reserve(amounts={"tokens": float("inf")}), "amounts.tokens"),
    (reserve(amounts={"tokens": "1"}), "amounts.tokens"),
    (reserve(amounts={"euros": 1}), "amounts"),
    (reserve(lease_s=0), "lease_s"),
    (reserve(lease_s=86_401), "lease_s"),
    (reserve(lease_s=1.5), "lease_s"),
    (reserve(also=("b", "b")), "also"),
    (reserve(also=tuple("bcdefghij")), "also"),
    (reserve(also=("b", "")), "also[1]"),
    (reserve(attributes={"": "x"}), "attributes"),
    (reserve(attributes={"model": "x" * 513}), "attributes.model"),
    (reserve(attributes={"model": "a\x00"}), "attributes.model"),
    (reserve(attributes={f"k{n}": "x" for n in range(33)}), "attributes"),
    (reserve(parent="a/b"), "parent"),
    (Extend(id=""), "id"),
    (Extend(id="h", to={"tokens": -1}), "to.tokens"),
    (Extend(id="h", lease_s=0), "lease_s"),
    (settle(id=""), "id"),
    (settle(total={"tokens": -50}), "total.tokens"),
    (settle(total={"tokens": 0.8}), "total.tokens"),
    (settle(account="a/b"), "account"),
    (settle(also=("b", "b")), "also"),
    (settle(attributes={"": "x"}), "attributes"),
    (settle(parent=""), "parent"),
    (record(tokens=Tokens(input=-1)), "record.tokens.input"),
    (record(tokens=Tokens(tool_results=AMOUNT_MAX + 1)), "record.tokens.tool_results"),
    (record(cost_nanousd=-1), "record.cost_nanousd"),
    (record(duration_ms=-1), "record.duration_ms"),
    (record(value=float("nan")), "record.value"),
    (record(value=float("inf")), "record.value"),
    (record(confidence=1.01), "record.confidence"),
    (record(confidence=float("nan")), "record.confidence"),
    (record(model="x" * 513), "record.model"),
    (record(error_message="\ud800"), "record.error_message"),
    (record(model="a\x00b"), "record.model"),
    (record(metadata={"k": "a\x00b"}), "record.metadata.k"),
    (record(metadata={"k": "\udfff"}), "record.metadata.k"),
    (record(metadata={"k": "x" * 513}), "record.metadata.k"),
    (record(metadata={"k": 1}), "record.metadata.k"),
    (record(tokens=Tokens(output=1.5)), "record.tokens.output"),
    (record(duration_ms=True), "record.duration_ms"),
    (record(tools=tuple("x" for _ in range(65))), "record.tools"),
    (record(tools=("x" * 513,)), "record.tools"),
    (record(metadata={f"k{n}": "x" for n in range(65)}), "record.metadata"),
    (record(provenance=Provenance(depth=-1)), "record.provenance.depth"),
    (record(provenance=Provenance(input_hash="x" * 513)), "record.provenance.input_hash"),
    (Release(id=""), "id"),
    (Release(id="h", account=""), "account"),
    (PutAccount(account=""), "account"),
    (PutAccount(account="a", parent="a"), "parent"),
    (PutAccount(account="a", parent="a/b"), "parent"),
    (PutAccount(account="a", priority=0), "priority"),
    (PutAccount(account="a", priority=1.5), "priority"),
    (PutAccount(account="a", min_reserve={"tokens": -1}), "min_reserve.tokens"),
    (PutAccount(account="a", labels={"k": "x" * 513}), "labels.k"),
    (PutAccount(account="a", labels={f"k{n}": "x" for n in range(65)}), "labels"),
    (SetStatus(account="a", status="asleep"), "status"),
    (SetStatus(account="", status="active"), "account"),
    (SetStatus(account="a", status="active", reason="x" * 2_001), "reason"),
    (budget(account=""), "account"),
    (budget(unit="euros"), "unit"),
    (budget(limit=-1), "limit"),
    (budget(limit=AMOUNT_MAX + 1), "limit"),
    (budget(limit=10.0), "limit"),
    (budget(budget="a/b"), "budget"),
    (budget(period="fortnight"), "period"),
    (budget(period="every:0"), "period"),
    (budget(zone="Mars/Olympus"), "zone"),
    (budget(thresholds={0: "info"}), "thresholds"),
    (budget(thresholds={1_001: "info"}), "thresholds"),
    (budget(thresholds=[50, 80, 90]), "thresholds"),
    (budget(thresholds={50: "loud"}), "thresholds"),
    (budget(mode="strict"), "mode"),
    (budget(mode=["warn"]), "mode"),
    (budget(on_exhaustion="explode"), "on_exhaustion"),
    (budget(carry_over="all"), "carry_over"),
    (budget(carry_debt="yes"), "carry_debt"),
    (PutAccount(account="a", shortage=("pray",)), "shortage"),
    (PutAccount(account="a", labels=["x"]), "labels"),
    (Settle(id="h", account="a", record=CallRecord(outcome="fine")), "record.outcome"),
    (Settle(id="h", account="a", record=CallRecord(cost_source="a guess")), "record.cost_source"),
    (budget(thresholds={0.8: "info"}), "thresholds"),
    (budget(thresholds=dict.fromkeys(range(1, 18), "info")), "thresholds"),
    (budget(match={"": "x"}), "match"),
    (budget(carry_max=-1), "carry_max"),
    (budget(if_version=-1), "if_version"),
    (RemoveBudget(account="", budget="t"), "account"),
    (RemoveBudget(account="a", budget=""), "budget"),
    (allocate(account=""), "account"),
    (allocate(unit="euros"), "unit"),
    (allocate(to=-1), "to"),
    (allocate(valid_until=NAIVE), "valid_until"),
    (allocate(valid_until=FAR), "valid_until"),
    (allocate(reason="x" * 2_001), "reason"),
    (allocate(if_version=-1), "if_version"),
    (Deallocate(account="", unit="tokens"), "account"),
    (Deallocate(account="a", unit="euros"), "unit"),
    (transfer(source=""), "source"),
    (transfer(target=""), "target"),
    (transfer(target="a"), "target"),
    (transfer(unit="euros"), "unit"),
    (transfer(amount=0), "amount"),
    (transfer(reason="x" * 2_001), "reason"),
    (adjust(id=""), "id"),
    (adjust(amount=0), "amount"),
    (adjust(amount=1.5), "amount"),
    (adjust(amount=-(2**53)), "amount"),
    (adjust(reason=""), "reason"),
    (adjust(reason="x" * 2_001), "reason"),
    (adjust(valid_until=NAIVE), "valid_until"),
    (EndAdjustment(id="", account="a"), "id"),
    (EndAdjustment(id="x", account=""), "account"),
    (override(id=""), "id"),
    (override(account="a/b"), "account"),
    (override(budget=""), "budget"),
    (override(amount=0), "amount"),
    (override(amount=-5), "amount"),
    (override(amount=1e308), "amount"),
    (override(amount=AMOUNT_MAX + 1), "amount"),
    (override(reason=""), "reason"),
    (override(reason="x" * 513), "reason"),
    (override(valid_s=0), "valid_s"),
    (override(valid_s=31_536_001), "valid_s"),
    (override(valid_s=1, valid_until=AWARE), "valid_s"),
    (override(valid_until=NAIVE), "valid_until"),
    (override(open_s=0), "open_s"),
    (override(open_s=604_801), "open_s"),
    (override(open_s=None), "open_s"),
    (ApproveOverride(id=""), "id"),
    (ApproveOverride(id="o", amount=0), "amount"),
    (ApproveOverride(id="o", amount=float("nan")), "amount"),
    (ApproveOverride(id="o", reason="x" * 513), "reason"),
    (DenyOverride(id=""), "id"),
    (DenyOverride(id="o", reason="x" * 513), "reason"),
    (RevokeOverride(id=""), "id"),
    (RevokeOverride(id="o", reason="\ud800"), "reason"),
    (policy(approvers=("king",)), "override.approvers"),
    (policy(approvers=("admin",) * 5), "override.approvers"),
    (policy(approver_keys=("",)), "override.approver_keys"),
    (policy(approver_keys=tuple(f"k{n}" for n in range(33))), "override.approver_keys"),
    (policy(max_percent=-1), "override.max_percent"),
    (policy(max_percent=10_001), "override.max_percent"),
    (policy(max_percent=0.5), "override.max_percent"),
    (policy(max_duration_s=0), "override.max_duration_s"),
    (policy(max_duration_s=31_536_001), "override.max_duration_s"),
    (policy(max_duration_s=None), "override.max_duration_s"),
    (
        template(budgets=(TemplateBudget(unit="tokens", limit=1, override=OverridePolicy(max_percent=-1)),)),
        "budgets[0].override.max_percent",
    ),
    (gate(1.01), "confidence_threshold"),
    (gate(-0.1), "confidence_threshold"),
    (gate(float("nan")), "confidence_threshold"),
    (gate(float("inf")), "confidence_threshold"),
    (gate(1e308), "confidence_threshold"),
    (gate(True), "confidence_threshold"),
    (gate("0.5"), "confidence_threshold"),
    (gate(gate_s=0), "gate_s"),
    (gate(gate_s=31_536_001), "gate_s"),
    (gate(gate_s=1.5), "gate_s"),
    (gate(None, gate_s=5), "gate_s"),
    (PutAccount(account="a", gate_s=5), "gate_s"),
    (PutAccount(account="new", gate_s=5), "gate_s"),
    (ResetGate(account=""), "account"),
    (reserve(wait_s=-1), "wait_s"),
    (reserve(wait_s=3_601), "wait_s"),
    (reserve(wait_s=True), "wait_s"),
    (Attend(id=""), "id"),
    (ResetGate(account="a", task="x" * 513), "task"),
    (template(confidence_threshold=2.0), "confidence_threshold"),
    (template(confidence_threshold=0.5, gate_s=0), "gate_s"),
    (template(gate_s=5), "gate_s"),
    (template(pattern="*"), "pattern"),
    (template(pattern="t"), "pattern"),
    (template(pattern="t*x*"), "pattern"),
    (template(pattern="t*x"), "pattern"),
    (template(parent=""), "parent"),
    (template(allocations={"tokens": -1}), "allocations.tokens"),
    (template(priority=0), "priority"),
    (template(max_children=0), "max_children"),
    (template(max_new_per_minute=0), "max_new_per_minute"),
    (template(idle_close_s=0), "idle_close_s"),
    (template(budgets=(TemplateBudget(unit="tokens", limit=1),) * 2), "budgets"),
    (template(budgets=tuple(TemplateBudget(unit="tokens", limit=1, budget=f"b{n}") for n in range(33))), "budgets"),
    (template(budgets=(TemplateBudget(unit="tokens", limit=-1),)), "budgets[0].limit"),
    (template(shortage=("clamp", "clamp")), "shortage"),
    (PutAccount(account="a", shortage=("deny", "clamp")), "shortage"),
    (PutAccount(account="a", shortage=("beg",)), "shortage"),
    (template(shortage=("beg",)), "shortage"),
    (PutAccount(account="a", grant_strategy="fair"), "grant_strategy"),
    (PutAccount(account="a", grant_strategy=1), "grant_strategy"),
    (template(grant_strategy=""), "grant_strategy"),
    (reserve(least={"cost": 1}), "least.cost"),
    (reserve(least={"tokens": 0}), "least.tokens"),
    (reserve(least={"tokens": 2}), "least.tokens"),
    (reserve(least={"tokens": True}), "least.tokens"),
    (reserve(alternatives=(Alternative(model="m", amounts={"tokens": 1}),) * 9), "alternatives"),
    (reserve(alternatives=(Alternative(model="", amounts={"tokens": 1}),)), "alternatives[0].model"),
    (reserve(alternatives=(Alternative(model="m", amounts={"tokens": -1}),)), "alternatives[0].amounts.tokens"),
    (reserve(alternatives=(Alternative(model="m", amounts={}),)), "alternatives[0].amounts"),
    (reserve(loans=tuple("abcdefghi")), "loans"),
    (reserve(loans=("a", "a")), "loans"),
    (reserve(loans=("",)), "loans[0]"),
    (lend(id=""), "id"),
    (lend(unit="words"), "unit"),
    (lend(account=""), "account"),
    (lend(parts=()), "parts"),
    (lend(("b", 1), ("b", 1)), "parts"),
    (lend(("b", 0)), "parts[0].amount"),
    (lend(("", 1)), "parts[0].source"),
    (lend(("a", 1)), "parts[0].source"),
    (lend(valid_until=NAIVE), "valid_until"),
    (lend(reason="x" * 2_001), "reason"),
    (GiveBack(id=""), "id"),
    (RemoveTemplate(pattern="t"), "pattern"),
    (key(key=""), "key"),
    (key(digest=""), "digest"),
    (key(role="king"), "role"),
    (key(role="account"), "account"),
    (key(role="admin", account="a"), "account"),
    (key(label="x" * 513), "label"),
    (key(expires_at=NAIVE), "expires_at"),
    (key(requests_per_minute=0), "requests_per_minute"),
    (PutPrice(price="", provider="*", model="m", rates={"input": 1, "output": 1}), "price"),
    (PutPrice(price="p", provider="*", model="m", rates={"input": 1}), "rates.output"),
    (RemovePrice(price=""), "price"),
    (RevokeKey(key=""), "key"),
    (EraseName(account=""), "account"),
    (Compound(commands=()), "commands"),
    (Compound(commands=(Release(id="h"), reserve(lease_s=0))), "commands[1].lease_s"),
]


# covers T2
@pytest.mark.parametrize(("command", "field"), WRONG, ids=lambda value: str(value)[:60])
def test_what_is_wrong_is_named_and_changes_nothing(command, field):
    ledger = Ledger()
    ledger.tree("a", "a/b")
    before = rows(ledger.draft)
    refused = ledger.do(command, "invalid")
    assert refused.field == field
    assert field in refused.detail or refused.field.startswith("commands[")
    assert rows(ledger.draft) == before
    assert ledger.last == []


RIGHT = [
    reserve(id="x" * 128, lease_s=1, also=tuple("bcdefghi")),
    reserve(amounts={"tokens": AMOUNT_MAX, "cost": 0}, lease_s=86_400),
    reserve(amounts={}),
    reserve(amounts={"input_tokens": 1, "output_tokens": 2}, least={"tokens": 3, "calls": 1}, loans=tuple("abcdefgh")),
    lend(*((f"b{n}", 1) for n in range(1_000)), reason="x" * 2_000),
    PutAccount(account="a", shortage=()),
    PutAccount(account="a", grant_strategy=None),
    PutAccount(account="a", grant_strategy="proven"),
    template(grant_strategy="classic"),
    PutAccount(account="a", shortage=("reallocate", "clamp", "downgrade", "deny")),
    reserve(attributes={f"k{n}": "x" * 512 for n in range(32)}),
    reserve(account="user:b o b ✓"),
    settle(total={}, account=None),
    settle(total={"tokens": 0}),
    record(value=-3.5, confidence=0, tools=("a,b",) * 64),
    record(confidence=1, metadata={"k": "x" * 512}),
    PutAccount(account="a", priority=1_000_000, min_reserve={"tokens": 0}),
    budget(limit=0, thresholds={}),
    budget(limit=AMOUNT_MAX, thresholds={1: "info", 1_000: "final"}, carry_max=0),
    budget(period="every:1", if_version=0),
    allocate(to=0, valid_until=AWARE),
    adjust(amount=-AMOUNT_MAX, reason="x" * 2_000),
    override(amount=AMOUNT_MAX, reason="x" * 512, open_s=604_800, valid_s=31_536_000),
    override(open_s=1, valid_until=AWARE),
    ApproveOverride(id="o", amount=1),
    policy(max_percent=0, max_duration_s=1, approvers=(), approver_keys=("k",) * 32),
    policy(max_percent=10_000, max_duration_s=31_536_000, approvers=("admin", "operator", "viewer", "account")),
    gate(0),
    gate(1, gate_s=1),
    gate(0.999999, gate_s=31_536_000),
    gate(0.1234567),
    gate(None),
    ResetGate(account="a", task=""),
    reserve(wait_s=3_600),
    Attend(id="x", gone=True),
    template(confidence_threshold=1.0, gate_s=1),
    template(pattern="t*", budgets=(TemplateBudget(unit="tokens", limit=1), TemplateBudget(unit="cost", limit=1))),
    key(role="account", account="a", requests_per_minute=1),
]


@pytest.mark.parametrize("command", RIGHT, ids=lambda value: str(value)[:60])
def test_what_stands_at_a_bound_is_right(command):
    assert check(command) is None


def test_every_command_is_checked():
    commands = set(get_args(AnyCommand)) | {Compound}
    assert set(CHECKS) == commands
    assert {type(command) for command, _ in WRONG} == commands, "and each has an example above"


# covers R33
def test_known_faults_r14_t4_n7_a_negative_amount_never_refunds():
    ledger = Ledger()
    ledger.account("root")
    ledger.budget("root", 100)
    ledger.use("root", 60)
    assert ledger.settle("h", -50, account="root", refused="invalid").field == "total.tokens"
    assert ledger.cell("root") == (100, 0, 0, 0, 60)


def test_instants_are_milliseconds_rounded_down():
    assert to_ms(datetime(1970, 1, 1, 0, 0, 1, 999_999, tzinfo=UTC)) == 1_999
    assert to_datetime(1_999) == datetime(1970, 1, 1, 0, 0, 1, 999_000, tzinfo=UTC)


@given(st.integers(0, 253_000_000_000_000))
def test_an_instant_survives_the_way_to_a_date_and_back(at_ms):
    assert to_ms(to_datetime(at_ms)) == at_ms


@given(st.text(max_size=140))
def test_an_id_is_1_to_128_printable_characters(text):
    assert (check_id("id", text) is None) == (0 < len(text) <= 128 and text.isprintable())


@given(st.text(max_size=140))
def test_a_name_is_an_id_that_fits_a_path(text):
    right = 0 < len(text) <= 128 and text.isprintable() and "/" not in text and text == text.strip()
    assert (check_name("account", text) is None) == right


def test_the_epoch_is_in_utc():
    assert checks.EPOCH.isoformat() == "1970-01-01T00:00:00+00:00"
