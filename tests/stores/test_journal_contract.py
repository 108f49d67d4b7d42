"""What every journal does, whatever database keeps it."""

from __future__ import annotations

import threading

import pytest

from fiscus.contract.errors import ConfigurationInvalid, StoreUnavailable
from fiscus.treasury.store import AnswerRow, Erasure, Head, KeyTaken, StoredAnswer
from tests.stores.places import AT_MS, entries, with_private


def test_a_new_ledger_is_empty(store):
    assert store.journal.tenants() == {}
    number = store.journal.add_tenant("default")
    assert store.journal.head(number) is None
    assert store.journal.entries(number, 0, 10) == []
    assert store.journal.checkpoints(number) == []


def test_a_tenant_keeps_its_number(place):
    store = place.open()
    first, second = store.journal.add_tenant("one"), store.journal.add_tenant("two")
    assert first != second
    assert store.journal.add_tenant("one") == first
    store.close()
    again = place.open()
    assert again.journal.tenants() == {"one": first, "two": second}
    again.close()


# covers E9, E11
def test_what_was_appended_is_read_back_in_order_also_after_reopening(place):
    store = place.open()
    number = store.journal.add_tenant("default")
    rows = entries(number, "default", 700)
    store.journal.append(rows[:1])
    store.journal.append(rows[1:400])
    store.journal.append(rows[400:])
    for _ in range(2):
        stored = store.journal.entries(number, 0, 1_000)
        assert [(entry.seq, entry.at, entry.body, entry.hash) for entry in stored] == [
            (row.seq, row.at, row.body, row.hash) for row in rows
        ]
        assert store.journal.head(number) == Head(700, rows[-1].hash)
        store.close()
        store = place.open()
    store.close()


def test_pages_of_entries_have_neither_gap_nor_overlap(store):
    number = store.journal.add_tenant("default")
    store.journal.append(entries(number, "default", 25))
    seen = []
    while page := store.journal.entries(number, len(seen), 7):
        seen += [entry.seq for entry in page]
    assert seen == list(range(1, 26))


def test_tenants_share_no_entry_and_no_id_though_one_commit_holds_both(store):
    one, two = store.journal.add_tenant("one"), store.journal.add_tenant("two")
    rows_one, rows_two = entries(one, "one", 3, keys=["same id"]), entries(two, "two", 2, keys=["same id"])
    store.journal.append([*rows_one, *rows_two])
    assert store.journal.head(one) == Head(3, rows_one[-1].hash)
    assert store.journal.head(two) == Head(2, rows_two[-1].hash)
    assert rows_one[0].hash != rows_two[0].hash
    assert [entry.hash for entry in store.journal.entries(two, 0, 10)] == [row.hash for row in rows_two]


def test_an_append_of_nothing_changes_nothing(store):
    number = store.journal.add_tenant("default")
    store.journal.append([])
    assert store.journal.head(number) is None


# covers E7
def test_an_id_stands_in_the_journal_once_and_a_batch_with_a_known_id_leaves_no_trace(store):
    one, two = store.journal.add_tenant("one"), store.journal.add_tenant("two")
    store.journal.append(entries(one, "one", 2, keys=["a", "b"]))
    head = store.journal.head(one)
    batch = [*entries(two, "two", 3), *entries(one, "one", 5, after=head, keys=[None, "c", "b"])]
    with pytest.raises(KeyTaken):
        store.journal.append(batch)
    assert store.journal.head(one) == head
    assert store.journal.head(two) is None
    store.journal.append(entries(one, "one", 1, after=head, keys=["c"]))


# covers E10
def test_an_entry_whose_place_is_taken_is_no_taken_id(store):
    number = store.journal.add_tenant("default")
    store.journal.append(entries(number, "default", 2))
    head = store.journal.head(number)
    with pytest.raises(StoreUnavailable):
        store.journal.append(entries(number, "default", 1))
    store.journal.reopen()
    assert store.journal.head(number) == head
    store.journal.append(entries(number, "default", 1, after=head))


# covers E7
def test_answers_are_kept_in_the_same_commit_as_the_entries_under_a_key_that_is_given_once(place):
    store = place.open()
    one, two = store.journal.add_tenant("one"), store.journal.add_tenant("two")
    key = 'a key with "quotes" and ü'
    store.journal.append(entries(one, "one", 2), [AnswerRow(one, key, AT_MS, b"{}")])
    store.journal.append([], [AnswerRow(two, key, AT_MS, b"[]"), AnswerRow(two, "other", AT_MS + 5, b"[]")])
    with pytest.raises(KeyTaken):
        store.journal.append(entries(two, "two", 1), [AnswerRow(two, "new", AT_MS, b""), AnswerRow(two, key, 0, b"")])
    assert store.journal.head(two) is None
    for _ in range(2):
        assert store.journal.find_answers(one, [key, "other"]) == {key: StoredAnswer(AT_MS, b"{}")}
        assert store.journal.find_answers(two, [key, "other", "new"]) == {
            key: StoredAnswer(AT_MS, b"[]"),
            "other": StoredAnswer(AT_MS + 5, b"[]"),
        }
        store.close()
        store = place.open()
    assert store.journal.find_answers(one, []) == {}
    assert len(store.journal.find_answers(one, [f"key {index}" for index in range(2_000)] + [key])) == 1
    store.close()


def test_a_forgotten_answer_leaves_its_key_used(store):
    number = store.journal.add_tenant("default")
    rows = [AnswerRow(number, "old", AT_MS, b"old"), AnswerRow(number, "new", AT_MS + 1, b"new")]
    store.journal.append([], rows)
    store.journal.forget_answers(AT_MS + 1)
    assert store.journal.find_answers(number, ["old", "new"]) == {
        "old": StoredAnswer(AT_MS, None),
        "new": StoredAnswer(AT_MS + 1, b"new"),
    }
    with pytest.raises(KeyTaken):
        store.journal.append([], rows[:1])


def test_erasing_an_account_takes_the_private_parts_and_their_keys_and_leaves_the_chain(store):
    number = store.journal.add_tenant("default")
    other = store.journal.add_tenant("other")
    rows = entries(number, "default", 3)
    private = [with_private(row, account, b'{"name":"bob"}') for row, account in zip(rows, (7, 8, 7), strict=True)]
    store.journal.append(private)
    store.journal.append([with_private(entries(other, "other", 1)[0], 7, b'{"name":"ann"}')])
    store.journal.append(entries(number, "default", 1, after=store.journal.head(number)), erased=[Erasure(number, 7)])
    assert [(entry.salt, entry.private) for entry in store.journal.entries(number, 0, 10)] == [
        (None, None),
        (b"salt-of-16-bytes", b'{"name":"bob"}'),
        (None, None),
        (None, None),
    ]
    assert [entry.hash for entry in store.journal.entries(number, 0, 3)] == [row.hash for row in rows]
    assert store.journal.entries(other, 0, 1)[0].private == b'{"name":"ann"}'


def test_an_erasure_that_comes_with_a_taken_id_erases_nothing(store):
    number = store.journal.add_tenant("default")
    row = with_private(entries(number, "default", 1, keys=["a"])[0], 7, b'{"name":"bob"}')
    store.journal.append([row])
    batch = entries(number, "default", 1, after=store.journal.head(number), keys=["a"])
    with pytest.raises(KeyTaken):
        store.journal.append(batch, erased=[Erasure(number, 7)])
    assert store.journal.entries(number, 0, 1)[0].private == b'{"name":"bob"}'


def test_sealed_states_are_kept_beside_one_another_until_they_are_forgotten(place):
    store = place.open()
    number = store.journal.add_tenant("default")
    store.journal.put_checkpoint(number, 5, [(0, 1, b"old"), (3, "hold", b"old")])
    store.journal.put_checkpoint(number, 9, [(3, "hold", b"new")])
    store.journal.put_checkpoint(number, 9, [(0, 2, b"two"), (0, 1, b"one")])
    store.journal.put_checkpoint(number, 9, [(-1, 1, b"private")])
    other = store.journal.add_tenant("other")
    store.journal.put_checkpoint(other, 4, [(0, 1, b"other")])
    expected = [(-1, 1, b"private"), (0, 1, b"one"), (0, 2, b"two"), (3, "hold", b"new")]
    assert store.journal.checkpoints(number) == [5, 9]
    assert store.journal.checkpoint(number, 5) == [(0, 1, b"old"), (3, "hold", b"old")]
    assert store.journal.checkpoint(number, 7) == []
    assert store.journal.forget_checkpoints(number, [5, 9], 10) == 0
    assert store.journal.forget_checkpoints(number, [9], 1) == 1
    assert store.journal.forget_checkpoints(number, [9], 10) == 1
    store.close()
    again = place.open()
    assert again.journal.checkpoints(number) == [9]
    assert again.journal.checkpoint(number, 9) == expected
    assert again.journal.checkpoints(other) == [4]
    again.close()


def test_an_erased_account_is_gone_from_sealed_states(place):
    store = place.open()
    number = store.journal.add_tenant("default")
    other = store.journal.add_tenant("other")
    for tenant in (number, other):
        store.journal.put_checkpoint(tenant, 5, [(-1, 7, b"bob"), (-1, 8, b"eve"), (-7, "7", b"key"), (0, 7, b"{}")])
    store.journal.append(entries(number, "default", 1), erased=[Erasure(number, 7)])
    assert store.journal.checkpoint(number, 5) == [(-7, "7", b"key"), (-1, 8, b"eve"), (0, 7, b"{}")]
    assert len(store.journal.checkpoint(other, 5)) == 4
    store.journal.put_checkpoint(number, 6, [(-7, "a", b"of bob"), (-7, "b", b"of eve"), (6, "a", b"{}")])
    again = entries(number, "default", 1, after=store.journal.head(number))
    store.journal.append(again, erased=[Erasure(number, 9, keys=("a", "7"))])
    assert store.journal.checkpoint(number, 5) == [(-1, 8, b"eve"), (0, 7, b"{}")]
    assert store.journal.checkpoint(number, 6) == [(-7, "b", b"of eve"), (6, "a", b"{}")]
    assert len(store.journal.checkpoint(other, 5)) == 4
    store.close()


def test_one_at_a_time_keeps_house_for_a_tenant(place):
    store = place.open()
    number = store.journal.add_tenant("default")
    with store.journal.alone(number) as first, store.journal.alone(number) as second:
        assert (first, second) == (True, False)
    with store.journal.alone(number) as again:
        assert again
    store.close()


def test_one_node_at_a_time_keeps_house_for_a_tenant(shared_place):
    one, two = shared_place.open(), shared_place.open()
    number, other = one.journal.add_tenant("default"), one.journal.add_tenant("other")
    with one.journal.alone(number) as first, two.journal.alone(number) as second, two.journal.alone(other) as third:
        assert (first, second, third) == (True, False, True)
    with two.journal.alone(number) as second:
        assert second
    one.close()
    two.close()


def test_a_writer_that_was_reopened_goes_on(store):
    number = store.journal.add_tenant("default")
    store.journal.append(entries(number, "default", 2))
    store.journal.reopen()
    head = store.journal.head(number)
    store.journal.append(entries(number, "default", 2, after=head))
    assert [entry.seq for entry in store.journal.entries(number, 0, 10)] == [1, 2, 3, 4]


def test_a_backup_while_entries_are_written_is_whole_and_keeps_nobody_waiting(store, place):
    if not place.can_copy:
        with pytest.raises(ConfigurationInvalid, match="pg_dump"):
            store.journal.backup("copy")
        return
    number = store.journal.add_tenant("default")
    rows = entries(number, "default", 40_000)
    store.journal.append(rows[:20_000])
    destination, copy_place = place.copied_to("copy")
    began, stop, written = threading.Event(), threading.Event(), [20_000]

    def write() -> None:
        while not stop.is_set() and written[0] < len(rows):
            store.journal.append(rows[written[0] : written[0] + 4])
            written[0] += 4
            began.set()

    writer = threading.Thread(target=write)
    writer.start()
    began.wait()
    before = written[0]
    store.journal.backup(destination)
    after = written[0]
    stop.set()
    writer.join()
    copy = copy_place.open()
    head = copy.journal.head(number)
    assert before <= head.seq <= after + 4
    assert head.hash == rows[head.seq - 1].hash
    assert [entry.seq for entry in copy.journal.entries(number, 0, 100_000)] == list(range(1, head.seq + 1))
    assert copy.journal.tenants() == {"default": number}
    copy.close()
    assert store.journal.head(number).seq == written[0]


def test_readers_of_other_threads_see_whole_batches_only(store):
    number = store.journal.add_tenant("default")
    rows = entries(number, "default", 1_000)
    stop, torn = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            head = store.journal.head(number)
            if head is not None and head.seq % 10:
                torn.append(head.seq)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for start in range(0, len(rows), 10):
        store.journal.append(rows[start : start + 10])
    stop.set()
    for reader in readers:
        reader.join()
    assert torn == []
