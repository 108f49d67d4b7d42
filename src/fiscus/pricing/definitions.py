"""How tool definitions are put into a prompt: OpenAI's as TypeScript (reconstructed from counts), others as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from fiscus.pricing.shapes import json_text, mapping_of, text_of

DEPTH_MAX = 24
"""Deeper schemas are counted as JSON from there on."""

REFERENCES_DEEP_MAX = 10
"""References are followed so deep, also where they point to themselves."""

REFERENCES_MAX = 100
"""So many references of one schema are followed; they may multiply without end."""

NODES_MAX = 100_000
"""So many parts of the schemas of one request are written out; the rest is counted as the JSON that it is."""


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """One function that the model may call."""

    name: str
    description: str
    schema: Any


def as_typescript(definitions: Sequence[Definition]) -> str:
    """All definitions as OpenAI's models are told them.

    >>> schema = {"properties": {"a": {"type": "integer"}}}
    >>> print(as_typescript([Definition(name="f", description="Adds.", schema=schema)]))
    namespace functions {
    <BLANKLINE>
    // Adds.
    type f = (_: {
    a?: number,
    }) => any;
    <BLANKLINE>
    } // namespace functions
    """
    lines = ["namespace functions {", ""]
    nodes = _Nodes()
    for one in definitions:
        if one.description:
            lines.append(f"// {one.description}")
        properties = one.schema.get("properties") if isinstance(one.schema, Mapping) else None
        if isinstance(properties, Mapping) and properties:
            lines.append(f"type {one.name} = (_: {{")
            lines.extend(_Schema(one.schema, nodes).members(one.schema, 0, 0))
            lines.append("}) => any;")
        elif properties is None and one.schema not in (None, {}):
            lines.append(f"type {one.name} = {json_text(one.schema)}")
        else:
            lines.append(f"type {one.name} = () => any;")
        lines.append("")
    lines.append("} // namespace functions")
    return "\n".join(lines)


def as_json(definitions: Sequence[Definition]) -> list[str]:
    """Definitions as Anthropic, Google and others may put them, references written out."""
    nodes = _Nodes()
    return [
        json_text(
            {
                "name": one.name,
                "description": one.description,
                "parameters": _Schema(one.schema, nodes).inlined(one.schema, 0, 0),
            }
        )
        for one in definitions
    ]


class _Nodes:
    """How many more parts may be written out."""

    def __init__(self) -> None:
        self.left = NODES_MAX

    def take(self) -> bool:
        self.left -= 1
        return self.left > 0


class _Schema:
    """One schema, and what its references point to."""

    def __init__(self, schema: Any, nodes: _Nodes) -> None:
        self._nodes = nodes
        self._references_left = REFERENCES_MAX
        self._known = {
            f"#/{where}/{name}": value
            for where in ("$defs", "definitions")
            for name, value in mapping_of(mapping_of(schema).get(where)).items()
        }

    def members(self, schema: Mapping[str, Any], depth: int, followed: int) -> Iterator[str]:
        required = schema.get("required")
        needed = required if isinstance(required, list) else []
        properties = schema.get("properties")
        for name, value in properties.items() if isinstance(properties, Mapping) else ():
            if isinstance(value, Mapping) and isinstance(value.get("description"), str):
                yield f"// {value['description']}"
            yield f"{name}{'' if name in needed else '?'}: {self._type(value, depth, followed)},{_comment(value)}"

    def _type(self, schema: Any, depth: int, followed: int) -> str:
        if not isinstance(schema, Mapping) or depth > DEPTH_MAX or not self._nodes.take():
            return json_text(schema)
        pointed = self._pointed(schema, followed)
        if pointed is not None:
            return self._type(pointed, depth + 1, followed + 1)
        for many in ("anyOf", "oneOf", "allOf"):
            if isinstance(schema.get(many), list):
                return " | ".join(self._type(one, depth + 1, followed) for one in schema[many])
        kind = schema.get("type")
        if isinstance(schema.get("enum"), list):
            return " | ".join(f'"{one}"' if isinstance(one, str) else json_text(one) for one in schema["enum"])
        if isinstance(kind, list):
            return " | ".join(self._type({**schema, "type": one}, depth + 1, followed) for one in kind)
        if kind in ("integer", "number"):
            return "number"
        if kind in ("string", "boolean", "null"):
            return str(kind)
        if kind == "array":
            return f"{self._type(schema['items'], depth + 1, followed)}[]" if "items" in schema else "any[]"
        if kind == "object":
            return "\n".join(["{", *self.members(schema, depth + 1, followed), "}"])
        return json_text(schema)

    def inlined(self, schema: Any, depth: int, followed: int) -> Any:
        """The schema without references, as far as they may be followed."""
        if not self._known or depth > DEPTH_MAX or not self._nodes.take():
            return schema
        if isinstance(schema, list):
            return [self.inlined(one, depth + 1, followed) for one in schema]
        if not isinstance(schema, Mapping):
            return schema
        pointed = self._pointed(schema, followed)
        if pointed is not None:
            return self.inlined(pointed, depth + 1, followed + 1)
        return {
            name: self.inlined(value, depth + 1, followed)
            for name, value in schema.items()
            if name not in ("$defs", "definitions")
        }

    def _pointed(self, schema: Mapping[str, Any], followed: int) -> Any | None:
        pointer = schema.get("$ref")
        if not isinstance(pointer, str) or followed >= REFERENCES_DEEP_MAX or self._references_left <= 0:
            return None
        self._references_left -= 1
        return self._known.get(pointer)


def _comment(schema: Any) -> str:
    """What stands behind a member: its default."""
    if isinstance(schema, Mapping) and schema.get("default") is not None:
        return f" // default: {text_of(schema['default'])}"
    return ""
