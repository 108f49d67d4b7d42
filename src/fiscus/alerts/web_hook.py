"""Signed web hooks, as Standard Webhooks has them: id, time and body under an HMAC, one signature for each secret."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiohttp
import msgspec

from fiscus.alerts.catalogue import CATALOGUE
from fiscus.alerts.channels import NotDelivered
from fiscus.alerts.options import Channel, Names
from fiscus.alerts.threads import Resolver
from fiscus.contract.alerts import Alert

ANSWER_BYTES_MAX = 1_024
"""Of an answer that is read, so that the connection can be used again; its contents are of no interest."""

RETRY_AFTER_S_MAX = 3_600.0
GONE = 410
_encode = msgspec.json.Encoder().encode


def signatures(keys: Sequence[bytes], id: str, timestamp_s: int, body: bytes) -> str:
    """The header ``webhook-signature``: one signature for each key, so that receivers may change theirs at leisure.

    >>> key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    >>> signatures([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='
    """
    signed = f"{id}.{timestamp_s}.".encode() + body
    return " ".join("v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys)


def payload(alert: Alert, names: Names) -> bytes:
    """The body: ``type``, ``timestamp`` and ``data``."""
    fact = CATALOGUE[alert.name]
    renamed = {"fiscus": alert.name, "signal": fact.signal, "token": fact.token}[names]
    data: dict[str, Any] = {
        name: getattr(alert, name)
        for name in ("id", "name", "aliases", "severity", "tenant", "seq", "account", "title", "text")
    }
    return _encode({"type": renamed or alert.name, "timestamp": alert.at, "data": {**data, "facts": alert.data}})


class WebHook:
    """Posts to one address. No redirects, no cookies, no proxies of the environment; time and answer are bounded.

    Args:
        channel: of the kind ``webhook``.
        clock_s: seconds since the epoch.
    """

    def __init__(self, channel: Channel, clock_s: Callable[[], float] = time.time) -> None:
        self._channel = channel
        self._keys = channel.keys
        self._clock_s = clock_s
        self._resolver = Resolver(f"fiscus-alerts-{channel.name}-names")
        self._session: aiohttp.ClientSession | None = None

    async def send(self, id: str, alert: Alert) -> None:
        """See ``Sender``."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=self._resolver, limit=1),
                timeout=aiohttp.ClientTimeout(total=self._channel.send_s_max),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        body = payload(alert, self._channel.names)
        timestamp_s = int(self._clock_s())
        headers = {
            "content-type": "application/json",
            "user-agent": "fiscus",
            "webhook-id": id,
            "webhook-timestamp": str(timestamp_s),
            "webhook-signature": signatures(self._keys, id, timestamp_s, body),
        }
        try:
            async with self._session.post(
                self._channel.url, data=body, headers=headers, allow_redirects=False
            ) as response:
                await response.content.read(ANSWER_BYTES_MAX)
                status, asked = response.status, response.headers
        except TimeoutError:
            raise NotDelivered(f"no answer within {self._channel.send_s_max:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NotDelivered(type(error).__name__) from None  # its text has the address in it
        if not 200 <= status < 300:
            raise NotDelivered(f"answered {status}", for_good=status == GONE, retry_after_s=_asked_for_s(asked))

    async def close(self) -> None:
        """See ``Sender``."""
        if self._session is not None:
            await self._session.close()


def _asked_for_s(headers: Mapping[str, str]) -> float:
    """Seconds of ``Retry-After``; a date is not looked at."""
    text = headers.get("Retry-After", "")
    return min(RETRY_AFTER_S_MAX, float(text)) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0
