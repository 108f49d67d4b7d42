"""The longest answers that models give, where that is less than others are asked for. Pure.

No package that ships prices offline has them. As the makers' model pages have it on 2026-11-25; only models whose
limit is below ``OUTPUT_TOKENS_MAX_UNLESS_KNOWN`` have to be here, and these are old ones, which do not change.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

OUTPUT_TOKENS_MAX_UNLESS_KNOWN = 32_768

_LIMITS: tuple[tuple[str, int], ...] = (
    # OpenAI. Of gpt-4 the prompt has a part in it, too: half of its 8,192 is left for that.
    ("gpt-3.5-*", 4_096),
    ("gpt-4o-2024-05-13", 4_096),
    ("gpt-4o*", 16_384),
    ("chatgpt-4o*", 16_384),
    ("gpt-5*-chat*", 16_384),
    ("gpt-4.*", 32_768),
    ("gpt-4*", 4_096),
    # Anthropic.
    ("claude-2*", 4_096),
    ("claude-instant*", 4_096),
    ("claude-3-5-*", 8_192),
    ("claude-3.5-*", 8_192),
    ("claude-3-7-*", 64_000),
    ("claude-3.7-*", 64_000),
    ("claude-3-*", 4_096),
    ("claude-opus-4-1*", 32_000),
    ("claude-opus-4-20*", 32_000),
    ("claude-opus-4-0", 32_000),
    ("claude-opus-4", 32_000),
    # Google.
    ("gemini-1.*", 8_192),
    ("gemini-2.0-*", 8_192),
    # Others.
    ("deepseek-chat*", 8_192),
    ("command-r*", 4_096),
    ("command-a*", 8_192),
)
"""Pattern of a model's name and its limit, the first match holds."""


def output_tokens_max(model: str) -> int:
    """How long an answer may be asked for, of a request that does not say.

    Args:
        model: as a provider calls it, also with its maker before it (``openai/gpt-4o``, ``anthropic.claude-3-haiku``).

    >>> output_tokens_max("gpt-4o-mini"), output_tokens_max("anthropic/claude-3-5-haiku-latest")
    (16384, 8192)
    >>> output_tokens_max("gpt-5.5")
    32768
    """
    known = output_tokens_known(model)
    return OUTPUT_TOKENS_MAX_UNLESS_KNOWN if known is None else min(known, OUTPUT_TOKENS_MAX_UNLESS_KNOWN)


def output_tokens_known(model: str) -> int | None:
    """The longest answer of a model, where it is known; see ``output_tokens_max``.

    >>> output_tokens_known("claude-3-7-sonnet-latest"), output_tokens_known("gpt-5.5")
    (64000, None)
    """
    bare = model.lower().rpartition("/")[2].removeprefix("us.").removeprefix("eu.")
    bare = bare.removeprefix("anthropic.").removeprefix("cohere.").removeprefix("ft:")
    return next((limit for pattern, limit in _LIMITS if fnmatchcase(bare, pattern)), None)
