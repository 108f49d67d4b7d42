"""Counts of every recorded request against what its provider billed."""

import statistics

import pytest

from bench.counting import NOT_BILLED, pairs, table
from fiscus.pricing import Margins

PAIRS = list(pairs())


def errors_of(provider, label):
    return [
        abs(pair.count.tokens - pair.billed) / pair.billed
        for pair in PAIRS
        if (pair.provider, pair.count.label) == (provider, label) and pair.explained
    ]


def test_there_are_pairs_of_every_provider_and_dialect():
    assert len(PAIRS) > 2_400
    assert len({pair.provider for pair in PAIRS}) >= 13
    assert len({pair.dialect for pair in PAIRS}) == 6
    assert sum(pair.explained for pair in PAIRS) > 2_200
    assert all(NOT_BILLED.values())


def test_no_request_was_billed_more_than_the_upper_bound_of_its_count():
    """Less what no count can know: what the provider keeps, fetches or finds by itself, which is named beforehand."""
    short = [(pair.id, pair.billed, pair.count) for pair in PAIRS if pair.billed > pair.count.upper_bound]
    assert [one for one in short if not one[2].unseen] == []
    assert len(short) > 10, "what is unseen does make bounds fall short, so it must be named"


@pytest.mark.parametrize(
    ("provider", "label", "median", "pairs_least"),
    [
        ("openai", "exact", 0, 500),
        ("openai", "reconstructed", 0.05, 400),
        ("azure-openai", "exact", 0, 30),
        ("anthropic", "estimated", 0.1, 0),
        ("anthropic", "reconstructed", 0.02, 0),
        ("gemini", "reconstructed", 0.15, 0),
        ("xai", "estimated", 0.1, 20),
    ],
)
def test_the_error_of_a_count_is_small(provider, label, median, pairs_least):
    """Anthropic is estimated or, where ctok is installed, reconstructed; Gemini is reconstructed where splintr is."""
    errors = errors_of(provider, label)
    assert len(errors) >= pairs_least
    if errors:
        assert statistics.median(errors) <= median


def test_text_alone_is_counted_exactly_for_openai():
    """All but some reasoning models and a few prompts to which OpenAI adds something of its own."""
    errors = errors_of("openai", "exact")
    assert sum(error == 0 for error in errors) > 0.85 * len(errors)


def test_a_bound_is_of_use():
    """Prompts of some length are held with less than half as much again, where vocabulary and framing are known."""
    slack = [
        pair.count.upper_bound / pair.billed
        for pair in PAIRS
        if pair.explained and pair.billed > 500 and not pair.count.media and pair.count.label != "estimated"
    ]
    assert len(slack) > 100
    assert statistics.median(slack) < 1.5


def test_what_was_billed_teaches_margins_that_cover_it():
    margins = Margins()
    taught = [
        pair for pair in PAIRS if pair.explained and pair.count.tokens >= 200 and pair.billed < 4 * pair.count.tokens
    ]
    for pair in taught[-64:]:
        count = pair.count
        margins.learn(pair.provider, count.family, count.label, counted=count.tokens, billed=pair.billed)
    for pair in taught[-64:]:
        margin = margins.of(pair.provider, pair.count.family, pair.count.label)
        assert margin.over(pair.count.tokens) >= pair.billed


def test_the_table_has_a_row_for_each_provider_and_label():
    rows = list(table(PAIRS))
    assert sum(row["pairs"] for row in rows) == len(PAIRS)
    assert sum(row["short"] for row in rows) == 0
