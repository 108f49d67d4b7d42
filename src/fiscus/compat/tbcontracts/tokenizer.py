"""Tokens of a text: by the vocabulary in the package of Fiscus, else by its words."""

from __future__ import annotations

from fiscus.sdk import texts

TOKENS_PER_WORD = 1.3


def count_tokens(text: str) -> int:
    """Tokens of a text by ``cl100k_base``; where that cannot be loaded, 1.3 for each word.

    >>> count_tokens("hello world"), count_tokens("")
    (2, 0)
    """
    if not text:
        return 0
    try:
        return texts.count_tokens(text)
    except (ImportError, OSError, ValueError):
        return words_estimate(text)


def words_estimate(text: str) -> int:
    """1.3 tokens for each word, at least one for a text that is not empty.

    >>> words_estimate("one two three"), words_estimate("!"), words_estimate("")
    (3, 1, 0)
    """
    return max(1, int(len(text.split()) * TOKENS_PER_WORD)) if text else 0
