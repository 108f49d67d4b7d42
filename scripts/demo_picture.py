"""Draw docs/demo.svg from a real run of the built-in demo (``.venv/bin/python scripts/demo_picture.py``)."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from rich.console import Console

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "demo.svg"
PORT = 8097
COLUMNS = 112


def main() -> int:
    """Run the demo on a console that records, and save what it showed, with the fonts of the reader's machine."""
    recorded = Console(record=True, width=COLUMNS, highlight=False)

    def recording(*, stderr: bool = False) -> Console:
        return recorded

    demo = importlib.import_module("fiscus.cli.demo")  # the package has a command of the same name
    demo.console = recording  # type: ignore[attr-defined]
    code: int = demo.run_demo(None, wait=False, port=PORT)
    svg = recorded.export_svg(title="make demo")
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL).replace("Fira Code", "ui-monospace")
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL).replace(str(PORT), "8091")
    PICTURE.write_text(svg, encoding="utf-8")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
