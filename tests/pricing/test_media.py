"""Images, sound, film and documents: formulas where the size is known, bounds where it is not."""

import base64
import doctest
import struct

import pytest

from fiscus.pricing import media
from fiscus.pricing.media import decoded, dimensions, document, film, image, sound
from fiscus.pricing.tokenizers import family_of


def png(width, height):
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height)


def jpeg(width, height):
    return (
        b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(10) + b"\xff\xc0\0\x11\x08" + struct.pack(">HH", height, width) + bytes(9)
    )


def wav(seconds, rate=16_000):
    return b"RIFF\0\0\0\0WAVEfmt " + bytes(12) + struct.pack("<I", rate) + bytes(rate * seconds - 32)


def mp4(seconds):
    return b"\0\0\0\x20ftypisom" + b"mvhd" + bytes(12) + struct.pack(">II", 1_000, seconds * 1_000) + bytes(20)


def of(model, data=None, detail=None):
    return image(family_of(model), model, data, detail)


def test_the_examples_hold():
    assert doctest.testmod(media).attempted > 0
    assert doctest.testmod(media).failed == 0


@pytest.mark.parametrize(
    "data",
    [
        png(640, 480),
        jpeg(640, 480),
        b"GIF89a" + struct.pack("<HH", 640, 480),
        b"BM" + bytes(16) + struct.pack("<ii", 640, -480),
        b"RIFF\0\0\0\0WEBPVP8X" + bytes(8) + (639).to_bytes(3, "little") + (479).to_bytes(3, "little"),
        b"RIFF\0\0\0\0WEBPVP8 " + bytes(10) + struct.pack("<HH", 640, 480),
        b"RIFF\0\0\0\0WEBPVP8L" + bytes(5) + (639 | 479 << 14).to_bytes(4, "little") + bytes(9),
    ],
)
def test_the_size_of_an_image_is_in_its_first_bytes(data):
    assert dimensions(data) == (640, 480)
    for length in range(len(data)):
        assert dimensions(data[:length]) in (None, (640, 480))


@pytest.mark.parametrize("data", [b"", b"nothing", png(0, 480), b"\xff\xd8\xff"])
def test_what_is_no_image_has_no_size(data):
    assert dimensions(data) is None


# OpenAI's and Anthropic's published examples.
@pytest.mark.parametrize(
    ("model", "size", "detail", "tokens"),
    [
        ("gpt-4o", (1_024, 1_024), "high", 765),
        ("gpt-4o", (2_048, 4_096), "high", 1_105),
        ("gpt-4o", (4_096, 8_192), "low", 85),
        ("gpt-4o-mini", (512, 512), "high", 8_500),
        ("o4-mini", (1_024, 1_024), None, 1_762),
        ("claude-sonnet-4-5", (200, 200), None, 54),
        ("claude-sonnet-4-5", (1_000, 1_000), None, 1_334),
        ("gemini-2.5-flash", (300, 300), None, 258),
        ("gemini-2.0-flash", (640, 480), None, 1_290),
    ],
)
def test_an_image_counts_by_the_providers_formula(model, size, detail, tokens):
    assert of(model, png(*size), detail).tokens == tokens


@pytest.mark.parametrize(
    "model", ["gpt-4o", "gpt-4o-mini", "gpt-4.1-mini", "claude-3-haiku", "claude-sonnet-5", "gemini-2.5-pro", "other"]
)
@pytest.mark.parametrize("size", [(16, 16), (640, 480), (1_000, 3_000), (8_000, 8_000)])
def test_an_image_of_unknown_size_counts_no_less_than_any_other(model, size):
    unknown, known = of(model), of(model, png(*size))
    assert unknown.upper >= unknown.tokens > 0
    assert unknown.upper >= known.upper >= known.tokens > 0


def test_sound_counts_by_its_seconds():
    gemini = family_of("gemini-2.5-flash")
    assert sound(gemini, wav(10)).tokens == pytest.approx(320, abs=2)
    packed = sound(gemini, b"ID3" + bytes(40_000))
    assert packed.upper >= 40 * 32 > packed.tokens > 0, "an mp3 of 8 kbit/s lasts 40 s"
    assert sound(gemini, None).upper > packed.upper


def test_film_counts_by_its_frames_and_sound():
    assert film(mp4(5)).tokens == 5 * 300
    assert film(mp4(5)).upper >= 5 * 300
    assert film(bytes(100_000)).upper >= film(bytes(100_000)).tokens > 0
    assert film(None).upper > film(mp4(60)).upper


def test_a_document_counts_by_its_pages():
    one, three = (b"%PDF" + b"/Type /Page " * pages + b"/Type /Pages" for pages in (1, 3))
    for model in ("gpt-4o", "claude-sonnet-4-5", "gemini-2.5-pro"):
        first, third = (document(family_of(model), model, data) for data in (one, three))
        assert 0 < first.tokens <= first.upper
        assert third.tokens > 2 * first.tokens
        assert document(family_of(model), model, None).upper > first.upper


def test_base64_is_decoded_also_from_a_data_url_and_without_its_padding():
    text = base64.b64encode(b"any bytes??>>").decode()
    assert decoded(text) == decoded(f"data:image/png;base64,{text}") == decoded(text.rstrip("=")) == b"any bytes??>>"
    assert decoded(base64.urlsafe_b64encode(b"any bytes??>>").decode()) == b"any bytes??>>"
    assert decoded("é") is None
