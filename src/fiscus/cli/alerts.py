"""``fiscus alerts``: who is told outside, what waits or was given up, and a test of a channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from fiscus.cli.connection import Connection, connected
from fiscus.cli.invocation import EXIT_ERROR, Invocation, command
from fiscus.cli.output import time_text, write_line
from fiscus.contract.alerts import AlertStore, AlertsView, DeliveryState, DeliveryView, Retried, Tested
from fiscus.contract.errors import ConfigurationInvalid

if TYPE_CHECKING:  # not imported before it is needed: `fiscus --help` is fast
    from fiscus.alerts.options import AlertOptions
    from fiscus.settings import Settings

alerts = typer.Typer(help="Alerts: who is told outside, and what became of it.", no_args_is_help=True)

PAGE = 100
CHANNEL_COLUMNS = ("channel", "kind", "state", "waiting>", "dead>", "oldest>", "last error")
DELIVERY_COLUMNS = ("id", "channel", "state", "made", "attempts>", "alert", "last error")


@command(alerts, "list")
async def list_channels(
    invocation: Invocation,
    state: Annotated[
        DeliveryState | None, typer.Option(help="Also the deliveries in this state, the oldest first.")
    ] = None,
) -> None:
    """List the channels with what waits for each; with --state, deliveries."""
    if state is not None:
        await _list_deliveries(invocation, state)
        return
    async with connected(invocation) as connection:
        view = await _view(connection, None, 0, 1)
    rows = (
        (
            one.channel,
            one.kind,
            one.state,
            f"{one.waiting:,}",
            f"{one.dead:,}",
            f"{one.oldest_age_s:,} s" if one.waiting else "",
            one.error,
        )
        for one in view.channels
    )
    invocation.output.rows(view.channels, CHANNEL_COLUMNS, rows)


@command(alerts, "dead")
async def list_dead(invocation: Invocation) -> None:
    """List the alerts that were given up; ``fiscus alerts retry`` sends them again."""
    await _list_deliveries(invocation, "dead")


@command(alerts, "retry")
async def retry(
    invocation: Invocation,
    id: Annotated[str | None, typer.Argument(help="Of one; all that are dead unless given.", metavar="ID")] = None,
) -> None:
    """Send alerts again that were given up, under their ids."""
    async with connected(invocation) as connection:
        if connection.address is not None:
            retried = await connection.post("/v1/alerts/retry", {"id": id}, Retried)
        else:
            from fiscus.alerts.desk import now_ms

            async with _opened(connection) as store:
                retried = Retried(retried=await asyncio.to_thread(store.retry, id, now_ms()))
    invocation.output.answer(retried, f"{retried.retried:,} are sent again")


@command(alerts, "test")
async def test(
    invocation: Invocation, channel: Annotated[str, typer.Argument(help="Its name in the file.", metavar="CHANNEL")]
) -> int:
    """Send a test to a channel now: from the service with --url, else from here. Exit code 1 if it did not arrive."""
    settings = invocation.settings()
    if settings.url is not None:
        async with connected(invocation) as connection:
            tested = await connection.post("/v1/alerts/test", {"channel": channel}, Tested)
    else:
        tested = await _test_here(settings, channel)
    became = "was delivered" if tested.delivered else f"was not delivered: {tested.detail}"
    invocation.output.answer(tested, f"{tested.channel}: the test {became}")
    return 0 if tested.delivered else EXIT_ERROR


async def _test_here(settings: Settings, name: str) -> Tested:
    """Send from this machine, with the file of the settings.

    Raises:
        ConfigurationInvalid: there is no such channel.
    """
    from fiscus.alerts.desk import sender_of, try_channel

    options = _options(settings)
    found = next((one for one in options.channels if one.name == name), None) if options is not None else None
    if found is None:
        raise ConfigurationInvalid(f"alerts_path: the file names no channel {name!r}")
    sender = sender_of(found)
    try:
        return await try_channel(found, sender, settings.tenant)
    finally:
        await sender.close()


def _options(settings: Settings) -> AlertOptions | None:
    from fiscus.cli.options import alert_options

    return alert_options(settings)


async def _list_deliveries(invocation: Invocation, state: DeliveryState) -> None:
    found: list[DeliveryView] = []
    async with connected(invocation) as connection:
        after: int | None = 0
        while after is not None:
            view = await _view(connection, state, after, PAGE)
            found += view.deliveries
            after = view.next
    rows = (
        (one.id, one.channel, one.state, time_text(one.made_at), str(one.attempts), one.alert.title, one.error)
        for one in found
    )
    invocation.output.rows(found, DELIVERY_COLUMNS, rows)
    if not invocation.json:
        write_line(f"\n{len(found):,} {state}")


async def _view(connection: Connection, state: DeliveryState | None, after: int, limit: int) -> AlertsView:
    """A page: of the service, or of the outbox that is opened here."""
    if connection.address is None:
        from fiscus.alerts.desk import stored_view

        async with _opened(connection) as store:
            return await asyncio.to_thread(stored_view, store, _options(connection.settings), state, after, limit)
    from urllib.parse import urlencode

    from fiscus.api.alerts import AlertsAnswer
    from fiscus.api.cursors import after_of, cursor_of

    asked = {"limit": str(limit), "state": state, "cursor": cursor_of(after) if after else None}
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    answer = await connection.get(f"/v1/alerts?{query}", AlertsAnswer)
    return AlertsView(
        as_of_seq=answer.as_of_seq,
        channels=answer.channels,
        deliveries=answer.deliveries,
        next=after_of(answer.next) if answer.next is not None else None,
    )


@asynccontextmanager
async def _opened(connection: Connection) -> AsyncIterator[AlertStore]:
    """The outbox of the ledger that is open in this process."""
    from fiscus.stores import open_alerts

    store = open_alerts(connection.settings.store_url, connection.tenant)
    try:
        yield store
    finally:
        store.close()
