"""The treasury of a service, over HTTP."""

from fiscus.client.remote import RemoteTreasury

__all__ = ["RemoteTreasury"]
