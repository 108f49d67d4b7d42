"""The usage of the last hour, minute by minute: bounded, and only what the rules ask for."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from fiscus.contract.queries import Usage

MINUTE_MS = 60_000
MINUTES_MAX = 61
NAMES_MAX = 500
"""Accounts, and tools, of one minute that are told apart; the rest is counted in the totals only."""

HOLDS_MAX = 50_000
"""Calls of which it is remembered what was counted, so that a later reading of one adds only what it has more."""

VALUE_MAX = 1e12


class Minute(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What was booked in one minute, or in several.

    Attributes:
        at: minutes since the epoch.
        tool_requests: requests that used a tool. ``tool_tokens``: of definitions and results of tools.
        value, valued_tokens: of the calls whose worth was reported.
        accounts: tokens by payer. ``tools``: uses by tool.
    """

    at: int
    tokens: int = 0
    requests: int = 0
    tool_requests: int = 0
    tool_tokens: int = 0
    value: float = 0.0
    valued_tokens: int = 0
    accounts: dict[str, int] = {}
    tools: dict[str, int] = {}


class _Counted(msgspec.Struct, frozen=True, gc=False):
    """What was counted of one call so far."""

    tokens: int = 0
    tool_tokens: int = 0
    has_tools: bool = False
    value: float | None = None


class Kept(msgspec.Struct, kw_only=True):
    """What is kept of it across restarts."""

    usage_after: int = 0
    began_ms: int = 0
    minutes: list[Minute] = []


class Measures:
    """Adds up usage; says what there was over the last minutes.

    A call whose second reading comes after a restart counts as another request: what was counted of calls in flight is
    not kept.

    Attributes:
        usage_after: the entry up to which usage was read.
        began_ms: since when it is.
    """

    def __init__(self, kept: Kept) -> None:
        self.usage_after = kept.usage_after
        self.began_ms = kept.began_ms
        self._minutes: dict[int, Minute] = {minute.at: minute for minute in kept.minutes}
        self._calls: dict[str, _Counted] = {}

    def kept(self) -> Kept:
        """What to keep."""
        return Kept(usage_after=self.usage_after, began_ms=self.began_ms, minutes=list(self._minutes.values()))

    def add(self, usages: Iterable[Usage]) -> None:
        """Count readings, in the order of their booking."""
        for usage in usages:
            self._add(usage)
            self.usage_after = max(self.usage_after, usage.seq)

    def _add(self, usage: Usage) -> None:
        at = int(usage.at.timestamp()) // 60
        minute = self._minutes.setdefault(at, Minute(at=at))
        record = usage.record
        tokens = usage.amounts.get("tokens")
        if tokens is None:
            tokens = usage.amounts.get("input_tokens", 0) + usage.amounts.get("output_tokens", 0)
        before = self._calls.pop(usage.hold, None)
        is_new, before = before is None, before or _Counted()
        parts = record.tokens if record is not None else None
        now = _Counted(
            tokens=before.tokens + tokens,
            tool_tokens=max(before.tool_tokens, parts.tool_definitions + parts.tool_results if parts else 0),
            has_tools=before.has_tools or bool(record is not None and record.tools),
            value=record.value if record is not None and record.value is not None else before.value,
        )
        self._calls[usage.hold] = now
        if len(self._calls) > HOLDS_MAX:
            del self._calls[next(iter(self._calls))]
        minute.tokens += tokens
        minute.requests += is_new
        minute.tool_tokens += now.tool_tokens - before.tool_tokens
        if now.has_tools and not before.has_tools:
            minute.tool_requests += 1
            for tool in record.tools if record is not None else ():
                _count(minute.tools, tool, 1)
        if now.value is not None:
            minute.value += max(-VALUE_MAX, min(VALUE_MAX, now.value - (before.value or 0.0)))
            minute.valued_tokens += now.tokens - (before.tokens if before.value is not None else 0)
        _count(minute.accounts, usage.account, tokens)

    def forget(self, now_ms: int) -> None:
        """Let go of what is older than an hour."""
        first = now_ms // MINUTE_MS - MINUTES_MAX + 1
        for at in [at for at in self._minutes if at < first]:
            del self._minutes[at]

    def over(self, now_ms: int, minutes: int, before: int = 0) -> Minute:
        """What there was in the running minute and those before it, ``minutes`` in all, ``before`` minutes ago."""
        last = now_ms // MINUTE_MS - before
        total = Minute(at=last)
        for at in range(last - minutes + 1, last + 1):
            minute = self._minutes.get(at)
            if minute is None:
                continue
            for field in ("tokens", "requests", "tool_requests", "tool_tokens", "value", "valued_tokens"):
                setattr(total, field, getattr(total, field) + getattr(minute, field))
            for name, count in minute.accounts.items():
                total.accounts[name] = total.accounts.get(name, 0) + count
            for name, count in minute.tools.items():
                total.tools[name] = total.tools.get(name, 0) + count
        return total


def _count(table: dict[str, int], name: str, count: int) -> None:
    if name in table or len(table) < NAMES_MAX:
        table[name] = table.get(name, 0) + count
