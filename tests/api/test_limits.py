from fiscus.api.limits import BUCKETS_MAX, Buckets


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_bucket_gives_what_fits_and_then_says_how_long_to_wait():
    clock = Clock()
    buckets = Buckets(clock)
    assert [buckets.take("key", 6) for _ in range(7)] == [0, 0, 0, 0, 0, 0, 10]
    clock.now_s += 9.0
    assert buckets.take("key", 6) == 1
    clock.now_s += 1.0
    assert buckets.is_empty("key", 6) is False
    assert buckets.take("key", 6) == 0
    assert buckets.is_empty("key", 6) is True


def test_a_bucket_never_holds_more_than_a_minute():
    clock = Clock()
    buckets = Buckets(clock)
    buckets.take("key", 2)
    clock.now_s += 3_600.0
    assert [buckets.take("key", 2) > 0 for _ in range(3)] == [False, False, True]


def test_one_name_does_not_use_up_the_bucket_of_another():
    buckets = Buckets(Clock())
    assert buckets.take("a", 1) == 0
    assert buckets.take("b", 1) == 0
    assert buckets.take("a", 1) > 0


def test_there_are_never_more_buckets_than_the_bound():
    buckets = Buckets(Clock())
    for name in range(BUCKETS_MAX + 10):
        buckets.take(str(name), 1)
    assert len(buckets._levels) == BUCKETS_MAX
    assert buckets.take(str(BUCKETS_MAX + 9), 1) > 0
