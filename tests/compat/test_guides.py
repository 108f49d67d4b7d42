"""The snippets of the guides of the drop-ins run, in order."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from fiscus.compat.places import ledger_at

GUIDES = Path(__file__).parents[2] / "docs" / "guides"


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("tbcontracts.md", ["it depends 2750", "800 100 False", "{'answer': 'yes', 'used': 120}", "done"]),
        (
            "threads.md",
            [
                "8750 []",
                "Thread thread-1... budget exhausted: 1250/10000 tokens used",
                "1250 1",
                "planner 1200 270000",
                "270000 1",
                "planner 18 ",
                "Hello! 1218",
            ],
        ),
    ],
)
async def test_every_snippet_runs_and_says_what_it_says(page, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for snippet in re.findall(r"```python\n(.*?)```", (GUIDES / page).read_text(), re.DOTALL):
        code = compile(snippet, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if code.co_flags & inspect.CO_COROUTINE:
            await eval(code, names)
        else:
            exec(code, names)
    ledger_at().close()
    lines = capsys.readouterr().out.splitlines()
    for line, expected in zip(lines, said, strict=True):
        assert line.startswith(expected)
