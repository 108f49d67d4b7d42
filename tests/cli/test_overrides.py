"""``fiscus overrides``, and the confidence gate of ``fiscus accounts``."""

import pytest

from tests.cli.processes import answer, answers, fiscus, service

pytestmark = pytest.mark.slow
ASK = ("overrides", "request", "team:a", "cost-month", "--reason", "a long day")


def founded(folder, *more, **settings):
    fiscus(folder, "accounts", "put", "team:a", **settings)
    fiscus(folder, "budgets", "put", "team:a", "cost", "$10", "--period", "month", *more, **settings)


# covers R8, R31
def test_one_key_asks_and_another_decides(tmp_path):
    founded(tmp_path)
    boss = {"FISCUS_API_KEY": answer(tmp_path, "keys", "create", "--role", "admin")["secret"]}
    made = answer(tmp_path, "keys", "create", "--role", "operator")
    asker = {"FISCUS_API_KEY": made["secret"]}
    with service(tmp_path):
        asked = answer(tmp_path, *ASK, "--by", "$4", "--for", "600", "--id", "o1", **asker)
        assert (asked["state"], asked["asked"], asked["requested_by"]) == ("pending", 4_000_000_000, made["key"]["key"])
        refused = fiscus(tmp_path, "overrides", "approve", "o1", code=1, **asker)
        assert "does not decide" in refused.stderr
        shown = fiscus(tmp_path, "overrides", "approve", "o1", "--by", "$2.50", "--reason", "for today", **boss).stdout
        assert "approved by" in shown
        assert "$2.50" in shown
        assert answer(tmp_path, "overrides", "show", "o1", **asker)["decision"] == "for today"
        fiscus(tmp_path, *ASK, "--by", "$1", "--id", "o2", **asker)
        assert answer(tmp_path, "overrides", "deny", "o2", "--reason", "no", **boss)["state"] == "denied"
        assert answer(tmp_path, "overrides", "revoke", "o1", **boss)["state"] == "revoked"
    assert [one["id"] for one in answers(tmp_path, "overrides", "list", "--account", "team:a")] == ["o1", "o2"]
    assert [one["id"] for one in answers(tmp_path, "overrides", "list", "--state", "denied")] == ["o2"]
    table = fiscus(tmp_path, "overrides", "list").stdout
    for text in ("o1", "revoked", "$4", made["key"]["key"], "a long day"):
        assert text in table


# covers R31
def test_a_policy_is_given_with_the_budget(tmp_path):
    policy = ("--override-percent", "20", "--override-s", "60", "--approver", "admin", "--approver-key", "k")
    founded(tmp_path, *policy)
    budget = answers(tmp_path, "budgets", "list", "team:a")[0]
    assert budget["override"] == {
        "approvers": ["admin"], "approver_keys": ["k"], "max_percent": 20, "max_duration_s": 60,
    }  # fmt: skip
    beyond = fiscus(tmp_path, *ASK, "--by", "$2.01", code=1)
    assert "20 %" in beyond.stderr
    founded(tmp_path, "--no-approval")
    assert answer(tmp_path, *ASK, "--by", "$5", "--id", "o1")["state"] == "approved"
    assert "beyond_policy" in fiscus(tmp_path, "--json", *ASK, "--by", "$5", code=1).stderr
    wrong = fiscus(tmp_path, "budgets", "put", "team:a", "calls", "1", "--approver", "king", code=1)
    assert "king" in wrong.stderr


# covers T12
def test_a_gate_is_set_shown_reset_and_taken_away(tmp_path):
    put = ("accounts", "put", "agent:x")
    fiscus(tmp_path, *put, "--confidence-threshold", "0.9", "--gate-s", "60")
    assert "closes at a confidence of 0.9 for 60 s" in fiscus(tmp_path, "accounts", "show", "agent:x").stdout
    assert answer(tmp_path, "accounts", "reset-gate", "agent:x", "--task", "review")["account"] == "agent:x"
    fiscus(tmp_path, *put, "--no-gate", "--gate-s", "5", code=1)
    assert "confidence_threshold" not in answer(tmp_path, *put, "--no-gate")


# covers R31, T12
def test_both_are_declared_in_a_file(tmp_path):
    (tmp_path / "budgets.toml").write_text(
        """
[[accounts]]
account = "team:a"
confidence_threshold = 0.8
gate_s = 30
budgets = [{ unit = "tokens", limit = 100, override = { max_percent = 10, approvers = ["admin"] } }]

[[templates]]
pattern = "thread:*"
parent = "team:a"
confidence_threshold = 0.7
"""
    )
    fiscus(tmp_path, "apply", "budgets.toml")
    assert "nothing to do" in fiscus(tmp_path, "plan", "budgets.toml").stdout
    account = answer(tmp_path, "accounts", "show", "team:a")
    assert (account["confidence_threshold"], account["gate_s"]) == (0.8, 30)
    assert account["budgets"][0]["override"] == {"max_percent": 10, "approvers": ["admin"]}
