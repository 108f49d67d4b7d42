"""The engine: the only writer of a ledger, and what follows it."""
