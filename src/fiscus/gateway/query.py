"""The query of an address: what of it goes to the provider, and what would make its answer unreadable."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

from fiscus.dialects import Problem
from fiscus.gateway.options import Family

KEY = "key"
"""Where some SDKs put the secret of a call."""

_FORMATS = ("alt", "$alt")
_READABLE = ("sse", "json", "json;enum-encoding=int", "")
_GEMINI = frozenset(
    (*_FORMATS, "prettyPrint", "$prettyPrint", "$.xgafv", "pageSize", "pageToken", "filter", "quotaUser")
)
_ELSEWHERE = frozenset((*_FORMATS, "fields", "callback", "access_token", "oauth_token"))
"""Of the parameters that Google's servers take for each of their APIs, in whichever dialect, those that are refused."""


def passed_query(query: bytes, family: Family) -> str | Problem:
    """What is passed on of a query, without the caller's secret; a problem: it has what cannot be passed on.

    Google's servers leave out of an answer what ``fields`` does not name, usage too, wrap it in a ``callback``, encode
    it otherwise, and take headers and methods from the query: to Gemini only what is known goes.

    >>> passed_query(b"key=fk_1&alt=sse", "gemini")
    'alt=sse'
    >>> passed_query(b"fields=candidates", "gemini").field
    'fields'
    """
    if not query:
        return ""
    pairs = [pair for pair in parse_qsl(query.decode("latin-1"), keep_blank_values=True) if pair[0] != KEY]
    for name, value in pairs:
        if not _may_pass(name, value, family):
            return Problem(
                code="invalid",
                message=f"the parameter {name!r:.50} of the query is not passed on: the answer could not be metered",
                field=name[:50],
            )
    return urlencode(pairs)


def _may_pass(name: str, value: str, family: Family) -> bool:
    if name in _FORMATS and value in _READABLE:
        return True
    if family == "gemini":
        return name in _GEMINI and name not in _FORMATS
    return name not in _ELSEWHERE and (not name.startswith("$") or name in _GEMINI)
