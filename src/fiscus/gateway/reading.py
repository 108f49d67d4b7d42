"""Reading, counting and editing requests: small ones at once, larger ones in a thread, large ones in a process."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec

from fiscus.contract.errors import Invalid
from fiscus.core.outcomes import Refused
from fiscus.dialects import DIALECTS, Change, Dialect, Edit, Malformed, RequestFacts
from fiscus.gateway.apart import Apart
from fiscus.gateway.bodies import Body
from fiscus.gateway.routes import Route
from fiscus.pricing import Count, DialectName, Margins, count_body

COUNTED_AT_ONCE_BYTES = 4_096
"""Shorter requests are counted at once: handing them over costs more."""

COUNTED_APART_BYTES = 131_072
"""Longer ones hold the interpreter for so long that other calls would feel it: a process of its own counts them."""

READ_APART_BYTES = 524_288
"""The same for reading and editing, which is faster."""


class Reader:
    """Reads request bodies, and counts them with the margins that were learned so far; ``close`` it."""

    def __init__(self) -> None:
        self.margins = Margins()
        self._apart = Apart()

    async def facts(self, body: Body, dialect: Dialect, route: Route) -> RequestFacts | Malformed:
        """What decides the cost of a request.

        Raises:
            ApartFailed: a large one could not be read.
        """
        if body.length <= READ_APART_BYTES:
            return dialect.read_request(body.whole(), route.model, stream=route.stream)
        return await self._apart.run(_facts, body.parts, dialect.name, route.model, route.stream)

    async def changed(self, body: Body, dialect: Dialect, facts: RequestFacts, change: Change) -> Body:
        """A request, changed; the same object if there is nothing to be done.

        Raises:
            ApartFailed: a large one could not be changed.
        """
        if change == NO_CHANGE:
            return body
        if body.length <= READ_APART_BYTES:
            return body.edited(dialect.edits(body.whole(), facts, change))
        return body.edited(await self._apart.run(_edits, body.parts, dialect.name, facts, change))

    async def count(self, body: Body, dialect: str, model: str | None, provider: str) -> Count:
        """Count a request.

        Raises:
            Invalid: it is not an object, or names no model.
            ApartFailed: a large one could not be counted.
        """
        name = cast("DialectName", dialect)
        if body.length <= COUNTED_AT_ONCE_BYTES:
            return _count(body.whole(), name, model, provider, self.margins)
        if body.length <= COUNTED_APART_BYTES:
            return await asyncio.to_thread(_count, body.whole(), name, model, provider, self.margins)
        counted = await self._apart.run(_count_apart, body.parts, name, model, provider, self.margins.dump())
        if isinstance(counted, Refused):
            raise Invalid(counted)
        return counted

    def learn(self, counted: Count, provider: str, billed: int) -> None:
        """What was really billed for a request all of whose input was in it."""
        self.margins.learn(provider, counted.family, counted.label, counted=counted.tokens, billed=billed)

    def close(self) -> None:
        """End the process."""
        self._apart.close()


NO_CHANGE = Change()


def _facts(body: bytes, dialect: str, model: str | None, stream: bool) -> RequestFacts | Malformed:
    return DIALECTS[dialect].read_request(body, model, stream=stream)


def _edits(body: bytes, dialect: str, facts: RequestFacts, change: Change) -> list[Edit]:
    return DIALECTS[dialect].edits(body, facts, change)


def _count(body: bytes, dialect: DialectName, model: str | None, provider: str, margins: Margins) -> Count:
    try:
        decoded: Any = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(Refused(code="invalid", detail=f"the body cannot be counted: {error}", field="body")) from None
    return count_body(decoded, dialect, model=model, provider=provider, margins=margins)


def _count_apart(
    body: bytes, dialect: DialectName, model: str | None, provider: str, margins: bytes
) -> Count | Refused:
    try:
        return _count(body, dialect, model, provider, Margins.load(margins))
    except Invalid as error:
        return error.refused
