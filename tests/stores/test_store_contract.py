"""What every store does as a whole: one opener, and views that may be lost."""

from __future__ import annotations

import pytest

from fiscus.contract.errors import LedgerBusy
from tests.stores.places import AT_MS, account, entries, snapshot


def test_a_second_opener_learns_where_the_ledger_is_served(exclusive_place):
    store = exclusive_place.open(address="http://127.0.0.1:8091")
    with pytest.raises(LedgerBusy) as busy:
        exclusive_place.open()
    assert busy.value.address == "http://127.0.0.1:8091"
    store.publish_address("http://127.0.0.1:9000")
    with pytest.raises(LedgerBusy, match=r"http://127\.0\.0\.1:9000"):
        exclusive_place.open(address="http://127.0.0.1:1")
    store.close()
    again = exclusive_place.open()
    with pytest.raises(LedgerBusy) as busy:
        exclusive_place.open()
    assert busy.value.address is None
    again.close()


def test_a_refused_opener_disturbs_nothing(exclusive_place):
    store = exclusive_place.open()
    number = store.journal.add_tenant("default")
    with pytest.raises(LedgerBusy):
        exclusive_place.open()
    store.journal.append(entries(number, "default", 3))
    store.views.write([snapshot(number, 3, [account(1, "bob")])], AT_MS)
    assert store.journal.head(number).seq == 3
    assert store.views.load_name(number, "bob") == 1
    store.close()


def test_a_second_opener_of_a_shared_ledger_sees_what_the_first_one_writes(shared_place):
    one, two = shared_place.open(), shared_place.open(address="http://127.0.0.1:1")
    number = one.journal.add_tenant("default")
    assert two.journal.tenants() == {"default": number}
    rows = entries(number, "default", 3)
    one.journal.append(rows)
    one.views.write([snapshot(number, 3, [account(1, "bob")], hash=rows[-1].hash)], AT_MS)
    assert two.journal.head(number).seq == 3
    assert two.views.load_name(number, "bob") == 1
    one.close()
    two.journal.append(entries(number, "default", 1, after=two.journal.head(number)))
    assert two.journal.head(number).seq == 4
    two.close()


# covers E12
def test_damaged_views_are_dropped_and_the_journal_is_untouched(place):
    store = place.open()
    number = store.journal.add_tenant("default")
    rows = entries(number, "default", 3)
    store.journal.append(rows)
    store.views.write([snapshot(number, 3, [account(1, "bob")], hash=rows[-1].hash)], AT_MS)
    store.close()
    place.damage_views()
    again = place.open()
    assert again.views.watermark(number) is None
    assert again.views.load_name(number, "bob") is None
    assert [entry.hash for entry in again.journal.entries(number, 0, 10)] == [row.hash for row in rows]
    again.views.write([snapshot(number, 3, [account(1, "bob")], hash=rows[-1].hash)], AT_MS)
    assert again.views.load_name(number, "bob") == 1
    again.close()
