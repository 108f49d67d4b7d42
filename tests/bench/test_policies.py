"""The measures of the policies, short: what they claim holds at any length."""

from bench import fairness, policies
from bench.bars import measures


def test_nobody_starves_and_the_order_is_kept():
    figures = fairness.measure(0.1)
    assert figures["wait_served"] == figures["wait_order_kept"] == 1
    assert figures["ended_in_vain"] == 0
    means = list(figures["mean_wait_s_by_priority"].values())
    assert means == sorted(means, reverse=True), "the more important, the sooner"


def test_the_check_of_the_order_sees_who_overtakes(monkeypatch):
    """The same with the ledger's order turned round: the simulation has a list of its own."""
    monkeypatch.setattr("fiscus.core.tickets.turn_of", lambda draft, account, since: -since)
    monkeypatch.setattr("fiscus.core.holds.turn_of", lambda draft, account, since: -since)
    assert fairness.measure(0.05)["wait_order_kept"] < 1


def test_every_bar_has_its_measure():
    assert measures(policies.BARS) == ("fairness",)
