"""How much of a daemon's time and memory each may use up with datagrams: token buckets, by whoever can be told apart.

    source address → leaf claimed → all together → (certificate, signature, decode) → the user or host who signed

Before the signature is checked nobody is known, and anyone may write another's address or leaf: these buckets share out
what checking costs, the total one last, so that it is kept for what the others have let through. Behind the signature a
member uses up their own share alone.

Every map has its limit (`matcher.net.token_bucket`). Pure: callers pass `now_s`, one monotonic clock.
"""

from functools import lru_cache
from ipaddress import IPv6Address

from matcher.net.token_bucket import Rate, TokenBucket, TokenBuckets

# 20 hosts and 50 clients on one link, some of these in scripts that loop: an `electros run` is some six datagrams to
# each host in half a second or more. A host offers one user three holds of some seconds: pledging faster is in vain.
SOURCE = Rate(per_s=100, burst=500)  # one machine, with all its users
LEAF = Rate(per_s=200, burst=700)  # under one leaf, whoever shows it: more than one machine alone can use up
STRANGERS = Rate(per_s=50, burst=100)  # for all leaves together that were not seen before
TOTAL = Rate(per_s=2000, burst=1000)  # checks of a signature; a third of a core
STRANGER_WEIGHT = 4.0  # of such checks: a new leaf has two signatures of its own to be checked, and has to be parsed
PLEDGES = Rate(per_s=10, burst=256)  # of one user; see PLEDGES_MAX of `matcher.offers.offering`
QUERIES = Rate(per_s=50, burst=256)  # of one user
NEWS = Rate(per_s=10, burst=100)  # of one host; a script that revokes many is told of each, some times over
CLOCKS = Rate(per_s=1, burst=1)  # answers to stale questions of one user
REVEALS = Rate(per_s=1000, burst=1000)  # all together: they go unsigned, and cost a hash

SOURCES_MAX = 4096
LEAVES_MAX = 4096
MEMBERS_MAX = 4096


class Budget:
    """One daemon's."""

    def __init__(self) -> None:
        self._sources = TokenBuckets(SOURCE, keys_max=SOURCES_MAX)
        self._leaves = TokenBuckets(LEAF, keys_max=LEAVES_MAX)
        self._strangers, self._total, self._reveals = TokenBucket(STRANGERS), TokenBucket(TOTAL), TokenBucket(REVEALS)
        self.relayed_reveals = TokenBucket(REVEALS)
        self.pledges = TokenBuckets(PLEDGES, keys_max=MEMBERS_MAX)
        self.queries = TokenBuckets(QUERIES, keys_max=MEMBERS_MAX)
        self.news = TokenBuckets(NEWS, keys_max=MEMBERS_MAX)
        self.clocks = TokenBuckets(CLOCKS, keys_max=MEMBERS_MAX)

    def __len__(self) -> int:
        """How much is remembered, in entries."""
        members = (self.pledges, self.queries, self.news, self.clocks)
        return len(self._sources) + len(self._leaves) + sum(map(len, members))

    def refuses(self, source: str | None, leaf: bytes | None, now_s: float) -> str | None:
        """Why a signature is not worth checking now, in a word or two for a counter; `None`: it is.

        `source` is a numeric address, `None` for what came by a connection; `leaf` is `None` where it was not seen
        before.
        """
        if source is not None and not self._sources.take(source_key(source), now_s):
            return "source rate"
        if leaf is not None:
            if not self._leaves.take(leaf, now_s):
                return "leaf rate"
        elif not self._strangers.take(now_s):
            return "stranger rate"
        return None if self._total.take(now_s, 1.0 if leaf is not None else STRANGER_WEIGHT) else "total rate"

    def refuses_reveal(self, source: str, now_s: float) -> str | None:
        if not self._sources.take(source_key(source), now_s):
            return "source rate"
        return None if self._reveals.take(now_s) else "reveal rate"


@lru_cache(maxsize=SOURCES_MAX)
def source_key(address: str) -> str | bytes:
    """Who shares a bucket: an IPv4 address, an IPv6 network of 64 bits (one machine has all of its addresses), a
    link-local address."""
    if ":" not in address:
        return address
    ip = IPv6Address(address.partition("%")[0])
    return ip.packed if ip.is_link_local else ip.packed[:8]
