from pathlib import Path

import pytest

from scripts import coverage


def scan(source: str) -> list[tuple[str, str]]:
    return list(coverage.scan(source, "tests/t.py"))


def project(root: Path, source: str) -> Path:
    (root / "tests" / "core").mkdir(parents=True)
    (root / "tests" / "core" / "test_cells.py").write_text(source)
    return root


@pytest.mark.parametrize(
    "source",
    [
        "# covers R33, T8\ndef test_a(): ...",
        "# why\n# covers R33, T8\n# and more\ndef test_a(): ...",
        "# covers R33, T8\n@decorated\n@twice(\n  1)\ndef test_a(): ...",
        "@decorated\n# covers R33, T8\ndef test_a(): ...",
        "def test_a():  # covers R33, T8\n    ...",
        "def test_a():\n    # covers R33, T8\n    ...",
        "def test_a():\n    x = 1\n    # covers R33 and T8\n    y = 2",
        'def test_a():\n    """A claim.\n\n    Covers R33, T8.\n    """',
        'async def test_a():\n    """It holds (covers: R33; T8)."""',
        "# covers R33\n# covers T8\ndef test_a(): ...",
    ],
)
def test_a_mark_above_beside_or_inside_a_test_belongs_to_it(source):
    assert scan(source) == [("R33", "tests/t.py::test_a"), ("T8", "tests/t.py::test_a")]


def test_a_mark_between_two_tests_belongs_to_the_second():
    assert scan("def test_a(): ...\n# covers E1\ndef test_b(): ...") == [("E1", "tests/t.py::test_b")]


def test_a_method_is_named_with_its_class_and_a_class_mark_with_the_class():
    source = "# covers E1\nclass TestCells:\n    # covers E2\n    def test_a(self): ...\n"
    assert scan(source) == [("E1", "tests/t.py::TestCells"), ("E2", "tests/t.py::TestCells::test_a")]


def test_a_state_machine_is_named_by_its_test_case():
    assert scan("# covers E3\nTestLedger = Machine.TestCase") == [("E3", "tests/t.py::TestLedger")]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("covers D1-D3", ("D1", "D2", "D3")),
        ("covers D1–D3, X25", ("D1", "D2", "D3", "X25")),
        ("covers D31-D33", ("D31", "D32", "D32a", "D33")),
        ("covers D32a", ("D32a",)),
        ("covers E1 E2 in every cell", ("E1", "E2")),
        ("covers E1; later: covers E2", ("E1", "E2")),
        ("covers the deficit in full", ()),
        ("uncovered R33", ()),
    ],
)
def test_ids_are_read_as_lists_and_ranges(text, ids):
    assert coverage.parse_ids(text, "here") == ids


@pytest.mark.parametrize("text", ["covers R54", "covers Z1", "covers D1-R3", "covers D9-D1", "covers D1-D67"])
def test_an_unknown_id_or_a_bad_range_is_an_error(text):
    with pytest.raises(coverage.CoverageError, match=r"^here: "):
        coverage.parse_ids(text, "here")


@pytest.mark.parametrize(
    "source", ["# covers E1\n\ndef test_a(): ...", "def build():\n    # covers E1\n    ...", '"""Covers E1."""']
)
def test_a_mark_that_stands_in_no_test_is_an_error(source):
    with pytest.raises(coverage.CoverageError, match="stands in no test"):
        scan(source)


@pytest.mark.parametrize("mark", ["# covers nothing", "# covers r33", "# covers E1-", "# covers E1x-y"])
def test_a_mark_without_ids_is_an_error(mark):
    with pytest.raises(coverage.CoverageError, match="names no requirement"):
        scan(f"{mark}\ndef test_a(): ...")


@pytest.mark.parametrize(
    ("source", "faults"),
    [
        ("def test_known_fault_r5_prices_are_right(): ...", ["R5"]),
        ("async def test_known_faults_d2_t3_of_20_claims_only_those_that_fit(): ...", ["D2", "T3"]),
        ("# fault R5, D12\ndef test_a(): ...", ["R5", "D12"]),
        ("def test_known_faults_are_many(): ...", []),
        ("def test_a_known_fault_r5_is_told(): ...", []),
        ("# faulty\ndef test_a(): ...", []),
    ],
)
def test_a_known_fault_is_named_by_its_test_or_in_a_mark(source, faults):
    assert [identifier for identifier, _ in scan(source)] == [f"fault {number}" for number in faults]


@pytest.mark.parametrize("source", ["def test_known_fault_r99_x(): ...", "# fault D16\ndef test_a(): ..."])
def test_a_fault_that_is_not_known_is_an_error(source):
    with pytest.raises(coverage.CoverageError, match="is not a known fault"):
        scan(source)


def test_every_known_fault_of_budgets_grants_and_threads_has_a_test():
    found = coverage.collect(coverage.ROOT)
    lasts = {"T": 11, "X": 10, "R": 20, "D": 14}
    asked = [f"fault {family}{number}" for family, last in lasts.items() for number in range(1, last + 1)]
    assert [identifier for identifier in asked if identifier not in found] == []


def test_a_string_that_is_no_docstring_is_data():
    assert scan('def test_a():\n    text = "# covers E1"\n') == []


def test_every_requirement_is_listed_once_in_order():
    ids = coverage.requirement_ids()
    assert len(ids) == len(set(ids)) == 66 + 1 + 53 + 26 + 25 + 25 + 15
    assert ids[:2] == ["D1", "D2"]
    assert ids[31:34] == ["D32", "D32a", "D33"]
    assert ids[-1] == "E15"


def test_the_page_counts_families_and_shows_what_is_uncovered():
    page = coverage.render({"E1": ["tests/t.py::test_a", "tests/t.py::test_b"]})
    assert "| E | Invariants | 1 | 15 |" in page
    assert "| **all** | 1 | 211 |" in page
    assert "| E1 | `tests/t.py::test_a`<br>`tests/t.py::test_b` |" in page
    assert "| E2 | — |" in page


def test_check_passes_on_a_current_page_and_fails_on_a_stale_one(tmp_path, capsys):
    root = project(tmp_path, "# covers E1\ndef test_a(): ...\n")
    assert coverage.main(["--check"], root) == 1
    assert coverage.main([], root) == 0
    assert coverage.main(["--check"], root) == 0
    (root / "tests" / "core" / "test_cells.py").write_text("# covers E2\ndef test_a(): ...\n")
    capsys.readouterr()
    assert coverage.main(["--check"], root) == 1
    hint = capsys.readouterr().err
    assert "run `make docs`" in hint
    assert "+| E2 | `tests/core/test_cells.py::test_a` |" in hint


def test_a_bad_mark_fails_with_its_place(tmp_path, capsys):
    root = project(tmp_path, "# covers Q1\ndef test_a(): ...\n")
    assert coverage.main([], root) == 1
    assert "tests/core/test_cells.py:1: Q1 is not a requirement" in capsys.readouterr().err
