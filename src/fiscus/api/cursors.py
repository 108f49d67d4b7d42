"""Where the next page begins, as callers see it: a word without meaning to them, to be handed back as it came."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode

CURSOR_LENGTH_MAX = 64
_MARK = b"after:"


def cursor_of(after: int | None) -> str | None:
    """The cursor of the page that begins behind a number; None: there is no next page.

    >>> after_of(cursor_of(57))
    57
    """
    return None if after is None else urlsafe_b64encode(_MARK + b"%d" % after).decode().rstrip("=")


def after_of(cursor: str | None) -> int | None:
    """The number in a cursor, 0 without one; None: this is no cursor of ours.

    >>> after_of("x") is None
    True
    """
    if cursor is None:
        return 0
    if len(cursor) > CURSOR_LENGTH_MAX:
        return None
    try:
        text = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
    except (binascii.Error, UnicodeEncodeError):
        return None
    digits = text.removeprefix(_MARK)
    if digits == text or not digits.isdigit() or len(digits) > 16:
        return None
    after = int(digits)
    return after if cursor_of(after) == cursor else None
