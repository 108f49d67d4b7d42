"""What OpenAI's bodies have in common: content, tools, schemas, calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fiscus.pricing.definitions import Definition
from fiscus.pricing.media import decoded, document, sound
from fiscus.pricing.prompt import Prompt
from fiscus.pricing.shapes import items_of, json_text, mapping_of, rest_of, text_of

Body = Mapping[str, Any]

DEPTH_MAX = 16
"""Content nested deeper than this is counted by its bytes."""


def add_call(prompt: Prompt, name: Any, arguments: Any) -> None:
    """A call of a tool that the model made earlier."""
    prompt.calls += 1
    prompt.texts += [text_of(name), text_of(arguments)]


def chosen_tool(choice: Any) -> str | None:
    """The tool that a choice names."""
    choice = mapping_of(choice)
    name = mapping_of(choice.get("function")).get("name") or choice.get("name")
    return name if isinstance(name, str) else None


def read_tools(prompt: Prompt, tools: list[Any]) -> None:
    """Tools of a chat or of responses; all but functions are the provider's own."""
    for tool in tools:
        inner = mapping_of(mapping_of(tool).get("function"))
        if inner:
            add_function(prompt, inner, "parameters")
        elif mapping_of(tool).get("type") in ("function", "custom") and isinstance(mapping_of(tool).get("name"), str):
            add_function(prompt, mapping_of(tool), "parameters")
        elif mapping_of(tool).get("type") == "namespace":
            prompt.texts.append(text_of(mapping_of(tool).get("description")))
            read_tools(prompt, items_of(mapping_of(tool).get("tools")))
        else:
            prompt.other_definitions.append(json_text(tool))
            prompt.unseen.add("server_tools")


def add_function(prompt: Prompt, function: Body, schema: str) -> None:
    """A function, whose schema stands under the name ``schema``."""
    prompt.definitions.append(
        Definition(
            name=text_of(function.get("name")),
            description=text_of(function.get("description")),
            schema=function.get(schema),
        )
    )
    known = {"name", "description", schema, "type", "strict", "cache_control", "defer_loading", "format"}
    prompt.other_definitions.extend(rest_of(function, known))
    if function.get("format") is not None:
        prompt.other_definitions.append(json_text(function["format"]))


def add_schema(prompt: Prompt, schema: Body) -> None:
    """A schema that the answer must have; it is part of the input."""
    if schema:
        prompt.schemas += 1
        prompt.other_definitions.append(json_text(schema))


def read_content(prompt: Prompt, content: Any, into: list[str], depth: int = 0) -> None:
    """The content of a message of OpenAI, or of a tool's result."""
    if content is None:
        return
    if isinstance(content, str):
        into.append(content)
        return
    if depth > DEPTH_MAX or not isinstance(content, list):
        prompt.unknown.append(json_text(content))
        return
    for part in content:
        _part(prompt, part, into, depth)


def _part(prompt: Prompt, part: Any, into: list[str], depth: int) -> None:
    if isinstance(part, str):
        into.append(part)
        return
    kind = mapping_of(part).get("type")
    if kind in ("text", "input_text", "output_text", "summary_text", "reasoning_text"):
        into.append(text_of(part.get("text")))
    elif kind == "refusal":
        into.append(text_of(part.get("refusal")))
    elif kind in ("image_url", "input_image", "computer_screenshot"):
        link = part.get("image_url")
        detail = part.get("detail") or mapping_of(link).get("detail")
        url = link if isinstance(link, str) else text_of(mapping_of(link).get("url"))
        prompt.add_image(decoded(url) if url.startswith("data:") else None, detail if isinstance(detail, str) else None)
    elif kind == "input_audio":
        inner = mapping_of(part.get("input_audio")) or part
        prompt.media.append(sound(prompt.family, decoded(text_of(inner.get("data")))))
    elif kind in ("file", "input_file", "document_url"):
        _file(prompt, mapping_of(part.get("file")) or part)
    elif kind == "thinking" and depth < DEPTH_MAX:
        read_content(prompt, part.get("thinking"), into, depth + 1)
    else:
        prompt.unknown.append(json_text(part))


def _file(prompt: Prompt, file: Body) -> None:
    data = file.get("file_data")
    prompt.texts.append(text_of(file.get("filename")))
    if not isinstance(data, str):
        prompt.media.append(document(prompt.family, prompt.model, None))
        prompt.unseen.add("files")
        return
    kind = data[5:].partition(";")[0] if data.startswith("data:") else "application/pdf"
    prompt.add_media(kind, decoded(data))
