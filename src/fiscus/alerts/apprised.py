"""E-mail, Slack and whatever else Apprise speaks. Its calls block: each channel has at most one thread for them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import yaml

from fiscus.alerts.channels import NotDelivered
from fiscus.alerts.options import Channel
from fiscus.alerts.threads import Busy, Single
from fiscus.contract.alerts import Alert
from fiscus.contract.errors import ConfigurationInvalid

if TYPE_CHECKING:  # comes with an extra that may not be there
    from apprise import Apprise

BODY_LENGTH_MAX = 4_000


class Apprised:
    """Hands alerts to Apprise.

    A call that hangs keeps its thread, and the next attempt fails at once until it has come back: nothing else waits
    for it, and the end of the process does not either.

    Args:
        channel: of the kind ``apprise``.

    Raises:
        ConfigurationInvalid: Apprise is not installed, or cannot read the address.
    """

    def __init__(self, channel: Channel) -> None:
        try:
            import apprise
        except ModuleNotFoundError as error:
            raise ConfigurationInvalid(
                f"alerts: channel {channel.name} needs the package {error.name}: install fiscus with the extra `alerts`"
            ) from error
        logging.getLogger("apprise").setLevel(logging.CRITICAL)  # its warnings show addresses
        self._channel = channel
        self._apprise: Apprise = apprise.Apprise()
        if not self._apprise.add(channel.url):
            raise ConfigurationInvalid(f"alerts: channel {channel.name}: url: Apprise cannot read this address")
        self._single = Single(f"fiscus-alerts-{channel.name}")

    async def send(self, id: str, alert: Alert) -> None:
        """See ``Sender``."""
        try:
            async with asyncio.timeout(self._channel.send_s_max):
                is_sent = await self._single(lambda: self._notify(alert))
        except Busy:
            raise NotDelivered("the attempt before has not come back yet") from None
        except TimeoutError:
            raise NotDelivered(f"not done within {self._channel.send_s_max:g} s") from None
        except Exception as error:  # noqa: BLE001  # plugins of many hands; what they say may have secrets in it
            raise NotDelivered(type(error).__name__) from None
        if not is_sent:
            raise NotDelivered("Apprise could not hand it over")

    def _notify(self, alert: Alert) -> bool:
        import apprise

        kinds = {"info": apprise.NotifyType.INFO, "warning": apprise.NotifyType.WARNING}
        return bool(
            self._apprise.notify(
                title=f"[{alert.severity}] {alert.title}",
                body=body_of(alert),
                notify_type=kinds.get(alert.severity, apprise.NotifyType.FAILURE),
                body_format=apprise.NotifyFormat.TEXT,
                interpret_escapes=False,
            )
        )

    async def close(self) -> None:
        """See ``Sender``."""


def body_of(alert: Alert) -> str:
    """A message for people: what happened, then the figures, one a line."""
    facts: dict[str, Any] = {"event": alert.name, "account": alert.account, "at": f"{alert.at:%Y-%m-%d %H:%M:%S} UTC"}
    facts |= {
        name: value if isinstance(value, (int, str, list, dict)) else str(value) for name, value in alert.data.items()
    }
    facts["id"] = alert.id
    known = {name: value for name, value in facts.items() if value not in (None, "", {}, [])}
    return f"{alert.title}\n\n{yaml.safe_dump(known, sort_keys=False, allow_unicode=True)}"[:BODY_LENGTH_MAX]
