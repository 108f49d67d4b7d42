"""What answers come to, learned while they run, and how much room many of them want together."""

import doctest
import math
import random

import pytest

from fiscus.gateway import lengths as module
from fiscus.gateway.lengths import LENGTHS_MAX, Expected, Lengths

ASKED = 1_024
MOST = 1_000_000


def test_examples():
    assert doctest.testmod(module).failed == 0


def test_what_answers_were_like_before_is_forgotten():
    lengths = Lengths()
    for tokens in range(10_000):
        lengths.learn("a", "m", tokens)
    before = lengths.expected("a", "m")
    assert before.tokens > 5_000
    assert LENGTHS_MAX / 2 <= before.known < LENGTHS_MAX
    for _ in range(20 * LENGTHS_MAX):
        lengths.learn("a", "m", 50)
    after = lengths.expected("a", "m")
    assert (after.tokens, after.spread) == (51, 0), "of a part of 2 to the minus 40 something is left"
    assert lengths.expected("a", "other") is None


def test_seven_answers_say_too_little():
    lengths = Lengths()
    for _ in range(7):
        lengths.learn("a", "m", 50)
    assert lengths.expected("a", "m") is None
    lengths.learn("a", "m", 50)
    assert lengths.expected("a", "m") == Expected(tokens=50, spread=0, known=8)


def test_short_answers_do_not_pass_for_all_while_long_ones_run():
    lengths = Lengths()
    answers = [lengths.begun("a", "m", MOST) for _ in range(40)]
    for answer in answers:
        answer.reached(10)
    for answer in answers[::2]:
        answer.ended(10)
    for answer in answers[1::2]:
        answer.reached(700)
    # a half of 10, and of 640 at least, which 13,000 tokens with 20 ends say of longer ones: as of 640 and of 1,940
    assert lengths.expected("a", "m").tokens == 1_606
    for answer in answers[1::2]:
        answer.ended(1_000)
    assert lengths.expected("a", "m") == Expected(tokens=991, spread=501, known=40)
    answers[0].ended(7)
    answers[1].reached(9_000)
    assert lengths.expected("a", "m") == Expected(tokens=991, spread=501, known=40), "what has ended says nothing more"


def test_an_answer_that_is_cut_is_longer_than_it_came():
    lengths = Lengths()
    for _ in range(10):
        lengths.learn("a", "m", 50)
        cut = lengths.begun("a", "m", MOST)
        cut.reached(60)
        cut.ended(None)
        lengths.learn("a", "m", 200)
    assert lengths.longer("a", "m", 0) == 150, "of three that came so far one ended, not one of two"
    assert lengths.expected("a", "m").known == 20


def test_one_of_which_nothing_is_known_says_nothing():
    lengths = Lengths()
    for _ in range(10):
        lengths.begun("a", "m", MOST).ended(None)
        lengths.begun("a", "m", MOST)
        lengths.learn("a", "m", 50)
    assert lengths.expected("a", "m") == Expected(tokens=50, spread=0, known=10)


def test_an_answer_that_came_to_less_than_was_thought_is_as_long_as_was_billed():
    lengths = Lengths()
    for _ in range(10):
        answer = lengths.begun("a", "m", MOST)
        answer.reached(120)
        answer.ended(90)
    assert lengths.expected("a", "m") == Expected(tokens=90, spread=0, known=10)


def test_what_is_longer_than_any_before_is_expected_to_come_to_what_usually_comes_more():
    lengths = Lengths()
    for tokens in (100, 100, 100, 100, 100, 100, 100, 500):
        lengths.learn("a", "m", tokens)
    assert lengths.longer("a", "m", 100) == 500
    assert lengths.longer("a", "m", 500) is None
    lengths.begun("a", "m", MOST).reached(960)
    # 7 of 100 tokens, 500, and 960 of one that runs, for eight that ended: 270 between two ends
    assert lengths.longer("a", "m", 500) == 960 + 270
    assert lengths.longer("a", "m", 100) == (500 + 960 + 270) / 2


def test_no_answer_is_longer_than_the_longest_that_was_asked_for():
    lengths = Lengths()
    for _ in range(8):
        lengths.learn("a", "m", 100)
    for _ in range(1_000):
        lengths.begun("a", "m", 250).reached(200)
    assert lengths.longer("a", "m", 192) == 250
    assert lengths.expected("a", "m").spread < 60
    lengths.begun("a", "m", 300).reached(200)
    assert lengths.longer("a", "m", 192) == 300


def test_what_was_forgotten_by_half_says_the_same_of_what_is_longer_than_any_before():
    def tail_after(answers):
        lengths = Lengths()
        for _ in range(answers):
            lengths.learn("a", "m", 100)
            lengths.begun("a", "m", MOST).reached(128)
        return lengths.longer("a", "m", 128)

    # 100 tokens and 128 for each end: as much more, and as much spread
    for answers in (LENGTHS_MAX - 1, LENGTHS_MAX):
        assert tail_after(answers) == pytest.approx(128 + 2 * 228, rel=0.01)


def test_what_comes_to_far_less_than_was_thought_takes_nothing_from_others():
    lengths = Lengths()
    for _ in range(8):
        lengths.learn("a", "m", 100)
    answers = [lengths.begun("a", "m", MOST) for _ in range(200)]
    for answer in answers:
        answer.reached(2_000)
    for _ in range(LENGTHS_MAX):
        lengths.learn("a", "m", 100)
    lengths.begun("a", "m", MOST).reached(2_500)
    for answer in answers:
        answer.ended(2)
    assert lengths.longer("a", "m", 1_000) == 2_304, "the first of those beyond the bin in which it is"


def test_nothing_is_kept_of_answers_that_have_not_come():
    lengths = Lengths()
    for _ in range(8):
        lengths.learn("a", "m", 100)
    for number in range(5_000):
        lengths.begun("a", f"model {number}", MOST).ended(None)
    assert lengths.expected("a", "m").known == 8


def test_answers_of_no_length_are_expected_to_have_none():
    lengths = Lengths()
    for _ in range(20):
        lengths.learn("a", "m", 0)
    assert lengths.expected("a", "m") == Expected(tokens=0, spread=0, known=20)
    assert lengths.longer("a", "m", 0) is None


# covers E15
@pytest.mark.parametrize("running", [1, 16, 128])
def test_what_is_learned_of_answers_that_run_at_once_is_what_they_come_to(running):
    """Callers that begin together, and again whenever an answer has ended; looked at from their first minute on.

    However many run: if only those were learned that end, or others stood for those that run, long answers would be
    rare among the last ones, and the more so the more run.
    """
    draw = random.Random(1)
    sample = [log_normal(draw) for _ in range(100_000)]
    mean = sum(sample) / len(sample)
    sized_mean = sum(length**2 for length in sample) / sum(sample)
    found, averages = [], []
    for seed in range(12):
        draw, lengths = random.Random(seed), Lengths()
        answers = [(lengths.begun("a", "m", MOST), log_normal(draw)) for _ in range(running)]
        come = [0] * running
        for step in range(6_000 if running == 1 else 2_000):
            for index, (answer, length) in enumerate(answers):
                come[index] += 1
                answer.reached(come[index])
                if come[index] == length:
                    answer.ended(length)
                    answers[index], come[index] = (lengths.begun("a", "m", MOST), log_normal(draw)), 0
            if step % 500 == 499 and (expected := lengths.expected("a", "m")) is not None:
                found.append(expected.tokens)
                averages.append(lengths.longer("a", "m", 0))
    assert abs(sum(found) / len(found) / sized_mean - 1) < 0.06
    assert abs(sum(averages) / len(averages) / mean - 1) < 0.06


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
