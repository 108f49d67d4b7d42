import pytest

from fiscus.api.cursors import after_of, cursor_of


@pytest.mark.parametrize("after", [0, 1, 57, 2**53 - 1])
def test_a_cursor_leads_back_to_its_number(after):
    cursor = cursor_of(after)
    assert cursor is not None
    assert after_of(cursor) == after


def test_no_cursor_is_the_beginning_and_no_next_page_has_none():
    assert after_of(None) == 0
    assert cursor_of(None) is None


@pytest.mark.parametrize(
    "cursor",
    ["", "57", "x" * 65, "YWZ0ZXI6", "YWZ0ZXI6LTE", "YWZ0ZXI6NTc=", "YWZ0ZXI6MDU3", "é", "YWZ0ZXI6NTd\n", "!!!!"],
)
def test_what_is_not_a_cursor_of_ours_is_none(cursor):
    assert after_of(cursor) is None
