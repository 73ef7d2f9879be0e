"""The host's side of joining, over a TLS connection of its own ALPN: see `matcher.trust.joining` for what is said.

Strangers talk here, so there is one question and one answer, each of a length that is looked at before anything is
read, and a time for all of it.
"""

from collections import Counter

import trio

from matcher.net.door.admission import Limits, source_of
from matcher.net.door.behind import Desk
from matcher.net.door.secured import Secured
from matcher.net.token_bucket import TokenBuckets
from matcher.wire.codec import BadBytes, decode, encode
from matcher.wire.framing import frame
from matcher.wire.messages import Message
from matcher.wire.realm import Admitted, Join

JOIN_MAX_BYTES = 8 * 1024  # a request of 4 KiB at most, and its proof
_LENGTH_BYTES = 4


class Joins:
    """All who come to join. `serve` is one of them, from the end of the handshake on."""

    def __init__(self, desk: Desk, limits: Limits, counters: Counter[str]) -> None:
        self._desk, self._limits, self._counters = desk, limits, counters
        self._rates = TokenBuckets(limits.joins_rate, keys_max=limits.rates_max)

    async def serve(self, secured: Secured, server_leaf: bytes, address: str) -> None:
        """`server_leaf` (DER) is what this host has shown on this connection."""
        if not self._rates.take(source_of(address), trio.current_time()):
            self._counters["joins too often"] += 1
            return
        with trio.move_on_after(self._limits.join_s) as deadline:
            try:
                await self._say(secured, self._desk.welcome())
                join = decode(Join, await _one_frame(secured), max_bytes=JOIN_MAX_BYTES)
                answer = await self._desk.join(join, server_leaf, address)
                self._counters["joined" if isinstance(answer, Admitted) else "join refused"] += 1
                await self._say(secured, answer)
                await secured.close(is_heard=True)
            except BadBytes:
                self._counters["join unreadable"] += 1
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                self._counters["join broken off"] += 1
        self._counters["join too slow"] += deadline.cancelled_caught

    async def _say(self, secured: Secured, message: Message) -> None:
        await secured.send(frame([encode(message)]), self._limits.join_s)


async def _one_frame(secured: Secured) -> bytes:
    """What stands behind its length. Raises `BadBytes`, for what is too long before any of it is read."""
    data = bytearray()
    length = JOIN_MAX_BYTES
    while len(data) < _LENGTH_BYTES + length:
        chunk = await secured.receive()
        if not chunk:
            raise BadBytes("truncated")
        data += chunk
        if len(data) >= _LENGTH_BYTES:
            length = int.from_bytes(data[:_LENGTH_BYTES], "big")
            if length > JOIN_MAX_BYTES:
                raise BadBytes("length")
    return bytes(data[_LENGTH_BYTES:])  # a tail is no message either
