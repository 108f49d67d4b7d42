"""Where things stand in Redis. ``docs/guides/redis.md`` is the same for readers."""

from __future__ import annotations

import msgspec

AGENT_PREFIX = "agent:"
"""Accounts with such names are agents of the token economy."""

AGENT_ALLOCATION = "agent_allocation:"
GLOBAL_BUDGET_REMAINING = "global_budget_remaining"
AGENT_TERMINATION = "agent_termination"
"""The channel that terminations are told on."""


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of one tenant.

    Attributes:
        prefix: what all of them begin with.
        is_economy: whether the agents' keys, which do not name a tenant, are this tenant's.
    """

    prefix: str
    is_economy: bool

    @property
    def seq(self) -> str:
        """String: the journal's sequence that everything has reached; absent while it is rebuilt."""
        return f"{self.prefix}seq"

    @property
    def chain(self) -> str:
        """String: the journal's chain hash there, hex."""
        return f"{self.prefix}chain"

    @property
    def next(self) -> str:
        """String: the sequence that is being written; a writer that is older than this stops."""
        return f"{self.prefix}next"

    @property
    def rebuild(self) -> str:
        """String: who rebuilds; goes by itself if that one dies."""
        return f"{self.prefix}rebuild"

    @property
    def names(self) -> str:
        """Hash: number of an account → its name."""
        return f"{self.prefix}names"

    @property
    def ends(self) -> str:
        """Sorted set: number of an account → when the first of its windows ends (ms)."""
        return f"{self.prefix}ends"

    @property
    def events(self) -> str:
        """Stream: the journal's entries."""
        return f"{self.prefix}events"

    @property
    def account(self) -> str:
        """Prefix of the hash of each account."""
        return f"{self.prefix}account:"

    @property
    def agent(self) -> str:
        """Prefix of the hash of each agent; empty: this tenant has none."""
        return AGENT_ALLOCATION if self.is_economy else ""


def keys_of(tenant: str, *, is_economy: bool) -> Keys:
    """The keys of a tenant.

    >>> keys_of("default", is_economy=True).seq
    'fiscus:default:seq'
    """
    return Keys(prefix=f"fiscus:{tenant}:", is_economy=is_economy)


def matching(prefix: str) -> str:
    r"""The pattern of all keys that begin with a prefix.

    >>> print(matching("fiscus:a*:account:"))
    fiscus:a\*:account:*
    """
    return "".join(f"\\{letter}" if letter in "*?[]\\^" else letter for letter in prefix) + "*"
