"""What the token economy API reads and writes, and how it words what is wrong with a body."""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from fiscus.core.checks import check_name
from fiscus.core.commands import ID_LENGTH_MAX, GrantStrategy
from fiscus.core.outcomes import Refused, StrategySource
from fiscus.core.units import AMOUNT_MAX

ACCOUNT_PREFIX = "agent:"
AGENT_ID_LENGTH_MAX = ID_LENGTH_MAX - len(ACCOUNT_PREFIX)
REQUESTED_TOKENS_MAX = 10_000

AgentId = Annotated[str, Meta(min_length=1, max_length=AGENT_ID_LENGTH_MAX, description="Name of the agent.")]


class AllocateBody(msgspec.Struct, frozen=True, kw_only=True):
    """Ask for a grant (D21, D22, D18)."""

    agent_id: AgentId
    requested_tokens: Annotated[float, Meta(gt=0, le=REQUESTED_TOKENS_MAX, description="Tokens asked for.")]
    task_complexity: Annotated[
        float, Meta(ge=0.1, le=1.0, description="How hard the task is; recorded with the grant.")
    ] = 0.5
    parent_agent_id: Annotated[
        AgentId | None, Meta(description="The agent by whose history the grant is sized, instead of the agent's own.")
    ] = None
    source: Annotated[
        Literal["pool", "emergency_reserve"],
        Meta(description="Whether the pool's emergency reserve may be used; for keys that are bound to no agent."),
    ] = "pool"
    explain: Annotated[bool, Meta(description="Whether the answer says why the grant is this large.")] = False


class ConsumeBody(msgspec.Struct, frozen=True, kw_only=True):
    """Report tokens that were used since the last report (D25)."""

    agent_id: AgentId
    tokens_consumed: Annotated[float, Meta(ge=0, le=AMOUNT_MAX, description="Tokens used; a fraction is rounded up.")]
    value_generated: Annotated[float, Meta(ge=0, description="What they were worth, by the caller's own measure.")]


class PauseBody(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to pause, or to resume (D63)."""

    agent_id: Annotated[AgentId | None, Meta(description="One agent; all of them unless given.")] = None
    reason: Annotated[str, Meta(max_length=500, description="Why; kept in the journal.")] = ""


class Paused(msgspec.Struct, frozen=True, kw_only=True):
    """How many agents are paused, or run, now that were asked for."""

    agents: int


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a grant is this large: ``min(base_tokens × multiplier, available_tokens)``, rounded down.

    Attributes:
        strategy: how the history counts.
        strategy_from: who says so: the agent's account, its template, an account above it, or the service's setting.
        history_of: the agent whose history was looked at.
        multiplier: one half and ``historical``; ``terms`` are what that comes from.
        available_tokens: what the pool could hand out, ``reserve_tokens`` left out.
    """

    strategy: GrantStrategy
    strategy_from: StrategySource | Literal["setting"]
    history_of: str
    requested_tokens: float
    base_tokens: float
    multiplier: float
    historical: float
    available_tokens: int
    reserve_tokens: int
    terms: dict[str, float]


class Allocated(msgspec.Struct, frozen=True, kw_only=True):
    """A grant (D23). Amounts are whole tokens; ``explanation`` where it was asked for."""

    agent_id: str
    allocated_tokens: int
    efficiency_multiplier: float
    remaining_global_budget: int
    warning: str | None
    explanation: Explanation | msgspec.UnsetType = msgspec.UNSET


class Consumed(msgspec.Struct, frozen=True, kw_only=True):
    """Where the agent stands after a report (D26); ``consumed`` is the running total."""

    agent_id: str
    consumed: int
    remaining: int
    efficiency: float
    warning: str | None


class Performer(msgspec.Struct, frozen=True, kw_only=True):
    """One of the most efficient agents (D29)."""

    agent_id: str
    efficiency: float
    value_generated: float
    tokens_consumed: int


class BudgetStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The pool and the active agents (D28, D29). What is handed out counts as used, whether or not it is consumed."""

    global_budget: int
    allocated_total: int
    consumed_total: int
    remaining_budget: int
    active_agents: int
    average_efficiency: float
    top_performers: tuple[Performer, ...]
    budget_utilization_percent: float


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One agent's allocation (D30)."""

    agent_id: str
    allocated: int
    consumed: int
    remaining: int
    percent_used: float


class Denied(msgspec.Struct, frozen=True, kw_only=True):
    """No, with the status and the words that clients read."""

    status: int
    detail: str
    retry_after_s: int | None = None


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong with a body; ``loc`` leads to it."""

    type: str
    loc: tuple[str, ...]
    msg: str


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a 422 (D36)."""

    detail: tuple[Fault, ...]


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every other error."""

    detail: str


AGENT_FIELDS = ("agent_id", "parent_agent_id")
"""Fields with the name of an agent, which becomes part of an account's name."""

Body = TypeVar("Body", AllocateBody, ConsumeBody, PauseBody)

_AT = re.compile(r"(?P<message>.*) - at `\$(?P<path>[^`]*)`$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<field>[^`]*)`")


def read_body(raw: bytes, kind: type[Body]) -> Body | Faults:
    """Decode a body, or say what is wrong with it and where."""
    try:
        body = msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        return _invalid(str(error))
    except (msgspec.DecodeError, RecursionError) as error:
        return fault("json_invalid", ("body",), f"JSON decode error: {error}")
    for field in AGENT_FIELDS:
        agent_id = getattr(body, field, None)
        wrong = check_name(field, agent_id) if agent_id is not None else None
        if wrong is not None:
            return fault("value_error", ("body", field), wrong.detail)
    return body


def check_body(body: Body) -> Refused | None:
    """What is wrong with a body that nobody has read: one that was made in this process."""
    read = read_body(msgspec.json.encode(body), type(body))
    if not isinstance(read, Faults):
        return None
    field = ".".join(read.detail[0].loc[1:])
    return Refused(code="invalid", detail=f"{field}: {read.detail[0].msg}", field=field)


def fault(kind: str, loc: tuple[str, ...], message: str) -> Faults:
    """A 422 about one thing."""
    return Faults(detail=(Fault(type=kind, loc=loc, msg=message),))


def _invalid(message: str) -> Faults:
    """Word what the decoder found, ``Expected `float` > 0.0 - at `$.requested_tokens```."""
    located = _AT.fullmatch(message)
    path = tuple(filter(None, located["path"].split("."))) if located else ()
    text = located["message"] if located else message
    missing = _MISSING.fullmatch(text)
    if missing:
        return fault("missing", ("body", *path, missing["field"]), "Field required")
    return fault("value_error", ("body", *path), text)
