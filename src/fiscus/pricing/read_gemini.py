"""Bodies of Gemini: generateContent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fiscus.pricing.media import Medium, decoded
from fiscus.pricing.openai_parts import DEPTH_MAX, Body, add_call, add_function
from fiscus.pricing.prompt import Prompt
from fiscus.pricing.shapes import items_of, json_text, mapping_of, rest_of, text_of, words

_GEMINI = frozenset(
    words(
        "model contents systemInstruction system_instruction tools toolConfig tool_config generationConfig "
        "generation_config safetySettings safety_settings cachedContent cached_content labels serviceTier "
        "store"
    )
)


def read_contents(prompt: Prompt, body: Body) -> None:
    """``generateContent`` and ``streamGenerateContent``."""
    system = body.get("systemInstruction", body.get("system_instruction"))
    if system is not None:
        prompt.system += 1
        _content(prompt, system)
    given = body.get("contents")
    for content in [given] if isinstance(given, Mapping) else items_of(given):
        prompt.messages += 1
        _content(prompt, content)
    for tool in items_of(body.get("tools")):
        declared = mapping_of(tool).get("functionDeclarations", mapping_of(tool).get("function_declarations"))
        for function in items_of(declared):
            given = mapping_of(function)
            schema = next((n for n in ("parametersJsonSchema", "parameters_json_schema") if n in given), "parameters")
            add_function(prompt, given, schema)
        others = {
            n: v for n, v in mapping_of(tool).items() if n not in ("functionDeclarations", "function_declarations")
        }
        if others:
            prompt.other_definitions.append(json_text(others))
            prompt.unseen.add("server_tools")
    config = mapping_of(body.get("generationConfig", body.get("generation_config")))
    for name in ("responseSchema", "response_schema", "responseJsonSchema", "response_json_schema"):
        if config.get(name) is not None:  # most models are not billed for it
            prompt.media.append(Medium(kind="schema", tokens=0, upper=len(json_text(config[name])) // 2))
    if body.get("cachedContent") is not None or body.get("cached_content") is not None:
        prompt.unseen.add("earlier_context")
    prompt.unknown.extend(rest_of(body, _GEMINI))


def _content(prompt: Prompt, content: Any) -> None:
    if isinstance(content, str):
        prompt.texts.append(content)
        return
    parts = mapping_of(content).get("parts")
    for part in [parts] if isinstance(parts, Mapping | str) else items_of(parts):
        _part(prompt, part)
    if not isinstance(content, Mapping):
        prompt.unknown.append(json_text(content))


def _part(prompt: Prompt, part: Any, depth: int = 0) -> None:
    if isinstance(part, str):
        prompt.texts.append(part)
        return
    part = mapping_of(part)
    data = mapping_of(part.get("inlineData", part.get("inline_data")))
    call = part.get("functionCall", part.get("function_call"))
    result = part.get("functionResponse", part.get("function_response"))
    file = part.get("fileData", part.get("file_data"))
    detail = text_of(mapping_of(part.get("mediaResolution", part.get("media_resolution"))).get("level")) or None
    sealed = part.get("thoughtSignature", part.get("thought_signature"))
    if sealed is not None:
        prompt.add_sealed(text_of(sealed))
    if "text" in part:
        prompt.texts.append(text_of(part["text"]))
    elif data:
        kind = text_of(data.get("mimeType", data.get("mime_type")))
        prompt.add_media(kind, decoded(text_of(data.get("data"))), detail)
    elif call is not None:
        add_call(prompt, mapping_of(call).get("name"), mapping_of(call).get("args"))
    elif result is not None:
        prompt.results += [text_of(mapping_of(result).get("name")), text_of(mapping_of(result).get("response"))]
        for inner in items_of(mapping_of(result).get("parts")) if depth < DEPTH_MAX else ():
            _part(prompt, inner, depth + 1)
    elif file is not None:
        prompt.add_media(text_of(mapping_of(file).get("mimeType", mapping_of(file).get("mime_type"))), None, detail)
    else:
        signatures = {"thoughtSignature", "thought_signature", "thought"}
        prompt.unknown.extend(rest_of(part, signatures))
