"""What streams have produced, what their kind comes to, and how much room they want together."""

import doctest
import math
import random

from fiscus.dialects import Produced
from fiscus.gateway import produced as module
from fiscus.gateway.produced import (
    BEGUN_MAX,
    IMAGE_TOKENS,
    LENGTHS_MAX,
    Expected,
    Lengths,
    Share,
    Shares,
    tokens_produced,
)

ASKED = 1_024


def piece(text, deltas=1):
    return Produced(characters=len(text), utf8_bytes=len(text.encode()), deltas=deltas)


def test_examples():
    assert doctest.testmod(module).failed == 0


def test_each_kind_counts_and_each_piece_is_a_token_at_least():
    said = {(0, "text"): piece("a" * 30, 2), (1, "text"): piece("ab", 9), (0, "tool"): piece('{"a": 1}')}
    assert tokens_produced(said) == 10 + 9 + 3
    assert tokens_produced({(0, "opaque"): piece("x" * 9_000)}) == 0
    assert tokens_produced({(0, "image"): piece("x" * 9_000, 2)}) == 2 * IMAGE_TOKENS


def test_what_was_learned_of_ascii_holds_for_ascii_only():
    assert tokens_produced({(0, "text"): piece("a" * 300)}, Share(500)) == 50
    assert tokens_produced({(0, "text"): piece("日本" * 50)}, Share(500)) == 100
    assert tokens_produced({(0, "text"): piece("日本" * 50, 50)}, Share(500, piece_permille=1_000)) == 100
    assert tokens_produced({(0, "text"): piece("a" * 300, 50)}, Share(piece_permille=1_000)) == 50


def test_the_lower_of_the_two_bounds_counts_and_images_besides():
    said = {(0, "text"): piece("a" * 300, 60), (0, "tool"): piece("b" * 300, 20), (0, "image"): piece("", 1)}
    assert tokens_produced(said, Share(900)) == 90 + 90 + IMAGE_TOKENS
    assert tokens_produced(said, Share(900, piece_permille=1_100)) == 66 + 22 + IMAGE_TOKENS
    assert tokens_produced(said, Share(900, piece_permille=9_000)) == 90 + 90 + IMAGE_TOKENS


def test_pieces_that_hold_more_than_tokens_do_are_counted_by_their_bytes():
    """Arguments of a tool that come at once, an answer that was not streamed."""
    share = Share(600, least_permille=250, piece_permille=1_000)
    said = {(0, "text"): piece("a" * 600, 110), (0, "tool"): piece("b" * 60, 2)}
    assert tokens_produced(said, share) == 110 + 12
    assert tokens_produced({(0, "text"): piece("a" * 600, 110)}, share) == 110
    assert tokens_produced({(0, "text"): piece("a" * 6_000)}, share) == 1_200


def test_a_bound_is_as_far_above_what_is_known_as_that_lies_apart():
    shares = Shares()
    for tokens in (50, 52, 52, 52, 52, 52, 55):
        shares.learn("u", "m", bound=100, billed=tokens, pieces=50)
    assert shares.of("u", "m") == Share()
    shares.learn("u", "m", bound=100, billed=50, pieces=50)
    assert shares.of("u", "m") == Share(600, 250, 1_200)
    assert shares.of("other", "m") == shares.of("u", "other") == Share()
    for _ in range(64):
        shares.learn("u", "m", bound=100, billed=50, pieces=50)
    assert shares.of("u", "m") == Share(500, 250, 1_000)


def test_a_piece_has_a_token_at_least_and_what_came_at_once_says_nothing_of_pieces():
    shares = Shares()
    for _ in range(20):
        shares.learn("u", "m", bound=100, billed=40, pieces=80)
        shares.learn("at once", "m", bound=100, billed=40)
    assert shares.of("u", "m") == Share(400, 200, 1_000)
    assert shares.of("at once", "m") == Share(400, 200)


def test_a_model_that_bills_what_it_does_not_show_is_never_trusted_to_show_all():
    shares = Shares()
    for _ in range(20):
        shares.learn("u", "m", bound=100, billed=90)
    assert (shares.shows_all("m"), shares.of("u", "m")) == (True, Share(900, 450))
    shares.learn("u", "m", bound=100, billed=700)
    assert (shares.shows_all("m"), shares.of("u", "m")) == (False, Share(1_000, 450))


def test_images_and_short_texts_say_nothing_of_long_ones():
    shares = Shares()
    for _ in range(20):
        shares.learn("u", "m", bound=2_000, billed=1_290, pieces=20, is_text=False)
        shares.learn("u", "m", bound=9, billed=3, pieces=3)
    assert (shares.shows_all("m"), shares.of("u", "m")) == (True, Share())


def test_only_the_last_lengths_count():
    lengths = Lengths()
    for tokens in range(10_000):
        lengths.learn("a", "m", tokens)
    for _ in range(LENGTHS_MAX):
        lengths.learn("a", "m", 50)
    assert lengths.expected("a", "m") == Expected(tokens=50, spread=0, known=LENGTHS_MAX)
    assert lengths.longer("a", "m", 50) is None
    assert lengths.expected("a", "other") is None


def test_short_answers_do_not_pass_for_all_while_long_ones_run():
    lengths = Lengths()
    answers = [lengths.begun("a", "m") for _ in range(40)]
    for answer in answers[1::2]:
        answer.ended(10)
    assert lengths.expected("a", "m") is None
    answers[0].ended(None)
    for answer in answers[2::2]:
        answer.ended(1_000)
    expected = lengths.expected("a", "m")
    assert expected is not None
    assert (expected.known, expected.tokens) == (39, 990)
    answers[0].ended(7)
    assert lengths.expected("a", "m") == expected


def test_one_that_is_long_already_does_not_keep_others_from_being_learned():
    """Another that is as long or longer stands for it, each in its turn, and how it ends counts no more."""
    lengths = Lengths()
    for tokens in (10, 10, 10, 10, 10, 10, 100, 400, 900):
        lengths.learn("a", "m", tokens)
    first, second, third = (lengths.begun("a", "m") for _ in range(3))
    known = lengths.expected("a", "m")
    first.come = second.come = known.tokens - 1
    third.ended(10)
    assert lengths.expected("a", "m") == known, "those that are met while they run are no longer than that"
    first.come, second.come = known.tokens, 800
    lengths.learn("a", "m", 10)
    assert lengths.expected("a", "m").known == known.known + 4
    assert lengths._known.get(("a", "m")).last[-4] == lengths._known.get(("a", "m")).last[-3] == 900
    learned = lengths.expected("a", "m")
    first.ended(2_000)
    assert lengths.expected("a", "m") == learned
    last = lengths.begun("a", "m")
    last.come = 950
    lengths.learn("a", "m", 10)
    assert lengths.expected("a", "m") == learned, "none is as long as this one: it is waited for"
    last.ended(960)
    assert lengths.expected("a", "m").known == learned.known + 2


def test_an_answer_that_does_not_end_keeps_others_from_being_learned_for_a_while_only():
    lengths = Lengths()
    lengths.begun("a", "m")
    for _ in range(BEGUN_MAX - 1):
        lengths.learn("a", "m", 50)
    assert lengths.expected("a", "m") is None
    for _ in range(2):
        lengths.learn("a", "m", 50)
    assert lengths.expected("a", "m") is not None


def test_answers_of_no_length_are_expected_to_have_none():
    lengths = Lengths()
    for _ in range(20):
        lengths.learn("a", "m", 0)
    assert lengths.expected("a", "m") == Expected(tokens=0, spread=0, known=20)


def log_normal(draw):
    return max(1, min(ASKED, round(math.exp(draw.gauss(math.log(150), 0.8)))))


def test_streams_that_run_rarely_want_more_than_they_hold_and_was_left():
    """As many as run at any moment, each somewhere in its answer, by what was learned of the lengths before them."""
    draw = random.Random(7)
    short = 0
    for running in (1, 8, 64):
        for _ in range(200):
            lengths = Lengths()
            for _ in range(64):
                lengths.learn("a", "m", log_normal(draw))
            expected = lengths.expected("a", "m")
            # a stream that is met at some moment is the more probable the longer it is
            answers = draw.choices(
                range(1, ASKED + 1), [weight(length) * length for length in range(1, ASKED + 1)], k=running
            )
            new = log_normal(draw)
            wanted = sum(answers) + new
            short += wanted > (running + 1) * expected.tokens + expected.leave(running)
    assert short <= 600 / 17


def weight(length):
    return math.exp(-((math.log(length / 150) / 0.8) ** 2) / 2) / length
