"""Delivers what stands in the outbox: each channel by itself, at least once, again after a while, until it is dead.

    claim ▸ send ▸ note        A crash between the last two sends again, under the same id.

A channel that fails is left alone for a while, which grows; what failed is tried later than what was not tried yet, so
that one message that the other side cannot stand does not keep the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping

import msgspec

from fiscus.alerts.channels import NotDelivered, Sender
from fiscus.alerts.entries import decode_alert
from fiscus.alerts.options import Channel
from fiscus.alerts.threads import Aside
from fiscus.client.backoff import Backoff
from fiscus.contract.alerts import AlertStore, Count, Delivery
from fiscus.contract.errors import TreasuryError
from fiscus.contract.logs import get_logger

CLAIM_LENGTH = 10
CLAIM_SPARE_S = 60.0
"""A claim lasts this much longer than its attempts can take."""

IDLE_S = 1.0
RETRY_S = 2.0
DELIVERY_BACKOFF = Backoff(first_s=5.0, delay_s_max=300.0)
CHANNEL_BACKOFF = Backoff(first_s=1.0, delay_s_max=60.0)
REST_MS_MAX = 3_600_000
"""Longest that a channel is left alone; more is left of it only where the clock was set back."""

FORGET_ROWS = 1_000
OUTBOX_LENGTH_MAX = 100_000
"""Deliveries of one channel that wait or are dead; what comes then is dropped, and said to be."""

WAITING_MS_MAX = 31 * 86_400_000
"""How long something waits for a channel that is not in use any more; those in use give up before."""

HOUSEKEEPING_S = 5.0

log = get_logger(__name__)


class Post:
    """What is known of a channel in this process.

    Attributes:
        is_waiting: nothing of it was due a moment ago, or it is left alone.
        failures: in a row. ``error``: why the last one was.
        sent, failed: attempts since the start.
        dropped: alerts for which there was no room.
        resting_until_ms: when the next attempt is made after a failure.
    """

    def __init__(self, channel: Channel, sender: Sender) -> None:
        self.channel = channel
        self.sender = sender
        self.news = asyncio.Event()
        self.is_waiting = False
        self.failures = 0
        self.error = ""
        self.sent = 0
        self.failed = 0
        self.dropped = 0
        self.resting_until_ms = 0


class Dispatcher:
    """See the module.

    Args:
        store: the outbox.
        senders: by channel.
        node: names this process.
        aside: where the outbox is called.
        clock_ms: ms since the epoch.
        draw: uniform in 0 … 1, for jitter.
    """

    def __init__(
        self,
        store: AlertStore,
        senders: Mapping[Channel, Sender],
        *,
        node: str,
        aside: Aside,
        clock_ms: Callable[[], int],
        draw: Callable[[], float] = random.random,
        kept_ms: int = 604_800_000,
        dead_kept_ms: int = 2_592_000_000,
    ) -> None:
        self._store = store
        self._node = node
        self._aside = aside
        self._clock_ms = clock_ms
        self._draw = draw
        self._kept_ms = kept_ms
        self._dead_kept_ms = dead_kept_ms
        self.posts = {channel.name: Post(channel, sender) for channel, sender in senders.items()}
        self.counts: dict[str, Count] = {}

    def wake(self) -> None:
        """Something was put into the outbox."""
        for post in self.posts.values():
            post.news.set()

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do now: all that was put into the outbox was tried."""
        return all(post.is_waiting and not post.news.is_set() for post in self.posts.values())

    def is_full(self, channel: str) -> bool:
        """Whether there is no room for another alert, which is counted."""
        count = self.counts.get(channel)
        if count is None or count.waiting + count.dead < OUTBOX_LENGTH_MAX:
            return False
        post = self.posts[channel]
        if not post.dropped:
            log.error("alerts_overflow", channel=channel, waiting=count.waiting, dead=count.dead)
        post.dropped += 1
        return True

    async def run(self) -> None:
        """Deliver until it is cancelled; channels know nothing of each other."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_house())
            for post in self.posts.values():
                tasks.create_task(self._serve(post))

    async def close(self) -> None:
        """Let go of connections."""
        for post in self.posts.values():
            await post.sender.close()

    async def _serve(self, post: Post) -> None:
        while True:
            post.news.clear()
            try:
                more = await self.turn(post)
            except TreasuryError as error:
                log.warning("alerts_wait", channel=post.channel.name, code=error.code, error=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            if more:
                continue
            post.is_waiting = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(IDLE_S):
                    await post.news.wait()
            post.is_waiting = False

    async def turn(self, post: Post) -> bool:
        """Deliver what is due in a channel, until one fails; whether there may be more at once.

        Raises:
            TreasuryError: the outbox cannot be reached; what was sent meanwhile is sent again later, under its id.
        """
        now_ms = self._clock_ms()
        if now_ms < post.resting_until_ms <= now_ms + REST_MS_MAX:
            return False
        claim_s = CLAIM_LENGTH * post.channel.send_s_max + CLAIM_SPARE_S
        claimed = await self._aside(
            self._store.claim, post.channel.name, self._node, now_ms, now_ms + int(claim_s * 1_000), CLAIM_LENGTH
        )
        for index, delivery in enumerate(claimed):
            if not await self._attempt(post, delivery):
                for untried in claimed[index + 1 :]:
                    await self._aside(self._store.note, untried)
                return False
        return len(claimed) == CLAIM_LENGTH

    async def _attempt(self, post: Post, delivery: Delivery) -> bool:
        """Try one; whether the channel is sound."""
        try:
            await post.sender.send(delivery.id, decode_alert(delivery.body))
        except NotDelivered as error:
            self._take_failure(post, str(error), error.retry_after_s)
            await self._aside(self._store.note, self._failed(post.channel, delivery, error))
            return False
        except Exception as error:  # noqa: BLE001  # whatever a sender does, the outbox goes on; its text is not logged
            self._take_failure(post, type(error).__name__, 0)
            failed = self._failed(post.channel, delivery, NotDelivered(type(error).__name__))
            await self._aside(self._store.note, failed)
            return False
        if post.failures:
            log.info("alerts_delivered_again", channel=post.channel.name, failures=post.failures)
        post.failures, post.error, post.resting_until_ms = 0, "", 0
        post.sent += 1
        sent = msgspec.structs.replace(delivery, state="sent", attempts=delivery.attempts + 1, error="")
        await self._aside(self._store.note, sent)
        return True

    def _take_failure(self, post: Post, error: str, asked_for_s: float) -> None:
        if not post.failures:
            log.warning("alert_not_delivered", channel=post.channel.name, error=error)
        post.failures += 1
        post.failed += 1
        post.error = error
        rest_s = CHANNEL_BACKOFF.delay_s(post.failures, self._draw(), asked_for_s)
        post.resting_until_ms = self._clock_ms() + int(rest_s * 1_000)

    def _failed(self, channel: Channel, delivery: Delivery, error: NotDelivered) -> Delivery:
        """What becomes of a delivery after an attempt that failed."""
        now_ms = self._clock_ms()
        attempts = delivery.attempts + 1
        is_dead = error.for_good or now_ms - delivery.made_at >= channel.give_up_after_s * 1_000
        if is_dead:
            log.error("alert_dead", channel=channel.name, id=delivery.id, attempts=attempts, error=str(error))
        delay_s = DELIVERY_BACKOFF.delay_s(attempts, self._draw(), error.retry_after_s)
        return msgspec.structs.replace(
            delivery,
            state="dead" if is_dead else "waiting",
            attempts=attempts,
            due_at=now_ms + int(delay_s * 1_000),
            error=str(error),
        )

    async def _keep_house(self) -> None:
        """Drop what is old, and count what there is, for metrics."""
        while True:
            try:
                await self.keep_house()
            except TreasuryError as error:
                log.warning("alerts_wait", code=error.code, error=str(error))
            await asyncio.sleep(HOUSEKEEPING_S)

    async def keep_house(self) -> None:
        """Once."""
        now_ms = self._clock_ms()
        bounds = (now_ms - self._kept_ms, now_ms - self._dead_kept_ms, now_ms - WAITING_MS_MAX)
        await self._aside(self._store.forget, *bounds, FORGET_ROWS)
        self.counts = {count.channel: count for count in await self._aside(self._store.counts)}
