"""What must not be lost while a ledger is away: a durable queue on the local disk, and who goes on with it."""

from fiscus.spool.outbox import Outbox
from fiscus.spool.spool import Spool
from fiscus.spool.treasury import SpoolingTreasury

__all__ = ["Outbox", "Spool", "SpoolingTreasury"]
