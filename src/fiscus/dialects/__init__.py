"""The wire formats of the providers, sans-I/O: bytes in, facts and bytes out. See ``docs/reference/dialects.md``."""

from fiscus.dialects.dialect import Dialect, Ending, Events, Meter
from fiscus.dialects.facts import (
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

__all__ = [
    "Code",
    "Delta",
    "Dialect",
    "Ending",
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
]
