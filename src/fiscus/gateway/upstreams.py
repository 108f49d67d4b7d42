"""Asking the providers: which one, over which connection, and what to do when one does not answer."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from urllib.parse import parse_qsl, quote, urlsplit

import msgspec

from fiscus.contract.logs import get_logger
from fiscus.gateway.asgi import Headers
from fiscus.gateway.bodies import Body
from fiscus.gateway.client import Client
from fiscus.gateway.connection import Answer, UpstreamFailed
from fiscus.gateway.options import KEY_HEADERS, Family, GatewayOptions, Upstream

log = get_logger(__name__)

AGAIN = frozenset((408, 409, 429, 500, 502, 503, 529))
"""Statuses after which another upstream may do better."""

SILENT = frozenset((504, 524))
"""Statuses of who has sent the call on and waited in vain: it may be billed, like one that nobody has answered."""

BROKEN = frozenset((500, 502, 503, 504, 529))
"""Statuses that speak against the upstream itself."""

MODELS_MAX = 1_024
"""Of so many names of models it is kept who serves them."""

RETRY_AFTER_S_MAX = 60.0
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
        b"x-goog-fieldmask",
        b"x-goog-field-mask",
        b"x-http-method-override",
        b"x-http-method",
        b"x-method-override",
    )
)
"""Headers of a caller that are its own affair, or the connection's, or that leave the usage out of an answer."""

OWN_PREFIX = b"x-fiscus-"

SECRET = re.compile("auth|key|token|secret|cookie|passw|credential|signature", re.IGNORECASE)
"""What the name of a header or of a parameter has in it whose value is a secret."""

SECRET_LENGTH_LEAST = 8
"""A shorter value of a header is no secret, and stands in many texts."""

SECRET_LENGTH = 24
"""A longer one without a blank is taken for a secret, whatever its name is."""


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

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.in_flight = 0
        self.failures = 0
        self.broken_until_s = 0.0
        self.used = 0
        self.rate = None if upstream.tokens_per_minute_max is None else Rate(upstream.tokens_per_minute_max)
        self.client = Client(
            upstream.base_url,
            connect_s=upstream.connect_s_max,
            answer_s=upstream.answer_s_max,
            silence_s=upstream.silence_s_max,
        )
        key_header = upstream.api_key_header or KEY_HEADERS[upstream.family]
        value = f"Bearer {upstream.api_key}" if key_header.lower() == "authorization" else upstream.api_key
        own = dict(upstream.headers) | ({key_header: value} if upstream.api_key else {})
        self._own = b"".join(b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in own.items())
        self._own += b"accept-encoding: identity\r\n"
        self._own_lines = self._own.count(b"\n")
        self._kept_back = KEPT_BACK | {name.lower().encode() for name in own}
        self._path = urlsplit(upstream.base_url).path.rstrip("/")
        self._secrets = secrets_of(upstream)

    @property
    def is_full(self) -> bool:
        """Whether as many calls are in flight, or as many tokens were used, as may be."""
        return self.in_flight >= self.upstream.in_flight_max or (self.rate is not None and self.rate.is_used_up)

    def without_key(self, body: bytes) -> bytes:
        """What it says of an error; some repeat the key that they were sent, or another secret."""
        for secret in self._secrets:
            body = body.replace(secret, b"[key]")
        return body

    def model_for(self, asked: str) -> str:
        """What the model is called there."""
        return self.upstream.renames.get(asked, asked)

    async def ask(
        self,
        method: str,
        path: str,
        query: str,
        headers: Headers,
        body: Body | None,
        *,
        model: str,
        sending: Callable[[], None] = lambda: None,
    ) -> Answer:
        """Send a request; returns when the answer has begun. ``sending`` is called before its first byte is sent.

        Raises:
            UpstreamFailed: it has not.
        """
        head = self._head(method, path, query, headers, body, model)
        try:
            parts = () if body is None else body.parts
            return await self.client.ask(head, parts, is_repeatable=body is None, sending=sending)
        except UpstreamFailed as error:
            detail = f"{self.upstream.name} {error}"
            raise UpstreamFailed(detail, was_sent=error.was_sent, is_timeout=error.is_timeout) from error

    def _head(self, method: str, path: str, query: str, headers: Headers, body: Body | None, model: str) -> bytes:
        """The head of a request: the caller's headers, less its own affairs, and ours."""
        target = self._path + path
        if "{model}" in target:
            target = target.replace("{model}", quote(self.model_for(model), safe=""))
        asked = "&".join(part for part in (query, self.upstream.query) if part)
        lines = [
            b"%b: %b\r\n" % (name, value)
            for name, value in headers
            if name not in self._kept_back and not name.startswith(OWN_PREFIX)
        ]
        first = f"{method} {target}?{asked}" if asked else f"{method} {target}"
        length = b"content-length: %d\r\n" % body.length if body is not None else b""
        head = b"%b HTTP/1.1\r\nhost: %b\r\n%b%b%b\r\n" % (
            first.encode("ascii", "replace"),
            self.client.host,
            b"".join(lines),
            self._own,
            length,
        )
        if head.count(b"\n") != len(lines) + self._own_lines + (4 if body is not None else 3):
            raise UpstreamFailed(f"{self.upstream.name} cannot be sent such headers", was_sent=False)
        return head


def secrets_of(upstream: Upstream) -> list[bytes]:
    """What it is sent in confidence, as it may stand in a text or in JSON; what contains another one comes first.

    >>> one = Upstream(name="a", family="openai", base_url="http://a", headers={"x-token": "Bearer 0123456789"})
    >>> secrets_of(one)
    [b'Bearer 0123456789', b'0123456789']
    """
    named = [*upstream.headers.items(), *parse_qsl(upstream.query)]
    values = [part for name, value in named if SECRET.search(name) for part in (value, value.partition(" ")[2])]
    values += [value for _, value in named if len(value) >= SECRET_LENGTH and " " not in value]
    secrets = {upstream.api_key, *(value for value in values if len(value) >= SECRET_LENGTH_LEAST)} - {""}
    written = {form for secret in secrets for form in (secret.encode(), msgspec.json.encode(secret)[1:-1])}
    return sorted(written, key=lambda secret: (-len(secret), secret))


class Upstreams:
    """All upstreams, and their connections. Belongs to one event loop; ``close`` it."""

    def __init__(self, options: GatewayOptions) -> None:
        self._options = options
        self._targets = [Target(upstream) for upstream in options.upstreams]
        self._serving: dict[tuple[Family, str | None], tuple[Target, ...]] = {}
        self._turn = 0

    @property
    def all(self) -> Sequence[Target]:
        """Every one, as the file has them."""
        return self._targets

    def targets(self, family: Family, model: str | None = None) -> list[Target]:
        """Those that serve a model (None: any of the family), the best one first; those that are broken last.

        An upstream for every model is asked only for those that no other names: what is for one is not sent to another.
        """
        serving = self._serving.get((family, model))
        if serving is None:
            serving = self._find(family, model)
        if len(serving) <= 1:
            return list(serving)
        now_s = asyncio.get_running_loop().time()
        strategy = self._options.strategy
        return sorted(
            serving,
            key=lambda one: (
                one.broken_until_s > now_s,
                one.is_full,
                one.upstream.priority,
                one.in_flight if strategy == "least_loaded" else 0,
                one.used if strategy != "failover" else 0,
            ),
        )

    def _find(self, family: Family, model: str | None) -> tuple[Target, ...]:
        found = [
            target
            for target in self._targets
            if target.upstream.family == family and (model is None or target.upstream.serves(model))
        ]
        if model is not None:
            found = [target for target in found if target.upstream.names(model)] or found
        if len(self._serving) >= MODELS_MAX:
            self._serving.clear()
        self._serving[family, model] = serving = tuple(found)
        return serving

    async def close(self) -> None:
        """Close all connections."""
        for target in self._targets:
            await target.client.close()

    def began(self, target: Target) -> None:
        """A call is asked of it."""
        self._turn += 1
        target.used = self._turn
        target.in_flight += 1

    def ended(self, target: Target, *, failed: bool | None) -> None:
        """The call is over; after so many failures in a row it is left alone for a while.

        Args:
            target: was asked.
            failed: whether it failed; None: nobody waited for that.
        """
        target.in_flight -= 1
        if failed is None:
            return
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


def retry_after_s(answer: Answer) -> float | None:
    """How long a provider asks to wait, in seconds; None: it does not say."""
    for name, scale in ((b"retry-after-ms", 0.001), (b"retry-after", 1.0)):
        value = answer.header(name)
        if value.isascii() and value.replace(".", "", 1).isdigit():
            return min(float(value) * scale, RETRY_AFTER_S_MAX)
    try:
        left_s = parsedate_to_datetime(answer.header(b"retry-after")).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, left_s), RETRY_AFTER_S_MAX)


def backoff_s(options: GatewayOptions, attempt: int) -> float:
    """How long to wait before an upstream is asked again: doubled each time, with a quarter of jitter."""
    wait_s: float = min(options.backoff_s_max, options.backoff_s * 2**attempt)
    return wait_s * random.uniform(0.75, 1.25)  # noqa: S311  (nothing secret)
