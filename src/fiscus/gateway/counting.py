"""Counting requests beside the event loop: small ones in a thread, large ones in a process of their own."""

from __future__ import annotations

import asyncio
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any, cast

import msgspec

from fiscus.contract.errors import Invalid
from fiscus.core.outcomes import Refused
from fiscus.pricing import Count, DialectName, Margins, count_body

INLINE_BYTES_MAX = 4_096
"""Shorter requests are counted at once: handing them over costs more."""

THREAD_BYTES_MAX = 131_072
"""Longer ones hold the interpreter for so long that other calls would feel it: a process of its own counts them."""


class Counter:
    """Counts request bodies with the margins that were learned so far."""

    def __init__(self) -> None:
        self.margins = Margins()
        self._process: ProcessPoolExecutor | None = None

    async def count(self, body: bytes, dialect: str, model: str | None, provider: str) -> Count:
        """Count a request.

        Raises:
            Invalid: it is not an object, or names no model.
        """
        name = cast("DialectName", dialect)
        if len(body) <= INLINE_BYTES_MAX:
            return _count(body, name, model, provider, self.margins)
        if len(body) <= THREAD_BYTES_MAX:
            return await asyncio.to_thread(_count, body, name, model, provider, self.margins)
        if self._process is None:
            self._process = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._process, _count_apart, body, name, model, provider, self.margins.dump())

    def learn(self, counted: Count, provider: str, billed: int) -> None:
        """What was really billed for a request all of whose input was in it."""
        self.margins.learn(provider, counted.family, counted.label, counted=counted.tokens, billed=billed)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.shutdown(wait=False, cancel_futures=True)


def _count(body: bytes, dialect: DialectName, model: str | None, provider: str, margins: Margins) -> Count:
    try:
        decoded: Any = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(Refused(code="invalid", detail=f"the body cannot be counted: {error}", field="body")) from None
    return count_body(decoded, dialect, model=model, provider=provider, margins=margins)


def _count_apart(body: bytes, dialect: DialectName, model: str | None, provider: str, margins: bytes) -> Count:
    return _count(body, dialect, model, provider, Margins.load(margins))
