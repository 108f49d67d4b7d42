"""OpenAI's embeddings: no output, nothing to stream."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from fiscus.core.records import Tokens
from fiscus.dialects.completions import prompts_of
from fiscus.dialects.completions_meter import CompletionsMeter
from fiscus.dialects.dialect import Meter
from fiscus.dialects.facts import Change, Delta, Malformed, RequestFacts
from fiscus.dialects.openai import OpenAIDialect
from fiscus.dialects.scan import Edit, put_members
from fiscus.dialects.wire import NULL, decoder, encoded, read, text


class _Embeddings(msgspec.Struct):
    model: str | None = None
    input: msgspec.Raw = NULL
    user: Any = None


class _Answer(msgspec.Struct):
    model: Any = None
    usage: Any = None
    error: Any = None


_REQUEST, _ANSWER = decoder(_Embeddings), decoder(_Answer)


class Embeddings(OpenAIDialect):
    """Embeddings."""

    name: ClassVar[str] = "openai.embeddings"

    def read_request(
        self, body: bytes, path_model: str | None = None, *, stream: bool = False
    ) -> RequestFacts | Malformed:
        """See ``Dialect``."""
        request = read(_REQUEST, body, ("model", "input"))
        if isinstance(request, Malformed):
            return request
        return RequestFacts(
            model=request.model or path_model,
            output_tokens_max=0,
            output_tokens_least=0,
            prompts=prompts_of(request.input),
            user=text(request.user),
        )

    def edits(self, body: bytes, facts: RequestFacts, change: Change) -> list[Edit]:
        """See ``Dialect``. Only the model can be changed."""
        return put_members(body, 0, {"model": encoded(change.model)}) if change.model is not None else []

    def meter(self, content_type: str = "") -> EmbeddingsMeter:
        """For one answer."""
        return EmbeddingsMeter()

    def ending(self, meter: Meter, *, include_usage: bool = False, tokens: Tokens | None = None) -> bytes:
        """Nothing: it does not stream."""
        return b""


class EmbeddingsMeter(CompletionsMeter):
    """Reads an answer without its vectors."""

    def read(self, body: bytes) -> list[Delta]:
        """Read a whole answer."""
        try:
            answer = _ANSWER.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, ArithmeticError, RecursionError):
            return []
        self._take({name: getattr(answer, name) for name in answer.__struct_fields__})
        self.ended = self.error is None
        return []
