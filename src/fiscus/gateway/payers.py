"""Who calls and who pays: secrets in whichever header an SDK sends them, accounts named by headers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol
from urllib.parse import parse_qsl, unquote

import msgspec

from fiscus.core.records import TEXT_LENGTH_MAX, Provenance

BAGGAGE_PREFIX = "fiscus."
SECRET_HEADERS = (b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key")
ACCOUNTS = ("thread", "agent", "user", "feature", "project", "team")
"""Headers ``X-Fiscus-<Kind>`` that name an account ``<kind>:<value>``, the narrowest first: it pays, the next one is
its parent where it is opened from a template, and those that there are of the others are charged as well."""

PLAIN = ("workflow", "task", "parent-request")
OWN_HEADERS = tuple((kind, b"x-fiscus-" + kind.encode()) for kind in ("charge-to", *ACCOUNTS, *PLAIN))
PAYING_HEADERS = (b"baggage", b"x-fiscus-metadata", *(name for _, name in OWN_HEADERS))
"""What decides who pays, and is the same from call to call of most callers."""

CALL_HEADERS = frozenset((b"traceparent", b"x-request-id"))
"""What is another one in each call."""

KEPT_MAX = 1_024
KEPT_BYTES_MAX = 1_024
"""So many answers are kept, of headers that are not longer."""

VALUE_LENGTH_MAX = 100
METADATA_MAX = 32


class Caller(Protocol):
    """Who makes a request, as the API's keys tell."""

    @property
    def actor(self) -> str:
        """Public id of the key."""
        ...

    @property
    def scope(self) -> str | None:
        """The account that the key is bound to."""
        ...

    @property
    def may_open(self) -> bool:
        """Whether accounts may be opened from templates."""
        ...


class Payer(msgspec.Struct, frozen=True, kw_only=True):
    """Who pays for a call, and what is known of where it comes from.

    Attributes:
        account: the payer. ``parent``: of an account that has to be opened.
        others: further accounts that the call was made for, charged where they exist.
        attributes: what budgets with ``match`` look at.
        provenance: for the record.
        labels: values of the headers by kind, for the record.
        metadata: what ``X-Fiscus-Metadata`` says, for the record.
    """

    account: str
    parent: str | None = None
    others: tuple[str, ...] = ()
    attributes: dict[str, str] = {}
    provenance: Provenance = Provenance()
    labels: dict[str, str] = {}
    metadata: dict[str, str] = {}


class Unnamed(msgspec.Struct, frozen=True, kw_only=True):
    """Nobody can be charged; ``detail`` says why, ``field`` is the header that is wrong."""

    detail: str
    field: str | None = None


def secret_of(headers: Mapping[bytes, bytes], query: bytes) -> bytes | None:
    """The secret of a call, wherever its SDK puts it; None: there is none.

    >>> secret_of({b"x-goog-api-key": b"fk_1"}, b""), secret_of({}, b"key=fk_2&alt=sse")
    (b'fk_1', b'fk_2')
    """
    for name in SECRET_HEADERS:
        value = headers.get(name)
        if value:
            kind, _, rest = value.partition(b" ")
            return rest.strip() if name == b"authorization" and kind.lower() == b"bearer" else value.strip()
    for name_, value_ in parse_qsl(query.decode("latin-1")) if query else ():
        if name_ == "key":
            return value_.encode()
    return None


def payer_of(headers: Mapping[bytes, bytes], caller: Caller, account: str | None) -> Payer | Unnamed:
    """Who pays: the account that the headers narrow the key to, else the key's own, else ``account``.

    The ledger sees to it that a key reaches nothing outside its own account.

    >>> class Key:
    ...     actor, scope, may_open = "key_1", "team:search", True
    >>> found = payer_of({b"x-fiscus-agent": b"planner", b"x-fiscus-thread": b"42"}, Key(), None)
    >>> found.account, found.parent
    ('thread:42', 'agent:planner')
    """
    labels = _labels(headers)
    if isinstance(labels, Unnamed):
        return labels
    metadata = _metadata(headers)
    if isinstance(metadata, Unnamed):
        return metadata
    named = [f"{kind}:{labels[kind]}" for kind in ACCOUNTS if kind in labels]
    base = caller.scope or account
    if "charge-to" in labels:
        named = [labels["charge-to"], *(name for name in named if name != labels["charge-to"])]
    if not named and base is None:
        return Unnamed(
            detail="nobody pays for this call: use a key that is bound to an account, or name one in X-Fiscus-Agent"
        )
    chain = [*named, base] if base is not None and base not in named else named
    attributes = {kind: value for kind, value in labels.items() if kind not in ("charge-to", "parent-request")}
    return Payer(
        account=chain[0],
        parent=chain[1] if len(chain) > 1 else None,
        others=tuple(name for name in named[1:] if name != base),
        attributes=attributes,
        provenance=_provenance(headers, labels),
        labels=labels,
        metadata=metadata,
    )


class Payers:
    """Finds who pays; what the same headers of keys with the same account came to is found again.

    Nothing in it is known from the ledger: which account a key has is asked for each call, and which accounts there
    are, and may spend, the ledger decides with each hold.
    """

    def __init__(self, account: str | None) -> None:
        """``account``: who pays for keys without one."""
        self._account = account
        self._kept: dict[tuple[str | bytes | None, ...], Payer] = {}

    def of(self, headers: Mapping[bytes, bytes], caller: Caller) -> Payer | Unnamed:
        """See ``payer_of``."""
        key = (caller.scope, *map(headers.get, PAYING_HEADERS))
        payer = self._kept.get(key)
        if payer is None:
            paying = {name: headers[name] for name in PAYING_HEADERS if name in headers}
            found = payer_of(paying, caller, self._account)
            if isinstance(found, Unnamed):
                return found
            payer = found
            if sum(map(len, paying.values())) <= KEPT_BYTES_MAX:
                if len(self._kept) >= KEPT_MAX:
                    self._kept.clear()
                self._kept[key] = payer
        if CALL_HEADERS.isdisjoint(headers):
            return payer
        return msgspec.structs.replace(payer, provenance=_provenance(headers, payer.labels))


def wraps_up(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a call says that it is the last one of its agent, so that it may use what others leave.

    >>> wraps_up([(b"x-fiscus-wrap-up", b"1")]), wraps_up([(b"x-fiscus-wrap-up", b"0")])
    (True, False)
    """
    return any(name == b"x-fiscus-wrap-up" and value.strip().lower() in (b"1", b"true") for name, value in headers)


def _labels(headers: Mapping[bytes, bytes]) -> dict[str, str] | Unnamed:
    """Values by kind, from our own headers, then from ``baggage``; our own win."""
    found: dict[str, str] = {}
    baggage = headers.get(b"baggage")
    for pair in baggage.decode("latin-1").split(",") if baggage else ():
        name, _, value = pair.partition(";")[0].partition("=")
        name = name.strip().lower()
        if name.startswith(BAGGAGE_PREFIX) and name[len(BAGGAGE_PREFIX) :] in (*ACCOUNTS, *PLAIN):
            found[name[len(BAGGAGE_PREFIX) :]] = unquote(value.strip())
    for kind, name_ in OWN_HEADERS:
        raw = headers.get(name_)
        if raw is None:
            continue
        value = raw.decode("utf-8", "replace").strip()
        if not value or len(value) > VALUE_LENGTH_MAX or not value.isprintable():
            header = f"X-Fiscus-{kind.title()}"
            return Unnamed(
                detail=f"{header}: must be a printable text of 1 to {VALUE_LENGTH_MAX} characters", field=header
            )
        found[kind] = value
    return {
        kind: value for kind, value in found.items() if value and len(value) <= VALUE_LENGTH_MAX and value.isprintable()
    }


def _metadata(headers: Mapping[bytes, bytes]) -> dict[str, str] | Unnamed:
    """Names and values of ``X-Fiscus-Metadata``, which is written as the query of an address is."""
    raw = headers.get(b"x-fiscus-metadata")
    if raw is None:
        return {}
    pairs = dict(parse_qsl(raw.decode("latin-1")))
    is_readable = all(text.isprintable() for pair in pairs.items() for text in pair)
    is_short = all(0 < len(name) <= VALUE_LENGTH_MAX and len(value) <= TEXT_LENGTH_MAX for name, value in pairs.items())
    if pairs and len(pairs) <= METADATA_MAX and is_readable and is_short:
        return pairs
    return Unnamed(
        detail=f"X-Fiscus-Metadata: must be 1 to {METADATA_MAX} pairs (a=1&b=2) of printable texts",
        field="X-Fiscus-Metadata",
    )


def _provenance(headers: Mapping[bytes, bytes], labels: Mapping[str, str]) -> Provenance:
    trace = headers.get(b"traceparent", b"").decode("latin-1").split("-")
    request_id = headers.get(b"x-request-id", b"").decode("latin-1")[:TEXT_LENGTH_MAX]
    return Provenance(
        request_id=request_id or None,
        parent_request_id=labels.get("parent-request"),
        trace_id=trace[1] if len(trace) == 4 and len(trace[1]) == 32 else None,
        workflow_id=labels.get("workflow"),
        conversation_id=labels.get("thread"),
        agent_id=labels.get("agent"),
        task_name=labels.get("task"),
    )
