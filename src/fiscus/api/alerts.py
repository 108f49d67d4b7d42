"""Alerts of a service: the channels, what waits for them, what was given up, and what sends it again."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec

from fiscus.api.bodies import PageLength, Parameters
from fiscus.api.calls import Call, Reply
from fiscus.api.cursors import after_of, cursor_of
from fiscus.api.problems import Problem, problem, refusal_problem
from fiscus.contract.alerts import ChannelView, DeliveryState, DeliveryView, Retried, Tested
from fiscus.contract.queries import PAGE_LENGTH_DEFAULT
from fiscus.core.checks import check_id

TEST_S_MAX = 20.0

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class AlertsParameters(Parameters):
    """Which deliveries: in a state. ``cursor``: the ``next`` of the page before. ``limit``: how many at most."""

    state: DeliveryState | None = None
    cursor: str | None = None
    limit: PageLength = PAGE_LENGTH_DEFAULT


class RetryBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``id``: of the dead delivery that is sent again; without one all are."""

    id: Id | None = None


class TestBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``channel``: its name in the file of the alerts."""

    channel: Id


class AlertsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The channels, and a page of deliveries in the order in which they were made."""

    as_of_seq: int = 0
    channels: tuple[ChannelView, ...] = ()
    deliveries: tuple[DeliveryView, ...] = ()
    next: str | None = None


async def list_alerts(call: Call) -> Reply | Problem:
    """The channels, and a page of deliveries; empty where there are no channels."""
    asked = call.parameters
    after = after_of(asked.cursor)
    if after is None:
        return problem("invalid", "cursor: take it from next of the page before, as it is", field="cursor")
    desk = call.service.options.alerts
    if desk is None:
        return call.answer(AlertsAnswer())
    view = await desk.view(asked.state, after, asked.limit)
    return call.answer(
        AlertsAnswer(
            as_of_seq=view.as_of_seq, channels=view.channels, deliveries=view.deliveries, next=cursor_of(view.next)
        )
    )


async def retry_alerts(call: Call) -> Reply | Problem:
    """Send again what was given up."""
    wrong = check_id("id", call.body.id) if call.body.id is not None else None
    if wrong is not None:
        return refusal_problem(wrong)
    desk = call.service.options.alerts
    return call.answer(Retried(retried=await desk.retry(call.body.id) if desk is not None else 0))


async def test_channel(call: Call) -> Reply | Problem:
    """Send a message to a channel now, and say what became of it."""
    desk, name = call.service.options.alerts, call.body.channel
    try:
        async with asyncio.timeout(TEST_S_MAX):
            tested = await desk.test(name) if desk is not None else None
    except TimeoutError:
        return call.answer(Tested(channel=name, delivered=False, detail=f"not done within {TEST_S_MAX:g} s"))
    if tested is None:
        return problem("invalid", "channel: this service uses no channel of that name", field="channel")
    return call.answer(tested)
