"""Who gives to whom, and how much: ``fiscus.policy.reallocation``."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.policy.reallocation import Reallocation, Seat, reallocate

AMOUNTS = st.integers(0, 1_000)


def seat(
    account: str, priority: int, available: int, reserve: int = 0, borrowed: int = 0, lenders: tuple[str, ...] = ()
) -> Seat:
    return Seat(
        account=account,
        priority=priority,
        allocation=1_000,
        available=available,
        min_reserve=reserve,
        borrowed=borrowed,
        lenders=frozenset(lenders),
    )


def moved(found: Reallocation) -> list[tuple[str, int]]:
    return [(move.donor, move.amount) for move in found.moves]


def test_lowest_priority_gives_first_and_of_these_the_most_idle() -> None:
    # covers T9
    seats = [seat("needy", 3, 0), seat("b", 2, 900), seat("c", 1, 50), seat("d", 1, 60), seat("e", 3, 10)]
    assert moved(reallocate(seats, needy="needy", shortfall=5_000)) == [("d", 60), ("c", 50), ("b", 900), ("e", 10)]


def test_order_is_by_what_is_left_and_not_by_what_is_above_the_reserve() -> None:
    # covers T9
    seats = [seat("needy", 1, 0), seat("b", 1, 100, reserve=90), seat("c", 1, 60)]
    assert moved(reallocate(seats, needy="needy", shortfall=20)) == [("b", 10), ("c", 10)]


def test_equals_with_as_much_left_give_in_the_order_in_which_they_stand() -> None:
    seats = [seat("z", 1, 10), seat("needy", 1, 0), seat("a", 1, 10)]
    assert moved(reallocate(seats, needy="needy", shortfall=15)) == [("z", 10), ("a", 5)]


def test_nothing_flows_from_more_to_less_important() -> None:
    # covers T8
    found = reallocate([seat("needy", 1, 0), seat("boss", 2, 900)], needy="needy", shortfall=10)
    assert moved(found) == []
    assert [(one.account, one.reason) for one in found.passed_over] == [("boss", "more_important")]


def test_what_is_recovered_in_part_still_moves() -> None:
    # covers T10
    found = reallocate([seat("needy", 1, 0), seat("b", 1, 30, reserve=10)], needy="needy", shortfall=50)
    assert (found.recovered, moved(found)) == (20, [("b", 20)])


@pytest.mark.parametrize("shortfall", [0, -5])
def test_no_shortfall_moves_nothing(shortfall: int) -> None:
    # covers T10
    assert reallocate([seat("needy", 1, 0), seat("b", 1, 30)], needy="needy", shortfall=shortfall).moves == ()


def test_an_unknown_account_is_told() -> None:
    # covers T10
    with pytest.raises(KeyError, match="nobody"):
        reallocate([seat("b", 1, 30)], needy="nobody", shortfall=1)


def test_an_equal_gives_neither_to_its_lender_nor_what_it_borrowed() -> None:
    owing = seat("b", 1, 100, borrowed=30, lenders=("needy",))
    assert moved(reallocate([seat("needy", 1, 0), owing], needy="needy", shortfall=50)) == []
    third = [seat("third", 1, 0), owing]
    assert moved(reallocate(third, needy="third", shortfall=90)) == [("b", 70)]
    lent_on = reallocate([seat("third", 1, 0), seat("b", 1, 20, borrowed=30)], needy="third", shortfall=5)
    assert [one.reason for one in lent_on.passed_over] == ["borrowed"]


def test_a_more_important_one_gets_what_was_borrowed_too() -> None:
    seats = [seat("needy", 2, 0), seat("b", 1, 20, borrowed=30, lenders=("needy",))]
    assert moved(reallocate(seats, needy="needy", shortfall=5)) == [("b", 5)]


def test_each_that_gives_nothing_is_told_why() -> None:
    seats = [seat("needy", 1, 0), seat("poor", 1, 10, reserve=10), seat("b", 1, 50), seat("rich", 1, 40)]
    found = reallocate(seats, needy="needy", shortfall=20)
    assert {one.account: one.reason for one in found.passed_over} == {"poor": "at_its_reserve", "rich": "not_needed"}


SEATS = st.lists(
    st.builds(
        lambda priority, available, reserve, borrowed: (priority, available, reserve, borrowed),
        st.integers(1, 4),
        st.integers(-100, 1_000),
        AMOUNTS,
        AMOUNTS,
    ),
    min_size=1,
    max_size=12,
)


@given(SEATS, st.integers(-10, 5_000))
def test_any_reallocation_keeps_reserves_and_directions_and_conserves(
    rows: list[tuple[int, int, int, int]], shortfall: int
) -> None:
    # covers T7, T8, T10, T11
    seats = {f"s{i}": seat(f"s{i}", p, a, r, b) for i, (p, a, r, b) in enumerate(rows)}
    found = reallocate(seats.values(), needy="s0", shortfall=shortfall)
    needy = seats["s0"]
    assert 0 <= found.recovered <= max(0, shortfall)
    assert len({move.donor for move in found.moves}) == len(found.moves)
    assert "s0" not in {move.donor for move in found.moves}
    for move in found.moves:
        donor = seats[move.donor]
        assert move.amount > 0
        assert donor.priority <= needy.priority
        assert move.left == donor.available - move.amount >= donor.min_reserve
        if donor.priority == needy.priority:
            assert move.left >= donor.min_reserve + donor.borrowed
    told = {one.account for one in found.passed_over} | {move.donor for move in found.moves} | {"s0"}
    assert told == set(seats)
    could = sum(
        max(0, s.available - s.min_reserve - (s.borrowed if s.priority == needy.priority else 0))
        for name, s in seats.items()
        if name != "s0" and s.priority <= needy.priority
    )
    assert found.recovered == min(max(0, shortfall), could)
