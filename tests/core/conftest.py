from collections.abc import Iterator

import pytest

from tests.core.builders import Ledger


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """An empty ledger; at the end its state must be the fold of its journal (E3)."""
    made = Ledger()
    yield made
    made.check_replay()


@pytest.fixture
def pool(ledger: Ledger) -> Ledger:
    """root (100 tokens) with the children a and b."""
    ledger.tree("root", "root/a", "root/b")
    ledger.budget("root", 100)
    return ledger
