"""Reads a Dockerfile: stages of instructions, comments and continuations resolved."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Stage:
    """One ``FROM`` with what follows it, in order; ``instructions`` are (name, rest of the line)."""

    base: str
    name: str | None
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        return [rest for instruction, rest in self.instructions if instruction == name]

    def last(self, name: str) -> str:
        return self.all(name)[-1]

    def exec_form(self, name: str) -> list[str]:
        """The command of an instruction; fails unless it is a JSON list, which no shell reads."""
        command = json.loads(self.last(name))
        assert isinstance(command, list)
        return command

    def environment(self, inherited: dict[str, str]) -> dict[str, str]:
        """What ENV sets, with ``$NAME`` of what was there before replaced."""
        found = dict(inherited)
        for line in self.all("ENV"):
            for pair in shlex.split(line):
                name, _, value = pair.partition("=")
                found[name] = re.sub(r"\$\{?(\w+)\}?", lambda match: found.get(match[1], ""), value)
        return found

    def healthcheck(self) -> tuple[dict[str, str], list[str]]:
        """Its options and its command, which must be in exec form."""
        options, _, command = self.last("HEALTHCHECK").partition("CMD")
        words = json.loads(command)
        assert isinstance(words, list)
        return dict(re.findall(r"--([\w-]+)=(\S+)", options)), words


def read(path: Path) -> list[Stage]:
    """The stages of a Dockerfile."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    stages: list[Stage] = []
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        name, _, rest = line.strip().partition(" ")
        rest = " ".join(rest.split())
        if name == "FROM":
            base, _, alias = rest.partition(" AS ")
            stages.append(Stage(base=base, name=alias or None))
        elif name and stages:
            stages[-1].instructions.append((name, rest))
    return stages
