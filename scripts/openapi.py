"""Write docs/reference/openapi.json: the HTTP API as OpenAPI 3.1, from the table of routes and the types.

``--check`` writes nothing and fails while the document is stale.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from fiscus.app import openapi_document

ROOT = Path(__file__).resolve().parent.parent
PAGE = Path("docs/reference/openapi.json")


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Write or check the document under ``root``; the exit code is 1 for a stale one."""
    parser = argparse.ArgumentParser(description="Write docs/reference/openapi.json from the table of routes.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the document is stale")
    check: bool = parser.parse_args(arguments).check
    page, text = root / PAGE, render()
    if check:
        if page.is_file() and page.read_text(encoding="utf-8") == text:
            return 0
        print(f"{PAGE} is stale: run `make docs`", file=sys.stderr)
        return 1
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text, encoding="utf-8")
    return 0


def render() -> str:
    """The document as it is committed."""
    return json.dumps(openapi_document(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.exit(main())
