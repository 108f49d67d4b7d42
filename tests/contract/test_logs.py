"""What the ledger has to say reaches the program that it runs in through ``logging``, and nothing is printed."""

import logging

from fiscus.contract.errors import LedgerDrift
from fiscus.contract.logs import FIELDS, get_logger
from fiscus.stores import open_store
from fiscus.treasury.engine import Engine


def test_an_event_is_a_line_of_text_with_its_values_beside_it(caplog):
    get_logger("fiscus.some.part").warning("spool_left", requests=3, directory="a b")
    record = caplog.records[0]
    assert (record.name, record.levelname) == ("fiscus.some.part", "WARNING")
    assert record.getMessage() == 'event=spool_left requests=3 directory="a b"'
    assert getattr(record, FIELDS) == {"event": "spool_left", "requests": 3, "directory": "a b"}


def test_an_exception_comes_with_its_traceback_and_without_the_values_of_variables(caplog):
    secret = "a secret value"
    try:
        raise ValueError("what happened")
    except ValueError:
        get_logger("fiscus.some.part").exception("defect", length=len(secret))
    assert caplog.records[0].exc_info[0] is ValueError
    assert "what happened" in caplog.text
    assert "a secret value" not in caplog.text


def test_a_percent_sign_is_a_percent_sign(caplog):
    get_logger("fiscus.some.part").error("full", used="100%s")
    assert "used=100%s" in caplog.text


def test_an_engine_in_somebodys_program_prints_nothing(capsys, caplog):
    caplog.set_level(logging.INFO, "fiscus")
    engine = Engine(open_store("memory:"))
    engine.doubt("default", LedgerDrift("a test"))
    engine.repair("default")
    engine.close()
    assert [getattr(record, FIELDS)["event"] for record in caplog.records] == ["tenant_repaired"]
    assert capsys.readouterr() == ("", "")
