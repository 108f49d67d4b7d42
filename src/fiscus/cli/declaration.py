"""Reading a file that declares accounts, budgets, allocations and templates.

The file is TOML or YAML; what it may say is in ``contract/declaration.py``.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from fiscus.contract.declaration import Declaration, FieldPath, Origin, check_declaration
from fiscus.contract.errors import ConfigurationInvalid

FILE_BYTES_MAX = 16_777_216
YAML_NODES_MAX = 1_000_000
"""Aliases can make a short file stand for an endless one."""


def read_declaration(path: Path) -> Declaration:
    """Read and check a file; ``.yaml`` and ``.yml`` are YAML, all others TOML.

    Raises:
        ConfigurationInvalid: it cannot be read, or has faults: syntax, unknown field, wrong type or range, a name or
            budget declared twice, a cycle, a chain over 16.
    """
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise ConfigurationInvalid(f"{path}: longer than {FILE_BYTES_MAX:,} bytes")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationInvalid(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    parse = parse_yaml if path.suffix in {".yaml", ".yml"} else parse_toml
    data, lines = parse(text, str(path))
    return check_declaration(data, Origin(str(path), lines))


# -- the two syntaxes ---------------------------------------------------------------------------------------------

_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"\s*((?:[\w-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[\w-]+|\"[^\"]*\"|'[^']*'))*)\s*=")
_KEY_PART = re.compile(r"[\w-]+|\"([^\"]*)\"|'([^']*)'")


def parse_toml(text: str, name: str) -> tuple[Any, dict[FieldPath, int]]:
    """Read TOML: the data, and the line (from 1) of each table and key that starts a line.

    Raises:
        ConfigurationInvalid: not TOML.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationInvalid(f"{name}: {error}") from error
    lines: dict[FieldPath, int] = {}
    counts: dict[FieldPath, int] = {}
    table: FieldPath = ()
    for number, line in enumerate(_without_multiline_texts(text), start=1):
        if header := _HEADER.match(line):
            table = ()
            parts = _key_parts(header[2])
            for depth, part in enumerate(parts, start=1):
                table = (*table, part)
                if header[1] == "[[" and depth == len(parts):
                    counts[table] = counts.get(table, -1) + 1
                if table in counts:
                    table = (*table, counts[table])
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            lines.setdefault((*table, *_key_parts(key[1])), number)
    return data, lines


def _key_parts(text: str) -> list[str]:
    """A dotted key of TOML as its parts."""
    return [found[1] or found[2] or found[0].strip("\"'") for found in _KEY_PART.finditer(text)]


def _without_multiline_texts(text: str) -> list[str]:
    """The lines of a TOML text, those inside a multi-line string emptied, so that none is taken for a key."""
    lines: list[str] = []
    fence = ""
    for line in text.splitlines():
        lines.append("" if fence else line)
        for found in re.finditer(r'"""|' + "'''", line):
            fence = "" if fence == found[0] else fence or found[0]
    return lines


def parse_yaml(text: str, name: str) -> tuple[Any, dict[FieldPath, int]]:
    """Read YAML, its safe part only: the data, and the line (from 1) of each field.

    Raises:
        ConfigurationInvalid: not YAML, or a key stands twice in one mapping.
    """
    import yaml

    lines: dict[FieldPath, int] = {}

    def walk(node: yaml.Node, path: FieldPath) -> None:
        lines.setdefault(path, node.start_mark.line + 1)
        if len(lines) > YAML_NODES_MAX:
            raise ConfigurationInvalid(f"{name}: more than {YAML_NODES_MAX:,} fields")
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                field = (*path, str(key.value))
                if field in lines:
                    raise ConfigurationInvalid(f"{Origin(name, {field: key.start_mark.line + 1}).place(field)}: twice")
                lines[field] = key.start_mark.line + 1
                walk(value, field)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                walk(item, (*path, index))

    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return {}, lines
        walk(node, ())
        return loader.construct_document(node), lines
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        raise ConfigurationInvalid(f"{where}: {getattr(error, 'problem', None) or error}") from error
    finally:
        loader.dispose()
