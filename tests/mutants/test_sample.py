"""A few of the planted faults, and that all of them can still be planted; ``make mutants`` runs them all."""

from pathlib import Path

import pytest

from tests.mutants.faults import FAULTS
from tests.mutants.run import ROOT, CannotRunError, faulty, try_fault

FAULTS_MIN = 50
SAMPLE = (
    "a reserve may pass the limit by one",
    "a transfer mints: the donor keeps what it gives",
    "a refused compound keeps what came before",
    "time goes on after the clock has jumped",
)
PACKAGE = ROOT / "src" / "fiscus"


def test_there_are_many_faults_and_each_has_a_name_of_its_own():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= FAULTS_MIN


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_every_fault_can_be_planted(fault):
    text = (PACKAGE / fault.file).read_text(encoding="utf-8")
    compile(faulty(fault, text), fault.file, "exec")
    for tests in fault.tests:
        assert (ROOT / tests.split()[0]).exists()


def test_a_text_that_does_not_stand_exactly_once_is_said():
    with pytest.raises(CannotRunError, match="stands 2 times"):
        faulty(FAULTS[0], FAULTS[0].old * 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
def test_a_planted_fault_is_caught_by_the_test_that_is_tried_first(name):
    fault = next(fault for fault in FAULTS if fault.name == name)
    fate = try_fault(fault, PACKAGE)
    assert fate.killed
    assert Path(fault.tests[0]).name in fate.by
