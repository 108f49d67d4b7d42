"""What both outboxes of alerts do alike."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import msgspec
import psycopg
import pytest

from fiscus.contract.alerts import AlertStore, Delivery, Progress, Step
from fiscus.contract.errors import StoreUnavailable
from fiscus.stores import open_alerts
from tests.servers.postgres import server

NOW = 1_800_000_000_000
Open = Callable[..., AlertStore]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def opened(request, tmp_path) -> Iterator[Open]:
    """Opens the outbox, again and again; all that were opened are closed at the end."""
    is_postgres = request.param == "postgres"
    url = server("18").migrated_database() if is_postgres else f"sqlite:///{tmp_path}/fiscus.db"
    with ExitStack() as stack:
        yield lambda tenant="default": stack.enter_context(closing(open_alerts(url, tenant)))


def delivery(name: str, *, channel: str = "ops", account: int | None = None, due_at: int = NOW) -> Delivery:
    return Delivery(id=name, channel=channel, account=account, body=b'{"x":1}', made_at=NOW, due_at=due_at)


def led(store: AlertStore, node: str = "a", now: int = NOW, length: int = 100) -> Progress:
    progress = store.lead(node, now, now + length)
    assert progress is not None
    return progress


def put(store: AlertStore, *deliveries: Delivery, erased: tuple[int, ...] = ()) -> None:
    assert store.step(Step(progress=led(store), deliveries=deliveries, erased=erased))


def names(found: list[Delivery]) -> list[str]:
    return [one.id for one in found]


def test_what_was_kept_is_there_after_reopening(opened):
    store = opened()
    assert led(store) == Progress()
    kept = Progress(version=0, seq=7, memory=b"memory", measures=b"measures")
    one = delivery("one", account=3)
    assert store.step(Step(progress=kept, deliveries=[one]))
    again = opened()
    assert led(again, now=NOW + 101) == msgspec.structs.replace(kept, version=1)
    (found,) = again.deliveries(None, 0, 10)
    assert msgspec.structs.replace(found, number=0) == one


def test_one_node_leads_at_a_time_and_may_stay(opened):
    store = opened()
    led(store, "a")
    assert store.lead("b", NOW + 99, NOW + 199) is None
    led(store, "a", NOW + 99)
    assert store.lead("b", NOW + 101, NOW + 201) is None
    led(store, "b", NOW + 199)
    assert store.lead("a", NOW + 200, NOW + 300) is None


def test_a_step_from_a_version_that_has_passed_is_not_taken_in_any_part(opened):
    store = opened()
    put(store, delivery("old", account=1))
    late = Step(progress=Progress(version=0, seq=99), deliveries=[delivery("late")], erased=[1])
    assert not store.step(late)
    assert names(store.deliveries(None, 0, 10)) == ["old"]
    assert led(store).seq == -1


def test_a_delivery_whose_id_is_there_already_changes_nothing(opened):
    store = opened()
    put(store, delivery("one"))
    store.note(msgspec.structs.replace(delivery("one"), state="sent", attempts=1))
    put(store, delivery("one"), delivery("two"))
    assert [(one.id, one.state) for one in store.deliveries(None, 0, 10)] == [("one", "sent"), ("two", "waiting")]


def test_what_is_claimed_is_nobody_elses_until_the_claim_ends_or_the_attempt_is_noted(opened):
    store = opened()
    put(store, *(delivery(name) for name in "abc"), delivery("later", due_at=NOW + 50), delivery("x", channel="other"))
    assert names(store.claim("ops", "1", NOW, NOW + 100, 2)) == ["a", "b"]
    assert names(store.claim("ops", "2", NOW, NOW + 100, 9)) == ["c"]
    assert store.claim("ops", "2", NOW + 49, NOW + 149, 9) == []
    assert names(store.claim("ops", "2", NOW + 50, NOW + 150, 9)) == ["later"]
    store.note(msgspec.structs.replace(delivery("a"), attempts=1, due_at=NOW + 60, error="answered 500"))
    assert store.claim("ops", "2", NOW + 59, NOW + 159, 9) == []
    (again,) = store.claim("ops", "2", NOW + 60, NOW + 160, 9)
    assert (again.id, again.attempts, again.error) == ("a", 1, "answered 500")
    assert names(store.claim("ops", "2", NOW + 100, NOW + 200, 9)) == ["b", "c"]


@pytest.mark.slow
def test_threads_and_nodes_that_claim_at_once_get_each_delivery_once(opened):
    put(opened(), *(delivery(f"{number:03}") for number in range(200)))
    stores, taken = [opened(), opened()], []

    def work(node: int) -> None:
        while found := stores[node % 2].claim("ops", str(node), NOW, NOW + 100, 7):
            taken.extend(names(found))

    threads = [threading.Thread(target=work, args=(node,)) for node in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [f"{number:03}" for number in range(200)]


def test_dead_ones_are_counted_and_tried_again(opened):
    store = opened()
    put(store, *(delivery(name) for name in "abc"))
    for name in "ab":
        store.note(msgspec.structs.replace(delivery(name), state="dead", attempts=9))
    (count,) = store.counts()
    assert (count.channel, count.waiting, count.dead, count.oldest_at) == ("ops", 1, 2, NOW)
    assert names(store.deliveries("dead", 0, 1)) == ["a"]
    assert names(store.deliveries("dead", store.deliveries("dead", 0, 1)[0].number, 1)) == ["b"]
    assert (store.retry("nobody", NOW), store.retry("c", NOW), store.retry("a", NOW + 5)) == (0, 0, 1)
    assert store.retry(None, NOW + 5) == 1
    assert [(one.id, one.attempts) for one in store.claim("ops", "1", NOW + 5, NOW + 9, 9)] == [
        ("c", 0),
        ("a", 0),
        ("b", 0),
    ]


def test_what_is_old_is_dropped_in_each_state_by_itself(opened):
    store = opened()
    put(store, *(delivery(name) for name in "abc"))
    store.note(msgspec.structs.replace(delivery("a"), state="sent"))
    store.note(msgspec.structs.replace(delivery("b"), state="dead"))
    assert store.forget(NOW, NOW, NOW, 10) == 0
    assert store.forget(NOW + 1, NOW, NOW, 10) == 1
    assert store.forget(NOW + 1, NOW + 1, NOW, 10) == 1
    assert names(store.deliveries(None, 0, 10)) == ["c"]
    assert store.forget(0, 0, NOW + 1, 10) == 1


def test_an_erased_account_takes_its_deliveries_and_those_of_no_other(opened):
    store = opened()
    put(store, delivery("a", account=1), delivery("b", account=2), delivery("c"))
    put(store, erased=(1,))
    assert names(store.deliveries(None, 0, 10)) == ["b", "c"]


def test_tenants_know_nothing_of_each_other(opened):
    store, other = opened(), opened("other")
    put(store, delivery("one"))
    put(other, delivery("one", account=5))
    put(other, erased=(5,))
    assert names(store.deliveries(None, 0, 10)) == ["one"]
    assert other.deliveries(None, 0, 10) == other.counts() == []
    assert other.retry(None, NOW) == other.forget(NOW + 9, NOW + 9, NOW + 9, 9) == 0


def test_a_closed_outbox_says_so(opened):
    store = opened()
    store.close()
    with pytest.raises(StoreUnavailable):
        store.counts()


@pytest.mark.slow
def test_a_lost_connection_is_an_error_once():
    url = server("18").migrated_database()
    with closing(open_alerts(url, "default")) as store:
        store.counts()
        with psycopg.connect(url, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'fiscus alerts' AND datname = current_database()"
            )
        with pytest.raises(StoreUnavailable):
            store.counts()
        assert store.counts() == []


def test_a_file_that_is_none_is_an_error(tmp_path):
    (tmp_path / "fiscus.db-alerts").write_bytes(b"this was a database once" * 1_000)
    with pytest.raises(StoreUnavailable, match="alerts"):
        open_alerts(f"sqlite:///{tmp_path}/fiscus.db", "default")
