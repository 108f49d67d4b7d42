"""``python -m fiscus.cli``."""

from fiscus.cli import main

main()
