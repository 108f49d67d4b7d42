"""What a request must look like before anybody reads it: no web page and no other host may make a browser spend."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from fiscus.api.calls import Headers
from fiscus.api.problems import Problem, problem

LOOPBACK_NAMES = frozenset(("localhost", "127.0.0.1", "::1"))
WRITING = frozenset(("POST", "PUT", "PATCH"))
FORWARDED_MAX = 32
HOSTS_MAX = 256


def check_origin(headers: Headers, allowed_hosts: tuple[str, ...], *, keys_required: bool) -> Problem | None:
    """Refuse a foreign ``Host`` (a name that was made to point here) and a foreign ``Origin`` (a page of another site).

    With keys, any ``Host`` is accepted unless some are listed.
    """
    host, name = _host_of(headers.get(b"host", b""))
    is_known = name in allowed_hosts or (not keys_required and name in LOOPBACK_NAMES)
    if not is_known and (allowed_hosts or not keys_required):
        return problem("forbidden", "this service does not answer to that Host", field="Host")
    origin = headers.get(b"origin")
    if origin is not None and origin.decode("latin-1").lower().partition("://")[2] != host:
        return problem("forbidden", "a page of another site may not use this service", field="Origin")
    return None


@lru_cache(maxsize=HOSTS_MAX)
def _host_of(header: bytes) -> tuple[str, str]:
    """A Host header as it is compared, with and without its port."""
    host = header.decode("latin-1").lower()
    return host, _name_of(host)


def _name_of(host: str) -> str:
    """A Host header without its port.

    >>> _name_of("[::1]:8091")
    '::1'
    """
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, _, port = host.partition(":")
    return name if not port or port.isdigit() else host


def check_content_type(headers: Headers, method: str, *, has_body: bool, strict: bool) -> Problem | None:
    """A body must be JSON, as it is; when ``strict``, what writes must say so even without a body."""
    if method not in WRITING:
        return None
    content_type = headers.get(b"content-type")
    if content_type is None:
        if not strict and (not has_body or headers.get(b"content-length", b"0") == b"0"):
            return None
    elif content_type == b"application/json" or _is_json(content_type):
        if b"content-encoding" not in headers:
            return None
        return problem("unsupported_media_type", "the body must not be compressed", field="Content-Encoding")
    return problem("unsupported_media_type", "the body must be application/json", field="Content-Type")


def _is_json(content_type: bytes) -> bool:
    kind, _, parameters = content_type.lower().partition(b";")
    charset = parameters.strip().replace(b'"', b"")
    return kind.strip() == b"application/json" and charset in (b"", b"charset=utf-8")


def client_address(scope: Any, headers: Headers, proxies: frozenset[str]) -> str:
    """The address of the client: the peer's, or what the last proxies that we trust say it is."""
    client = scope.get("client")
    address: str = client[0] if client else ""
    if address not in proxies:
        return address
    forwarded = headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")
    for hop in reversed(forwarded[-FORWARDED_MAX:]):
        address = hop.strip() or address
        if address not in proxies:
            break
    return address
