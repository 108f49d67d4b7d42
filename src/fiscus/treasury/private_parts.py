"""Which private parts of a journal are gone, and whether something says why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

NOBODY = 0
"""Stands for the account of what no erasure forgets."""


class PrivateParts:
    """What was seen of private parts, entry by entry; no more is kept than one entry for each account.

    A part may be gone because its account was erased, or because the entry comes from an archive, which holds none:
    then all are gone up to a seal. An account of which nothing private is left may have been erased in the ledger that
    this one was exported from, after the point that it was cut at.
    """

    def __init__(self) -> None:
        self._kept: set[int] = set()
        self._kept_from: int | None = None
        self._gone_before: dict[int, tuple[int, int]] = {}
        self._gone: dict[int, int] = {}
        self._erased_at: dict[int, int] = {}

    def keep(self, seq: int, account: int) -> None:
        """The private part of an entry is there."""
        self._kept.add(account)
        if self._kept_from is None:
            self._kept_from = seq

    def lose(self, seq: int, at: int, account: int) -> None:
        """The private part of an entry is gone; what was written at one instant with an erasure went with it."""
        if self._erased_at.get(account) == at:
            return
        if self._kept_from is None:
            self._gone_before[account] = self._gone_before.get(account, (seq, seq))[0], seq
        else:
            self._gone.setdefault(account, seq)

    def erase(self, account: int, at: int) -> None:
        """An account is erased, with all private parts up to here."""
        self._kept.discard(account)
        self._gone_before.pop(account, None)
        self._gone.pop(account, None)
        self._erased_at[account] = at

    def unexplained(self, seals: Sequence[int], is_named: Callable[[int], bool]) -> Iterator[tuple[int, int]]:
        """Entries whose private part is gone and nothing says why, the first of each account: (sequence, account).

        Args:
            seals: as of which entries a state is kept.
            is_named: whether the name of an account is known at the end.
        """
        gone = self._gone | {
            account: first for account, (first, last) in self._gone_before.items() if not self._is_archived(last, seals)
        }
        for account, seq in sorted(gone.items(), key=lambda item: item[1]):
            if account == NOBODY or account in self._kept or is_named(account):
                yield seq, account

    def _is_archived(self, last: int, seals: Sequence[int]) -> bool:
        """Whether what is gone of an account at the beginning, up to an entry, ends with a seal, as an archive does."""
        end = self._kept_from
        return any(last <= seal and (end is None or seal < end) for seal in seals)
