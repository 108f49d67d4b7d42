"""The wire formats of the providers, sans-I/O: bytes in, facts and bytes out. See ``docs/reference/dialects.md``."""

from collections.abc import Mapping
from types import MappingProxyType

from fiscus.dialects.anthropic import AnthropicDialect, CountTokens
from fiscus.dialects.completions import ChatCompletions, Completions
from fiscus.dialects.dialect import Dialect, Events, Meter
from fiscus.dialects.embeddings import Embeddings
from fiscus.dialects.facts import (
    Change,
    Code,
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
from fiscus.dialects.gemini import Gemini
from fiscus.dialects.responses import Responses
from fiscus.dialects.scan import Edit
from fiscus.dialects.usage import tokens_of, usage_of

DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        dialect.name: dialect
        for dialect in (
            ChatCompletions(),
            Responses(),
            Completions(),
            Embeddings(),
            AnthropicDialect(),
            CountTokens(),
            Gemini(),
        )
    }
)
"""One object for each wire format, by name.

>>> DIALECTS["openai.chat"].read_request(b'{"model": "gpt-5", "max_tokens": 9}').output_tokens_max
9
"""

__all__ = [
    "DIALECTS",
    "Change",
    "Code",
    "Delta",
    "Dialect",
    "Edit",
    "Event",
    "Events",
    "Kind",
    "Malformed",
    "Meter",
    "Problem",
    "Produced",
    "ProviderError",
    "Refusal",
    "RequestFacts",
    "Usage",
    "tokens_of",
    "usage_of",
]
