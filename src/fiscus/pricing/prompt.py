"""What of a request goes into the model: texts, tools, media, and how often the provider frames something."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from fiscus.pricing.definitions import Definition
from fiscus.pricing.media import Medium, document, film, image, sound
from fiscus.pricing.tokenizers import Family

DialectName = Literal[
    "openai.chat",
    "openai.responses",
    "openai.completions",
    "openai.embeddings",
    "anthropic.messages",
    "anthropic.count_tokens",
    "gemini.generate",
]
DIALECTS: tuple[DialectName, ...] = get_args(DialectName)

Unseen = Literal["earlier_context", "files", "server_tools"]
"""What will be billed as input and is not in the request: a conversation or cache that the provider keeps, a file it
has or fetches, whatever its own tools find."""


class Prompt(msgspec.Struct, kw_only=True):
    """Filled by the readers of bodies.

    Attributes:
        texts: of messages and system prompts, calls of tools included.
        results: of tools.
        definitions: functions that are offered.
        other_definitions: of tools that the provider runs, as JSON.
        unknown: JSON of shapes that nobody knows; counted by its bytes.
        messages, calls, system: how many there are.
        choice: the name of the one tool that must be used, if one is named; "any" when some tool must be.
        thinking: the model is to think before it answers. citations: it is to cite documents.
        earlier: what is read now stands before the current turn.
        more_tools: how often tools are added on the way.
        unseen: kinds of input that will be billed and cannot be counted here.
    """

    family: Family
    model: str
    texts: list[str] = []
    results: list[str] = []
    definitions: list[Definition] = []
    other_definitions: list[str] = []
    unknown: list[str] = []
    media: list[Medium] = []
    messages: int = 0
    names: int = 0
    calls: int = 0
    system: int = 0
    schemas: int = 0
    thinking: bool = False
    citations: bool = False
    earlier: bool = False
    more_tools: int = 0
    choice: str | None = None
    unseen: set[Unseen] = set()

    def add_image(self, data: bytes | None, detail: str | None = None) -> None:
        """An image, or one whose bytes are elsewhere."""
        self.media.append(image(self.family, self.model, data, detail))

    def add_sealed(self, text: str) -> None:
        """Thoughts of an earlier turn that only the provider can read; some bill them, 3 letters a token or more."""
        self.media.append(Medium(kind="sealed", tokens=len(text) // 24, upper=len(text) // 3))

    def add_media(self, kind: str, data: bytes | None, detail: str | None = None) -> None:
        """Something of a media type; texts are text, what is not known is taken for a document."""
        if kind.startswith("image/"):
            self.add_image(data, detail)
        elif kind.startswith("audio/"):
            self.media.append(sound(self.family, data))
        elif kind.startswith("video/"):
            self.media.append(film(data))
        elif data is not None and (kind.startswith("text/") or kind in ("application/json", "application/xml")):
            self.texts.append(data.decode("utf-8", "replace"))
        else:
            self.media.append(document(self.family, self.model, data))
        if data is None:
            self.unseen.add("files")
