"""The snippets of ``docs/guides/python.md`` and of the README run, in order, in process and over a real server."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import fiscus
from fiscus.gateway.options import GatewayOptions
from fiscus.sdk import Treasury
from tests.gateway import wire
from tests.gateway.gate import providers, standing
from tests.gateway.upstream import upstream as running

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "python.md"
README = GUIDE.parents[2] / "README.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)


async def run(snippet: str, names: dict[str, object]) -> None:
    code = compile(snippet, str(GUIDE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:
        await eval(code, names)
    else:
        exec(code, names)


async def call_the_model(max_tokens: int) -> SimpleNamespace:
    assert max_tokens > 0
    return SimpleNamespace(usage=SimpleNamespace(prompt_tokens=300, completion_tokens=200))


async def stream_of_the_model(max_tokens: int):
    for used in (500, 1_000, 1_500):
        yield used


NAMES = {"call_the_model": call_the_model, "stream_of_the_model": stream_of_the_model, "fiscus": fiscus}


@pytest.mark.parametrize("kind", ["in_process", "remote"])
async def test_every_snippet_of_the_guide_runs(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _, *rest = SNIPPETS
    async with running() as provider, standing(providers(provider), budget=False) as gate:
        provider.answers(wire.chat_answer(), wire.streamed(wire.chat_stream()))
        options = GatewayOptions(upstreams=providers(provider))
        treasury = (
            fiscus.open("sqlite:///guide.db", gateway=options)
            if kind == "in_process"
            else fiscus.connect(gate.url, "", spool_directory=".")
        )
        async with treasury:
            names = {**NAMES, "treasury": treasury}
            for snippet in rest:
                await run(snippet, names)
            for account in ("agent:researcher", "agent:writer"):
                await treasury.deallocate(account, "tokens")
    said = capsys.readouterr().out
    assert "1250 4625000\n" in said
    assert "active\n" in said
    assert "team:search" in said
    assert '"tightest_budget"' in said
    assert "Hello! Tokens(input=11, output=7, " in said
    assert re.search(r"\) \d+ \{'tokens':", said), "what it cost"
    assert said.endswith("Hello!")
    assert len(rest) == 10


@pytest.mark.parametrize("page", [GUIDE, README], ids=["guide", "readme"])
async def test_three_lines_suffice_for_a_first_use(tmp_path, monkeypatch, page):
    first = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)[0]
    monkeypatch.chdir(tmp_path)
    async with fiscus.open() as treasury:
        await treasury.put_template("agent:*")
    await run(first, dict(NAMES))
    async with fiscus.open() as treasury:
        assert (await treasury.account("agent:researcher")).status == "active"


def test_the_table_of_methods_is_whole():
    table = GUIDE.read_text().rpartition("| | methods |")[2]
    public = {name for name in vars(Treasury) if not name.startswith("_")}
    assert set(re.findall(r"`(\w+)`", table)) == public
