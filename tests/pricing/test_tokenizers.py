"""Which vocabulary counts which model, and that the shipped ones are OpenAI's own."""

import doctest
import gzip
import hashlib
import importlib
import sys
import time
from importlib import resources
from types import SimpleNamespace

import pytest

from fiscus.pricing import tokenizers
from fiscus.pricing.tokenizers import (
    PIECE_LENGTH_MAX,
    Family,
    Remembering,
    family_of,
    pieces,
    tokenizer_for,
    vocabulary,
)

TEXTS = [
    "hello world",
    "def f(x):\n    return x ** 2  # squares\n",
    "Größe, naïve café, Übermäßigkeit",
    "你好，世界。天气怎么样？",
    "Привет, как дела?",
    "🙂🙃👨‍👩‍👧‍👦 ok",
    '{"a": [1, 2.5, true, null], "b": "x\\n"}',
    "   \n\n\t  trailing   ",
    "<|endoftext|> is a text here",
    "",
]


def test_the_examples_hold():
    assert doctest.testmod(tokenizers).attempted > 0
    assert doctest.testmod(tokenizers).failed == 0


@pytest.mark.parametrize("name", ["o200k_base", "cl100k_base"])
def test_the_vocabularies_are_those_that_openai_published(name):
    """The hashes are those that tiktoken itself expects of a download, and the README beside the files has them."""
    package = resources.files("fiscus.pricing") / "vocabularies"
    unpacked = gzip.decompress((package / f"{name}.tiktoken.gz").read_bytes())
    digest = hashlib.sha256(unpacked).hexdigest()
    assert digest in resources.files("tiktoken_ext").joinpath("openai_public.py").read_text("utf-8")
    assert digest in (package / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", ["o200k_base", "cl100k_base"])
def test_texts_are_encoded_as_by_tiktokens_own_definition(name, monkeypatch):
    public = importlib.import_module("tiktoken_ext.openai_public")
    ranks = vocabulary(name)._mergeable_ranks
    monkeypatch.setattr(public, "load_tiktoken_bpe", lambda *_, **__: ranks)
    tiktoken = importlib.import_module("tiktoken")
    theirs = tiktoken.Encoding(**getattr(public, name)())
    for text in TEXTS:
        assert vocabulary(name).encode_ordinary(text) == theirs.encode_ordinary(text)


def test_a_damaged_vocabulary_is_refused(monkeypatch):
    vocabulary.cache_clear()
    monkeypatch.setitem(tokenizers._HASHES, "cl100k_base", "0" * 64)
    with pytest.raises(ValueError, match="damaged"):
        vocabulary("cl100k_base")


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("gpt-4", "openai-cl100k"),
        ("gpt-4-turbo-2024-04-09", "openai-cl100k"),
        ("gpt-3.5-turbo", "openai-cl100k"),
        ("gpt-35-turbo", "openai-cl100k"),
        ("text-embedding-3-large", "openai-cl100k"),
        ("gpt-4o", "openai-o200k"),
        ("openai/gpt-4.1-mini", "openai-o200k"),
        ("ft:gpt-4o-mini:org::id", "openai-o200k"),
        ("o3-mini", "openai-o200k"),
        ("gpt-5.5", "openai-gpt5"),
        ("openai.gpt-oss-120b-1:0", "gpt-oss"),
        ("claude-2.1", "claude-2"),
        ("anthropic.claude-v2", "claude-2"),
        ("claude-instant-1.2", "claude-2"),
        ("claude-3-5-haiku-20241022", "claude-3"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-3"),
        ("claude-sonnet-4-20250514", "claude-3"),
        ("anthropic/claude-4.5-haiku-20251001", "claude-3"),
        ("claude-opus-4-7", "claude-4.7"),
        ("claude-opus-4-8", "claude-4.8"),
        ("claude-sonnet-5", "claude-4.8"),
        ("claude-something-new", "claude-4.8"),
        ("models/gemini-2.5-pro", "gemini"),
        ("mistral-small-latest", "mistral"),
        ("llama-3.3-70b", "llama"),
        ("grok-4", "grok"),
        ("nobody-knows", "other"),
    ],
)
def test_a_model_has_the_family_of_its_name(model, family):
    assert family_of(model).name == family


def test_what_is_counted_with_anothers_vocabulary_is_an_estimate(monkeypatch):
    monkeypatch.setitem(sys.modules, "ctok", None)
    monkeypatch.setitem(sys.modules, "splintr", None)
    tokenizer_for.cache_clear()
    for model in ("claude-sonnet-5", "gemini-2.5-pro", "mistral-large", "nobody-knows"):
        tokenizer = tokenizer_for(family_of(model))
        plain = tokenizer_for(family_of("gpt-4o")).count(TEXTS).tokens
        assert tokenizer.label == "estimated"
        counted = tokenizer.count(TEXTS)
        assert plain < counted.tokens < counted.upper
    tokenizer_for.cache_clear()


def test_a_counter_of_claude_is_used_where_it_is_installed_without_its_frame(monkeypatch):
    """A stand-in with ctok's interface: 7 for the frame and one for each word."""
    counter = SimpleNamespace(token_count=lambda text, version: 7 + len(text.split()) + (version == "4.8"))
    monkeypatch.setitem(sys.modules, "ctok", counter)
    tokenizer_for.cache_clear()
    tokenizer = tokenizer_for(family_of("claude-sonnet-5"))
    assert (tokenizer.label, tokenizer.count(["three words here"])) == ("reconstructed", (3, 3))
    tokenizer_for.cache_clear()


def test_gemini_is_counted_with_gemmas_vocabulary():
    pytest.importorskip("splintr")
    tokenizer = tokenizer_for(family_of("gemini-2.5-flash"))
    assert tokenizer.label == "reconstructed"
    assert tokenizer.count(["Tell me a funny joke, a one-liner."]) == (11, 11)


def test_a_text_is_cut_before_white_space_and_nothing_is_lost():
    text = "some words " * 20_000
    cut = list(pieces(text))
    assert "".join(cut) == text
    assert max(map(len, cut)) <= PIECE_LENGTH_MAX
    assert all(piece[0] == " " for piece in cut[1:])
    whole = len(vocabulary("o200k_base").encode_ordinary(text))
    assert abs(tokenizer_for(family_of("gpt-4o")).count([text]).tokens - whole) <= len(cut)
    assert "".join(pieces("x" * 200_001)) == "x" * 200_001


@pytest.mark.parametrize("unit", ["a", " ", "\n", "你", "😀", "x9 ", "\ud800"])
def test_a_megabyte_of_anything_is_counted_within_a_second(unit):
    text = unit * (1_000_000 // len(unit.encode("utf-8", "surrogatepass")))
    tokenizer = tokenizer_for(Family(name="openai-o200k", label="exact"))
    tokenizer.count(["warm"])
    begin = time.perf_counter()
    assert 0 < tokenizer.count([text]).tokens <= 1_000_000
    assert time.perf_counter() - begin < 1


LANGUAGES = [
    "The treasury holds a budget before the money is spent, and what is left goes back at once.",
    "Künstliche Intelligenz verändert unser Leben grundlegend, und viele Unternehmen verwenden große Sprachmodelle.",
    "L'intelligence artificielle transforme notre façon de vivre et de travailler, chaque jour un peu plus.",
    "Искусственный интеллект меняет нашу жизнь, и многие компании используют большие языковые модели.",
    "人工智能正在改变我们的生活方式。许多公司使用大型语言模型来处理客户服务。",
    "인공지능은 우리의 생활 방식을 바꾸고 있습니다. 많은 기업이 언어 모델을 사용합니다.",
    "कृत्रिम बुद्धिमत्ता हमारे जीवन को बदल रही है और कई कंपनियां भाषा मॉडल का उपयोग करती हैं।",
    "الذكاء الاصطناعي يغير طريقة حياتنا وتستخدم العديد من الشركات نماذج لغوية كبيرة.",
    '{"id": 17, "name": "item", "price": 23.75, "tags": ["a", "b"], "at": "2026-01-02T03:04:05Z"}',
    "1234567 7654321 1020304 99 1000003 31415926",
    "def reserve(chain, command):\n    return [account for account in chain if account.limit]\n",
]


@pytest.mark.parametrize(
    ("library", "model"),
    [
        ("ctok", "claude-sonnet-4-5"),
        ("ctok", "claude-opus-4-7"),
        ("ctok", "claude-sonnet-5"),
        ("splintr", "gemini-2.5-pro"),
        ("splintr", "mistral-large"),
        ("splintr", "mistral-7b"),
        ("splintr", "llama-2-70b"),
        ("splintr", "llama-3.3-70b"),
        ("splintr", "deepseek-v3"),
        ("splintr", "qwen3"),
        ("splintr", "glm-4.5"),
        ("splintr", "kimi-k2"),
    ],
)
def test_a_bound_without_the_vocabulary_is_no_less_than_the_count_with_it(library, model, monkeypatch):
    pytest.importorskip(library)
    family = family_of(model)
    tokenizer_for.cache_clear()
    true = [tokenizer_for(family).count([text * 10]).tokens for text in LANGUAGES]
    monkeypatch.setitem(sys.modules, library, None)
    tokenizer_for.cache_clear()
    bounds = [tokenizer_for(family).count([text * 10]) for text in LANGUAGES]
    tokenizer_for.cache_clear()
    assert all(bound.upper >= exact for bound, exact in zip(bounds, true, strict=True))
    assert bounds[0].upper < 2 * true[0], "English is not held twice over"


def test_a_piece_is_counted_once_and_its_text_is_not_kept():
    counted = []

    def count(piece):
        counted.append(piece)
        return len(piece)

    remembering = Remembering(count)
    texts = ["the same text again", "half a pair \ud800", "", "another one"]
    assert [remembering(text) for text in texts * 3] == [len(text) for text in texts] * 3
    assert counted == texts
    assert not any("same" in str(known) for known in (remembering._recent, remembering._before))


def test_what_is_remembered_is_bounded_and_what_is_used_stays(monkeypatch):
    monkeypatch.setattr(tokenizers, "REMEMBERED_MAX", 10)
    counted = []
    remembering = Remembering(lambda piece: counted.append(piece) or len(piece))
    for number in range(200):
        assert remembering(f"piece {number}") == len(f"piece {number}")
        assert remembering("used") == 4
        assert len(remembering._recent) + len(remembering._before) <= 20
    assert counted.count("used") == 1
    before = len(counted)
    remembering("piece 3")
    assert len(counted) == before + 1
