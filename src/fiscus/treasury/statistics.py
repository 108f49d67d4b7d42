"""What the engine counts: plain numbers, added to once per batch; whoever shows them makes their own form of them."""

from __future__ import annotations

from bisect import bisect_left

import msgspec

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Upper bounds of the buckets of batch sizes, in submissions."""

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Upper bounds of the buckets of times, in seconds."""


class Histogram:
    """How often a value fell into which bucket, from the start of the process.

    Attributes:
        bounds: upper bounds of the buckets, rising; what is above the last one has a bucket of its own.
        counts: one more than bounds, not cumulative.
        total: sum of all values.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total: float = 0

    def add(self, value: float) -> None:
        """Count one value.

        >>> sizes = Histogram((1, 8))
        >>> for size in (1, 5, 9):
        ...     sizes.add(size)
        >>> sizes.counts, sizes.total
        ([1, 1, 1], 15)
        """
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)


class Statistics(msgspec.Struct):
    """Counters of the engine since it started."""

    batches: int = 0
    submissions: int = 0
    entries: int = 0
    commit_errors: int = 0
    defects: int = 0
    snapshots: int = 0
    last_batch_size: int = 0
    followed: int = 0
    """Entries that other nodes had written."""
    reloads: int = 0
    """How often a tenant was loaded anew because the views had got ahead of this node."""
    epoch: int = 1
    """Rises when the journal has turned out to be an older one: it was restored."""
    batch_sizes: Histogram = msgspec.field(default_factory=lambda: Histogram(SIZES))
    """Submissions of a batch; batches without any are not counted."""
    commit_s: Histogram = msgspec.field(default_factory=lambda: Histogram(SECONDS))
    """From the first row handed to the store until it is known what became of it, in seconds."""
    head_wait_s: Histogram = msgspec.field(default_factory=lambda: Histogram(SECONDS))
    """Waiting for the tenants' locks and for what others have written, in seconds."""


class BatchTimes(msgspec.Struct, gc=False):
    """When the parts of the last batch began, in nanoseconds of ``time.perf_counter_ns``; 0: that part did not happen.

    The port may read it while its answers are delivered to it, and until it returns.
    """

    began_ns: int = 0
    turn_ns: int = 0
    """The locks had been taken."""
    commit_ns: int = 0
    """All was decided, and the commit began."""
    committed_ns: int = 0
    size: int = 0
    """Submissions in the batch."""
    entries: int = 0
    """Entries that it appended."""
