"""What the guide shows is what comes out."""

import re
from pathlib import Path

from fiscus.pricing import PriceOverride
from fiscus.pricing.prompt import DIALECTS

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "guides" / "prices.md").read_text("utf-8")


def test_the_figures_of_the_example_are_what_it_computes():
    """Each line that is an expression with a comment is evaluated, and its comment is the answer."""
    [example] = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    names = {}
    shown = []
    for line in example.splitlines():
        code, _, said = line.partition("  # ")
        if re.match(r"(price|counted)\.", code):
            shown.append((said.strip(), eval(code, names)))
        else:
            exec(code, names)
    answers = [answer for _, answer in shown]
    assert answers[0] == 169_500_000
    assert "169_500_000" in shown[0][0]
    assert answers[1] > answers[0]
    assert answers[2].startswith("genai-prices:anthropic/claude-sonnet-4-5@")
    assert ", ".join(map(repr, answers[3])).replace("'", '"') == shown[3][0]


def test_the_guide_names_every_dialect_and_every_field_of_an_own_price():
    for name in (*DIALECTS, *PriceOverride.__struct_fields__):
        assert f"`{name}`" in GUIDE, name
