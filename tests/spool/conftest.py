"""A ledger behind a service behind a proxy, and a treasury of the SDK that reaches it through that."""

from tests.sdk.conftest import distant, local, proxy

__all__ = ["distant", "local", "proxy"]
