from collections.abc import Iterable
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from fiscus.api.economy.books import Books, GrantNote
from fiscus.contract.queries import Entry

AT = datetime(2026, 1, 1, tzinfo=UTC)


class Journal:
    """Facts as the journal has them, numbered."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def add(self, kind: str, names: dict[str, str] | None = None, **data: Any) -> None:
        self.entries.append(Entry(seq=len(self.entries) + 1, at=AT, kind=kind, data=data, names=names or {}, hash=""))

    def put(self, account: int, size: int, *, cell: int | None = None, name: str | None = None, **data: Any) -> None:
        names = {str(account): name or f"agent:a{account}"}
        self.add("allocation_put", names, account=account, unit="tokens", cell=cell or account, size=size, **data)

    def resize(self, cell: int, size: int, **data: Any) -> None:
        self.add("allocation_resized", cell=cell, size=size, **data)

    def end(self, cell: int) -> None:
        self.add("allocation_ended", cell=cell)

    def use(self, account: int, tokens: int, value: float | None = None, id: str | None = None) -> None:
        private = {"private": {"record": {"value": value}}} if value is not None else {}
        self.add("settled", id=id or f"s{len(self.entries)}", account=account, total={"tokens": tokens}, **private)

    def books(self, **options: Any) -> Books:
        return folded(self.entries, **options)


def folded(entries: Iterable[Entry], **options: Any) -> Books:
    books = Books(**options)
    for entry in entries:
        books.fold(entry)
    return books


def note(grant: str, tokens: float = 1000) -> dict[str, Any]:
    text = msgspec.json.encode(
        GrantNote(grant=grant, requested_tokens=tokens, task_complexity=0.5, multiplier=1.0)
    ).decode()
    return {"private": {"reason": text}}


def test_an_agent_is_an_account_that_was_allocated_tokens():
    journal = Journal()
    journal.put(1, 1000)
    journal.put(2, 500, name="team:search")
    journal.add("allocation_put", {"3": "agent:calls"}, account=3, unit="calls", cell=3, size=5)
    books = journal.books()
    assert [book.agent_id for book in books.agents.values()] == ["a1"]
    assert books.agent("a1").allocated == 1000
    assert books.agent("nobody") is None


def test_efficiency_is_the_value_over_the_tokens_of_the_running_allocation():
    # covers D8, D15
    journal = Journal()
    journal.put(1, 1000)
    journal.use(1, 100, 5)
    journal.use(1, 100)
    journal.use(1, 0, 1.5)
    book = journal.books().agent("a1")
    assert (book.consumed, book.value, book.efficiency) == (200, Fraction("6.5"), 0.0325)
    assert book.remaining == 800


def test_history_is_made_of_what_each_grant_earned():
    # covers D9, D11
    journal = Journal()
    journal.put(1, 1000)
    journal.use(1, 100, 10)  # 0.1
    journal.resize(1, 1500)
    journal.use(1, 100, 0)  # a grant without value does not count
    journal.resize(1, 2500)
    journal.use(1, 100, 30)  # 0.3, still running
    book = journal.books().agent("a1")
    assert book.historical_efficiency() == Fraction("0.2")
    assert book.allocated_total == 2500


def test_only_the_five_latest_grants_with_value_are_remembered():
    # covers D11
    journal = Journal()
    journal.put(1, 100)
    for worth in range(1, 9):
        journal.use(1, 10, worth)
        journal.resize(1, 100 * (worth + 1))
    assert journal.books().agent("a1").historical_efficiency() == Fraction("0.6")  # mean of 0.4 … 0.8


def test_a_smaller_allocation_is_no_new_grant():
    journal = Journal()
    journal.put(1, 1000)
    journal.use(1, 100, 10)
    journal.resize(1, 500)
    book = journal.books().agent("a1")
    assert (book.grant_consumed, book.past, book.allocated_total) == (100, (), 1000)


def test_what_an_agent_spends_under_holds_counts_once_whatever_readings_come():
    journal = Journal()
    journal.put(1, 1000)
    journal.add("held", {"1": "agent:a1"}, id="h", account=1, cells={}, amounts={"tokens": 300, "calls": 1})
    journal.add("settled", id="h", total={"tokens": 100}, final=False)
    journal.add("settled", id="h", total={"tokens": 250}, final=False)
    journal.add("settled", id="h", total={"tokens": 200})  # the final reading may be lower
    assert journal.books().agent("a1").consumed == 200
    journal.add("settled", id="h", total={"tokens": 150})  # after the end only a rise counts
    journal.add("settled", id="h", total={"tokens": 220})
    assert journal.books().agent("a1").consumed == 220


def test_a_hold_that_expired_counts_when_its_quarantine_is_charged():
    journal = Journal()
    journal.put(1, 1000)
    journal.add("held", {"1": "agent:a1"}, id="h", account=1, cells={}, amounts={"tokens": 300})
    journal.add("extended", id="h", to={"tokens": 400})
    journal.add("expired", id="h", closes_at=0)
    journal.add("quarantine_closed", id="h", charge=True)
    assert journal.books().agent("a1").consumed == 400
    journal.add("settled", id="h", total={"tokens": 150})
    assert journal.books().agent("a1").consumed == 150  # a late reading replaces the estimate


def test_an_agent_whose_allocation_ended_is_not_active_and_has_nothing_left():
    # covers D14, D29
    journal = Journal()
    journal.put(1, 1000)
    journal.use(1, 100, 5)
    journal.put(2, 500)
    journal.end(1)
    books = journal.books()
    assert [book.agent_id for book in books.active()] == ["a2"]
    assert books.agent("a1").remaining == 0
    assert books.average_efficiency() == 0
    assert books.top_performers() == ()


def test_a_parked_allocation_is_active_again_when_it_is_resumed():
    journal = Journal()
    journal.put(1, 1000)
    journal.add("allocation_parked", cell=1)
    assert not journal.books().agent("a1").active
    journal.add("allocation_resumed", cell=1)
    assert journal.books().agent("a1").remaining == 1000


def test_an_allocation_that_begins_parked_is_handed_out_when_it_is_resumed():
    journal = Journal()
    journal.put(1, 1000, cell=1)
    journal.end(1)
    journal.put(1, 1000, cell=2, parked=True)
    journal.use(1, 10)
    book = journal.books().agent("a1")
    assert (book.active, book.allocated_total, book.consumed_total) == (False, 1000, 10)
    journal.add("allocation_resumed", cell=2)
    book = journal.books().agent("a1")
    assert (book.active, book.allocated_total, book.remaining) == (True, 2000, 990)


def test_an_allocation_of_a_new_window_starts_from_nothing_used():
    journal = Journal()
    journal.put(1, 1000, cell=1)
    journal.use(1, 100, 10)
    journal.end(1)
    journal.put(1, 800, cell=2)
    book = journal.books().agent("a1")
    assert (book.allocated, book.consumed, book.efficiency) == (800, 0, 0.0)
    assert (book.allocated_total, book.consumed_total) == (1800, 100)
    assert book.historical_efficiency() == Fraction("0.1")


def test_the_five_best_are_those_that_really_made_something_of_their_tokens():
    # covers D29
    journal = Journal()
    for number in range(1, 9):
        journal.put(number, 1000)
        if number != 8:
            journal.use(number, 100, number)
    books = journal.books()
    assert [best.agent_id for best in books.top_performers()] == ["a7", "a6", "a5", "a4", "a3"]
    assert books.top_performers()[0].efficiency == 0.07
    assert books.average_efficiency() == 0.04


def test_terminations_for_want_of_tokens_are_counted_and_others_not():
    # covers D48
    journal = Journal()
    for reason in ("Token budget exhausted. Allocated: 1, Consumed: 2", "misbehaved", None):
        private = {"private": {"reason": reason}} if reason else {}
        journal.add("status_changed", account=1, status="terminated", **private)
    journal.add("status_changed", account=2, status="suspended")
    assert journal.books().terminated == 1


def test_a_grant_is_found_again_by_the_request_that_made_it():
    journal = Journal()
    journal.put(1, 1000, **note("g1"))
    journal.resize(1, 1700, **note("g2", 700))
    journal.resize(1, 1800, private={"reason": "an operator's word"})
    books = journal.books()
    assert books.grant("g1").tokens == 1000
    assert (books.grant("g2").tokens, books.grant("g2").note.requested_tokens) == (700, 700)
    assert books.grant("g3") is None


def test_each_report_is_seen_in_the_histogram_once():
    # covers D45
    journal = Journal()
    journal.put(1, 1000)
    journal.use(1, 100, 5)  # 0.05
    journal.use(1, 100, 0)  # 0.025
    books = journal.books()
    assert books.efficiency_counts == [0, 0, 0, 2, 0, 0, 0, 0, 0, 0]
    assert abs(books.efficiency_sum - 0.075) < 1e-12


def test_each_grant_is_seen_in_the_histogram_of_sizes_once():
    journal = Journal()
    journal.put(1, 1000, parked=True)
    journal.add("allocation_resumed", cell=1)
    journal.add("allocation_parked", cell=1)
    journal.add("allocation_resumed", cell=1)
    journal.resize(1, 1050)
    journal.resize(1, 700)
    journal.resize(1, 99_000)
    books = journal.books()
    assert books.size_counts == [1, 0, 0, 1, 0, 0, 0, 0, 1]
    assert books.size_sum_tokens == 1000 + 50 + 98_300


def test_a_value_beyond_every_measure_breaks_nothing():
    journal = Journal()
    journal.put(1, 1000)
    for _ in range(3):
        journal.use(1, 1, 1.7e308)
    books = journal.books()
    assert books.agent("a1").efficiency == 1.7e308
    assert books.agent("a1").historical_efficiency() == 1
    assert books.top_performers()[0].value_generated > 1e308


def test_agents_beyond_the_bound_on_labels_are_counted_together():
    # covers D43, D44, D46
    journal = Journal()
    for number in (1, 2, 3):
        journal.put(number, 100)
        journal.use(number, 10)
    books = journal.books(labels_max=2)
    assert [book.labelled for book in books.agents.values()] == [True, True, False]
    assert (books.other.allocated_total, books.other.consumed_total, books.other.remaining) == (100, 10, 90)


def test_a_new_agent_takes_the_label_of_the_one_that_ended_longest_ago():
    journal = Journal()
    for number in (1, 2):
        journal.put(number, 100)
    journal.end(2)
    journal.use(2, 7)
    journal.end(1)
    journal.put(3, 100)
    books = journal.books(labels_max=2)
    assert {book.agent_id for book in books.agents.values() if book.labelled} == {"a1", "a3"}
    assert (books.other.allocated_total, books.other.consumed_total, books.other.remaining) == (100, 7, 0)


def test_an_erased_name_is_gone_from_the_books():
    journal = Journal()
    journal.put(1, 100)
    journal.add("name_erased", account=1)
    books = journal.books()
    assert books.agent("a1") is None
    assert books.agent("erased:1").allocated == 100


def test_a_fact_that_comes_twice_counts_once():
    journal = Journal()
    journal.put(1, 1000)
    journal.use(1, 100)
    assert folded([*journal.entries, *journal.entries]).agent("a1").consumed == 100


events = st.one_of(
    st.tuples(st.just("put"), st.integers(1, 5), st.integers(0, 1000)),
    st.tuples(st.just("resize"), st.integers(1, 5), st.integers(0, 1000)),
    st.tuples(st.just("end"), st.integers(1, 5)),
    st.tuples(st.just("use"), st.integers(1, 5), st.integers(0, 1000), st.floats(0, 100)),
)


@given(st.lists(events, max_size=40), st.integers(1, 5), st.integers(0, 40))
@example([("put", 2, 0), ("put", 1, 1), ("use", 1, 1, 0.0), ("put", 1, 0)], 1, 4)
def test_the_sums_over_all_labels_are_the_sums_over_all_agents_at_any_point(steps, labels_max, cut):
    # covers E12
    journal = Journal()
    for step, *arguments in steps:
        getattr(journal, step)(*arguments)
    books = folded(journal.entries[:cut], labels_max=labels_max)
    agents = list(books.agents.values())
    labelled = [book for book in agents if book.labelled]
    assert len(labelled) == books.labelled_count <= labels_max
    for name in ("allocated_total", "consumed_total", "remaining"):
        assert getattr(books.other, name) + sum(getattr(book, name) for book in labelled) == sum(
            getattr(book, name) for book in agents
        )
    resumed = folded(journal.entries[:cut], labels_max=labels_max)
    for entry in journal.entries[cut:]:
        resumed.fold(entry)
    assert resumed == journal.books(labels_max=labels_max)
