"""What the gateway is told: which providers there are, who pays, what is bounded by what."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from fiscus.contract.errors import ConfigurationInvalid
from fiscus.core.units import AMOUNT_MAX, Unit
from fiscus.pricing import PriceOverride, UnknownPolicy, output_tokens_max

Family = Literal["openai", "anthropic", "gemini"]
"""Whose wire a route or an upstream speaks; ``openai``: everybody who is compatible."""

Strategy = Literal["least_loaded", "round_robin", "failover"]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Tokens = Annotated[int, msgspec.Meta(ge=1, le=100_000_000)]
Amount = Annotated[int, msgspec.Meta(ge=0, le=AMOUNT_MAX)]
ANY_MODEL = "*"
PROVIDERS: dict[Family, str] = {"openai": "openai", "anthropic": "anthropic", "gemini": "google"}
KEY_HEADERS: dict[Family, str] = {"openai": "authorization", "anthropic": "x-api-key", "gemini": "x-goog-api-key"}


class Upstream(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A provider, as the gateway reaches it.

    Attributes:
        name: for logs, metrics and records.
        family: whose wire it speaks.
        base_url: what stands before ``/chat/completions`` (openai), ``/v1/messages`` (anthropic) or ``/v1beta/models``
            (gemini). ``{model}`` in it is the model asked for (Azure's deployments).
        query: added to every address, such as ``api-version=2024-10-21``.
        api_key: sent instead of the caller's; ``api_key_variable``: the variable of the environment that has it.
        api_key_header: where it is sent; as the family does unless said.
        headers: added to every request; values of those whose name says that they are secrets are kept from callers.
        provider: whose prices hold; the family's maker unless said.
        models: patterns (``gpt-*``) of the models that it serves; ``*`` serves those that no other upstream names.
        renames: model asked for → model that is asked of it.
        priority: lower ones are asked first; equal ones as ``strategy`` of the gateway says.
        output_tokens_max: bound of the output where a request has none; None: what the model gives at most, as far as
            that is known, and no more than 32,768.
        output_field: the field that bounds the output of a chat completion where a request has none.
        connect_s_max, answer_s_max, silence_s_max: for a connection; until an answer begins; between two pieces of it.
        in_flight_max: calls at once; the next one is asked of another, or refused as busy.
        tokens_per_minute_max: what it takes, as its maker limits it; when it is used up the next call is asked of
            another, or refused as busy, until there is some again.
    """

    name: str
    family: Family
    base_url: str
    query: str = ""
    api_key: str = ""
    api_key_variable: str = ""
    api_key_header: str = ""
    headers: dict[str, str] = {}
    provider: str = ""
    models: tuple[str, ...] = (ANY_MODEL,)
    renames: dict[str, str] = {}
    priority: int = 0
    output_tokens_max: Tokens | None = None
    output_field: str | None = None
    connect_s_max: Seconds = 10
    answer_s_max: Seconds = 600
    silence_s_max: Seconds = 300
    in_flight_max: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1_000
    tokens_per_minute_max: Tokens | None = None

    @property
    def priced_as(self) -> str:
        """The provider whose prices hold."""
        return self.provider or PROVIDERS[self.family]

    def output_tokens_of(self, model: str) -> int:
        """Bound of the output of a model where a request has none."""
        return self.output_tokens_max or output_tokens_max(self.renames.get(model, model))

    def serves(self, model: str) -> bool:
        """Whether it has this model."""
        return any(fnmatchcase(model, pattern) for pattern in self.models)

    def names(self, model: str) -> bool:
        """Whether it has this model, and not just every model."""
        return any(pattern != ANY_MODEL and fnmatchcase(model, pattern) for pattern in self.models)


class GatewayOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file of the gateway. An empty list of upstreams serves nobody.

    Attributes:
        account: who pays for callers that are not bound to an account and name none; None: they are refused.
        unbudgeted: whether calls are let through of which no budget in the payer's chain limits anything.
        prices: own prices, before those that are known.
        unknown_price: what is done about a model nobody has a price of.
        output_tokens_least: a smaller bound of the output is of no use: such a call is refused, not clamped.
        downgrade: model (or pattern) that is asked for → cheaper ones of the same family that are asked in their order
            instead while money is short.
        downgrade_below_tokens: it is short when no more output than this would fit, nor all that was asked for.
        output_tokens_start: what a stream holds at first of its output where the lengths of its payer's answers are not
            known yet, and its model is known to show all that it bills.
        busy_wait_s_max: how long a call stands in line for room that calls in flight give back before it is refused as
            busy, rounded up to whole seconds.
        unseen_input_tokens_max: bound of what a request adds to its input from elsewhere (server tools, stored
            conversations); None: such requests are refused.
        server_tool_calls_max: bound of the calls of server tools, which are billed apart.
        margin_tokens: by how many tokens a stream's hold stays ahead of what has come.
        strategy: which of several upstreams of one priority is asked first: the one with the fewest calls in flight,
            the one that was asked longest ago, or the one that stands first in the file.
        attempts_max: how many upstreams are asked at most for one call.
        backoff_s, backoff_s_max: wait before an upstream is asked again; doubles.
        broken_after, broken_s: failures in a row after which an upstream is left alone, and for how long.
        on_disconnect: what is done when a caller leaves: end the call at the provider, or read it to its usage.
        drain_s_max: how long it is read to its usage then.
        body_bytes_max: longest request.
        remaining_headers: whether answers say what is left of the payer's budgets.
        wrap_up: per unit, what calls leave of every budget on their chain unless they say ``X-Fiscus-Wrap-Up: 1``.
        budget_notes: whether agents are told in their next request when a budget of theirs runs low.
    """

    upstreams: tuple[Upstream, ...] = ()
    account: str | None = None
    unbudgeted: bool = False
    prices: tuple[PriceOverride, ...] = ()
    unknown_price: UnknownPolicy = "refuse"
    output_tokens_least: Tokens = 16
    downgrade: dict[str, tuple[str, ...]] = {}
    downgrade_below_tokens: Tokens = 1_024
    output_tokens_start: Tokens = 512
    busy_wait_s_max: Annotated[float, msgspec.Meta(ge=0, le=600)] = 5
    unseen_input_tokens_max: Tokens | None = None
    server_tool_calls_max: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 20
    margin_tokens: Tokens = 64
    strategy: Strategy = "least_loaded"
    attempts_max: Annotated[int, msgspec.Meta(ge=1, le=20)] = 3
    backoff_s: Seconds = 0.25
    backoff_s_max: Seconds = 8
    broken_after: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 5
    broken_s: Seconds = 10
    on_disconnect: Literal["cancel", "drain"] = "cancel"
    drain_s_max: Seconds = 30
    body_bytes_max: Annotated[int, msgspec.Meta(ge=1_024, le=268_435_456)] = 33_554_432
    remaining_headers: bool = True
    wrap_up: dict[Unit, Amount] = {}
    budget_notes: bool = False


def read_options(text: bytes, where: str) -> GatewayOptions:
    """The gateway's file (TOML).

    Raises:
        ConfigurationInvalid: it cannot be read, or says something that makes no sense; names the field.

    >>> read_options(b'''
    ... [[upstreams]]
    ... name = "local"
    ... family = "openai"
    ... base_url = "http://127.0.0.1:8080/v1"
    ... ''', "gateway.toml").upstreams[0].models
    ('*',)
    """
    try:
        options = msgspec.toml.decode(text, type=GatewayOptions)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationInvalid(f"{where}: {error}") from None
    names: set[str] = set()
    for index, upstream in enumerate(options.upstreams):
        at = f"{where}: upstreams[{index}]"
        address = urlsplit(upstream.base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ConfigurationInvalid(f"{at}.base_url: must be an http or https address, not {upstream.base_url!r}")
        if address.username or address.password:
            raise ConfigurationInvalid(f"{at}.base_url: must not carry a password; use api_key_variable")
        if not upstream.name or upstream.name in names:
            raise ConfigurationInvalid(f"{at}.name: must be a name of its own, not {upstream.name!r}")
        if upstream.api_key and upstream.api_key_variable:
            raise ConfigurationInvalid(f"{at}: api_key and api_key_variable exclude each other")
        names.add(upstream.name)
    return options
