"""How much streams have produced."""

import doctest

from fiscus.dialects import Produced
from fiscus.gateway import produced as module
from fiscus.gateway.produced import IMAGE_TOKENS, Share, Shares, tokens_produced


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
