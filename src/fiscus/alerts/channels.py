"""What a channel does: hand over one alert, or say why it could not. Nothing that is said shows an address."""

from __future__ import annotations

from typing import Protocol

from fiscus.contract.alerts import Alert


class NotDelivered(Exception):
    """An alert was not handed over, as far as is known.

    Attributes:
        for_good: trying again is of no use.
        retry_after_s: what the other side asked for.
    """

    def __init__(self, detail: str, *, for_good: bool = False, retry_after_s: float = 0) -> None:
        super().__init__(detail)
        self.for_good = for_good
        self.retry_after_s = retry_after_s


class Sender(Protocol):
    """One channel's way out."""

    async def send(self, id: str, alert: Alert) -> None:
        """Hand an alert over; it may be cancelled at any time.

        Raises:
            NotDelivered: it was not, or nobody knows.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
