"""Versions as ETags, and the conditions that callers put on them (RFC 9110 §13)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fiscus.api.problems import Problem, problem

HEADER_LENGTH_MAX = 1_024
CONDITIONAL = ("If-Match", "If-None-Match")
_CONDITIONS = tuple((name, name.lower().encode()) for name in CONDITIONAL)
_ONE_VERSION = re.compile(rb'\s*"([1-9][0-9]{0,14})"\s*')
_LIST = re.compile(r'\s*(?:W/)?"[^"]*"\s*(?:,\s*(?:W/)?"[^"]*"\s*)*')
_TAG = re.compile(r'(W/)?"([^"]*)"')


def etag(version: int) -> tuple[bytes, bytes]:
    """The header for a version."""
    return b"etag", b'"%d"' % version


def check_unconditional(headers: Mapping[bytes, bytes]) -> Problem | None:
    """A condition on what has no version is refused: it would not be kept."""
    for name, header in _CONDITIONS:
        if header in headers:
            return problem("invalid", f"{name}: what is asked for has no version to compare", field=name)
    return None


def said_version(if_match: bytes | None, if_none_match: bytes | None) -> int | None:
    """The one version that conditions want, whatever is there; 0: none; None: that depends on what is there.

    >>> said_version(b'"3"', None), said_version(None, b"*"), said_version(b"*", None), said_version(b'"3", "4"', None)
    (3, 0, None, None)
    """
    if if_match is None:
        return 0 if if_none_match is not None and if_none_match.strip() == b"*" else None
    found = _ONE_VERSION.fullmatch(if_match) if if_none_match is None else None
    return int(found[1]) if found is not None else None


def matching_version(if_match: bytes | None, if_none_match: bytes | None, current: int | None) -> int | Problem | None:
    """The version on which the ledger must insist, so that the caller's conditions hold when it decides.

    Args:
        if_match: versions of which one must be there; ``*``: any.
        if_none_match: ``*``: there must not be one yet; versions: none of them may be there.
        current: the version that was just read; None: there is none.

    Returns:
        A version; 0: it must not exist; None: no condition is left; or a problem, when they do not hold already.
    """
    wanted = None if if_match is None else _tags(if_match, "If-Match", weak=False)
    unwanted = None if if_none_match is None else _tags(if_none_match, "If-None-Match", weak=True)
    for tags in (wanted, unwanted):
        if isinstance(tags, Problem):
            return tags
    version: int | None = None
    if isinstance(wanted, frozenset):
        if current is None or not wanted & {"*", str(current)}:
            return _failed("If-Match", current)
        version = current
    if isinstance(unwanted, frozenset):
        if current is not None and unwanted & {"*", str(current)}:
            return _failed("If-None-Match", current)
        version = current or 0
    return version


def _tags(header: bytes, name: str, *, weak: bool) -> frozenset[str] | Problem:
    """The tags in a header, weak ones if they count here; or ``*`` alone."""
    text = header.decode("latin-1").strip()
    if text == "*":
        return frozenset("*")
    if len(text) > HEADER_LENGTH_MAX or not _LIST.fullmatch(text):
        return problem("invalid", f'{name}: must be * or versions in quotes, like "3"', field=name)
    return frozenset(tag for mark, tag in _TAG.findall(text) if (weak or not mark) and tag != "*")


def _failed(name: str, current: int | None) -> Problem:
    there = "there is none" if current is None else f"its version is {current}"
    return problem("precondition_failed", f"{name} does not hold: {there}", field=name)
