"""Tokens of images, sound, film and documents, by the providers' published formulas; a bound where a size is unknown.

Sources (2026-11): OpenAI, "Images and vision"; Anthropic, "Vision", "PDF support"; Google, "Understand and count
tokens", "Media resolution".
"""

from __future__ import annotations

import base64
import re
import struct
from math import ceil

import msgspec

from fiscus.pricing.tokenizers import Family

WEBP_HEAD_LENGTH = 30
HEAD_LENGTH = 65_536
"""So many bytes of an image are looked at for its size."""


class Medium(msgspec.Struct, frozen=True, kw_only=True):
    """One image, sound, film or document: what it probably counts, and what it counts at most."""

    kind: str
    tokens: int
    upper: int


def image(family: Family, model: str, data: bytes | None, detail: str | None) -> Medium:
    """An image, from its first bytes; without them (a link, a file at the provider) the bound is the count.

    Args:
        family: of the model.
        model: as asked for; formulas differ within a family.
        data: the image, or its beginning.
        detail: ``low``, ``high``, ``auto``, ``original`` (OpenAI); a media resolution (Gemini).
    """
    size = None if data is None else dimensions(data)
    if family.name.startswith(("openai", "gpt-oss")):
        tokens, upper = _openai_image(model, size, detail)
    elif family.name.startswith("claude"):
        tokens, upper = _claude_image(family, size)
    elif family.name == "gemini":
        tokens, upper = _gemini_image(model, size, detail)
    else:
        tokens, upper = _other_image(size)
    return Medium(kind="image", tokens=tokens, upper=max(tokens, upper))


# (model, base, tile), first match
_TILES = (
    (r"gpt-4o-mini", 2_833, 5_667),
    (r"^o[13]", 75, 150),
    (r"computer-use", 65, 129),
    (r"gpt-5", 70, 140),
    (r"", 85, 170),
)
# (model, patches at most, per mille), first match
_PATCHES = (
    (r"gpt-4\.1-nano|gpt-5(\.\d)?-nano", 1_536, 2_460),
    (r"gpt-4\.1-mini|gpt-5(\.\d)?-mini", 1_536, 1_620),
    (r"o4-mini", 1_536, 1_720),
    (r"gpt-5\.[2-9]|gpt-[6-9]", 2_500, 1_200),
)
_PATCHES_ORIGINAL = 10_000
GEMINI_TILES_MAX = 25
"""An image of 3,072 pixels (larger ones are scaled down) in tiles of at least 256, two rows of them, and the whole."""


def _openai_image(model: str, size: tuple[int, int] | None, detail: str | None) -> tuple[int, int]:
    name = model.rsplit("/", 1)[-1].lower()
    for pattern, patches_max, permille in _PATCHES:
        if re.search(pattern, name):
            most = _PATCHES_ORIGINAL if detail == "original" else patches_max
            whole = most if size is None else min(ceil(size[0] / 32) * ceil(size[1] / 32), most)
            return -(-whole * permille // 1_000), -(-most * permille // 1_000) if size is None else 0
    base, tile = next((base, tile) for pattern, base, tile in _TILES if re.search(pattern, name))
    if detail == "low":
        return base, base
    if size is None:
        return base + 8 * tile, base + 8 * tile
    width, height = _within(*size, 2_048)
    shorter = min(width, height)
    if shorter > 768:
        width, height = width * 768 / shorter, height * 768 / shorter
    return base + tile * ceil(width / 512) * ceil(height / 512), 0


def _claude_image(family: Family, size: tuple[int, int] | None) -> tuple[int, int]:
    edge, most = (1_568, 1_640) if family.name in ("claude-2", "claude-3") else (2_576, 4_900)
    if size is None:
        return most, most
    width, height = _within(*size, edge)
    counted = min(ceil(width * height / 750), most)
    return counted, min(ceil(counted * 1.1) + 16, most)


def _gemini_image(model: str, size: tuple[int, int] | None, detail: str | None) -> tuple[int, int]:
    level = (detail or "").rsplit("_", 1)[-1].lower()
    if re.search(r"gemini-(3|4)", model):
        by_level = {"low": 280, "medium": 560, "high": 1_120}
        tokens = by_level.get(level, 2_240 if "ultra" in (detail or "").lower() else 1_120)
        return tokens, tokens
    if level == "low":
        return 64, 258
    tiled = re.search(r"gemini-(1|2\.0)", model) is not None
    if size is None:
        return 258, 258 * GEMINI_TILES_MAX
    width, height = _within(*size, 3_072)
    if max(width, height) <= 384:
        return 258, 258
    unit = min(max(int(min(width, height) / 1.5), 256), 768)
    all_tiles = 258 * min(1 + ceil(width / unit) * ceil(height / unit), GEMINI_TILES_MAX)
    return (all_tiles if tiled else 258), all_tiles


def _other_image(size: tuple[int, int] | None) -> tuple[int, int]:
    if size is None:
        return 2_048, 16_384
    width, height = _within(*size, 2_048)
    patches = ceil(width / 16) * (ceil(height / 16) + 1)
    return ceil(width * height / 750), min(max(patches, 2_880), 16_384)


def sound(family: Family, data: bytes | None) -> Medium:
    """Sound: so many tokens a second; what is compressed has at least 1,000 bytes a second."""
    rate = 32 if family.name == "gemini" else 20
    if data is None:
        return Medium(kind="audio", tokens=rate * 60, upper=rate * 3_600)
    seconds = _wav_seconds(data)
    if seconds is not None:
        return Medium(kind="audio", tokens=ceil(seconds * rate), upper=ceil(seconds * rate) + rate)
    return Medium(kind="audio", tokens=ceil(len(data) / 4_000 * rate), upper=ceil(len(data) / 1_000 * rate) + rate)


def film(data: bytes | None) -> Medium:
    """Film (Gemini): 258 tokens a frame and 32 a second of its sound, one frame a second."""
    rate = 258 + 32 + 10
    if data is None:
        return Medium(kind="video", tokens=rate * 60, upper=rate * 3_600)
    seconds = _mp4_seconds(data)
    if seconds is not None:
        return Medium(kind="video", tokens=ceil(seconds) * rate, upper=(ceil(seconds) + 1) * rate)
    return Medium(kind="video", tokens=ceil(len(data) / 20_000) * rate, upper=max(len(data), rate))


def document(family: Family, model: str, data: bytes | None) -> Medium:
    """A PDF: each page as an image and its text, which is at most the file (packed text: four times that)."""
    if data is None:
        return Medium(kind="document", tokens=2_000, upper=100_000)
    pages = max(len(re.findall(rb"/Type\s*/Page(?![a-zA-Z])", data)), ceil(len(data) / 400_000))
    page = image(family, model, None, None)
    per_page = {"gemini": 258}.get(family.name, min(page.tokens, 1_700))
    text_most = min(len(data) * 4, 4_000 * pages + 1_000)
    return Medium(
        kind="document", tokens=pages * per_page + min(len(data), 500 * pages), upper=pages * page.upper + text_most
    )


def decoded(text: str) -> bytes | None:
    """The bytes of base64, also in a data URL; None: it is none."""
    if text.startswith("data:"):
        _, _, text = text.partition(",")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_" if "-" in text or "_" in text else None)
    except ValueError:
        return None


def dimensions(data: bytes) -> tuple[int, int] | None:
    """Width and height of a PNG, JPEG, GIF, WebP or BMP from its first bytes.

    >>> dimensions(bytes.fromhex("89504e470d0a1a0a0000000d4948445200000280000001e0"))
    (640, 480)
    """
    try:
        size = _dimensions(data[: HEAD_LENGTH * 8])
    except (struct.error, IndexError):
        return None
    return size if size is not None and min(size) > 0 else None


def _dimensions(data: bytes) -> tuple[int, int] | None:
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return struct.unpack(">II", data[16:24])
    if data[:3] == b"GIF":
        return struct.unpack("<HH", data[6:10])
    if data[:2] == b"BM":
        width, height = struct.unpack("<ii", data[18:26])
        return abs(width), abs(height)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:2] == b"\xff\xd8":
        return _jpeg(data)
    return None


def _webp(data: bytes) -> tuple[int, int] | None:
    if len(data) < WEBP_HEAD_LENGTH:
        return None
    form = data[12:16]
    if form == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if form == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return width & 0x3FFF, height & 0x3FFF
    if form == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    return None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 < len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + int(struct.unpack(">H", data[at + 2 : at + 4])[0])
    return None


def _wav_seconds(data: bytes) -> float | None:
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE" or len(data) < 44:
        return None
    per_second = int(struct.unpack("<I", data[28:32])[0])
    return len(data) / per_second if per_second else None


def _mp4_seconds(data: bytes) -> float | None:
    at = data.find(b"mvhd")
    if at < 0 or len(data) < at + 32:
        return None
    if data[at + 4] == 1:
        scale, length = struct.unpack(">IQ", data[at + 24 : at + 36]) if len(data) >= at + 36 else (0, 0)
    else:
        scale, length = struct.unpack(">II", data[at + 16 : at + 24])
    return length / scale if scale else None


def _within(width: float, height: float, edge: int) -> tuple[float, float]:
    """The size, made smaller until its longer side is at most ``edge``."""
    scale = min(1.0, edge / max(width, height))
    return width * scale, height * scale
