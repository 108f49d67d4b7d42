"""What providers put around messages and tools, by family of models. Measured over the recorded exchanges."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from fiscus.pricing.prompt import Prompt


class Framing(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens that are added.

    Attributes:
        request: once.
        message: for each message; ``name`` for a name, ``system`` for a system prompt.
        call: for each call of a tool.
        tools: once, when tools are offered; ``tool`` for each of them; ``forced`` when one has to be called;
            ``chat_tools`` once more in chat completions.
        schema: for a schema that the answer must have; ``thinking`` when the model is to think;
            ``citations`` when it is to cite; ``more_tools`` for tools that are added on the way.
    """

    request: int = 0
    message: int = 0
    name: int = 0
    system: int = 0
    call: int = 0
    tools: int = 0
    tool: int = 0
    forced: int = 0
    chat_tools: int = 0
    schema: int = 0
    thinking: int = 0
    citations: int = 0
    more_tools: int = 0

    def of_messages(self, prompt: Prompt) -> int:
        """Tokens around messages and calls."""
        return (
            self.request
            + prompt.messages * self.message
            + prompt.names * self.name
            + prompt.system * self.system
            + prompt.calls * self.call
            + prompt.thinking * self.thinking
            + prompt.citations * self.citations
        )

    def of_tools(self, prompt: Prompt, *, chat: bool) -> int:
        """Tokens around the definitions of tools."""
        offered = len(prompt.definitions)
        framed = prompt.schemas * self.schema + prompt.more_tools * self.more_tools
        if offered:
            framed += (
                (self.chat_tools if chat else 0)
                + self.tools
                + offered * self.tool
                + (self.forced if prompt.choice else 0)
            )
        return framed


_OPENAI = Framing(request=3, message=4, name=1, call=7, tools=8, forced=4, schema=12, more_tools=105)
_CLAUDE = Framing(
    request=4, message=4, system=1, call=48, tools=490, tool=20, forced=100, schema=145, thinking=29, citations=560
)
_FRAMINGS: Mapping[str, Framing] = {
    "openai-cl100k": _OPENAI,
    "openai-o200k": _OPENAI,
    "openai-gpt5": msgspec.structs.replace(_OPENAI, request=2, chat_tools=82, call=10),
    "gpt-oss": Framing(request=60, message=5, call=5, tools=12, tool=2),
    "claude-2": Framing(request=2, message=5, system=1),
    "claude-3": _CLAUDE,
    "claude-4.7": msgspec.structs.replace(_CLAUDE, request=9, tools=640),
    "claude-4.8": msgspec.structs.replace(_CLAUDE, request=3, tools=300),
    "gemini": Framing(system=1, call=6),
    "mistral": Framing(request=1, message=3, name=1, call=16, tools=6, tool=14, schema=10),
    "deepseek": Framing(request=80, message=4, call=14, tools=180, tool=20, forced=40, schema=40),
    "grok": Framing(request=195, message=6, call=20, tools=20, tool=20, schema=40),
    "llama-4": Framing(request=5, message=6, name=1, call=40, tools=600, tool=20, schema=220),
}
_OTHER = Framing(request=5, message=6, name=1, call=20, tools=220, tool=20, schema=220)

# Of Anthropic's models that share a vocabulary, and not what they are told of tools: (pattern, once, when forced).
_CLAUDE_TOOLS = (
    (r"claude-3-opus", 530, 281),
    (r"claude-3-sonnet", 159, 235),
    (r"claude-3-haiku", 264, 340),
    (r"claude-3-5-haiku", 264, 370),
    (r"claude-3-5-sonnet-20240620", 294, 261),
    (r"claude-3-[57]-sonnet|claude-(sonnet|opus)-4(-1)?(-2025|@|$|-v|-0)", 346, 346),
)


def framing_of(family: str, model: str) -> Framing:
    """The framing of a model."""
    framing = _FRAMINGS.get(family, _OTHER)
    if family == "claude-3":
        for pattern, tools, forced in _CLAUDE_TOOLS:
            if re.search(pattern, model.lower()):
                return msgspec.structs.replace(framing, tools=tools, forced=forced - tools)
    return framing
