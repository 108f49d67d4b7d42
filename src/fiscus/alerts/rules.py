"""What is derived of usage and balances: pure functions from figures to findings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec

from fiscus.alerts.measures import MINUTE_MS, Measures
from fiscus.core.outcomes import Balance

AGENT = "agent:"
SPIKE_MINUTES = 5
HOUR_MS = 3_600_000

Minutes = Annotated[int, msgspec.Meta(ge=1, le=60)]
Limit = Annotated[float, msgspec.Meta(ge=0, le=1e15)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]
CoolDown = Annotated[int, msgspec.Meta(ge=60, le=2_592_000)]


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule.

    Attributes:
        on: whether it is looked at.
        limit: beyond which it is told (see ``docs/guides/alerts.md``).
        minutes: over which it is measured.
        least: requests (uses, for a spike) below which nothing is told.
        cool_down_s: how long nothing is told again of the same account or tool, in seconds.
    """

    on: bool = True
    limit: Limit = 0
    minutes: Minutes = 60
    least: Count = 20
    cool_down_s: CoolDown = 3_600


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All rules, with the figures of D66 and N22."""

    high_token_consumption: Rule = Rule(limit=1_000, minutes=5, least=0)
    low_efficiency: Rule = Rule(limit=0.5, minutes=30, least=1)
    budget_nearly_gone: Rule = Rule(limit=0.1, minutes=10)
    budget_near_exhaustion: Rule = Rule(limit=0.7, minutes=60)
    tool_use_high: Rule = Rule(limit=0.5)
    tool_overhead_high: Rule = Rule(limit=0.3)
    agent_share_high: Rule = Rule(limit=0.6)
    tool_spike: Rule = Rule(limit=3, least=10)
    overdrawn: Rule = Rule()
    ledger_unready: Rule = Rule(minutes=1)


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule has found.

    Attributes:
        name: of the alert.
        about: a tool, or a budget and its window; the cool-down counts for each, and for each account, by itself.
        account: whom it concerns.
        data: its figures.
    """

    name: str
    about: str = ""
    account: str | None = None
    data: dict[str, Any]


def usage_findings(measures: Measures, rules: Rules, now_ms: int) -> Iterator[Finding]:
    """What the usage of the last minutes shows."""
    yield from _consumption(measures, rules.high_token_consumption, now_ms)
    yield from _efficiency(measures, rules.low_efficiency, now_ms)
    yield from _tool_use(measures, rules.tool_use_high, now_ms)
    yield from _tool_overhead(measures, rules.tool_overhead_high, now_ms)
    yield from _agent_share(measures, rules.agent_share_high, now_ms)
    yield from _tool_spikes(measures, rules.tool_spike, now_ms)


def _consumption(measures: Measures, rule: Rule, now_ms: int) -> Iterator[Finding]:
    seen = measures.over(now_ms, rule.minutes)
    per_s = seen.tokens / (rule.minutes * 60)
    if rule.on and seen.requests >= rule.least and per_s > rule.limit:
        yield Finding(name="high_token_consumption", data={"tokens_per_s": round(per_s, 1), "minutes": rule.minutes})


def _efficiency(measures: Measures, rule: Rule, now_ms: int) -> Iterator[Finding]:
    """Value for each token; told only after the whole time was seen."""
    seen = measures.over(now_ms, rule.minutes)
    if not rule.on or not seen.valued_tokens or seen.requests < rule.least:
        return
    efficiency = seen.value / seen.valued_tokens
    if efficiency < rule.limit and now_ms - measures.began_ms >= rule.minutes * MINUTE_MS:
        yield Finding(name="low_efficiency", data={"efficiency": round(efficiency, 4), "minutes": rule.minutes})


def _tool_use(measures: Measures, rule: Rule, now_ms: int) -> Iterator[Finding]:
    seen = measures.over(now_ms, rule.minutes)
    if rule.on and seen.requests >= max(1, rule.least) and seen.tool_requests > rule.limit * seen.requests:
        data = {"requests": seen.requests, "with_tools": seen.tool_requests, "minutes": rule.minutes}
        yield Finding(name="tool_use_high", data=data)


def _tool_overhead(measures: Measures, rule: Rule, now_ms: int) -> Iterator[Finding]:
    seen = measures.over(now_ms, rule.minutes)
    if rule.on and seen.requests >= rule.least and seen.tokens and seen.tool_tokens > rule.limit * seen.tokens:
        data = {"tokens": seen.tokens, "tool_tokens": seen.tool_tokens, "minutes": rule.minutes}
        yield Finding(name="tool_overhead_high", data=data)


def _agent_share(measures: Measures, rule: Rule, now_ms: int) -> Iterator[Finding]:
    """One agent of several."""
    seen = measures.over(now_ms, rule.minutes)
    agents = {name: tokens for name, tokens in seen.accounts.items() if name.startswith(AGENT) and tokens}
    if not rule.on or len(agents) <= 1 or seen.requests < rule.least:
        return
    name = max(agents, key=agents.__getitem__)
    if agents[name] > rule.limit * seen.tokens:
        data = {"agent_tokens": agents[name], "tokens": seen.tokens, "minutes": rule.minutes}
        yield Finding(name="agent_share_high", account=name, data=data)


def _tool_spikes(measures: Measures, rule: Rule, now_ms: int) -> Iterator[Finding]:
    """A tool that is used ``limit`` times as often in five minutes as in five of the time before."""
    before = min(rule.minutes - SPIKE_MINUTES, (now_ms - measures.began_ms) // MINUTE_MS - SPIKE_MINUTES)
    if not rule.on or before < 2 * SPIKE_MINUTES:
        return
    seen, usual = measures.over(now_ms, SPIKE_MINUTES), measures.over(now_ms, before, SPIKE_MINUTES)
    for tool, uses in sorted(seen.tools.items()):
        expected = max(1.0, usual.tools.get(tool, 0) * SPIKE_MINUTES / before)
        if uses >= max(1, rule.least) and uses > rule.limit * expected:
            data = {"tool": tool, "uses": uses, "usual": round(expected, 1), "minutes": SPIKE_MINUTES}
            yield Finding(name="tool_spike", about=tool, data=data)


class Watched(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A budget that has crossed a threshold, and what was seen of it since.

    Attributes:
        low_since_ms: since when less is left than ``budget_nearly_gone`` wants.
        samples: (time in ms, used) of the last hour, about one a minute.
    """

    account: str
    budget: str
    window_start_ms: int = 0
    low_since_ms: int | None = None
    samples: list[tuple[int, int]] = []


def look(watched: Watched, balance: Balance, rules: Rules, now_ms: int) -> Iterator[Finding]:
    """What one more look at a watched budget shows; takes note of it in ``watched``."""
    start_ms = int(balance.window_start.timestamp() * 1_000)
    if start_ms != watched.window_start_ms:
        watched.window_start_ms, watched.low_since_ms, watched.samples = start_ms, None, []
    used = balance.limit - balance.available
    if not watched.samples or now_ms - watched.samples[-1][0] >= MINUTE_MS:
        watched.samples = [one for one in watched.samples if one[0] > now_ms - HOUR_MS] + [(now_ms, used)]
    data = {
        "budget": balance.budget,
        "unit": balance.unit,
        "limit": balance.limit,
        "available": balance.available,
        "window_start": balance.window_start,
        "window_end": balance.window_end,
    }
    about = f"{watched.budget} {start_ms}"
    rule = rules.budget_nearly_gone
    if balance.available >= rule.limit * balance.limit:
        watched.low_since_ms = None
    elif watched.low_since_ms is None:
        watched.low_since_ms = now_ms
    elif rule.on and now_ms - watched.low_since_ms >= rule.minutes * MINUTE_MS:
        yield Finding(name="budget_nearly_gone", about=about, account=watched.account, data=data)
    rule = rules.budget_near_exhaustion
    gone_in_ms = exhausted_in_ms(watched.samples, used, balance.available, now_ms)
    is_soon = gone_in_ms is not None and gone_in_ms < rule.minutes * MINUTE_MS
    if rule.on and is_soon and used > rule.limit * balance.limit:
        data = {**data, "exhausted_in_s": (gone_in_ms or 0) // 1_000}
        yield Finding(name="budget_near_exhaustion", about=about, account=watched.account, data=data)


def exhausted_in_ms(samples: Sequence[tuple[int, int]], used: int, available: int, now_ms: int) -> int | None:
    """When nothing is left at the rate since the oldest sample; None: it does not come to that, or nobody can say.

    >>> exhausted_in_ms([(0, 100)], 200, 50, 600_000)
    300000
    >>> exhausted_in_ms([(0, 100)], 100, 50, 600_000) is None
    True
    """
    if not samples:
        return None
    since_ms, before = samples[0]
    if now_ms - since_ms < SPIKE_MINUTES * MINUTE_MS or used <= before or available < 0:
        return None
    return available * (now_ms - since_ms) // (used - before)
