"""What a wire format can do. The formats themselves stand in the modules beside this one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

from fiscus.core.records import Tokens
from fiscus.dialects.facts import (
    Change,
    Delta,
    Event,
    Kind,
    Malformed,
    Problem,
    Produced,
    ProviderError,
    Refusal,
    RequestFacts,
    Usage,
)
from fiscus.dialects.scan import Edit, applied


class Events(Protocol):
    """Cuts the bytes of a streamed answer into events, however they were split."""

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that ``chunk`` completes."""
        ...

    def flush(self) -> list[Event]:
        """What is left at the end of the stream: at most one event that was never completed."""
        ...


class Meter(ABC):
    """Reads one answer: what it is, what it has produced, what the provider says that it used.

    Attributes:
        response_id, model, service_tier: as the provider says.
        produced: by choice and kind; grows while a stream runs.
        finish_reasons: by choice, as the provider words them.
        ended: whether the provider ended the answer properly.
        error: an error that it reported, also in an answer of status 200.
    """

    def __init__(self) -> None:
        self.response_id: str | None = None
        self.model: str | None = None
        self.service_tier: str | None = None
        self.produced: dict[tuple[int, Kind], Produced] = {}
        self.finish_reasons: dict[int, str] = {}
        self.ended = False
        self.error: ProviderError | None = None

    @abstractmethod
    def feed(self, event: Event) -> list[Delta]:
        """Read one event of a stream; what cannot be read counts for nothing. Returns what it added to the output."""

    @abstractmethod
    def read(self, body: bytes) -> list[Delta]:
        """Read the whole body of an answer that is not streamed."""

    @abstractmethod
    def usage(self) -> Usage | None:
        """What the provider has said so far; None while it has said nothing (which is never 0)."""

    def _count(self, deltas: list[Delta]) -> list[Delta]:
        for delta in deltas:
            produced = self.produced.get((delta.choice, delta.kind))
            if produced is None:
                produced = self.produced[delta.choice, delta.kind] = Produced()
            text = delta.text
            produced.characters += len(text)
            produced.utf8_bytes += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
            produced.deltas += 1
        return deltas


class Dialect(ABC):
    """One wire format. Has no state; ``DIALECTS`` holds one object of each."""

    name: ClassVar[str]
    metered: ClassVar[bool] = True
    """False: the call produces nothing that is billed (counting tokens)."""

    @abstractmethod
    def read_request(
        self, body: bytes, path_model: str | None = None, *, stream: bool = False
    ) -> RequestFacts | Malformed:
        """What decides the cost of a request.

        Args:
            body: as the caller sent it; content that decides nothing is skipped, not parsed into objects.
            path_model: the model, where the path names it (Gemini, Azure).
            stream: where the path says that the answer is streamed (Gemini).
        """

    def patch_request(
        self,
        body: bytes,
        facts: RequestFacts,
        *,
        output_tokens_max: int | None = None,
        force_usage: bool = False,
        append_note: str | None = None,
        model: str | None = None,
        output_field: str | None = None,
    ) -> bytes:
        """The request, changed by ``edits``; without an edit the same object. The rest is as in ``Change``."""
        change = Change(
            output_tokens_max=output_tokens_max,
            force_usage=force_usage,
            append_note=append_note,
            model=model,
            output_field=output_field,
        )
        return applied(body, self.edits(body, facts, change))

    @abstractmethod
    def edits(self, body: bytes, facts: RequestFacts, change: Change) -> list[Edit]:
        """The edits that change a request, as few as there can be.

        Args:
            body: for which ``read_request`` gave ``facts``.
            facts: see there.
            change: what is not of this dialect is left out.
        """

    @abstractmethod
    def events(self, content_type: str) -> Events:
        """For the bytes of a streamed answer of this content type."""

    @abstractmethod
    def meter(self, content_type: str = "") -> Meter:
        """For one answer, of this content type."""

    def strip_usage(self, event: Event) -> bytes | None:
        """What the caller gets of an event when not it but the gateway asked for usage; None: nothing."""
        return event.raw

    @abstractmethod
    def ending(self, meter: Meter, *, include_usage: bool = False, tokens: Tokens | None = None) -> bytes:
        """What ends a stream validly, as cut at the bound of its output; empty when it has ended.

        Args:
            meter: has read all events that were passed on, and no other; made by ``meter`` of this dialect.
            include_usage: whether the caller asked for a chunk with the usage (OpenAI).
            tokens: what the gateway counted, for the usage in the ending where the provider has not said it.
        """

    @abstractmethod
    def refusal(self, problem: Problem) -> Refusal:
        """An error in the dialect's own shape, so that the provider's SDK raises its own exception."""

    @abstractmethod
    def error_event(self, problem: Problem, meter: Meter) -> bytes:
        """The same within a stream that has begun; nothing may follow it."""
