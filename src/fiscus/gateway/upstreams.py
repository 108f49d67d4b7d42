"""Asking the providers: which one, over which connection, and what to do when one does not answer."""

from __future__ import annotations

import asyncio
import io
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import aiohttp

from fiscus.contract.logs import get_logger
from fiscus.gateway.options import KEY_HEADERS, Family, GatewayOptions, Upstream

log = get_logger(__name__)

CONNECTIONS_MAX = 2_000
AGAIN = frozenset((408, 409, 429, 500, 502, 503, 504, 529))
"""Statuses after which another upstream may do better."""

BROKEN = frozenset((500, 502, 503, 504, 529))
"""Statuses that speak against the upstream itself."""

RETRY_AFTER_S_MAX = 60.0
PIECE_BYTES_MAX = 262_144
"""A longer request is sent piece by piece, so that others have their turn between."""

KEPT_BACK = frozenset(
    (
        b"authorization",
        b"x-api-key",
        b"x-goog-api-key",
        b"api-key",
        b"cookie",
        b"host",
        b"content-length",
        b"connection",
        b"keep-alive",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"expect",
        b"accept-encoding",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"forwarded",
    )
)
"""Headers of a caller that are its own affair, or the connection's."""

OWN_PREFIX = b"x-fiscus-"


class UpstreamFailed(Exception):
    """There is no answer. Internal to the gateway.

    Attributes:
        was_sent: whether the provider may have begun to work, and to bill.
        is_timeout: whether it took too long.
    """

    def __init__(self, detail: str, *, was_sent: bool, is_timeout: bool = False) -> None:
        super().__init__(detail)
        self.was_sent = was_sent
        self.is_timeout = is_timeout


class Rate:
    """A bucket of tokens that fills within a minute. A call may take more than is in it; then it fills from below.

    >>> now_s = 0.0
    >>> rate = Rate(600, clock=lambda: now_s)
    >>> rate.took(610)
    >>> rate.is_used_up
    True
    >>> now_s = 2.0
    >>> rate.is_used_up
    False
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._left = float(per_minute)
        self._as_of_s = clock()

    @property
    def is_used_up(self) -> bool:
        """Whether nothing is left now."""
        self._fill()
        return self._left <= 0

    def took(self, tokens: int) -> None:
        """A call has used so many."""
        self._fill()
        self._left -= tokens

    def _fill(self) -> None:
        now_s = self._clock()
        self._left = min(self._per_minute, self._left + (now_s - self._as_of_s) * self._per_minute / 60)
        self._as_of_s = now_s


class Target:
    """An upstream, and how it is doing."""

    def __init__(self, upstream: Upstream, session: aiohttp.ClientSession) -> None:
        self.upstream = upstream
        self.in_flight = 0
        self.failures = 0
        self.broken_until_s = 0.0
        self.used = 0
        self.rate = None if upstream.tokens_per_minute_max is None else Rate(upstream.tokens_per_minute_max)
        self._session = session
        key_header = upstream.api_key_header or KEY_HEADERS[upstream.family]
        value = f"Bearer {upstream.api_key}" if key_header.lower() == "authorization" else upstream.api_key
        self._own = dict(upstream.headers) | ({key_header: value} if upstream.api_key else {})
        self._own_names = frozenset(name.lower().encode() for name in self._own)
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=upstream.connect_s_max, sock_read=upstream.answer_s_max
        )

    @property
    def is_full(self) -> bool:
        """Whether as many calls are in flight, or as many tokens were used, as may be."""
        return self.in_flight >= self.upstream.in_flight_max or (self.rate is not None and self.rate.is_used_up)

    def without_key(self, body: bytes) -> bytes:
        """What it says of an error; some repeat the key that they were sent."""
        return body.replace(self.upstream.api_key.encode(), b"[key]") if self.upstream.api_key else body

    def model_for(self, asked: str) -> str:
        """What the model is called there."""
        return self.upstream.renames.get(asked, asked)

    async def ask(
        self,
        method: str,
        path: str,
        query: str,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes | None,
        *,
        model: str,
    ) -> aiohttp.ClientResponse:
        """Send a request; returns when the answer has begun.

        Raises:
            UpstreamFailed: it has not.
        """
        named = quote(self.model_for(model), safe="")
        address = (self.upstream.base_url.rstrip("/") + path).replace("{model}", named)
        asked = "&".join(part for part in (query, self.upstream.query) if part)
        sent = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in headers
            if name not in KEPT_BACK and name not in self._own_names and not name.startswith(OWN_PREFIX)
        ]
        try:
            answer = await self._session.request(
                method,
                address + (f"?{asked}" if asked else ""),
                data=body if body is None or len(body) <= PIECE_BYTES_MAX else io.BytesIO(body),
                headers=[*sent, *self._own.items(), ("accept-encoding", "identity")],
                timeout=self._timeout,
                allow_redirects=False,
            )
            if answer.connection is not None and answer.connection.protocol is not None:
                answer.connection.protocol.read_timeout = self.upstream.silence_s_max
            return answer
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as error:
            raise UpstreamFailed(f"{self.upstream.name} cannot be reached", was_sent=False) from error
        except (TimeoutError, aiohttp.ServerTimeoutError) as error:
            raise UpstreamFailed(f"{self.upstream.name} did not answer", was_sent=True, is_timeout=True) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UpstreamFailed(f"{self.upstream.name} broke off", was_sent=True) from error


class Upstreams:
    """All upstreams behind one pool of connections. Belongs to one event loop; ``close`` it."""

    def __init__(self, options: GatewayOptions) -> None:
        self._options = options
        self._targets: list[Target] = []
        self._session: aiohttp.ClientSession | None = None
        self._turn = 0

    def targets(self, family: Family, model: str | None = None) -> list[Target]:
        """Those that serve a model (None: any of the family), the best one first; those that are broken last.

        An upstream for every model is asked only for those that no other names: what is for one is not sent to another.
        """
        targets = self._targets or self._open()
        now_s = asyncio.get_running_loop().time()
        found = [
            target
            for target in targets
            if target.upstream.family == family and (model is None or target.upstream.serves(model))
        ]
        if model is not None:
            found = [target for target in found if target.upstream.names(model)] or found
        strategy = self._options.strategy
        found.sort(
            key=lambda one: (
                one.broken_until_s > now_s,
                one.is_full,
                one.upstream.priority,
                one.in_flight if strategy == "least_loaded" else 0,
                one.used if strategy != "failover" else 0,
            )
        )
        return found

    def _open(self) -> list[Target]:
        connector = aiohttp.TCPConnector(limit=CONNECTIONS_MAX, keepalive_timeout=60)
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
            read_bufsize=1 << 18,
            max_line_size=65_536,
            max_field_size=65_536,
        )
        self._targets = [Target(upstream, self._session) for upstream in self._options.upstreams]
        return self._targets

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    def began(self, target: Target) -> None:
        """A call is asked of it."""
        self._turn += 1
        target.used = self._turn
        target.in_flight += 1

    def ended(self, target: Target, *, failed: bool) -> None:
        """The call is over; after so many failures in a row it is left alone for a while."""
        target.in_flight -= 1
        if not failed:
            target.failures = 0
            target.broken_until_s = 0.0
            return
        target.failures += 1
        if target.failures >= self._options.broken_after:
            now_s = asyncio.get_running_loop().time()
            if target.broken_until_s <= now_s:
                log.warning("upstream_left_alone", upstream=target.upstream.name, seconds=self._options.broken_s)
            target.broken_until_s = now_s + self._options.broken_s


def next_target(targets: Sequence[Target], tried: Sequence[Target]) -> Target:
    """The best that has not been asked yet, else the one that was asked longest ago."""
    fresh = next((target for target in targets if target not in tried), None)
    return fresh if fresh is not None else min(targets, key=lambda target: target.used)


def retry_after_s(headers: Mapping[str, Any]) -> float | None:
    """How long a provider asks to wait, in seconds; None: it does not say, or not in seconds."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = str(headers.get(name, ""))
        if value.replace(".", "", 1).isdigit():
            return min(float(value) * scale, RETRY_AFTER_S_MAX)
    return None


def backoff_s(options: GatewayOptions, attempt: int) -> float:
    """How long to wait before an upstream is asked again: doubled each time, with a quarter of jitter."""
    wait_s: float = min(options.backoff_s_max, options.backoff_s * 2**attempt)
    return wait_s * random.uniform(0.75, 1.25)  # noqa: S311  (nothing secret)
