"""What the views of every store do: they follow the journal, and may be dropped."""

from __future__ import annotations

import json

from fiscus.treasury.store import EntityRow
from tests.stores.places import AT_MS, account, entity, snapshot, usage

NOW_MS = AT_MS + 1_000


def test_views_that_hold_nothing_say_so(store):
    views = store.views
    assert views.watermark(1) is None
    assert views.load(1, "account", 1) is None
    assert views.load_name(1, "bob") is None
    assert views.load_many(1, "hold", ["a"]) == {}
    assert views.opening(1) is None
    assert views.accounts(1, 0, 10, None, None, None) == []
    assert views.usage(1, 0, 10, None, None, None) == []
    assert views.idle_accounts(1, "thread:*", NOW_MS, 10) == []
    assert views.carved_below(1, 1) == []


def test_what_was_written_is_loaded_and_a_later_snapshot_replaces_it(place):
    store = place.open()
    written = snapshot(1, 4, [account(1, "bob"), entity("hold", "1", body=b"text"), entity("cell", 1, body=b"number")])
    store.views.write([written], NOW_MS)
    store.views.write([snapshot(1, 6, [entity("cell", 1, body=b"changed")])], NOW_MS)
    store.close()
    again = place.open()
    views = again.views
    assert views.watermark(1) == snapshot(1, 6).watermark
    assert views.load(1, "account", 1) == account(1, "bob").body
    assert views.load(1, "hold", "1") == b"text"
    assert views.load(1, "hold", 1) is None
    assert views.load(1, "cell", 1) == b"changed"
    assert views.load_many(1, "cell", [1, 2]) == {1: b"changed"}
    assert views.load_many(1, "hold", ["1", "2", 'a "quoted" id']) == {"1": b"text"}
    assert views.load_name(1, "bob") == 1
    again.close()


def body_of(**fields):
    return json.dumps(fields).encode()


def test_accounts_are_loaded_with_all_above_them_their_budgets_and_the_running_windows(store):
    """1 ← 2 ← 3 and 1 ← 4; every account has a budget, 1 and 3 have two, one of them without a window."""
    accounts = [(1, "root", None, [11, 15]), (2, "team", 1, [12]), (3, "bob", 2, [13, 16]), (4, "ann", 1, [14])]
    rows = [
        EntityRow("account", number, body_of(number=number, budgets=budgets), name=name, owner=parent)
        for number, name, parent, budgets in accounts
    ]
    budgets = {number: number + 10 if number < 16 else 0 for number in range(11, 17)}
    rows += [EntityRow("budget", number, body_of(number=number, cell=cell)) for number, cell in budgets.items()]
    rows += [EntityRow("cell", number, body_of(number=number)) for number in (*budgets.values(), 99) if number]
    store.views.write([snapshot(1, 9, rows), snapshot(2, 9, [EntityRow("account", 1, b"{}", name="eve")])], NOW_MS)

    def loaded(*names, tenant=1):
        found = store.views.load_chains(tenant, names)
        assert all(
            body == next(row.body for row in rows if (row.kind, row.key) == (kind, key)) for kind, key, body in found
        )
        return sorted({(kind, key) for kind, key, _ in found})

    def expected(accounts, budgets, cells):
        keys = {"account": accounts, "budget": budgets, "cell": cells}
        return sorted((kind, key) for kind, of_kind in keys.items() for key in of_kind)

    assert loaded("team") == expected([1, 2], [11, 12, 15], [21, 22, 25])
    assert loaded("bob", "team") == expected([1, 2, 3], [11, 12, 13, 15, 16], [21, 22, 23, 25])
    assert loaded("ann", "nobody") == expected([1, 4], [11, 14, 15], [21, 24, 25])
    assert loaded("nobody") == []
    assert store.views.load_chains(2, ["eve", "bob"]) == [("account", 1, b"{}")]
    assert store.views.load_chains(3, ["bob"]) == []


def test_a_node_starts_from_the_deadlines_and_from_the_entities_that_are_always_in_memory(store):
    rows = [entity("template", "thread:*", body=b"t"), entity("key", "k", body=b"k"), entity("hold", "h", 1, due_at=9)]
    store.views.write([snapshot(1, 3, rows), snapshot(2, 4, [entity("key", "other")])], NOW_MS)
    opening = store.views.opening(1)
    assert opening.watermark == snapshot(1, 3).watermark
    assert opening.deadlines == [(9, 0, 0, "hold", "h")]
    assert (opening.templates, opening.keys) == ([("thread:*", b"t")], [("k", b"k")])


def test_tenants_share_no_row(store):
    store.views.write(
        [snapshot(1, 4, [account(1, "bob")], [usage(3, 1)]), snapshot(2, 9, [account(1, "ann")], [usage(3, 1)])], NOW_MS
    )
    store.views.write([snapshot(2, 10, [account(2, "bob")])], NOW_MS)
    views = store.views
    assert (views.watermark(1).seq, views.watermark(2).seq) == (4, 10)
    assert (views.load_name(1, "ann"), views.load_name(2, "bob")) == (None, 2)
    views.clear(2)
    assert views.watermark(2) is None
    assert views.load(2, "account", 1) is None
    assert views.usage(2, 0, 10, None, None, None) == []
    assert views.load_name(1, "bob") == 1
    assert len(views.usage(1, 0, 10, None, None, None)) == 1


def test_a_name_that_was_erased_belongs_to_nobody_and_can_be_given_again(store):
    store.views.write([snapshot(1, 1, [account(1, "bob")], [usage(1, 1)])], NOW_MS)
    store.views.write([snapshot(1, 2, [account(1, None)], [usage(5, 1)], erased=[(1, 2)])], NOW_MS)
    assert store.views.load_name(1, "bob") is None
    assert [row.record for row in store.views.usage(1, 0, 10, None, None, None)] == [None, b"{}"]
    store.views.write([snapshot(1, 3, [account(2, "bob")], [usage(3, 2)])], NOW_MS)
    assert store.views.load_name(1, "bob") == 2
    assert store.views.usage(1, 1, 10, None, None, None)[0].record is not None


def test_a_name_moves_to_another_account_within_one_snapshot(store):
    store.views.write([snapshot(1, 1, [account(1, "bob")])], NOW_MS)
    store.views.write([snapshot(1, 3, [account(2, "bob"), account(1, None)])], NOW_MS)
    assert store.views.load_name(1, "bob") == 2
    assert store.views.load(1, "account", 1) is not None


def test_deadlines_are_those_of_rows_that_have_one(store):
    store.views.write(
        [
            snapshot(
                1,
                5,
                [
                    entity("hold", "b", 1, due_at=30, due_rank=0),
                    entity("cell", 2, 1, due_at=20, due_rank=3, due_depth=4),
                    entity("hold", "a", 1),
                ],
            )
        ],
        NOW_MS,
    )
    assert sorted(store.views.opening(1).deadlines) == [(20, 3, -4, "cell", 2), (30, 0, 0, "hold", "b")]
    store.views.write([snapshot(1, 6, [entity("hold", "b", 1)])], NOW_MS)
    assert store.views.opening(1).deadlines == [(20, 3, -4, "cell", 2)]


def tree(store):
    """1 ← 2 ← 3, 1 ← 4, and 5 by itself; 3 and 5 have an allocation."""
    rows = [
        account(1, "team:a"),
        account(2, "agent:b", 1),
        account(3, "agent:b2", 2, carved=True),
        account(4, "agent:%", 1),
        account(5, "user:e", carved=True),
    ]
    readings = [usage(seq, seq % 5 + 1, at=AT_MS + seq) for seq in range(1, 11)]
    store.views.write([snapshot(1, 10, rows, readings)], NOW_MS)


def numbers(bodies):
    return [int(body.removeprefix(b'{"number":').split(b"}")[0].split(b",")[0]) for body in bodies]


def test_allocated_accounts_below_one_are_found_at_any_depth(store):
    tree(store)
    assert store.views.carved_below(1, 1) == [3]
    assert store.views.carved_below(1, 2) == [3]
    assert store.views.carved_below(1, 3) == []
    assert store.views.carved_below(1, 5) == []


def test_accounts_are_listed_by_number_prefix_parent_and_within_an_account(store):
    tree(store)
    views = store.views
    assert numbers(views.accounts(1, 0, 10, None, None, None)) == [1, 2, 3, 4, 5]
    assert numbers(views.accounts(1, 2, 2, None, None, None)) == [3, 4]
    assert numbers(views.accounts(1, 0, 10, "agent:", None, None)) == [2, 3, 4]
    assert numbers(views.accounts(1, 0, 10, "agent:%", None, None)) == [4]
    assert numbers(views.accounts(1, 0, 10, None, 1, None)) == [2, 4]
    assert numbers(views.accounts(1, 0, 10, None, None, 2)) == [2, 3]
    assert numbers(views.accounts(1, 0, 10, "agent:b2", 2, 1)) == [3]


def test_usage_is_listed_in_order_by_account_and_by_time(store):
    tree(store)
    views = store.views
    everything = views.usage(1, 0, 100, None, None, None)
    assert everything == [usage(seq, seq % 5 + 1, at=AT_MS + seq) for seq in range(1, 11)]
    assert [row.seq for row in views.usage(1, 3, 4, None, None, None)] == [4, 5, 6, 7]
    assert [row.seq for row in views.usage(1, 0, 100, 2, None, None)] == [1, 2, 6, 7]
    assert [row.seq for row in views.usage(1, 0, 100, None, AT_MS + 4, AT_MS + 6)] == [4, 5]
    assert [row.seq for row in views.usage(1, 0, 100, 1, AT_MS + 5, None)] == [5, 6, 7, 8, 10]


def test_overrides_are_listed_by_id_within_an_account_and_those_that_are_open(store):
    tree(store)
    rows = [
        entity("override", id, owner, body=id.encode(), due_at=due_at)
        for id, owner, due_at in (("b", 2, 9), ("a", 1, None), ("B", 3, None), ("ä", 5, 9), ("c", 3, 9))
    ]
    store.views.write(
        [snapshot(1, 11, rows, after=10), snapshot(2, 1, [entity("override", "z", 1, body=b"z")])], NOW_MS
    )

    def listed(after="", limit=10, within=None, pending=False):
        return [body.decode() for body in store.views.overrides(1, after, limit, within, pending)]

    assert listed() == ["B", "a", "b", "c", "ä"]
    assert listed("a", 2) == ["b", "c"]
    assert listed("ä") == []
    assert listed(within=2) == ["B", "b", "c"]
    assert listed(pending=True) == ["b", "c", "ä"]
    assert listed("b", 1, 1, pending=True) == ["c"]
    assert store.views.overrides(3, "", 10, None, False) == []


def test_writing_a_snapshot_twice_is_as_writing_it_once(store):
    tree(store)
    tree(store)
    assert len(store.views.usage(1, 0, 100, None, None, None)) == 10
    assert len(store.views.accounts(1, 0, 100, None, None, None)) == 5


def test_idle_accounts_are_live_ones_of_a_template_that_nothing_has_touched(store):
    quiet, busy, held = (account(number, f"thread:{number}", template="thread:*") for number in (1, 2, 3))
    closed = account(4, "thread:4", template="thread:*", live=False)
    others = [account(5, "thread:5"), account(6, "run:6", template="run:*")]
    store.views.write([snapshot(1, 1, [quiet, busy, held, closed, *others])], NOW_MS)
    store.views.write([snapshot(1, 2, [entity("cell", 1, 2), entity("hold", "h", 3)])], NOW_MS + 500)
    assert store.views.idle_accounts(1, "thread:*", NOW_MS, 10) == []
    assert store.views.idle_accounts(1, "thread:*", NOW_MS + 1, 10) == [1]
    assert sorted(store.views.idle_accounts(1, "thread:*", NOW_MS + 501, 10)) == [1, 2, 3]
    assert len(store.views.idle_accounts(1, "thread:*", NOW_MS + 501, 2)) == 2


def test_a_sealed_state_is_one_instant_though_snapshots_go_on(store):
    store.views.write([snapshot(1, 4, [entity("hold", "b"), account(2, "two"), account(1, "one")])], NOW_MS)
    with store.views.sealed(1) as (watermark, rows):
        store.views.write([snapshot(1, 5, [account(3, "three"), entity("hold", "b", body=b"later")])], NOW_MS)
        assert watermark.seq == 4
        assert [(kind, key) for kind, key, _ in rows] == [(0, 1), (0, 2), (3, "b")]
    with store.views.sealed(1) as (watermark, rows):
        assert watermark.seq == 5
        assert [body for _, key, body in rows if key == "b"] == [b"later"]


def test_ended_holds_are_pruned_once_nothing_has_touched_them_for_long(store):
    open_hold, ended = entity("hold", "open", 1, due_at=9), entity("hold", "ended", 1)
    store.views.write([snapshot(1, 2, [open_hold, ended, entity("cell", 1, 1), account(1, "one")])], NOW_MS)
    store.views.write([snapshot(1, 3, [entity("hold", "later", 1)])], NOW_MS + 10)
    assert store.views.prune_ended(NOW_MS, 10) == 0
    assert store.views.prune_ended(NOW_MS + 5, 10) == 1
    assert sorted(store.views.load_many(1, "hold", ["later", "open", "ended"])) == ["later", "open"]
    assert store.views.load(1, "cell", 1) is not None
    assert store.views.prune_ended(NOW_MS + 50, 10) == 1


def test_loans_that_have_ended_are_pruned_and_those_that_stand_are_not(store):
    rows = [
        entity("loan", "stands", body=b'{"id":"stands","account":1}'),
        entity("loan", "due", body=b'{"id":"due","account":1}', due_at=9),
        entity("loan", "ended", body=b'{"id":"ended","account":1,"active":false}'),
    ]
    store.views.write([snapshot(1, 2, rows)], NOW_MS)
    assert store.views.prune_ended(NOW_MS, 10) == 0
    assert store.views.prune_ended(NOW_MS + 5, 10) == 1
    assert sorted(store.views.load_many(1, "loan", ["stands", "due", "ended"])) == ["due", "stands"]
