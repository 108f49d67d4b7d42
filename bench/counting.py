"""Counts of recorded requests against what the providers billed for them: `make bench-counting`.

The exchanges stand beside the project (`../shared/data/exchanges`); each that has a request we can read and a usage is
a pair. Prints the error of the count and how often the upper bound was not enough, by provider and label.
"""

import argparse
import gzip
import json
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from fiscus.pricing.counting import Count, count_body
from fiscus.pricing.margins import Margins

EXCHANGES = Path(__file__).resolve().parents[2] / "shared" / "data" / "exchanges"


NOT_BILLED = {
    "TestTokenCounts": "usage written by hand, to tell its fields apart",
    "test_bedrock_prompt_caching_metrics": "the system prompt of 18,000 tokens was replaced by four words",
    "transform-Anthropic-cache-tokens": "usage written by hand: what was cached stands in it twice",
}
"""Parts of the ids of recordings that do not say what a provider billed, and why."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A request and what its provider billed as input."""

    id: str
    provider: str
    dialect: str
    model: str
    count: Count
    billed: int

    @property
    def explained(self) -> bool:
        """What was billed is in the request, and all of it."""
        return not self.count.unseen


def dialect_of(url, body):
    """The dialect of a request; None: none that is counted."""
    path = url.split("?")[0].split("#")[0]
    if "generateContent" in path or "streamGenerateContent" in path:
        return "gemini.generate"
    if path.endswith(("/chat/completions", "/v1/chat")):
        return "openai.chat" if "messages" in body else None
    if path.endswith("/responses"):
        return "openai.responses"
    if path.endswith("/completions"):
        return "openai.completions" if "prompt" in body else None
    if path.endswith("/embeddings"):
        return "openai.embeddings"
    if path.endswith("/messages") and "messages" in body:
        return "anthropic.messages"
    if "/invoke" in path and "anthropic_version" in body:
        return "anthropic.messages"
    return None


def billed_of(usages):
    """Input tokens by the last usage that says something of them, caches included; None: none does."""
    for usage in reversed(usages):
        value = usage["v"]
        if value.get("promptTokenCount"):
            return value["promptTokenCount"]
        if value.get("prompt_tokens"):
            return value["prompt_tokens"]
        if value.get("input_tokens") is not None:
            if "input_tokens_details" in value:
                return value["input_tokens"]
            cached = (value.get("cache_read_input_tokens") or 0) + (value.get("cache_creation_input_tokens") or 0)
            return value["input_tokens"] + cached
    return None


def pairs(margins=None):
    """All pairs that are recorded."""
    for file in sorted(EXCHANGES.glob("*.jsonl.gz")):
        provider = file.name.removesuffix(".jsonl.gz")
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                pair = _pair(provider, json.loads(line), margins or Margins())
                if pair is not None:
                    yield pair


def _pair(provider, exchange, margins):
    if not exchange.get("usage") or exchange.get("status") != 200 or "url" not in exchange:
        return None
    try:
        body = json.loads((exchange.get("request") or {}).get("text") or "")
    except ValueError:
        return None
    if not isinstance(body, dict) or any(part in exchange["id"] for part in NOT_BILLED):
        return None
    url = exchange["url"]
    dialect = dialect_of(url, body)
    billed = billed_of(exchange["usage"])
    model = exchange.get("resp_model") or body.get("model") or _model_of(url)
    if dialect is None or not billed or not isinstance(model, str):
        return None
    counted = count_body(body, dialect, model=model, provider=provider, margins=margins)
    return Pair(exchange["id"], provider, dialect, model, counted, billed)


def _model_of(url):
    for mark in ("/models/", "/model/", "/deployments/"):
        if mark in url:
            return url.split(mark, 1)[1].split("/")[0].split(":generate")[0].split(":stream")[0]
    return None


def table(found):
    """Rows of (provider, label, pairs, median and p95 of the error, bound not enough, of them explained)."""
    groups = defaultdict(list)
    for pair in found:
        groups[pair.provider, pair.count.label].append(pair)
    for (provider, label), group in sorted(groups.items()):
        whole = [pair for pair in group if pair.explained]
        errors = sorted(abs(pair.count.tokens - pair.billed) / pair.billed for pair in whole)
        short = [pair for pair in group if pair.billed > pair.count.upper_bound]
        slack = [pair.count.upper_bound / pair.billed for pair in whole]
        yield {
            "provider": provider,
            "label": label,
            "pairs": len(group),
            "unseen": len(group) - len(whole),
            "error_median": round(statistics.median(errors), 4) if errors else None,
            "error_p95": round(errors[int(0.95 * (len(errors) - 1))], 4) if errors else None,
            "bound_median": round(statistics.median(slack), 3) if slack else None,
            "short": sum(pair.explained for pair in short),
            "short_unseen": sum(not pair.explained for pair in short),
        }


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", action="store_true", help="print JSON")
    arguments.add_argument("--short", action="store_true", help="list the pairs whose upper bound was not enough")
    asked = arguments.parse_args()
    if not EXCHANGES.is_dir():
        sys.exit(f"no recorded exchanges in {EXCHANGES}")
    found = list(pairs())
    rows = list(table(found))
    if asked.json:
        print(json.dumps(rows, indent=1))
        return
    names = list(rows[0])
    print("  ".join(f"{name:>13}" for name in names))
    for row in rows:
        print("  ".join(f"{row[name]!s:>13}" for name in names))
    if asked.short:
        for pair in found:
            if pair.billed > pair.count.upper_bound:
                why = ", ".join(pair.count.unseen) or "NOT EXPLAINED"
                print(f"{pair.id}: {pair.model}: billed {pair.billed}, counted {pair.count.tokens}, {why}")


if __name__ == "__main__":
    main()
