from __future__ import annotations

import doctest
from types import SimpleNamespace

import pytest

from fiscus.sdk import texts
from fiscus.sdk.texts import count_tokens, texts_in


def test_the_examples_are_true():
    assert doctest.testmod(texts).failed == 0


class Crew:
    raw = "the answer"


class Broken:
    @property
    def content(self) -> str:
        raise RuntimeError("not ready")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("text", ["text"]),
        (None, []),
        (3.5, []),
        ([{"role": "user", "content": [{"text": "hi"}]}], ["user", "hi"]),
        pytest.param(Crew(), ["the answer"], id="an object"),
        pytest.param(Broken(), [], id="one that fails"),
        (SimpleNamespace(content="a message"), ["a message"]),
        (Crew, []),
        ({1: ("a", {"b"})}, ["a", "b"]),
    ],
    ids=repr,
)
def test_text_is_found_wherever_it_stands(value, found):
    assert list(texts_in(value)) == found


def test_a_cycle_and_a_deep_nest_end():
    cycle: list[object] = ["a"]
    cycle.append(cycle)
    assert set(texts_in(cycle)) == {"a"}
    nest: object = "deep"
    for _ in range(1_000):
        nest = [nest]
    assert list(texts_in(nest)) == []


def test_half_characters_are_counted():
    assert count_tokens("a\ud800b") > 0
