"""The addresses that the gateway answers at. What is not here is not metered, and refused."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote

import msgspec

from fiscus.gateway.options import Family

PREFIXES: dict[bytes, Family] = {b"/openai/": "openai", b"/anthropic/": "anthropic", b"/gemini/": "gemini"}
"""Beginning of an address → whose wire it is."""

_GEMINI = re.compile(r"^(/v1(?:beta|alpha)?/models/)([^/:]+):(generateContent|streamGenerateContent)$")
_MODELS = re.compile(r"^/models(?:/([^/]+))?$")
KEPT_MAX, KEPT_BYTES_MAX = 1_024, 256
"""So many addresses are known again that are not longer: most callers use one."""

_DEPLOYMENT = re.compile(r"^/deployments/([^/]+)(/.+)$")

_FIXED: dict[tuple[Family, str], str] = {
    ("openai", "/chat/completions"): "openai.chat",
    ("openai", "/responses"): "openai.responses",
    ("openai", "/completions"): "openai.completions",
    ("openai", "/embeddings"): "openai.embeddings",
    ("anthropic", "/v1/messages"): "anthropic.messages",
    ("anthropic", "/v1/messages/count_tokens"): "anthropic.count_tokens",
}
_DEFAULT: dict[Family, str] = {
    "openai": "openai.chat",
    "anthropic": "anthropic.messages",
    "gemini": "gemini.generate",
}


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for.

    Attributes:
        family: whose wire.
        dialect: name of the wire format, also for refusals.
        path: what follows the ``base_url`` of an upstream; ``{model}`` stands for a model that the path names.
        is_known: False: nothing is at this address, or not with this method.
        is_list: a list of models, passed through.
        model, stream: what the path says (Gemini; the deployments of Azure).
    """

    family: Family
    dialect: str
    path: str = ""
    is_known: bool = True
    is_list: bool = False
    model: str | None = None
    stream: bool = False


def family_at(path: bytes) -> Family | None:
    """Whose wire an address is, None: not the gateway's.

    >>> family_at(b"/openai/v1/chat/completions"), family_at(b"/v1/holds")
    ('openai', None)
    """
    for prefix, family in PREFIXES.items():
        if path.startswith(prefix):
            return family
    return None


def route_at(method: str, raw_path: bytes, family: Family) -> Route:
    """What is asked for at an address of a family.

    >>> route_at("POST", b"/gemini/v1beta/models/gemini-2.5-pro:streamGenerateContent", "gemini").model
    'gemini-2.5-pro'
    """
    return (_known if len(raw_path) <= KEPT_BYTES_MAX else _found)(method, raw_path, family)


def _found(method: str, raw_path: bytes, family: Family) -> Route:
    path = raw_path.decode("latin-1")[len(family) + 1 :]
    if family == "openai":
        path = path.removeprefix("/v1")
    unknown = Route(family=family, dialect=_DEFAULT[family], is_known=False)
    if method == "GET":
        listed = path if family == "openai" else re.sub("^/v1(?:beta|alpha)?", "", path)
        asked = _MODELS.match(listed)
        if asked is None or not is_name(unquote(asked[1] or "all")):
            return unknown
        return Route(family=family, dialect=_DEFAULT[family], path=path, is_list=True)
    if method != "POST":
        return unknown
    deployment = _DEPLOYMENT.match(path) if family == "openai" else None
    model = unquote(deployment[1]) if deployment is not None else None
    if deployment is not None:
        path = deployment[2]
    dialect = _FIXED.get((family, path))
    if dialect is not None:
        return Route(family=family, dialect=dialect, path=path, model=model)
    found = _GEMINI.match(path) if family == "gemini" else None
    if found is None or not is_name(unquote(found[2])):
        return unknown
    return Route(
        family=family,
        dialect="gemini.generate",
        path=f"{found[1]}{{model}}:{found[3]}",
        model=unquote(found[2]),
        stream=found[3].startswith("stream"),
    )


_known = lru_cache(maxsize=KEPT_MAX)(_found)


def is_name(model: str) -> bool:
    """Whether a part of an address names a model, and cannot lead elsewhere.

    >>> is_name("gemini-2.5-pro"), is_name("../files")
    (True, False)
    """
    return model.isprintable() and not any(part in model for part in ("/", "\\", "..", "?", "#"))
