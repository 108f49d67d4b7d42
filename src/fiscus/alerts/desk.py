"""The alerts of one process: follower and dispatcher together, what the API asks of them, and their metrics."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fiscus.alerts.apprised import Apprised
from fiscus.alerts.channels import NotDelivered, Sender
from fiscus.alerts.dispatcher import Dispatcher, Post
from fiscus.alerts.entries import decode_alert, finding_alert
from fiscus.alerts.follower import Follower
from fiscus.alerts.options import AlertOptions, Channel
from fiscus.alerts.rules import Finding
from fiscus.alerts.threads import Aside
from fiscus.alerts.web_hook import WebHook
from fiscus.contract.alerts import (
    Alert,
    AlertStore,
    AlertsView,
    ChannelView,
    Count,
    Delivery,
    DeliveryState,
    DeliveryView,
    Tested,
)
from fiscus.contract.errors import FiscusError
from fiscus.contract.logs import get_logger
from fiscus.contract.treasury import Treasury

CLOSE_S_MAX = 1.0
FINISH_S_MAX = 2.0
FINISH_LOOK_S = 0.01
RESTART_S = 5.0

log = get_logger(__name__)


def now_ms() -> int:
    """Ms since the epoch."""
    return time.time_ns() // 1_000_000


def sender_of(channel: Channel) -> Sender:
    """A channel's way out.

    Raises:
        ConfigurationInvalid: it cannot be had.
    """
    return WebHook(channel) if channel.kind == "webhook" else Apprised(channel)


def check_message(channel: Channel, tenant: str) -> tuple[str, Alert]:
    """The id and the alert of a test of a channel."""
    key = uuid.uuid4().hex
    alert = finding_alert(Finding(name="test", data={"channel": channel.name}), tenant, datetime.now(UTC), 0, key=key)
    return f"msg_{key}", alert


async def try_channel(channel: Channel, sender: Sender, tenant: str) -> Tested:
    """Send a message now, past the outbox, and say what became of it."""
    try:
        await sender.send(*check_message(channel, tenant))
    except NotDelivered as error:
        return Tested(channel=channel.name, delivered=False, detail=str(error))
    return Tested(channel=channel.name, delivered=True)


class Alerts:
    """See the module; ``start`` and ``close`` it. Nothing of the ledger ever waits for it.

    Args:
        treasury: is read only.
        store: the outbox; closed at the end.
        options: the file.
        tenant: whose journal is followed.
        clock_ms: ms since the epoch.

    Raises:
        ConfigurationInvalid: a channel cannot be had.
    """

    def __init__(
        self,
        treasury: Treasury,
        store: AlertStore,
        options: AlertOptions,
        *,
        tenant: str = "default",
        clock_ms: Callable[[], int] = now_ms,
    ) -> None:
        node = uuid.uuid4().hex
        self._aside = Aside()
        self._treasury = treasury
        self._store = store
        self._options = options
        self._tenant = tenant
        self._clock_ms = clock_ms
        self.dispatcher = Dispatcher(
            store,
            {channel: sender_of(channel) for channel in options.active},
            node=node,
            aside=self._aside,
            clock_ms=clock_ms,
            kept_ms=options.kept_s * 1_000,
            dead_kept_ms=options.dead_kept_s * 1_000,
        )
        self.follower = Follower(
            treasury,
            store,
            options,
            node=node,
            aside=self._aside,
            tenant=tenant,
            clock_ms=clock_ms,
            on_deliveries=self.dispatcher.wake,
            is_full=self.dispatcher.is_full,
        )
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Follow and deliver in the background."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="alerts")

    async def begin(self) -> None:
        """Start; from here on everything is told, also if nothing was ever told before."""
        try:
            await self.follower.turn()
        except FiscusError as error:
            log.warning("alerts_wait", code=error.code, error=str(error))
        self.start()

    async def finish(self) -> None:
        """Tell what has happened by now, as far as that goes within ``FINISH_S_MAX``; the rest is told later."""
        with contextlib.suppress(TimeoutError, FiscusError):
            async with asyncio.timeout(FINISH_S_MAX):
                head_seq = (await self._treasury.readiness()).head_seq
                while self.follower.leads and not (self.follower.seq >= head_seq and self.dispatcher.is_idle):
                    self.follower.wake()
                    await asyncio.sleep(FINISH_LOOK_S)

    async def close(self) -> None:
        """Stop. What is being sent in this moment is sent again by the next process, under the same id."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=CLOSE_S_MAX)
        await self.dispatcher.close()
        await self._aside(self._store.close)
        self._aside.close()

    async def _run(self) -> None:
        """Whatever nobody has foreseen is told, and it begins again from what was kept."""
        while True:
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self.follower.run())
                    tasks.create_task(self.dispatcher.run())
            except* Exception as group:
                log.exception("alerts_defect", errors=[type(error).__name__ for error in group.exceptions])
            await asyncio.sleep(RESTART_S)

    # -- for the API --------------------------------------------------------------------------------------------------

    async def view(self, state: DeliveryState | None, after: int, limit: int) -> AlertsView:
        """See ``AlertDesk``."""
        view = await self._aside(stored_view, self._store, self._options, state, after, limit, self._clock_ms())
        known = self.dispatcher.posts
        channels = (with_attempts(one, known[one.channel]) if one.channel in known else one for one in view.channels)
        return msgspec.structs.replace(view, as_of_seq=self.follower.seq, channels=tuple(channels))

    async def retry(self, id: str | None) -> int:
        """See ``AlertDesk``."""
        retried = await self._aside(self._store.retry, id, self._clock_ms())
        self.dispatcher.wake()
        return retried

    async def test(self, channel: str) -> Tested | None:
        """See ``AlertDesk``."""
        post = self.dispatcher.posts.get(channel)
        return await try_channel(post.channel, post.sender, self._tenant) if post is not None else None


def stored_view(
    store: AlertStore,
    options: AlertOptions | None,
    state: DeliveryState | None,
    after: int,
    limit: int,
    now: int | None = None,
) -> AlertsView:
    """What is kept: the channels of the file and of the outbox, and a page of deliveries."""
    counts = {count.channel: count for count in store.counts()}
    page = store.deliveries(state, after, limit)
    used = {channel.name for channel in options.active} if options is not None else set()
    declared = {channel.name: channel for channel in options.channels} if options is not None else {}
    names = (*declared, *(name for name in counts if name not in declared))
    at = now_ms() if now is None else now
    return AlertsView(
        as_of_seq=0,
        channels=tuple(
            channel_view(declared.get(name), counts.get(name, Count(channel=name)), at, is_used=name in used)
            for name in names
        ),
        deliveries=tuple(map(delivery_view, page)),
        next=page[-1].number if len(page) == limit else None,
    )


def channel_view(channel: Channel | None, count: Count, now: int, *, is_used: bool) -> ChannelView:
    """A channel without what is secret of it."""
    return ChannelView(
        channel=count.channel,
        kind=channel.kind if channel is not None else "",
        state="ok" if is_used else "off",
        severity=channel.severity if channel is not None else None,
        accounts=channel.accounts if channel is not None else (),
        kinds=channel.kinds if channel is not None else (),
        waiting=count.waiting,
        dead=count.dead,
        oldest_age_s=max(0, now - count.oldest_at) // 1_000 if count.oldest_at is not None else 0,
    )


def with_attempts(view: ChannelView, post: Post) -> ChannelView:
    """A channel with what this process knows of its attempts."""
    return msgspec.structs.replace(
        view,
        state="failing" if post.failures else "ok",
        error=post.error,
        sent=post.sent,
        failed=post.failed,
    )


def delivery_view(one: Delivery) -> DeliveryView:
    """A delivery as it is shown."""
    return DeliveryView(
        id=one.id,
        channel=one.channel,
        state=one.state,
        attempts=one.attempts,
        made_at=datetime.fromtimestamp(one.made_at / 1_000, UTC),
        due_at=datetime.fromtimestamp(one.due_at / 1_000, UTC) if one.state == "waiting" else None,
        error=one.error,
        alert=decode_alert(one.body),
    )


class AlertsCollector(Collector):
    """The counters of the alerts of this process as metrics, made when somebody asks for them."""

    def __init__(self, alerts: Alerts | None, clock_ms: Callable[[], int] = now_ms) -> None:
        self._alerts = alerts
        self._clock_ms = clock_ms

    def describe(self) -> Iterable[Metric]:
        """Nothing is collected while registering."""
        return []

    def collect(self) -> Iterable[Metric]:
        """All families, made now; without samples where there are no channels."""
        sent = CounterMetricFamily("fiscus_alerts_sent", "Alerts handed over since the start.", labels=["channel"])
        failed = CounterMetricFamily(
            "fiscus_alerts_failed", "Attempts to hand an alert over that failed.", labels=["channel"]
        )
        dropped = CounterMetricFamily(
            "fiscus_alerts_dropped", "Alerts for which the outbox had no room.", labels=["channel"]
        )
        waiting = GaugeMetricFamily("fiscus_alerts_waiting", "Alerts that wait in the outbox.", labels=["channel"])
        dead = GaugeMetricFamily("fiscus_alerts_dead", "Alerts that were given up.", labels=["channel"])
        oldest = GaugeMetricFamily(
            "fiscus_alerts_oldest_seconds", "How long the oldest alert has waited.", labels=["channel"]
        )
        alerts = self._alerts
        for name, post in alerts.dispatcher.posts.items() if alerts is not None else ():
            count = alerts.dispatcher.counts.get(name, Count(channel=name)) if alerts is not None else Count(channel="")
            age_s = (self._clock_ms() - count.oldest_at) / 1_000 if count.oldest_at is not None else 0.0
            for family, value in (
                (sent, post.sent),
                (failed, post.failed),
                (dropped, post.dropped),
                (waiting, count.waiting),
                (dead, count.dead),
                (oldest, max(0.0, age_s)),
            ):
                family.add_metric([name], value)
        yield from (sent, failed, dropped, waiting, dead, oldest)
        yield GaugeMetricFamily(
            "fiscus_alerts_lag_entries",
            "Entries of the journal that were not read for alerts yet, on the node that reads them.",
            value=alerts.follower.lag_entries if alerts is not None else 0,
        )
