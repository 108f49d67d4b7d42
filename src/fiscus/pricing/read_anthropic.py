"""Bodies of Anthropic: messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fiscus.pricing.media import Medium, decoded
from fiscus.pricing.openai_parts import DEPTH_MAX, Body, add_call, add_function, add_schema
from fiscus.pricing.prompt import Prompt
from fiscus.pricing.shapes import items_of, json_text, mapping_of, rest_of, text_of, words

_ANTHROPIC = frozenset(
    words(
        "model messages system tools tool_choice max_tokens stream temperature top_p top_k stop_sequences "
        "metadata service_tier thinking container context_management mcp_servers output_config output_format "
        "speed inference_geo cache_control anthropic_version anthropic_beta"
    )
)


def read_messages(prompt: Prompt, body: Body) -> None:
    """``/v1/messages``."""
    if body.get("system") is not None:
        prompt.system += 1
        _blocks(prompt, body["system"], prompt.texts)
    messages = items_of(body.get("messages"))
    current = _current_turn(messages)
    for at, message in enumerate(messages):
        prompt.messages += 1
        prompt.earlier = at < current
        if isinstance(message, Mapping):
            _blocks(prompt, message.get("content"), prompt.texts)
            prompt.unknown.extend(rest_of(message, {"role", "content"}))
        else:
            prompt.unknown.append(text_of(message))
    for tool in items_of(body.get("tools")):
        if mapping_of(tool).get("type") in (None, "custom"):
            add_function(prompt, mapping_of(tool), "input_schema")
        else:
            prompt.other_definitions.append(json_text(tool))
            prompt.unseen.add("server_tools")
    choice = mapping_of(body.get("tool_choice"))
    prompt.choice = text_of(choice.get("name")) or ("any" if choice.get("type") == "any" else None)
    add_schema(
        prompt, mapping_of(body.get("output_format")) or mapping_of(mapping_of(body.get("output_config")).get("format"))
    )
    prompt.thinking = mapping_of(body.get("thinking")).get("type") in ("enabled", "adaptive")
    if items_of(body.get("mcp_servers")):
        prompt.unseen.add("server_tools")
    if body.get("container") is not None:
        prompt.unseen.add("earlier_context")
    prompt.unknown.extend(rest_of(body, _ANTHROPIC))


def _current_turn(messages: list[Any]) -> int:
    """Where the last message of a user stands that is more than results of tools."""
    for at in range(len(messages) - 1, -1, -1):
        message = mapping_of(messages[at])
        content = message.get("content")
        results = isinstance(content, list) and all(mapping_of(one).get("type") == "tool_result" for one in content)
        if message.get("role") == "user" and not results:
            return at
    return 0


def _blocks(prompt: Prompt, content: Any, into: list[str], depth: int = 0) -> None:
    if isinstance(content, str):
        into.append(content)
    elif depth > DEPTH_MAX or not isinstance(content, list):
        prompt.unknown.extend([] if content is None else [json_text(content)])
    else:
        for block in content:
            _block(prompt, block, into, depth)


def _block(prompt: Prompt, block: Any, into: list[str], depth: int) -> None:
    kind = mapping_of(block).get("type")
    if mapping_of(mapping_of(block).get("citations")).get("enabled"):
        prompt.citations = True
    if isinstance(block, str):
        into.append(block)
    elif kind == "text":
        into.append(text_of(block.get("text")))
    elif kind == "thinking":
        thought = text_of(block.get("thinking"))
        if prompt.earlier:  # left out by the provider, but for some of its models
            prompt.media.append(Medium(kind="thinking", tokens=0, upper=len(thought)))
        else:
            into.append(thought)
    elif kind == "redacted_thinking":
        prompt.unknown.append(text_of(block.get("data")))
    elif kind == "tool_use":
        add_call(prompt, block.get("name"), block.get("input"))
    elif kind == "tool_result":
        _blocks(prompt, block.get("content"), prompt.results, depth + 1)
    elif kind == "image":
        source = mapping_of(block.get("source"))
        prompt.add_image(decoded(text_of(source.get("data"))) if source.get("type") == "base64" else None)
        if source.get("type") != "base64":
            prompt.unseen.add("files")
    elif kind == "document":
        _anthropic_document(prompt, block, into, depth)
    elif kind == "search_result":
        into += [text_of(block.get("title")), text_of(block.get("source"))]
        _blocks(prompt, block.get("content"), into, depth + 1)
    elif kind == "container_upload":
        prompt.unseen.add("files")
    else:  # calls and results of the provider's own tools, and what is new
        prompt.results.append(json_text(block))
        prompt.unseen.add("server_tools")


def _anthropic_document(prompt: Prompt, block: Body, into: list[str], depth: int) -> None:
    source = mapping_of(block.get("source"))
    into += [text_of(block.get("title")), text_of(block.get("context"))]
    kind = source.get("type")
    if kind == "text":
        into.append(text_of(source.get("data")))
    elif kind == "content":
        _blocks(prompt, source.get("content"), into, depth + 1)
    else:
        data = decoded(text_of(source.get("data"))) if kind == "base64" else None
        prompt.add_media(text_of(source.get("media_type")) or "application/pdf", data)
