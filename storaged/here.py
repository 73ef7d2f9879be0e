"""What atomd of this host is told of the volumes here: enough to know which pledges mean it (see `atomd.volumes`).

An id's first bytes do: who takes another host's volume for its own answers a little early, and that is all.
"""

from collections.abc import Collection
from hashlib import blake2s
from typing import Protocol

import trio

from matcher.wire.volumes import VID_PREFIX_BYTES, VIDS_TOLD_MAX, VolumesHere
from specs.ids import Vid
from storaged.volume import Snapshot

WAITS_S = 20.0  # for something new


class Seen(Protocol):
    """The part of `Catalogue` that matters here."""

    def snapshot(self) -> Snapshot: ...

    async def renewed(self) -> None:
        """Until there is another snapshot."""
        ...


async def tell_volumes(seen: Seen, known: bytes) -> VolumesHere:
    """Once they are others than those of digest `known`; the same again after `WAITS_S`."""
    here = volumes_here(seen.snapshot().volumes)
    with trio.move_on_after(WAITS_S):
        while here.digest == known:
            await seen.renewed()
            here = volumes_here(seen.snapshot().volumes)
    return here


def volumes_here(vids: Collection[Vid]) -> VolumesHere:
    prefixes = sorted({bytes.fromhex(vid)[:VID_PREFIX_BYTES] for vid in vids})
    told = b"".join(prefixes[:VIDS_TOLD_MAX])
    return VolumesHere(told, blake2s(told, digest_size=16).digest(), len(prefixes) > VIDS_TOLD_MAX)
