"""Which channel wants which alert."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from fiscus.alerts.catalogue import names_of
from fiscus.alerts.options import Channel
from fiscus.contract.alerts import SEVERITIES
from fiscus.core.commands import Severity


class Filters:
    """The wishes of all channels.

    >>> filters = Filters([Channel(name="ops", kind="webhook", accounts=("team:*",), kinds=("budget_alert",))])
    >>> filters.wanting("threshold_crossed", "warning", ("agent:x", "team:search"))
    ['ops']
    >>> filters.wanting("threshold_crossed", "info", ("team:search",)), filters.any_wants("overdrawn", "final")
    ([], False)
    """

    def __init__(self, channels: Iterable[Channel]) -> None:
        self._channels = [
            (channel, frozenset(name for kind in channel.kinds for name in names_of(kind))) for channel in channels
        ]

    def any_wants(self, name: str, severity: Severity) -> bool:
        """Whether it is worth looking up whom it concerns."""
        return any(_wants(channel, names, name, severity) for channel, names in self._channels)

    def wanting(self, name: str, severity: Severity, chain: Sequence[str]) -> list[str]:
        """The channels that want it; ``chain``: the account and those above it, empty for the whole ledger."""
        return [
            channel.name
            for channel, names in self._channels
            if _wants(channel, names, name, severity) and _covers(channel.accounts, chain)
        ]


def _wants(channel: Channel, names: frozenset[str], name: str, severity: Severity) -> bool:
    is_severe = SEVERITIES.index(severity) >= SEVERITIES.index(channel.severity)
    return is_severe and (not channel.kinds or name in names)


def _covers(patterns: Sequence[str], chain: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(account, pattern) for account in chain for pattern in patterns)
