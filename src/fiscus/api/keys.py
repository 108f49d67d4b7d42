"""API keys: their secrets, who calls with one, and what it may do."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Literal

import msgspec

from fiscus.api.limits import Buckets
from fiscus.api.problems import Problem, problem
from fiscus.contract.errors import BudgetUnavailable, refusal
from fiscus.contract.logs import get_logger
from fiscus.contract.queries import FindKey, KeysView, ListKeys
from fiscus.contract.treasury import Treasury
from fiscus.core.commands import PutKey, Request, Role
from fiscus.core.outcomes import KeyAnswer, Refused

SECRET_PREFIX = "fk_"  # noqa: S105  # how secrets begin, not one
SECRET_BYTES = 32
SECRET_LENGTH_MAX = 256
CACHED_S = 1.0
CACHED_MAX = 10_000
STALE_S_MAX = 3_600.0
"""How long a key is believed on the word of before while the ledger cannot be asked, in seconds."""

UNKNOWN_KEYS_PER_MINUTE = 120
"""Secrets that do not exist, which one address may try in a minute."""

FIRST_KEY = "first"
"""Public id of the key that the settings bring along."""

log = get_logger(__name__)

Access = Literal["open", "read", "read_all", "write", "operate", "administer"]
"""Who may use a route: anybody; every key; keys not bound to an account; keys that may spend; operators; admins."""

ALLOWED: dict[Access, frozenset[Role]] = {
    "open": frozenset(("admin", "operator", "viewer", "account")),
    "read": frozenset(("admin", "operator", "viewer", "account")),
    "read_all": frozenset(("admin", "operator", "viewer")),
    "write": frozenset(("admin", "operator", "account")),
    "operate": frozenset(("admin", "operator")),
    "administer": frozenset(("admin",)),
}


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who makes a request.

    Attributes:
        actor: public id of the key; empty without one.
        scope: the account to which the caller is bound; None: not bound.
        may_open: whether accounts may be opened from templates.
        requests_per_minute: of this key; None: the default.
    """

    actor: str
    role: Role
    scope: str | None = None
    may_open: bool = True
    requests_per_minute: int | None = None


_Known = tuple[float, KeyAnswer | None, Caller | None]
"""Until when it counts (of the monotonic clock), the key, who calls with it."""

LOCAL = Caller(actor="", role="admin")
"""Everybody, on a service without keys."""


def make_secret() -> str:
    """A new secret: ``fk_`` and 32 random bytes as base64url."""
    return SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def make_key_id() -> str:
    """A new public id of a key."""
    return f"key_{secrets.token_hex(8)}"


def digest_of(secret: str, pepper: bytes) -> str:
    """The keyed hash by which a secret is stored and found: hex of HMAC-SHA256."""
    return hmac.digest(pepper, secret.encode("utf-8", "surrogateescape"), "sha256").hex()


async def store_first_key(treasury: Treasury, secret: str, pepper: bytes, tenant: str = "default") -> None:
    """Store the secret from the settings as an administrator's key, if there never was a first one.

    One that was rotated or revoked stays so, whatever the settings still say.

    Raises:
        Refusal: the ledger does not take it.
    """
    digest = digest_of(secret, pepper)
    asked = FindKey(digest=digest, tenant=tenant)
    found = await treasury.read(asked)
    if isinstance(found, KeysView) and found.keys:
        return
    command = PutKey(key=FIRST_KEY, digest=digest, role="admin", may_open=True, label="from the settings", if_new=True)
    outcome = await treasury.execute(Request(command=command, tenant=tenant, actor=FIRST_KEY))
    if isinstance(outcome, Refused):
        raise refusal(outcome)
    found = await treasury.read(asked)
    if isinstance(found, KeysView) and not found.keys:
        log.warning("first_key_not_used", reason="it was rotated, revoked or set before")


class Keys:
    """Finds who calls. What it learns from the ledger is kept for at most ``CACHED_S``.

    While the ledger is away it counts for up to ``STALE_S_MAX``: what was used must be accepted. Nothing is admitted
    then, and what is spooled is decided by the ledger once more, when it is back.
    """

    def __init__(
        self,
        treasury: Treasury,
        *,
        pepper: bytes | None,
        required: bool,
        tenant: str,
        clock_s: Callable[[], float],
        monotonic_s: Callable[[], float],
    ) -> None:
        assert pepper is not None or not required
        self._treasury = treasury
        self._pepper = pepper
        self.required = required
        """Whether a call needs a key. Once the ledger has an administrator's key, whichever node made it, it does."""
        self._look_at_s = 0.0
        self._tenant = tenant
        self._clock_s = clock_s
        self._monotonic_s = monotonic_s
        self._cache: dict[str, _Known] = {}
        self._digests: dict[bytes, str] = {}
        self._quick_key = secrets.token_bytes(16)
        self._strangers = Buckets(monotonic_s)

    def forget(self) -> None:
        """Ask the ledger again from now on: a key was changed."""
        self._cache.clear()
        self._look_at_s = 0.0

    async def caller(self, headers: Mapping[bytes, bytes], address: str) -> Caller | Problem:
        """Who calls, or why that is not known.

        Args:
            headers: names in lower case.
            address: of the client; it may try only so many secrets that do not exist.

        Raises:
            TreasuryError: the ledger cannot be asked.
        """
        secret = _secret(headers)
        if secret is None:
            if not self.required and self._pepper is not None and self._look_at_s <= self._monotonic_s():
                await self._look_for_administrators()
            return _no_key() if self.required else LOCAL
        if self._pepper is None or not secret or len(secret) > SECRET_LENGTH_MAX:
            return self._stranger(address)
        digest = self._digest(secret, self._pepper)
        now_s = self._monotonic_s()
        cached = self._cache.get(digest)
        if cached is None or cached[0] <= now_s:
            if cached is None and self._strangers.is_empty(address, UNKNOWN_KEYS_PER_MINUTE):
                return self._stranger(address)
            cached = await self._found(digest, cached)
        _, key, caller = cached
        if key is None or caller is None or (key.expires_at is not None and self._has_expired(key.expires_at)):
            return self._stranger(address)
        return caller

    def _digest(self, secret: str, pepper: bytes) -> str:
        """The hash by which a key is found, looked up by one that is quicker: the first costs as much as routing."""
        name = hashlib.blake2b(secret.encode("utf-8", "surrogateescape"), digest_size=16, key=self._quick_key).digest()
        digest = self._digests.get(name)
        if digest is None:
            if len(self._digests) >= CACHED_MAX:
                self._digests.clear()
            self._digests[name] = digest = digest_of(secret, pepper)
        return digest

    async def _look_for_administrators(self) -> None:
        """See whether there is a key by now of somebody who can make others."""
        self._look_at_s = self._monotonic_s() + CACHED_S
        with contextlib.suppress(BudgetUnavailable):
            view = await self._treasury.read(ListKeys(tenant=self._tenant))
            self.required = isinstance(view, KeysView) and any(key.role == "admin" and key.active for key in view.keys)

    async def _found(self, digest: str, before: _Known | None) -> _Known:
        """What the ledger says of a key, or has said while it cannot be asked."""
        try:
            return await self._find(digest)
        except BudgetUnavailable:
            if before is None or before[0] + STALE_S_MAX <= self._monotonic_s():
                raise
            return before

    async def _find(self, digest: str) -> _Known:
        """Ask the ledger, and keep what it says. The time counts from before the question."""
        until_s = self._monotonic_s() + CACHED_S
        found = await self._treasury.read(FindKey(digest=digest, tenant=self._tenant))
        key = found.keys[0] if isinstance(found, KeysView) and found.keys else None
        if len(self._cache) >= CACHED_MAX:
            self._cache.clear()
        self._cache[digest] = entry = (until_s, key, None if key is None else caller_of(key))
        return entry

    def _has_expired(self, at: datetime) -> bool:
        return at <= datetime.fromtimestamp(self._clock_s(), UTC)

    def _stranger(self, address: str) -> Problem:
        wait_s = self._strangers.take(address, UNKNOWN_KEYS_PER_MINUTE)
        if wait_s:
            return problem("rate_limited", "too many unknown keys from this address", retry_after_s=wait_s)
        return problem("unauthorized", "this key is unknown, expired or revoked")


def caller_of(key: KeyAnswer) -> Caller | None:
    """Who calls with a key; None for one that is of no use."""
    if not key.active or (key.role == "account") != (key.account is not None):
        return None
    return Caller(
        actor=key.key,
        role=key.role,
        scope=key.account,
        may_open=key.may_open or key.role != "account",
        requests_per_minute=key.requests_per_minute,
    )


def _no_key() -> Problem:
    return problem("unauthorized", "send a key as Authorization: Bearer, or as X-Api-Key")


def _secret(headers: Mapping[bytes, bytes]) -> str | None:
    """The secret in the headers; None: there is none; empty: there is something else."""
    authorization = headers.get(b"authorization")
    if authorization is not None:
        scheme, _, credentials = authorization.partition(b" ")
        return credentials.strip().decode("latin-1") if scheme.lower() == b"bearer" else ""
    api_key = headers.get(b"x-api-key")
    return None if api_key is None else api_key.strip().decode("latin-1")
