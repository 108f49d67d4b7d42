"""From the outbox to channels that fail in every way: nothing lost, nothing blocked, each message under its own id."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import pytest
import standardwebhooks

from fiscus.alerts import dispatcher as dispatching
from fiscus.alerts.dispatcher import CLAIM_LENGTH, Dispatcher
from fiscus.alerts.entries import delivery_of, finding_alert
from fiscus.alerts.rules import Finding
from fiscus.alerts.threads import Aside
from fiscus.alerts.web_hook import WebHook
from fiscus.contract.alerts import AlertStore, Delivery, Step
from fiscus.contract.errors import StoreUnavailable
from fiscus.stores.sqlite.alerts import SqliteAlerts
from tests.alerts.rig import SECRET, Clock, channel, receiver

OTHER_SECRET = "whsec_" + "QUJD" * 8


def put(store: AlertStore, clock: Clock, count: int, name: str = "ops", first: int = 0) -> list[Delivery]:
    """Put alerts into the outbox, as the follower does."""
    made = []
    for index in range(first, first + count):
        finding = Finding(name="tool_spike", about=str(index), data={"tool": "grep", "uses": index, "usual": 1})
        alert = finding_alert(finding, "default", datetime.now(UTC), index, key=str(index))
        made.append(delivery_of(alert, name, None, clock()))
    progress = store.lead("test", clock(), clock() + 1)
    assert progress is not None
    assert store.step(Step(progress=progress, deliveries=made))
    return made


def dispatcher(store: AlertStore, clock: Clock, *channels, node: str = "a") -> Dispatcher:
    senders = {one: WebHook(one, lambda: clock() / 1_000) for one in channels}
    return Dispatcher(store, senders, node=node, aside=Aside(), clock_ms=clock, draw=lambda: 1.0)


async def deliver(post: Dispatcher, name: str = "ops") -> None:
    while await post.turn(post.posts[name]):
        pass


async def test_a_message_is_signed_as_standard_webhooks_verifies_it():
    store, clock = SqliteAlerts(None, "default"), Clock(int(datetime.now(UTC).timestamp() * 1_000))
    async with receiver() as hook:
        post = dispatcher(store, clock, channel(hook))
        (made,) = put(store, clock, 1)
        await deliver(post)
        await post.close()
    ((headers, body),) = hook.taken
    verified = standardwebhooks.Webhook(SECRET).verify(body, headers)
    assert verified == json.loads(body)
    assert headers["webhook-id"] == made.id
    assert headers["Content-Type"] == "application/json"
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(OTHER_SECRET).verify(body, headers)


async def test_while_a_secret_is_changed_receivers_with_the_old_and_with_the_new_one_accept():
    store, clock = SqliteAlerts(None, "default"), Clock(int(datetime.now(UTC).timestamp() * 1_000))
    async with receiver() as hook:
        both = channel(hook)
        both = type(both)(name="ops", kind="webhook", url=hook.url, secrets=(OTHER_SECRET, SECRET))
        post = dispatcher(store, clock, both)
        put(store, clock, 1)
        await deliver(post)
        await post.close()
    ((headers, body),) = hook.taken
    for secret in (SECRET, OTHER_SECRET):
        assert standardwebhooks.Webhook(secret).verify(body, headers)


# A web hook that answers 500 for an hour is the bad input of the issue.
async def test_an_hour_of_500s_loses_nothing_and_does_not_hammer():
    store, clock = SqliteAlerts(None, "default"), Clock()
    async with receiver() as hook:
        hook.mode = 500
        post = dispatcher(store, clock, channel(hook))
        made = put(store, clock, 5)
        for second in range(3_600):
            clock.move(1)
            if second % 600 == 0:
                made += put(store, clock, 1, first=100 + second)
            await deliver(post)
        assert len(hook.requests) <= 80  # about one a minute, however many wait
        assert all(one.state == "waiting" and one.error == "answered 500" for one in store.deliveries(None, 0, 100))
        hook.mode = 204
        for _ in range(400):
            clock.move(1)
            await deliver(post)
        await post.close()
    assert sorted(hook.ids) == sorted(one.id for one in made)
    assert {one.state for one in store.deliveries(None, 0, 100)} == {"sent"}


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        (500, "answered 500"),
        (302, "answered 302"),
        ("reset", "ServerDisconnectedError"),
        ("hang", "no answer within 0.2 s"),
    ],
)
async def test_what_fails_is_told_and_tried_again_under_the_same_id(mode, error):
    store, clock = SqliteAlerts(None, "default"), Clock()
    async with receiver() as hook:
        hook.mode, hook.headers = mode, {"Location": hook.url}
        post = dispatcher(store, clock, channel(hook, send_s_max=0.2))
        put(store, clock, 1)
        await deliver(post)
        (one,) = store.deliveries(None, 0, 10)
        assert (one.state, one.attempts, one.error) == ("waiting", 1, error)
        assert post.posts["ops"].failures == 1
        hook.mode = 204
        clock.move(6)
        await deliver(post)
        await post.close()
    assert len(hook.requests) == 2
    assert {headers["webhook-id"] for headers, _ in hook.requests} == {one.id}
    assert store.deliveries("sent", 0, 10)[0].attempts == 2


async def test_a_channel_that_hangs_keeps_no_other_waiting():
    store, clock = SqliteAlerts(None, "default"), Clock()
    async with receiver() as slow, receiver() as quick:
        slow.mode = "hang"
        post = dispatcher(store, clock, channel(slow, "slow", send_s_max=30), channel(quick, "quick"))
        put(store, clock, 20, "slow")
        put(store, clock, 20, "quick")
        running = asyncio.create_task(post.run())
        async with asyncio.timeout(5):
            while len(quick.taken) < 20:
                await asyncio.sleep(0.02)
        assert len(slow.requests) == 1
        running.cancel()
        await asyncio.wait([running])
        await post.close()


async def test_one_message_that_the_other_side_cannot_stand_does_not_keep_the_others():
    store, clock = SqliteAlerts(None, "default"), Clock()

    async with receiver() as hook:
        post = dispatcher(store, clock, channel(hook))
        made = put(store, clock, 8)
        bad = made[0].id
        for _ in range(60):
            clock.move(1)
            hook.mode = 400 if await next_is(store, clock, bad) else 204
            await post.turn(post.posts["ops"])
        await post.close()
    assert set(hook.ids) == {one.id for one in made[1:]}


async def next_is(store: AlertStore, clock: Clock, id: str) -> bool:
    waiting = sorted(store.deliveries("waiting", 0, 100), key=lambda one: (one.due_at, one.number))
    return bool(waiting) and waiting[0].id == id and waiting[0].due_at <= clock()


async def test_what_is_given_up_is_dead_listed_and_can_be_sent_again():
    store, clock = SqliteAlerts(None, "default"), Clock()
    async with receiver() as hook:
        hook.mode = 503
        post = dispatcher(store, clock, channel(hook, give_up_after_s=600))
        put(store, clock, 2)
        for _ in range(60):
            clock.move(30)
            await deliver(post)
        dead = store.deliveries("dead", 0, 10)
        assert len(dead) == 2
        assert store.counts()[0].dead == 2
        hook.mode = 204
        clock.move(3_600)
        await deliver(post)
        assert hook.taken == []
        assert store.retry(dead[0].id, clock()) == 1
        await deliver(post)
        assert hook.ids == [dead[0].id]
        assert store.retry(None, clock()) == 1
        await deliver(post)
        await post.close()
    assert hook.ids == [one.id for one in dead]


async def test_a_receiver_that_says_gone_is_not_asked_again_with_the_same_message():
    store, clock = SqliteAlerts(None, "default"), Clock()
    async with receiver() as hook:
        hook.mode = 410
        post = dispatcher(store, clock, channel(hook))
        put(store, clock, 1)
        await deliver(post)
        await post.close()
    assert [one.state for one in store.deliveries(None, 0, 10)] == ["dead"]


async def test_a_receiver_is_left_alone_for_as_long_as_it_asks():
    store, clock = SqliteAlerts(None, "default"), Clock()
    async with receiver() as hook:
        hook.mode, hook.headers = 429, {"Retry-After": "120"}
        post = dispatcher(store, clock, channel(hook))
        put(store, clock, 3)
        for _ in range(119):
            await deliver(post)
            clock.move(1)
        assert len(hook.requests) == 1
        hook.mode = 204
        clock.move(2)
        await deliver(post)
        await post.close()
    assert len(hook.taken) == 3


async def test_what_was_sent_and_not_noted_is_sent_again_under_the_same_id():
    class Forgetful(SqliteAlerts):
        fails = True

        def note(self, delivery: Delivery) -> None:
            if self.fails:
                self.fails = False
                raise StoreUnavailable("sqlite: disk I/O error")
            super().note(delivery)

    store, clock = Forgetful(None, "default"), Clock()
    async with receiver() as hook:
        post = dispatcher(store, clock, channel(hook))
        (made,) = put(store, clock, 1)
        with pytest.raises(StoreUnavailable):
            await deliver(post)
        await deliver(post)
        assert len(hook.taken) == 1  # the claim still holds
        clock.move(CLAIM_LENGTH * 2 + 61)
        await deliver(post)
        await post.close()
    assert hook.ids == [made.id, made.id]


async def test_two_nodes_on_one_outbox_send_each_message_once():
    store, clock = SqliteAlerts(None, "default"), Clock()
    async with receiver() as hook:
        nodes = [dispatcher(store, clock, channel(hook), node=node) for node in "ab"]
        made = put(store, clock, 60)
        await asyncio.gather(*(deliver(node) for node in nodes))
        for node in nodes:
            await node.close()
        assert all(node.posts["ops"].sent for node in nodes)
    assert sorted(hook.ids) == sorted(one.id for one in made)


async def test_what_is_old_is_dropped_and_what_waits_stays():
    store, clock = SqliteAlerts(None, "default"), Clock()
    async with receiver() as hook:
        post = dispatcher(store, clock, channel(hook))
        put(store, clock, 1)
        await deliver(post)
        hook.mode = 500
        waiting = put(store, clock, 1, first=50)
        await deliver(post)
        clock.move(30 * 86_400)
        await post.keep_house()
        await post.close()
    assert [one.id for one in store.deliveries(None, 0, 10)] == [waiting[0].id]
    assert post.counts["ops"].waiting == 1


async def test_an_outbox_without_room_drops_what_comes_and_says_so(monkeypatch):
    monkeypatch.setattr(dispatching, "OUTBOX_LENGTH_MAX", 5)
    store, clock = SqliteAlerts(None, "default"), Clock()
    async with receiver() as hook:
        post = dispatcher(store, clock, channel(hook))
        put(store, clock, 4)
        await post.keep_house()
        assert not post.is_full("ops")
        put(store, clock, 1, first=10)
        await post.keep_house()
        assert post.is_full("ops")
        assert post.posts["ops"].dropped == 1
        await deliver(post)
        await post.keep_house()
        assert not post.is_full("ops")
        await post.close()


async def test_a_clock_that_is_set_back_does_not_silence_a_channel():
    store, clock = SqliteAlerts(None, "default"), Clock()
    async with receiver() as hook:
        hook.mode = 500
        post = dispatcher(store, clock, channel(hook))
        put(store, clock, 1)
        await deliver(post)
        clock.move(-86_400)
        hook.mode = 204
        put(store, clock, 1, first=10)
        await deliver(post)
        await post.close()
    assert len(hook.taken) == 1
