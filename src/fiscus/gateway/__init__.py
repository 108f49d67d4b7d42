"""The gateway: the providers' own protocols, with budgets. See ``docs/guides/gateway.md``."""
