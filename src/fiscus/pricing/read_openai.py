"""Bodies of OpenAI: chat completions, completions, embeddings, responses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fiscus.pricing.openai_parts import Body, add_call, add_function, add_schema, chosen_tool, read_content, read_tools
from fiscus.pricing.prompt import Prompt
from fiscus.pricing.shapes import items_of, json_text, mapping_of, rest_of, text_of, words

_CHAT = frozenset(
    words(
        "model messages tools tool_choice functions function_call response_format stream stream_options "
        "temperature top_p n stop max_tokens max_completion_tokens presence_penalty frequency_penalty "
        "logit_bias logprobs top_logprobs user seed parallel_tool_calls service_tier store metadata "
        "reasoning_effort modalities audio prediction web_search_options verbosity prompt_cache_key "
        "prompt_cache_retention prompt_cache_options safety_identifier safe_prompt reasoning provider "
        "extra_body chat_template_kwargs plugins usage thinking random_seed prompt_mode top_k"
    )
)
_MESSAGE = frozenset(
    words(
        "role content name tool_calls function_call tool_call_id refusal audio annotations id status type "
        "reasoning_content reasoning prefix"
    )
)


_PLAIN = _CHAT - set(
    words("tools tool_choice functions function_call response_format prediction web_search_options plugins")
)
"""What adds nothing to the messages."""

_SEARCHES = re.compile(r"search|compound|sonar|deep-research|:online")
"""Models that look things up by themselves."""


def read_chat(prompt: Prompt, body: Body) -> None:
    """``/v1/chat/completions``, also of the many that speak it."""
    for message in items_of(body.get("messages")):
        _chat_message(prompt, message)
    if _SEARCHES.search(prompt.model):
        prompt.unseen.add("server_tools")
    if body.keys() <= _PLAIN:
        return
    read_tools(prompt, items_of(body.get("tools")))
    for function in items_of(body.get("functions")):
        add_function(prompt, mapping_of(function), "parameters")
    prompt.choice = chosen_tool(body.get("tool_choice")) or chosen_tool(body.get("function_call"))
    add_schema(prompt, mapping_of(mapping_of(body.get("response_format")).get("json_schema")))
    prompt.texts.append(text_of(mapping_of(body.get("prediction")).get("content")))
    form = mapping_of(body.get("response_format")).get("type")
    prompt.schemas += form == "json_object" and not prompt.family.name.startswith("openai")
    if body.get("web_search_options") is not None or body.get("plugins"):
        prompt.unseen.add("server_tools")
    prompt.unknown.extend(rest_of(body, _CHAT))


def _chat_message(prompt: Prompt, message: Any) -> None:
    prompt.messages += 1
    if type(message) is dict and len(message) == 2 and type(text := message.get("content")) is str:
        role = message.get("role")
        if role in ("user", "assistant", "system", "developer"):  # as most messages are
            prompt.system += role in ("system", "developer")
            prompt.texts.append(text)
            return
    if not isinstance(message, Mapping):
        prompt.unknown.append(text_of(message))
        return
    role = message.get("role")
    prompt.system += role in ("system", "developer")
    into = prompt.results if role in ("tool", "function") else prompt.texts
    read_content(prompt, message.get("content"), into)
    if message.get("name") is not None:
        prompt.names += 1
        prompt.texts.append(text_of(message["name"]))
    for field in ("reasoning_content", "reasoning", "refusal"):
        prompt.texts.append(text_of(message.get(field)))
    for call in items_of(message.get("tool_calls")):
        function = mapping_of(mapping_of(call).get("function")) or mapping_of(call)
        add_call(prompt, function.get("name"), function.get("arguments"))
    if message.get("function_call") is not None:
        function = mapping_of(message["function_call"])
        add_call(prompt, function.get("name"), function.get("arguments"))
    if mapping_of(message.get("audio")):
        prompt.unseen.add("earlier_context")
    prompt.unknown.extend(rest_of(message, _MESSAGE))


def read_completions(prompt: Prompt, body: Body) -> None:
    """``/v1/completions``: texts, or tokens as numbers."""
    given = body.get("prompt")
    if isinstance(given, list) and given and all(isinstance(token, int) for token in given):
        prompt.unknown.append(" " * len(given))
    for one in [] if given is None or prompt.unknown else items_of(given):
        if isinstance(one, list) and all(isinstance(token, int) for token in one):
            prompt.unknown.append(" " * len(one))
        else:
            prompt.texts.append(text_of(one))
    prompt.texts.append(text_of(body.get("suffix")))


def read_embeddings(prompt: Prompt, body: Body) -> None:
    """``/v1/embeddings``."""
    read_completions(prompt, {"prompt": body.get("input")})


_RESPONSES = frozenset(
    words(
        "model input instructions tools tool_choice text stream stream_options temperature top_p "
        "max_output_tokens include metadata parallel_tool_calls previous_response_id conversation prompt "
        "reasoning service_tier store truncation user background max_tool_calls prompt_cache_key "
        "prompt_cache_retention prompt_cache_options safety_identifier top_logprobs context_management"
    )
)


def read_responses(prompt: Prompt, body: Body) -> None:
    """``/v1/responses``."""
    if body.get("instructions") is not None:
        prompt.system += 1
        prompt.messages += 1
        read_content(prompt, body["instructions"], prompt.texts)
    given = body.get("input")
    for item in [{"role": "user", "content": given}] if isinstance(given, str) else items_of(given):
        _response_item(prompt, item)
    read_tools(prompt, items_of(body.get("tools")))
    prompt.choice = chosen_tool(body.get("tool_choice"))
    form = mapping_of(mapping_of(body.get("text")).get("format"))
    add_schema(prompt, form if form.get("type") == "json_schema" else {})
    if any(body.get(name) is not None for name in ("previous_response_id", "conversation", "prompt")):
        prompt.unseen.add("earlier_context")
    prompt.unknown.extend(rest_of(body, _RESPONSES))


def _response_item(prompt: Prompt, item: Any) -> None:
    kind = text_of(mapping_of(item).get("type")) or "message"
    if not isinstance(item, Mapping):
        prompt.unknown.append(text_of(item))
    elif kind == "message":
        prompt.messages += 1
        prompt.system += item.get("role") in ("system", "developer")
        read_content(prompt, item.get("content"), prompt.texts)
    elif kind in ("function_call", "custom_tool_call"):
        prompt.messages += 1
        add_call(prompt, item.get("name"), item.get("arguments", item.get("input")))
    elif kind in ("function_call_output", "custom_tool_call_output"):
        prompt.messages += 1
        read_content(prompt, item.get("output"), prompt.results)
    elif kind == "reasoning":
        _reasoning(prompt, item)
    elif kind in ("compaction", "item_reference"):
        prompt.messages += 1
        prompt.unseen.add("earlier_context")
    elif kind == "additional_tools":
        prompt.more_tools += 1
        read_tools(prompt, items_of(item.get("tools")))
    else:  # what the provider's own tools did: their arguments and their output, in whichever fields
        prompt.messages += 1
        prompt.results.append(json_text({name: value for name, value in item.items() if name not in ("id", "status")}))
        if kind.endswith("_call"):
            prompt.unseen.add("earlier_context")


def _reasoning(prompt: Prompt, item: Body) -> None:
    """Reasoning of an earlier turn that comes back, sealed."""
    sealed = item.get("encrypted_content")
    if isinstance(sealed, str):
        prompt.add_sealed(sealed)
    read_content(prompt, item.get("summary"), prompt.texts)
    read_content(prompt, item.get("content"), prompt.texts)
