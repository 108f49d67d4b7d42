"""The treasury of a service, over HTTP."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from math import ceil
from time import monotonic
from typing import Any, cast

import aiohttp
import msgspec
import uuid_utils
from yarl import URL

from fiscus.client.backoff import Backoff
from fiscus.client.problems import decode_problem
from fiscus.client.sessions import Sessions, unreachable
from fiscus.client.sse import EventParser
from fiscus.client.wire import (
    Exchange,
    exchange_for,
    exchange_for_many,
    exchange_for_query,
    is_batchable,
    is_unsayable,
    like_local,
)
from fiscus.contract import AnyOutcome, Compound, HoldAnswer, Refused, Request, Reserve
from fiscus.contract.errors import BudgetUnavailable, ConfigurationInvalid, TreasuryError
from fiscus.contract.logs import get_logger
from fiscus.contract.queries import AnyQuery, Entry, View
from fiscus.contract.treasury import Readiness
from fiscus.core.checks import check

TIMEOUT_S_DEFAULT = 30.0
ATTEMPT_S_MAX = 10.0
ATTEMPTS_MAX = 10
CONNECTIONS_MAX = 64
FOLLOW_SILENCE_S_MAX = 60.0
FOLLOW_OUTAGE_S_MAX = 300.0
NOT_SAID_S = 0
"""Seconds to wait where the service did not say any."""

log = get_logger(__name__)


class RemoteTreasury:
    """See ``contract.treasury.Treasury``. Belongs to an event loop, see ``contract.loops``.

    Connection errors, timeouts and answers of the kind "not now" are repeated with the same id, or with an idempotency
    key that is made here, so that a repeat has no second effect. A refusal is an answer and is never repeated. Tenant
    and scope are those of the key.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout_s: float = TIMEOUT_S_DEFAULT,
        attempt_s_max: float = ATTEMPT_S_MAX,
        attempts_max: int = ATTEMPTS_MAX,
        backoff: Backoff | None = None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            url: ``http://host:port`` or ``https://…``, with a path if the service stands below one.
            api_key: the secret of a key; None: the service runs without keys.
            timeout_s: how long a call may take with all its repeats, in seconds.
            attempt_s_max: how long one attempt may take, in seconds.
            attempts_max: how often it is tried at most.
            backoff: how long to wait between attempts.

        Raises:
            ConfigurationInvalid: the URL is none.
        """
        self._base = _base_url(url)
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._timeout_s = timeout_s
        self._attempt_s_max = attempt_s_max
        self._attempts_max = attempts_max
        self._backoff = backoff or Backoff()
        self._sessions = Sessions(partial(_session, self._headers))
        self._is_closed = False

    async def execute(self, request: Request) -> AnyOutcome:
        """See ``Treasury``."""
        _check_request(request)
        if is_unsayable(request.command) and (wrong := check(request.command)) is not None:
            return wrong
        try:
            if request.may_wait and check(request.command) is None:
                return await self._wait_for(cast("Reserve", request.command))
            exchange = exchange_for(request.command, request.idempotency_key or _new_key())
        except UnicodeEncodeError as error:
            return Refused(code="invalid", detail=f"a text has a surrogate in it: {error.reason}")
        outcome: AnyOutcome = await self.exchange(exchange)
        if isinstance(outcome, Refused):
            return like_local(outcome, is_single=not isinstance(request.command, Compound))
        return outcome

    async def _wait_for(self, command: Reserve) -> AnyOutcome:
        """A reserve that waits: asked for again with the same id for as long as the service says that it does.

        A request that breaks off ends the waiting there; the next one begins anew, for the time that is left.
        """
        until = monotonic() + command.wait_s
        outcome: AnyOutcome
        while True:
            left_s = max(1, ceil(until - monotonic()))
            outcome = await self.exchange(
                exchange_for(msgspec.structs.replace(command, wait_s=left_s), ""), wait_s=left_s
            )
            if not isinstance(outcome, HoldAnswer) or outcome.state != "waiting":
                return outcome
            if monotonic() > until + self._timeout_s:
                raise BudgetUnavailable("the service goes on waiting", NOT_SAID_S)

    async def execute_many(self, requests: Sequence[Request]) -> list[AnyOutcome]:
        """See ``Treasury``."""
        for request in requests:
            _check_request(request)
        if not requests:
            return []
        if any(request.may_wait for request in requests):
            return list(await asyncio.gather(*(self.execute(request) for request in requests)))
        if all(
            request.idempotency_key is None and is_batchable(request.command) and not is_unsayable(request.command)
            for request in requests
        ):
            outcomes = await self.exchange(exchange_for_many([request.command for request in requests], _new_key()))
            if not isinstance(outcomes, Refused):
                return list(outcomes)
            # One of them cannot be read at all. The others are none the worse for it.
        return [await self.execute(request) for request in requests]

    async def read(self, query: AnyQuery) -> View | Refused:
        """See ``Treasury``."""
        _check_tenant(query.tenant)
        _check_scope(query.scope)
        view: View | Refused = await self.exchange(exchange_for_query(query))
        return view

    async def follow(self, after: int = 0, tenant: str = "default", scope: str | None = None) -> AsyncIterator[Entry]:
        """See ``Treasury``. A lost connection is taken up again after the last entry.

        Raises:
            BudgetUnavailable: the service was away for more than ``FOLLOW_OUTAGE_S_MAX`` seconds, or could not be
                reached in the first place.
        """
        _check_tenant(tenant)
        failures, away_since, patience_s = 0, monotonic(), self._timeout_s
        while True:
            try:
                async with self._stream(after, scope) as response:
                    parser = EventParser()
                    async for piece in response.content.iter_any():
                        failures, patience_s = 0, FOLLOW_OUTAGE_S_MAX
                        for event in parser.feed(piece):
                            entry = _decoded(event.data.encode(), Entry)
                            if entry.seq > after:
                                after = entry.seq
                                yield entry
                failure = BudgetUnavailable("the service ended the stream", NOT_SAID_S)
            except BudgetUnavailable as error:
                failure = error
            away_since = monotonic() if failures == 0 else away_since
            failures += 1
            delay_s = self._delay_s(failures, failure)
            if monotonic() + delay_s - away_since > patience_s:
                raise _given_up(failure)
            log.info("events_interrupted", after=after, error=str(failure))
            await asyncio.sleep(delay_s)

    async def readiness(self) -> Readiness:
        """See ``Treasury``. Asked once, without repeats."""
        status, body, _ = await self._attempt("GET", "/ready", timeout_s=min(self._timeout_s, self._attempt_s_max))
        try:
            return msgspec.json.decode(body, type=Readiness)
        except msgspec.DecodeError:
            failure = decode_problem(status, body)
            raise (failure if isinstance(failure, TreasuryError) else TreasuryError(failure.detail)) from None

    async def confirm_clock(self, tenant: str = "default", actor: str = "") -> None:
        """See ``Treasury``. The actor is the key's."""
        _check_tenant(tenant)
        exchange = Exchange(
            method="POST", target="/v1/clock/confirm", decode=lambda body: msgspec.json.decode(body, type=Readiness)
        )
        refused = await self.exchange(exchange)
        if isinstance(refused, Refused):
            raise TreasuryError(refused.detail)

    async def close(self) -> None:
        """Close the connections; the service's ledger stays as it is."""
        self._is_closed = True
        await self._sessions.close()

    async def exchange(self, exchange: Exchange, *, wait_s: float = 0) -> Any:
        """Ask until there is an answer, within ``timeout_s`` and ``attempts_max``.

        Args:
            exchange: what is asked.
            wait_s: how much longer an answer may take, in seconds.

        Returns:
            What the answer says: an outcome, a view, or a refusal.

        Raises:
            TreasuryError: there is none.
        """
        extra = {"Idempotency-Key": exchange.idempotency_key} if exchange.idempotency_key else {}
        deadline = monotonic() + self._timeout_s + wait_s
        attempt_s_max = self._attempt_s_max + wait_s
        failures = 0
        while True:
            failure: Refused | TreasuryError
            try:
                status, body, retry_after = await self._attempt(
                    exchange.method,
                    exchange.target,
                    timeout_s=max(0.001, min(attempt_s_max, deadline - monotonic())),
                    body=exchange.body,
                    headers=extra,
                )
            except BudgetUnavailable as error:
                failure = error
            else:
                if 200 <= status < 300:
                    return _readable(exchange, body)
                failure = decode_problem(status, body, retry_after)
            if isinstance(failure, Refused):
                return failure
            if not isinstance(failure, BudgetUnavailable):
                raise failure
            failures += 1
            delay_s = self._delay_s(failures, failure)
            if failures >= self._attempts_max or monotonic() + delay_s > deadline:
                raise _given_up(failure)
            log.debug("asked_again", target=exchange.target, failures=failures, error=str(failure))
            await asyncio.sleep(delay_s)

    def _delay_s(self, failures: int, failure: BudgetUnavailable) -> float:
        return self._backoff.delay_s(failures, random.random(), failure.retry_after_s)  # noqa: S311  (jitter)

    async def _attempt(
        self,
        method: str,
        target: str,
        *,
        timeout_s: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes, str | None]:
        """One request. Returns status, body and ``Retry-After``."""
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._open().request(
                method, self._url(target), data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                return response.status, await response.read(), response.headers.get("Retry-After")
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            raise _unreachable(self._base, error) from error

    @asynccontextmanager
    async def _stream(self, after: int, scope: str | None) -> AsyncIterator[aiohttp.ClientResponse]:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=ATTEMPT_S_MAX, sock_read=FOLLOW_SILENCE_S_MAX)
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        url = self._url("/v1/events").with_query({"account": scope} if scope is not None else {})
        try:
            async with self._open().get(url, headers=headers, timeout=timeout, allow_redirects=False) as response:
                if response.status != 200:
                    failure = decode_problem(
                        response.status, await response.read(), response.headers.get("Retry-After")
                    )
                    raise TreasuryError(failure.detail) if isinstance(failure, Refused) else failure
                yield response
        except (aiohttp.ClientError, OSError) as error:
            raise _unreachable(self._base, error) from error

    def _open(self) -> aiohttp.ClientSession:
        if self._is_closed:
            raise TreasuryError("this treasury is closed")
        return self._sessions.open()

    def _url(self, target: str) -> URL:
        return URL(self._base + target, encoded=True)


def _base_url(url: str) -> str:
    try:
        parsed = URL(url)
    except (TypeError, ValueError) as error:
        raise ConfigurationInvalid(f"url: {url!r} is not a URL: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query_string or parsed.fragment:
        raise ConfigurationInvalid(f"url: {url!r} is not of the form http://host:port")
    return str(parsed).rstrip("/")


def _unreachable(base: str, error: Exception) -> BudgetUnavailable:
    return BudgetUnavailable(f"{base}: {unreachable(error)}", NOT_SAID_S)


def _given_up(failure: BudgetUnavailable) -> BudgetUnavailable:
    return BudgetUnavailable(str(failure), max(1, failure.retry_after_s))


def _readable(exchange: Exchange, body: bytes) -> Any:
    try:
        return exchange.decode(body)
    except msgspec.DecodeError as error:
        raise TreasuryError(f"{exchange.target}: the answer cannot be read: {error}") from error


def _decoded(body: bytes, kind: type[Entry]) -> Entry:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise TreasuryError(f"an event cannot be read: {error}") from error


def _check_request(request: Request) -> None:
    _check_tenant(request.tenant)
    _check_scope(request.scope)
    if not request.may_open:
        raise TreasuryError("whether a request may open accounts is said by the key, not by the request")


def _check_tenant(tenant: str) -> None:
    if tenant != "default":
        raise TreasuryError(f"a service has one tenant: {tenant!r} cannot be asked for")


def _check_scope(scope: str | None) -> None:
    if scope is not None:
        raise TreasuryError("the scope of a request is that of the key: use a key that is bound to the account")


def _session(headers: Mapping[str, str]) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX), cookie_jar=aiohttp.DummyCookieJar(), headers=headers
    )


def _new_key() -> str:
    return str(uuid_utils.uuid7())
