"""The recorded exchanges of the wire formats that are spoken."""

import base64
import gzip
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

EXCHANGES = Path(__file__).resolve().parents[3] / "shared" / "data" / "exchanges"
PATHS = (
    (r"/chat/completions(#stream)?$", "openai.chat"),
    (r"/v1/completions$", "openai.completions"),
    (r"/responses$", "openai.responses"),
    (r"/embeddings$", "openai.embeddings"),
    (r"anthropic\.com(:443)?/v1/messages$", "anthropic.messages"),
    (r"anthropic\.com/v1/messages/count_tokens$", "anthropic.count_tokens"),
    (r":(streamG|g)enerateContent$", "gemini.generate"),
)
NOT_SPOKEN = ("bedrock.jsonl.gz", "cohere.jsonl.gz")


@dataclass(frozen=True, eq=False)
class Exchange:
    id: str
    dialect: str
    kind: str
    path: str
    request: bytes
    status: int
    content_type: str
    body: bytes
    usage: tuple

    @property
    def stream(self):
        return self.kind == "sse" and not self.body.startswith(b"{")


def dialect_of(url):
    path = (url or "").split("?")[0]
    return next((name for pattern, name in PATHS if re.search(pattern, path)), None)


def dialect_of_shape(body):
    """Whose a fixture is that says no address."""
    marks = (
        ('"type":"response.', "openai.responses"),
        ('"object":"response"', "openai.responses"),
        ('"type":"message', "anthropic.messages"),
        ('"usageMetadata"', "gemini.generate"),
        ('"choices"', "openai.chat"),
    )
    tight = re.sub(r'":\s+', '":', body)
    return next((name for mark, name in marks if mark in tight), None)


def content(part):
    if not part:
        return b""
    return base64.b64decode(part["b64"]) if "b64" in part else part.get("text", "").encode()


def lines(path):
    with gzip.open(path, "rt", encoding="utf-8") as text:
        for line in text:
            yield json.loads(line)


@cache
def exchanges():
    """All exchanges over HTTP."""
    found = []
    for path in sorted(EXCHANGES.glob("*.jsonl.gz")):
        if path.name in NOT_SPOKEN:
            continue
        for one in lines(path):
            name = dialect_of(one.get("url"))
            if name is None or one.get("method") != "POST":
                continue
            found.append(
                Exchange(
                    id=f"{path.name[:-9]} {one['id']}",
                    dialect=name,
                    kind=one["kind"],
                    path=one["url"],
                    request=content(one["request"]),
                    status=one["status"],
                    content_type="text/event-stream" if one["kind"] == "sse" else "application/json",
                    body=content(one["response"]),
                    usage=tuple(usage["v"] for usage in one["usage"] if usage["at"] in PLACES),
                )
            )
    return found


PLACES = (".usage", ".message.usage", ".response.usage", ".x_groq.usage", ".usageMetadata")


def expected(dialect, usage):
    """Input and output by a plain reading of the last usage that was recorded; None where none is told."""
    if dialect.startswith("anthropic"):
        last = {}
        for one in usage:
            last.update({key: value for key, value in one.items() if value is not None})
        if "output_tokens" not in last:
            return None
        names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        return sum(last.get(name, 0) for name in names), last["output_tokens"]
    if not usage:
        return None
    last = usage[-1]
    if dialect.startswith("gemini"):
        if "promptTokenCount" not in last and "candidatesTokenCount" not in last:
            return None
        into = last.get("promptTokenCount", 0) + last.get("toolUsePromptTokenCount", 0)
        return into, last.get("candidatesTokenCount", 0) + last.get("thoughtsTokenCount", 0)
    into = last.get("prompt_tokens", last.get("input_tokens"))
    out = last.get("completion_tokens", last.get("output_tokens", 0))
    if into is None:
        return last["total_tokens"], 0
    return into, max(out, last.get("total_tokens", 0) - into)


def chunks(body, cuts):
    at = 0
    for cut in [*cuts, len(body)]:
        yield body[at:cut]
        at = cut
