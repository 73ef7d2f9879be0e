"""What may come at once, and then in each second; of how many that is remembered."""

from matcher.net.token_bucket import Rate, TokenBucket, TokenBuckets

RATE = Rate(per_s=2, burst=3)


def test_a_burst_passes_at_once_and_then_the_rate() -> None:
    bucket = TokenBucket(RATE)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(100.5) for _ in range(2)] == [True, False]
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False], "never more than a burst"


def test_what_weighs_more_takes_more_and_a_refusal_takes_nothing() -> None:
    bucket = TokenBucket(RATE)
    assert [bucket.take(0.0, 2.0), bucket.take(0.0, 2.0), bucket.take(0.0, 1.0)] == [True, False, True]


def test_who_only_looks_takes_nothing() -> None:
    bucket = TokenBucket(RATE)
    assert [bucket.has(0.0, weight) for weight in (3.0, 3.0, 3.1)] == [True, True, False]
    assert bucket.take(0.0, 3.0)
    assert not bucket.has(0.0)


def test_a_clock_that_stands_or_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(RATE, 10.0)
    assert [bucket.take(now_s) for now_s in (10.0, 10.0, 5.0)] == [True, True, True], "nor does it take anything"
    assert [bucket.take(now_s) for now_s in (9.0, 10.0, 10.4, 10.5)] == [False, False, False, True]


def test_each_key_has_its_own_and_who_was_silent_longest_is_forgotten() -> None:
    buckets = TokenBuckets(Rate(per_s=0, burst=1), keys_max=2)
    assert [buckets.take(key, 0.0) for key in "abab"] == [True, True, False, False]
    assert buckets.take("a", 1.0) is False
    assert buckets.take("c", 2.0) is True
    assert len(buckets) == 2
    assert buckets.take("a", 3.0) is False, "it spoke later than b"
    assert buckets.take("b", 3.0) is True, "b was forgotten"
