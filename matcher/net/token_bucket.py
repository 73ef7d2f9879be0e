"""Token buckets: so much at once, and then so much a second; for one, or for each of many.

Where there are too many keys, who was silent longest is forgotten, and would start with a full bucket: nobody is shut
out because others are many. Pure: callers pass `now_s`, one monotonic clock.
"""

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` at once, then `per_s`."""

    per_s: float
    burst: float

    def most_in(self, seconds: float) -> float:
        """No more than this passes in any span of this length."""
        return self.burst + self.per_s * seconds


class TokenBucket:
    """Full at first."""

    __slots__ = ("_at_s", "_rate", "_tokens")

    def __init__(self, rate: Rate, now_s: float = float("-inf")) -> None:
        self._rate, self._at_s, self._tokens = rate, now_s, rate.burst

    def has(self, now_s: float, weight: float = 1.0) -> bool:
        rate = self._rate
        if now_s > self._at_s:
            self._tokens = min(rate.burst, self._tokens + (now_s - self._at_s) * rate.per_s)
            self._at_s = now_s
        return self._tokens >= weight

    def take(self, now_s: float, weight: float = 1.0) -> bool:
        """Whether there was as much left; if not, nothing is taken."""
        rate, tokens = self._rate, self._tokens
        if now_s > self._at_s:
            tokens = min(rate.burst, tokens + (now_s - self._at_s) * rate.per_s)
            self._at_s = now_s
        is_there = tokens >= weight
        self._tokens = tokens - weight if is_there else tokens
        return is_there


class TokenBuckets:
    """One bucket for each key, `keys_max` at most."""

    def __init__(self, rate: Rate, *, keys_max: int) -> None:
        self._rate, self._keys_max = rate, keys_max
        self._buckets: OrderedDict[str | bytes, TokenBucket] = OrderedDict()  # silent longest first

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str | bytes, now_s: float, weight: float = 1.0) -> bool:
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._keys_max:
                self._buckets.popitem(last=False)
            bucket = self._buckets[key] = TokenBucket(self._rate, now_s)
        else:
            self._buckets.move_to_end(key)
        return bucket.take(now_s, weight)
