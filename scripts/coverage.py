"""Write docs/coverage.md: which tests stand behind each requirement, and behind each known fault.

A test names what it covers in a comment or in its docstring: ``# covers R33, T8`` or ``# covers D1-D9, E2``, directly
above the test, beside it, or inside it. On a test class it holds for the class. ``--check`` writes nothing and fails
while the page is stale.

A known fault of the existing systems is named by its test (``test_known_fault_r5_…``, ``test_known_faults_d2_t3_…``) or
in a comment at the same places: ``# fault R5, D12``.
"""

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUITES = ("tests", "tests_data")
DIFF_LINES_MAX = 20

FAMILIES = {
    "D": ("Token economy", 66),
    "R": ("Token manager", 53),
    "N": ("Tool-aware tracking", 26),
    "T": ("Budget contracts", 25),
    "X": ("Thread budgets", 25),
    "E": ("Invariants", 15),
}
INSERTED = ("D32a",)
FAULTS = {"D": 15, "R": 20, "N": 9, "T": 11, "X": 10}
"""Family → how many known faults its system has."""

_ID = r"[A-Z]\d+[a-z]?"
_RANGE = rf"({_ID})(?:\s*[-–]\s*({_ID}))?"
_ANY = rf"{_ID}(?:\s*[-–]\s*{_ID})?"
_MARK = re.compile(rf"\b[Cc]overs:?\s+({_ANY}(?:(?:\s*(?:,|;|and)\s*|\s+){_ANY})*)(?![\w-])")
_FAULT = r"[DRNTX]\d+"
_FAULT_MARK = re.compile(rf"^#\s*faults?\s+({_FAULT}(?:\s*,\s*{_FAULT})*)\s*$")
_FAULT_NAME = re.compile(r"test_known_faults?_((?:[drntx]\d+_)+)")
_MALFORMED = re.compile(r"^#\s*covers\b")


class CoverageError(Exception):
    """A mark names no requirement or stands in no test. Correct the mark at the place that the message names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Requirement ids as written at one line of a test file."""

    line: int
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The lines of one test, the comments directly above it included (1-based, both ends inclusive)."""

    name: str
    first: int
    last: int


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Write or check ``docs/coverage.md`` under ``root``; the exit code is 1 for a stale page or a bad mark."""
    parser = argparse.ArgumentParser(description="Write docs/coverage.md: which tests stand behind each requirement.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the page is stale")
    check: bool = parser.parse_args(arguments).check
    try:
        page = render(collect(root))
    except CoverageError as error:
        print(error, file=sys.stderr)
        return 1
    target = root / "docs" / "coverage.md"
    if check:
        return compare(target.read_text(encoding="utf-8") if target.exists() else "", page)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8")
    return 0


def compare(written: str, page: str) -> int:
    """Print the first lines in which the page differs from what it should be; 0 when it is current."""
    if written == page:
        return 0
    difference = unified_diff(
        written.splitlines(), page.splitlines(), "docs/coverage.md", "the tests", lineterm="", n=0
    )
    print("docs/coverage.md is stale; run `make docs`", file=sys.stderr)
    print("\n".join(list(difference)[:DIFF_LINES_MAX]), file=sys.stderr)
    return 1


def requirement_ids() -> list[str]:
    """List every id, family by family; an inserted one (D32a) follows its number."""
    ids = [f"{family}{number}" for family, (_, last) in FAMILIES.items() for number in range(1, last + 1)]
    return sorted([*ids, *INSERTED], key=sort_key)


def sort_key(identifier: str) -> tuple[int, int, str]:
    """Order by family as declared, then number, then the letter of an inserted id."""
    number = "".join(character for character in identifier[1:] if character.isdigit())
    return list(FAMILIES).index(identifier[0]), int(number), identifier.lstrip(identifier[0]).lstrip(number)


def collect(root: Path) -> dict[str, list[str]]:
    """Map requirement id to the tests that name it, ``path::test``, over all suites under ``root``."""
    tests: dict[str, list[str]] = {}
    for path in sorted(path for suite in SUITES for path in (root / suite).rglob("*.py")):
        name = path.relative_to(root).as_posix()
        for identifier, test in scan(path.read_text(encoding="utf-8"), name):
            known = tests.setdefault(identifier, [])
            if test not in known:
                known.append(test)
    return tests


def scan(source: str, path: str) -> Iterator[tuple[str, str]]:
    """Yield (requirement id, test) for one test file.

    Raises:
        CoverageError: a mark that names no requirement, or that stands in no test.
    """
    tree = ast.parse(source, path)
    comments = read_comments(source)
    spans = list(find_spans(tree, comments))
    for mark in find_marks(tree, comments, path):
        # The innermost test wins: a method over its class.
        owner = max(
            (span for span in spans if span.first <= mark.line <= span.last), key=lambda span: span.first, default=None
        )
        if owner is None:
            raise CoverageError(f"{path}:{mark.line}: `covers {', '.join(mark.ids)}` stands in no test")
        for identifier in mark.ids:
            yield identifier, f"{path}::{owner.name}"
    for span in spans:
        if (named := _FAULT_NAME.match(span.name.rpartition("::")[2])) is not None:
            for number in named.group(1).strip("_").split("_"):
                yield fault_id(number.upper(), f"{path}:{span.first}"), f"{path}::{span.name}"


def read_comments(source: str) -> dict[int, str]:
    """Map line number to the comment on it."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}


def find_marks(tree: ast.Module, comments: Mapping[int, str], path: str) -> Iterator[Mark]:
    """Yield the marks of comments and docstrings; a string elsewhere is data."""
    for line, comment in comments.items():
        ids = parse_ids(comment, f"{path}:{line}")
        if not ids and _MALFORMED.match(comment):
            raise CoverageError(f"{path}:{line}: `{comment}` names no requirement; write `# covers R33, T8`")
        if ids:
            yield Mark(line=line, ids=ids)
        if (faults := _FAULT_MARK.match(comment)) is not None:
            named = re.findall(_FAULT, faults.group(1))
            yield Mark(line=line, ids=tuple(fault_id(number, f"{path}:{line}") for number in named))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            ids = parse_ids(
                ast.get_docstring(node, clean=False) or "", f"{path}:{node.body[0].lineno if node.body else 1}"
            )
            if ids:
                yield Mark(line=node.body[0].lineno, ids=ids)


def parse_ids(text: str, place: str) -> tuple[str, ...]:
    """Read the ids of every ``covers …`` in ``text``, ranges spelled out.

    Raises:
        CoverageError: an id that is not in the list of requirements, or a range that runs backwards or across families.
    """
    known = requirement_ids()
    ids: list[str] = []
    for found in _MARK.finditer(text):
        for first, last in re.findall(_RANGE, found.group(1)):
            ids.extend(spell_out(first, last or first, known, place))
    return tuple(ids)


def fault_ids() -> list[str]:
    """List the known faults as ``fault R5``, family by family."""
    return [f"fault {family}{number}" for family, last in FAULTS.items() for number in range(1, last + 1)]


def fault_id(number: str, place: str) -> str:
    """The id of a known fault.

    Raises:
        CoverageError: there is none of that number.
    """
    if f"fault {number}" not in fault_ids():
        raise CoverageError(f"{place}: {number} is not a known fault")
    return f"fault {number}"


def spell_out(first: str, last: str, known: Sequence[str], place: str) -> Sequence[str]:
    """List the ids from ``first`` to ``last``, both included, in the order of ``known``."""
    for identifier in (first, last):
        if identifier not in known:
            raise CoverageError(f"{place}: {identifier} is not a requirement")
    if first[0] != last[0] or known.index(first) > known.index(last):
        raise CoverageError(f"{place}: {first}-{last} is not a range")
    return known[known.index(first) : known.index(last) + 1]


def find_spans(tree: ast.Module, comments: Mapping[int, str]) -> Iterator[Span]:
    """Yield the tests of a module: functions, classes, and the ``TestX = Machine.TestCase`` of state machines."""
    for name, node in find_tests(tree.body):
        decorators = node.decorator_list if not isinstance(node, ast.Assign) else []
        first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
        while first - 1 in comments:
            first -= 1
        yield Span(name=name, first=first, last=node.end_lineno or node.lineno)


def find_tests(
    body: Iterable[ast.stmt], prefix: str = ""
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign]]:
    """Yield what pytest collects, each with its name inside the file (``TestX::test_y`` for a method)."""
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() if node.name.startswith("test_"):
                yield prefix + node.name, node
            case ast.ClassDef() if node.name.startswith("Test"):
                yield prefix + node.name, node
                yield from find_tests(node.body, f"{prefix}{node.name}::")
            case ast.Assign(targets=[ast.Name(id=name)]) if name.startswith("Test"):
                yield prefix + name, node


def render(tests: Mapping[str, Sequence[str]]) -> str:
    """Write the page: counts per family, then a row for every requirement."""
    ids = requirement_ids()
    lines = [
        "# Coverage: requirements and their tests",
        "",
        "Generated by `make docs` from the marks in the tests (`# covers R33, T8`); a stale page fails `make test`.",
        "",
        "| family | meaning | covered | of |",
        "| --- | --- | --- | --- |",
    ]
    for family, (meaning, _) in FAMILIES.items():
        members = [identifier for identifier in ids if identifier.startswith(family)]
        lines.append(f"| {family} | {meaning} | {sum(member in tests for member in members)} | {len(members)} |")
    lines.append(f"| | **all** | {sum(identifier in tests for identifier in ids)} | {len(ids)} |")
    lines += ["", "| requirement | tests |", "| --- | --- |"]
    lines += [row(identifier, tests) for identifier in ids]
    found = sum(identifier in tests for identifier in fault_ids())
    lines += ["", "## Known faults", "", f"Of {len(fault_ids())} faults of the existing systems {found} have a test."]
    lines += ["", "| fault | tests |", "| --- | --- |", *(row(identifier, tests) for identifier in fault_ids())]
    return "\n".join(lines) + "\n"


def row(identifier: str, tests: Mapping[str, Sequence[str]]) -> str:
    """One line of a table."""
    named = "<br>".join(f"`{test}`" for test in tests.get(identifier, ()))
    return f"| {identifier.removeprefix('fault ')} | {named or '—'} |"


if __name__ == "__main__":
    sys.exit(main())
