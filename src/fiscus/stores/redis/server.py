"""The server and the few things that are asked of it, each in one round trip with a bounded wait."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from importlib.resources import files
from typing import Any, Literal, cast

import msgspec

from fiscus.contract.errors import ConfigurationInvalid
from fiscus.stores.redis.keys import AGENT_TERMINATION, GLOBAL_BUDGET_REMAINING, Keys, matching

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError as error:
    raise ConfigurationInvalid("redis_url is set, and redis-py is missing: install fiscus[redis]") from error

REBUILD_MS_MAX = 10_000
"""How long a node that rebuilds may be silent before another one may begin anew."""

SCAN_COUNT = 1_000

Mode = Literal["step", "last", "refresh", "rebuild", "rebuilt"]
Verdict = Literal["done", "absent", "newer", "behind", "lost", "busy", "pool"]
Begun = Literal["begun", "held", "changed"]

_pack = msgspec.msgpack.Encoder().encode


class ServerUnavailable(Exception):
    """The server did not do it, or nobody knows whether it did; internal to this package."""


class AccountState(msgspec.Struct, frozen=True, array_like=True):
    """An account as it is written; all texts, as Redis keeps them.

    Attributes:
        first_end: when the first of its windows ends, ms; empty: none does.
        fields: names and values in turn; none: the account is taken out.
        agent: likewise, of the agent's hash.
    """

    number: str
    name: str
    first_end: str
    fields: list[str]
    agent: list[str]


class StreamEntry(msgspec.Struct, frozen=True, array_like=True):
    """An entry of the journal as it is appended; ``told``: what goes to the channel."""

    seq: str
    at: str
    kind: str
    body: str
    hash: str
    told: str


class Look(msgspec.Struct, frozen=True):
    """What stands there now. ``seq`` is None while nothing has been written, or all of it is being written anew."""

    seq: int | None
    chain: str | None
    rebuilder: str | None
    stream_seq: int


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """What all steps of one publication share.

    Attributes:
        after: the entry that must have been reached.
        seq: the entry that is reached with the last step; ``chain`` is the journal's hash there.
        as_of: the entry that the accounts are as of, which may be a later one.
        token: of the rebuild.
        pool: what is left of the economy's pool, ``none``, or empty: leave it as it is.
    """

    after: int = 0
    seq: int
    chain: str
    as_of: int
    token: str = ""
    pool: str = ""


class RedisServer:
    """A connection; opened when it is needed, and anew after each error.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        timeout_ms: longest wait for a connection or an answer.
        stream_length_max: entries that a stream keeps.

    Raises:
        ConfigurationInvalid: the URL cannot be read.
    """

    def __init__(self, url: str, *, timeout_ms: int, stream_length_max: int) -> None:
        timeout_s = timeout_ms / 1_000
        try:
            self._client = redis.Redis.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                retry=Retry(NoBackoff(), 0),
                decode_responses=False,
                health_check_interval=0,
            )
        except ValueError as error:
            raise ConfigurationInvalid(f"redis_url: {error}") from error
        self.stream_length_max = stream_length_max
        self._publish = self._script("publish.lua")
        self._append = self._script("append.lua")
        self._begin = self._script("begin.lua")

    def _script(self, file_name: str) -> Any:
        return self._client.register_script((files(__package__) / file_name).read_text(encoding="utf-8"))

    def close(self) -> None:
        """Let the connections go."""
        self._client.close()

    def look(self, keys: Keys) -> Look:
        """What stands there now.

        Raises:
            ServerUnavailable: there was no answer in time, or an error.
        """
        try:
            seq, chain, rebuilder = cast("list[bytes | None]", self._client.mget(keys.seq, keys.chain, keys.rebuild))
            stream_seq = self._run(self._append, [keys.events], [self.stream_length_max, "", _pack([]), ""])
        except redis.RedisError as error:
            raise self._unavailable(error) from error
        return Look(
            seq=int(seq) if seq is not None else None,
            chain=chain.decode() if chain is not None else None,
            rebuilder=rebuilder.decode() if rebuilder is not None else None,
            stream_seq=stream_seq,
        )

    def last_entry(self, keys: Keys) -> tuple[int, str] | None:
        """Sequence and chain hash of the last entry in the stream."""
        try:
            found = cast("list[tuple[bytes, dict[bytes, bytes]]]", self._client.xrevrange(keys.events, count=1))
        except redis.RedisError as error:
            raise self._unavailable(error) from error
        return (int(found[0][0].split(b"-")[0]), found[0][1][b"hash"].decode()) if found else None

    def begin(self, keys: Keys, token: str, seen: Look, *, is_fork: bool) -> Begun:
        """Begin a rebuild, if nobody else has begun one or written anything since it was looked."""
        names = [keys.seq, keys.chain, keys.next, keys.rebuild, keys.names, keys.ends, keys.events]
        seq = "" if seen.seq is None else seen.seq
        arguments = [token, REBUILD_MS_MAX, seq, "fork" if is_fork else "", seen.rebuilder or ""]
        return cast("Begun", self._run(self._begin, names, arguments).decode())

    def publish(self, keys: Keys, mode: Mode, publication: Publication, accounts: Sequence[AccountState]) -> Verdict:
        """Write accounts in one step that is done as a whole or not at all.

        Returns:
            Whether it was done, else why nothing was written.
        """
        names = [keys.seq, keys.chain, keys.next, keys.rebuild, keys.names, keys.ends, self._pool_key(keys)]
        arguments = [
            mode,
            publication.after,
            publication.seq,
            publication.chain,
            publication.as_of,
            publication.token,
            REBUILD_MS_MAX,
            keys.account,
            keys.agent,
            publication.pool if keys.is_economy else "",
            _pack(accounts),
        ]
        return cast("Verdict", self._run(self._publish, names, arguments).decode())

    def append(self, keys: Keys, entries: Sequence[StreamEntry], *, may_jump: bool = False) -> int:
        """Append those of the entries that the stream lacks; returns the last one that it has."""
        channel = AGENT_TERMINATION if keys.is_economy else ""
        arguments = [self.stream_length_max, channel, _pack(entries), "jump" if may_jump else ""]
        return int(self._run(self._append, [keys.events], arguments))

    def ended(self, keys: Keys, before_ms: int, limit: int) -> list[int]:
        """Numbers of accounts that are shown with a window that has ended, the earliest first."""
        try:
            found = self._client.zrangebyscore(keys.ends, "-inf", before_ms, start=0, num=limit)
        except redis.RedisError as error:
            raise self._unavailable(error) from error
        return [int(number) for number in cast("list[bytes]", found)]

    def sweep(self, keys: Keys, accounts: Collection[str], agents: Collection[str]) -> int:
        """Remove the hashes of all accounts and agents but these; returns how many."""
        removed = self._sweep(keys.account, accounts)
        return removed + (self._sweep(keys.agent, agents) if keys.is_economy else 0)

    def _sweep(self, prefix: str, kept: Collection[str]) -> int:
        length, removed = len(prefix.encode()), 0
        try:
            for page in self._scan(matching(prefix)):
                stale = [key for key in page if key[length:].decode() not in kept]
                if stale:
                    removed += self._client.unlink(*stale)
        except redis.RedisError as error:
            raise self._unavailable(error) from error
        return removed

    def _scan(self, pattern: str) -> Iterator[list[bytes]]:
        cursor = 0
        while True:
            cursor, page = cast(
                "tuple[int, list[bytes]]", self._client.scan(cursor=cursor, match=pattern, count=SCAN_COUNT)
            )
            yield page
            if not cursor:
                return

    def _run(self, script: Any, names: Sequence[str], arguments: Sequence[object]) -> Any:
        try:
            return script(keys=names, args=arguments)
        except redis.RedisError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: redis.RedisError) -> ServerUnavailable:
        """After an error nothing is known of what was asked: the next question goes over a new connection."""
        self._client.connection_pool.disconnect()
        return ServerUnavailable(f"{type(error).__name__}: {error}")

    @staticmethod
    def _pool_key(keys: Keys) -> str:
        return GLOBAL_BUDGET_REMAINING if keys.is_economy else f"{keys.prefix}pool"
