"""What the gateway counts, as a scraper reads it."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from fiscus.core.commands import Settle
from fiscus.gateway.options import Upstream as Provider
from tests.gateway import wire
from tests.gateway.gate import IN, OUT, PAYER, PREFIX, providers, standing
from tests.gateway.upstream import Reply


class Shown:
    """The samples of a gateway, as text and back."""

    def __init__(self, gate):
        registry = CollectorRegistry()
        gate.gateway.collector().register(registry)
        text = generate_latest(registry).decode()
        self.families = list(text_string_to_metric_families(text))
        self._samples = [sample for family in self.families for sample in family.samples]

    def __call__(self, name, **labels):
        """The sum of a name's samples with these labels."""
        return sum(
            sample.value
            for sample in self._samples
            if sample.name == f"fiscus_gateway_{name}" and labels.items() <= sample.labels.items()
        )


async def test_calls_tokens_and_cost_are_counted(gate, upstream):
    upstream.answers(wire.chat_answer())
    await gate.chat(wire.chat())
    upstream.answers(wire.streamed(wire.chat_stream()))
    await gate.chat(wire.chat(stream=True))
    upstream.answers(wire.anthropic_answer())
    await gate.messages(wire.messages())
    await gate.booked()
    shown = Shown(gate)
    assert shown("calls_total", dialect="openai.chat", outcome="success", status="200") == 2
    assert shown("calls_total", dialect="anthropic.messages", outcome="success", status="200") == 1
    assert [shown("tokens_total", kind=kind) for kind in ("input", "output", "cache_read", "cache_write")] == [
        11 + 11 + 14,
        7 + 7 + 7,
        3,
        2,
    ]
    booked = [one.record.cost_nanousd for one in await gate.usage()]
    assert booked[0] == 11 * IN + 7 * OUT
    assert shown("cost_nanousd_total") == sum(booked)
    assert shown("answer_seconds_count", upstream="openai") == 2
    assert shown("first_token_seconds_count", upstream="anthropic") == 1
    assert shown("unpriced_total") == shown("cut_total") == shown("clamped_total") == 0


async def test_refusals_are_counted_by_their_reason_and_are_no_calls(upstream):
    async with standing(providers(upstream), keys=True, budget=False) as gate:
        await gate.account(PAYER, tokens=20)
        key = {"authorization": f"Bearer {await gate.key(PAYER)}"}
        await gate.chat(wire.chat(), **key)
        await gate.chat(wire.chat(model="nobody-knows"), **key)
        await gate.chat(b"{", **key)
        await gate.chat(wire.chat())
        await gate.post("/openai/v1/files", {}, **key)
        shown = Shown(gate)
        reasons = ("budget_exceeded", "unknown_model", "invalid", "unauthenticated", "unknown_route")
        assert [shown("refusals_total", dialect="openai.chat", reason=reason) for reason in reasons] == [1] * 5
        assert shown("calls_total") == 0


async def test_what_is_clamped_and_cut_is_counted(upstream):
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, tokens=400)
        gate.knows(20)
        text = ["eight words are in this piece of text. "] * 100
        upstream.answers(wire.streamed(wire.chat_stream(*text), pieces=400, pause_s=0.002))
        await gate.chat(wire.chat(max_tokens=350, stream=True))
        await gate.booked()
        assert (Shown(gate)("cut_total"), Shown(gate)("clamped_total")) == (1, 0)
    async with standing(providers(upstream), budget=False) as gate:
        upstream.answers(wire.chat_answer())
        await gate.account(PAYER, tokens=150)
        await gate.chat(wire.chat())
        assert (Shown(gate)("cut_total"), Shown(gate)("clamped_total")) == (0, 1)


async def test_retries_and_failures_and_a_broken_upstream_are_shown(upstream):
    def provider(name, url, **more):
        return Provider(name=name, family="openai", base_url=url + PREFIX["openai"], **more)

    asleep = provider("asleep", "http://127.0.0.1:9", priority=0)
    awake = provider("awake", upstream.url, priority=1)
    async with standing((asleep, awake), broken_after=2, attempts_max=4) as gate:
        upstream.answers(Reply(status=503, body=b"{}"), wire.chat_answer())
        assert (await gate.chat(wire.chat())).status == 200
        assert (await gate.chat(wire.chat())).status == 200
        await gate.booked()
        shown = Shown(gate)
        assert shown("upstream_failures_total", upstream="asleep", kind="unreachable") >= 2
        assert shown("upstream_failures_total", upstream="awake", kind="status") == 1
        assert shown("retries_total") >= 3
        assert (shown("upstream_broken", upstream="asleep"), shown("upstream_broken", upstream="awake")) == (1, 0)


async def test_an_answer_that_breaks_off_counts_as_a_failure_and_as_a_call_that_failed(gate, upstream):
    upstream.answers(wire.streamed(wire.chat_stream(), broken_after=150))
    await gate.chat(wire.chat(stream=True))
    await gate.booked()
    shown = Shown(gate)
    assert shown("upstream_failures_total", upstream="openai", kind="broke_off") == 1
    assert shown("calls_total", outcome="error", status="200") == 1


async def test_a_provider_that_refuses_is_a_call_with_its_status(gate, upstream):
    upstream.answers(Reply(status=400, body=b'{"error": {"message": "no"}}'))
    await gate.chat(wire.chat())
    await gate.booked()
    assert Shown(gate)("calls_total", outcome="error", status="400") == 1


async def test_calls_in_flight_are_shown_by_upstream(gate, upstream):
    upstream.answers(Reply(body=wire.chat_answer().body, pieces=30, pause_s=0.05))
    call = asyncio.create_task(gate.chat(wire.chat()))
    await upstream.request()
    assert Shown(gate)("upstream_in_flight", upstream="openai") == 1
    await call
    assert Shown(gate)("upstream_in_flight") == 0


async def test_how_far_counts_were_from_what_was_billed_is_shown(gate, upstream):
    for billed in (11, 5_000):
        usage = {"prompt_tokens": billed, "completion_tokens": 7, "total_tokens": billed + 7}
        upstream.answers(wire.chat_answer(usage=usage))
        await gate.chat(wire.chat())
    await gate.booked()
    shown = Shown(gate)
    assert shown("count_error_ratio_count", provider="openai") == 2
    assert shown("undercounts_total", provider="openai") == 1


async def test_notes_are_counted_by_severity(upstream):
    upstream.answers(wire.chat_answer())
    async with standing(providers(upstream), budget=False, budget_notes=True) as gate:
        await gate.account(PAYER, tokens=10_000)
        await gate.do(Settle(id="spent", account=PAYER, total={"tokens": 9_100}))
        for _ in range(2):
            assert (await gate.chat(wire.chat(max_tokens=16))).status == 200
        shown = [Shown(gate)("notes_total", severity=one) for one in ("warning", "critical", "final")]
        assert shown == [0, 1, 0]


@pytest.mark.parametrize("status", [299, 599])
async def test_labels_do_not_grow_with_what_callers_say(gate, upstream, status):
    upstream.answers(Reply(status=status, body=b'{"error": {"message": "no"}}'))
    for number in range(30):
        await gate.chat(wire.chat(model=f"test-{number}", user=f"u{number}"), x_fiscus_agent=f"a{number}")
    await gate.booked()
    for family in Shown(gate).families:
        assert len(family.samples) <= 15 * 3 + 10, family.name
