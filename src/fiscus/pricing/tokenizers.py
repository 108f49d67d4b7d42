"""Which tokenizer counts which model, offline, and how far it is to be trusted.

OpenAI's vocabularies stand beside this module. ``ctok`` (Claude) and ``splintr`` (Gemini, Llama, Mistral, Qwen …) are
used where they are installed; without them, and for all other models, OpenAI's larger vocabulary and a factor stand in.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib
import os
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib import resources
from typing import Any, Literal, NamedTuple

import msgspec

Label = Literal["exact", "reconstructed", "estimated"]
"""``exact``: the model's own vocabulary and framing. ``reconstructed``: a vocabulary that was found to give the same
counts. ``estimated``: another model's vocabulary and a factor, or a framing that nobody has measured."""

PIECE_LENGTH_MAX = 65_536
"""Longer texts are cut into pieces: a run without a break costs more than its length, and too long a one fails."""

LIKELY_PERMILLE = 750
"""What is likely is at least so much of the bound: a factor that is right for English is too small elsewhere."""

REMEMBERED_MAX = 16_384
"""So many pieces are remembered, and as many of before these."""

_HASHES = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}
_PATTERNS = {
    "o200k_base": "|".join(
        [
            r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
            r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
            r"""\p{N}{1,3}""",
            r""" ?[^\s\p{L}\p{N}]+[\r\n/]*""",
            r"""\s*[\r\n]+""",
            r"""\s+(?!\S)""",
            r"""\s+""",
        ]
    ),
    "cl100k_base": (
        r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|"""
        r"""\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
    ),
}


class Bound(NamedTuple):
    """Tokens per mille: of a token of o200k, an ASCII character, a digit, any other character.

    Fitted by linear programs to 40 texts in 20 languages, code, JSON and numbers, so that none is above its bound and
    English and code are as near to it as can be; 3 % above that. A factor alone fails: German has 1.8 times as many
    tokens for Claude as for OpenAI, Hindi 2.8 times, English 1.1 times.
    """

    token: int
    plain: int
    digit: int
    other: int

    def over(self, tokens: int, piece: str) -> int:
        """The bound of a piece of text with so many tokens of o200k."""
        others = 0 if piece.isascii() else len(piece) - len(piece.encode("ascii", "ignore"))
        digits = sum(map(piece.count, "0123456789"))
        plain = len(piece) - others - digits
        total = tokens * self.token + plain * self.plain + digits * self.digit + others * self.other
        return -(-total // 1_000)


class Counted(NamedTuple):
    """Tokens of texts, and what they are at most (the same, with the model's own vocabulary)."""

    tokens: int
    upper: int


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """Models that share a tokenizer, and what frames their messages.

    Attributes:
        name: for margins and tables.
        vocabulary: counted with, when ``own`` is not there.
        factor_permille: what its count is multiplied by then.
        bound: what no text is above then.
        own: (library, vocabulary) that is better, if installed.
        label: of a count with ``vocabulary``.
    """

    name: str
    vocabulary: str = "o200k_base"
    factor_permille: int = 1_000
    bound: Bound | None = None
    own: tuple[str, str] | None = None
    label: Label = "estimated"


class Tokenizer(msgspec.Struct, frozen=True, kw_only=True):
    """Counts texts for one family."""

    family: Family
    label: Label
    stands_in: bool
    count_piece: Callable[[str], int]

    def count(self, texts: Iterable[str]) -> Counted:
        """Tokens of all texts, each counted by itself."""
        total = upper = 0
        bound = self.family.bound if self.stands_in else None
        for text in texts:
            for piece in pieces(text):
                tokens = self.count_piece(piece)
                total += tokens
                upper += tokens if bound is None else bound.over(tokens, piece)
        if bound is None:
            return Counted(total, total)
        likely = -(-total * self.family.factor_permille // 1_000)
        return Counted(max(likely, upper * LIKELY_PERMILLE // 1_000), max(upper, likely))


class Remembering:
    """Counts pieces, and remembers the counts: an agent sends its whole conversation again with each turn.

    What is remembered of a piece is a keyed hash, not its text. Any thread may count.

    >>> counting = Remembering(lambda piece: len(piece.split()))
    >>> [counting("one two three " * 5) for _ in range(2)]
    [15, 15]
    """

    def __init__(self, count: Callable[[str], int]) -> None:
        self._count = count
        self._key = os.urandom(16)
        self._recent: dict[bytes, int] = {}
        self._before: dict[bytes, int] = {}

    def __call__(self, piece: str) -> int:
        """Tokens of a piece."""
        content = piece.encode("utf-8", "surrogatepass")
        name = hashlib.blake2b(content, digest_size=16, key=self._key).digest()
        known = self._recent.get(name)
        if known is None:
            known = self._before.get(name)
            self._recent[name] = known = self._count(piece) if known is None else known
            if len(self._recent) >= REMEMBERED_MAX:
                self._before, self._recent = self._recent, {}
        return known


_CLAUDE_3 = Bound(1_081, 121, 710, 711)
_CLAUDE_4_7 = Bound(1_940, 96, 0, 288)
_GEMMA = Bound(787, 101, 910, 184)
_MISTRAL_1 = Bound(842, 218, 740, 1_215)
_MISTRAL_3 = Bound(1_301, 0, 543, 1_108)
_LLAMA_2 = Bound(1_109, 167, 613, 1_502)
_LLAMA_3 = Bound(1_127, 27, 0, 1_212)
_DEEPSEEK = Bound(1_180, 4, 0, 1_462)
_QWEN = Bound(1_127, 27, 627, 1_212)
_GLM = Bound(943, 63, 484, 973)
_KIMI = Bound(872, 110, 68, 1_795)
_ANY = Bound(1_045, 83, 659, 1_511)
"""The largest of all of these but Claude, Mistral 1 and Llama 2."""

_SPLINTR = (
    # (pattern of the model, family, vocabulary of splintr; without it: factor of o200k per mille, bound)
    (r"gemma-?4", "gemini", "gemma4", 1_080, _GEMMA),
    (r"gemini|gemma|learnlm", "gemini", "gemma3", 1_080, _GEMMA),
    (r"mixtral|mistral-7b|open-mistral-7b|mistral-tiny", "mistral", "mistral_v1", 1_250, _MISTRAL_1),
    (r"mistral|codestral|ministral|pixtral|magistral|devstral|voxtral", "mistral", "mistral_v3", 1_150, _MISTRAL_3),
    (r"llama-?2|codellama", "llama", "llama2", 1_250, _LLAMA_2),
    (r"llama-?4", "llama-4", "llama3", 1_050, _LLAMA_3),
    (r"llama", "llama", "llama3", 1_050, _LLAMA_3),
    (r"deepseek", "deepseek", "deepseek_v3", 1_100, _DEEPSEEK),
    (r"qwen|qwq", "qwen", "qwen3", 1_100, _QWEN),
    (r"glm", "glm", "glm4", 1_100, _GLM),
    (r"kimi|moonshot", "kimi", "kimi_k2", 1_100, _KIMI),
)
_OPENAI_OLD = re.compile(r"^(ft:)?(gpt-4($|-(?!o|5))|gpt-4-|gpt-3\.5|gpt-35|text-embedding|davinci-002|babbage-002)")
_OPENAI = re.compile(r"^(ft:)?(gpt-|chatgpt|o[1-9]($|-)|codex|computer-use|davinci|babbage|text-)")


@lru_cache(maxsize=1_024)
def family_of(model: str) -> Family:
    """The family of a model, by its name without what a reseller puts before it.

    >>> family_of("gpt-4o-mini").name, family_of("us.anthropic.claude-sonnet-4-5-v1:0").name, family_of("sonar").name
    ('openai-o200k', 'claude-3', 'other')
    """
    name = model.lower()
    bare = re.sub(r"^([a-z]{2,6}\.)?openai\.", "", name.rsplit("/", 1)[-1])
    if "claude" in name:
        return _claude(name)
    if "gpt-oss" in name:
        return Family(name="gpt-oss", label="reconstructed")
    if _OPENAI_OLD.match(bare):
        return Family(name="openai-cl100k", vocabulary="cl100k_base", label="exact")
    if re.match(r"^(ft:)?(gpt-[5-9]|codex)", bare):
        return Family(name="openai-gpt5", label="exact")
    if _OPENAI.match(bare):
        return Family(name="openai-o200k", label="exact")
    for pattern, family, vocabulary, factor, bound in _SPLINTR:
        if re.search(pattern, name):
            return Family(name=family, factor_permille=factor, bound=bound, own=("splintr", vocabulary))
    if "grok" in name:
        return Family(name="grok", factor_permille=1_100, bound=_ANY)
    return Family(name="other", factor_permille=1_200, bound=_ANY)


def _claude(name: str) -> Family:
    """The generation of a Claude: its vocabulary changed with Opus 4.7 and again with Opus 4.8."""
    if re.search(r"claude-(v?[12](\D|$)|instant)", name):
        return Family(name="claude-2", factor_permille=1_100, bound=_CLAUDE_3)
    name = re.sub(r"claude-(\d)[.-](\d)-(opus|sonnet|haiku)", r"claude-\3-\1-\2", name)
    found = re.search(r"claude-(?:opus|sonnet|haiku|fable|mythos)-(\d)(?:[-.](\d)(?!\d))?", name)
    if found is None:
        old = re.search(r"claude-3", name) is not None
        version = (3, 0) if old else (4, 8)
    else:
        version = (int(found[1]), int(found[2] or 0))
    if version < (4, 7):
        return Family(name="claude-3", factor_permille=1_150, bound=_CLAUDE_3, own=("ctok", "3.0"))
    if version == (4, 7):
        return Family(name="claude-4.7", factor_permille=1_500, bound=_CLAUDE_4_7, own=("ctok", "4.7"))
    return Family(name="claude-4.8", factor_permille=1_450, bound=_CLAUDE_4_7, own=("ctok", "4.8"))


@lru_cache(maxsize=64)
def tokenizer_for(family: Family) -> Tokenizer:
    """The best tokenizer that is installed. Loading takes up to 0.5 s, once per vocabulary."""
    if family.own is not None:
        counting = _own(*family.own)
        if counting is not None:
            label: Label = "reconstructed" if family.name.startswith(("claude", "gemini")) else "estimated"
            return Tokenizer(family=family, label=label, stands_in=False, count_piece=Remembering(counting))
    encode = vocabulary(family.vocabulary).encode_ordinary
    return Tokenizer(
        family=family,
        label=family.label,
        stands_in=family.bound is not None,
        count_piece=Remembering(lambda piece: len(encode(_without_surrogates(piece)))),
    )


def _own(library: str, name: str) -> Callable[[str], int] | None:
    try:
        module = importlib.import_module(library)
    except ImportError:
        return None
    if library == "ctok":
        frame = module.token_count("", name)
        return lambda piece: max(module.token_count(_without_surrogates(piece), name) - frame, 0)
    encode = module.Tokenizer.from_pretrained(name).encode_ordinary
    return lambda piece: len(encode(_without_surrogates(piece)))


@lru_cache(maxsize=4)
def vocabulary(name: str) -> Any:
    """One of OpenAI's encodings, from the file in this package.

    Raises:
        ValueError: the file is not the one that OpenAI published.
    """
    import tiktoken

    packed = resources.files("fiscus.pricing").joinpath(f"vocabularies/{name}.tiktoken.gz").read_bytes()
    lines = gzip.decompress(packed)
    if hashlib.sha256(lines).hexdigest() != _HASHES[name]:
        raise ValueError(f"the vocabulary {name} in this package is damaged")
    ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines.splitlines())}
    return tiktoken.Encoding(name, pat_str=_PATTERNS[name], mergeable_ranks=ranks, special_tokens={})


def pieces(text: str) -> Iterable[str]:
    """A text in pieces of at most ``PIECE_LENGTH_MAX`` characters, cut before white space where there is some."""
    start = 0
    while len(text) - start > PIECE_LENGTH_MAX:
        end = start + PIECE_LENGTH_MAX
        space = max(text.rfind(" ", start + 1, end), text.rfind("\n", start + 1, end))
        end = space if space > start + PIECE_LENGTH_MAX // 2 else end
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _without_surrogates(text: str) -> str:
    """Half characters, which JSON may spell and no tokenizer takes, as the three bytes that they would be."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text
