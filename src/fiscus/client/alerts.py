"""The alerts of a service, over HTTP."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import msgspec

from fiscus.client.remote import RemoteTreasury
from fiscus.client.wire import Exchange, after_of, cursor_of
from fiscus.contract.alerts import AlertsView, ChannelView, DeliveryState, DeliveryView, Retried, Tested
from fiscus.contract.errors import refusal
from fiscus.core.outcomes import Refused

TEST_S_MAX = 30.0
"""How much longer a test may take than other calls: the service waits for the channel."""


class _AlertsPage(msgspec.Struct, frozen=True, kw_only=True):
    as_of_seq: int = 0
    channels: tuple[ChannelView, ...] = ()
    deliveries: tuple[DeliveryView, ...] = ()
    next: str | None = None


class RemoteAlerts:
    """See ``contract.alerts.AlertDesk``. Needs a key that may see the whole ledger.

    Every method raises Refusal where the key may not, and TreasuryError where nobody answers.
    """

    def __init__(self, treasury: RemoteTreasury) -> None:
        self._treasury = treasury

    async def view(self, state: DeliveryState | None, after: int, limit: int) -> AlertsView:
        """See ``AlertDesk``."""
        asked = {"state": state, "cursor": cursor_of(after), "limit": str(limit)}
        query = urlencode({name: value for name, value in asked.items() if value is not None})
        view: AlertsView = await self._answer(Exchange(method="GET", target=f"/v1/alerts?{query}", decode=_decode_page))
        return view

    async def retry(self, id: str | None) -> int:
        """See ``AlertDesk``."""
        answer = await self._answer(_posted("/v1/alerts/retry", {} if id is None else {"id": id}, Retried))
        return int(answer.retried)

    async def test(self, channel: str) -> Tested | None:
        """See ``AlertDesk``."""
        outcome = await self._treasury.exchange(
            _posted("/v1/alerts/test", {"channel": channel}, Tested), wait_s=TEST_S_MAX
        )
        if isinstance(outcome, Refused) and outcome.field == "channel":
            return None
        tested: Tested = _answered(outcome)
        return tested

    async def _answer(self, exchange: Exchange) -> Any:
        return _answered(await self._treasury.exchange(exchange))


def _answered(outcome: Any) -> Any:
    if isinstance(outcome, Refused):
        raise refusal(outcome)
    return outcome


def _posted(target: str, body: dict[str, str], kind: type[Any]) -> Exchange:
    decoder = msgspec.json.Decoder(kind)
    return Exchange(method="POST", target=target, decode=decoder.decode, body=msgspec.json.encode(body))


def _decode_page(body: bytes) -> AlertsView:
    page = msgspec.json.decode(body, type=_AlertsPage)
    return AlertsView(
        as_of_seq=page.as_of_seq,
        channels=page.channels,
        deliveries=page.deliveries,
        next=after_of(page.next),
    )
