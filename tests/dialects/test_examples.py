"""The examples in the documentation of the dialects."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import fiscus.dialects
from fiscus.dialects import DIALECTS

MODULES = [
    "fiscus.dialects",
    *(f"fiscus.dialects.{one.name}" for one in pkgutil.iter_modules(fiscus.dialects.__path__)),
]
GUIDE = Path(__file__).parents[2] / "docs" / "reference" / "dialects.md"


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_in_the_docstrings_are_true(module):
    assert doctest.testmod(importlib.import_module(module)).failed == 0


def test_there_are_examples():
    assert sum(doctest.testmod(importlib.import_module(module)).attempted for module in MODULES) >= 12


def test_the_reference_names_every_dialect_and_its_example_is_true():
    text = GUIDE.read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z]+\.[a-z_]+)` ", text, re.MULTILINE)) == set(DIALECTS)
    assert doctest.testfile(str(GUIDE), module_relative=False).failed == 0
    assert doctest.testfile(str(GUIDE), module_relative=False).attempted >= 8
