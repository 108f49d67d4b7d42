"""Alerts: what is told to people and programs outside, what became of it, and where that is kept."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

from fiscus.core.commands import Severity

DeliveryState = Literal["waiting", "sent", "dead"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical", "final", "exhausted")
"""From the least on."""


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """Something that somebody wants to know, told once.

    Attributes:
        id: the same in all channels; derived from the entry of the journal that it comes from.
        name: as ``docs/reference/events.md`` lists them.
        aliases: what other systems call it.
        at: when it happened, by the ledger's clock.
        seq: the entry of the journal that it comes from, or up to which entry was known when it was derived.
        account: whom it concerns; None: the whole ledger.
        title, text: for people.
        data: what is known, by field.
    """

    id: str
    name: str
    aliases: tuple[str, ...] = ()
    severity: Severity
    at: datetime
    tenant: str
    seq: int
    account: str | None = None
    title: str
    text: str = ""
    data: dict[str, Any] = {}


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One alert on its way to one channel; times are ms since the epoch.

    Attributes:
        number: of the row, rising; 0: not stored yet.
        id: derived from the alert and the channel: what is sent again is sent under the same id.
        account: number of the account whose erasure takes this away as well.
        body: the alert, encoded.
        attempts: how often it was tried.
        due_at: when it is tried next.
        error: why the last attempt failed, without addresses.
    """

    number: int = 0
    id: str
    channel: str
    account: int | None = None
    body: bytes
    state: DeliveryState = "waiting"
    attempts: int = 0
    made_at: int
    due_at: int
    error: str = ""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the journal was read for alerts.

    Attributes:
        version: rises with each step; a step from another one is not taken.
        seq: the last entry that was read; -1: none yet.
        memory: what was told already, and what is watched.
        measures: the usage of the last hour, with the entry up to which it was read.
    """

    version: int = 0
    seq: int = -1
    memory: bytes = b""
    measures: bytes = b""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of reading: all of it is kept in one transaction, or nothing.

    Attributes:
        progress: after it; ``version`` is that from which it starts.
        deliveries: what is to be sent; one whose id is there already changes nothing.
        erased: accounts by number, whose deliveries go.
    """

    progress: Progress
    deliveries: Sequence[Delivery] = ()
    erased: Sequence[int] = ()


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """What a channel has; ``oldest_at``: when the oldest that waits was made, ms since the epoch."""

    channel: str
    waiting: int = 0
    dead: int = 0
    oldest_at: int | None = None


class AlertStore(Protocol):
    """Where deliveries and the progress of reading are kept, of one tenant; callable from any thread.

    Every method raises StoreUnavailable when it cannot be reached. ``node`` names a process.
    """

    def lead(self, node: str, now_ms: int, until_ms: int) -> Progress | None:
        """Take, or keep, the right to read the journal for all nodes until an instant; None: another has it."""
        ...

    def step(self, step: Step) -> bool:
        """Keep a step; False: another node has taken one meanwhile, and nothing was kept."""
        ...

    def claim(self, channel: str, node: str, now_ms: int, until_ms: int, limit: int) -> list[Delivery]:
        """Deliveries that are due, in their order; no other node gets them until an instant."""
        ...

    def note(self, delivery: Delivery) -> None:
        """Keep what became of an attempt: state, attempts, due_at and error. The claim ends."""
        ...

    def deliveries(self, state: DeliveryState | None, after: int, limit: int) -> list[Delivery]:
        """Deliveries in the order of their numbers."""
        ...

    def counts(self) -> list[Count]:
        """What each channel has."""
        ...

    def retry(self, id: str | None, now_ms: int) -> int:
        """Let dead deliveries (one, or all) be tried again from now on; returns how many."""
        ...

    def forget(self, sent_before_ms: int, dead_before_ms: int, waiting_before_ms: int, limit: int) -> int:
        """Drop deliveries in each state that were made before an instant; returns how many."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class DeliveryView(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery as it is shown."""

    id: str
    channel: str
    state: DeliveryState
    attempts: int
    made_at: datetime
    due_at: datetime | None
    error: str
    alert: Alert


class ChannelView(msgspec.Struct, frozen=True, kw_only=True):
    """A channel as it is shown: where it leads to is not.

    Attributes:
        state: ``failing``: the last attempt of this node failed. ``off``: it is not among ``alert_channels``, or no
            longer in the file.
        error: why it failed.
        oldest_age_s: how long the oldest alert has waited, in whole seconds.
    """

    channel: str
    kind: str
    state: Literal["ok", "failing", "off"]
    error: str = ""
    severity: Severity | None = None
    accounts: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    waiting: int = 0
    dead: int = 0
    sent: int = 0
    failed: int = 0
    oldest_age_s: int = 0


class AlertsView(msgspec.Struct, frozen=True, kw_only=True):
    """The channels, and a page of deliveries.

    Attributes:
        as_of_seq: the entry up to which the journal was read for alerts.
        next: ``after`` of the next page; None at the end.
    """

    as_of_seq: int
    channels: tuple[ChannelView, ...]
    deliveries: tuple[DeliveryView, ...]
    next: int | None = None


class Retried(msgspec.Struct, frozen=True, kw_only=True):
    """How many dead deliveries are tried again."""

    retried: int


class Tested(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a test message."""

    channel: str
    delivered: bool
    detail: str = ""


class AlertDesk(Protocol):
    """What can be asked of the alerts of a service or of a program."""

    async def view(self, state: DeliveryState | None, after: int, limit: int) -> AlertsView:
        """The channels, and a page of deliveries."""
        ...

    async def retry(self, id: str | None) -> int:
        """Let dead deliveries (one, or all) be tried again; returns how many."""
        ...

    async def test(self, channel: str) -> Tested | None:
        """Send a message now, past the outbox; None: there is no such channel."""
        ...


@runtime_checkable
class OwnAlerts(AlertDesk, Protocol):
    """The alerts of a program that has its ledger in its own process."""

    async def begin(self) -> None:
        """Tell what happens from here on, in the background."""
        ...

    async def finish(self) -> None:
        """Tell what has happened by now, as far as that goes in a moment."""
        ...

    async def close(self) -> None:
        """Stop, and let the outbox go."""
        ...
