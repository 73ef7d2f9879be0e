"""Which volumes are on this host, as its storaged says, so that a pledge for one of them is answered at once.

A host that is wrong for a moment, since a volume has just come or storaged is starting, waits for its turn as all do.
"""

from pathlib import Path

import trio

from matcher.net import local
from matcher.wire.messages import Refused
from matcher.wire.volumes import VID_PREFIX_BYTES, AskVolumesHere, VolumesHere

ANSWER_S = 30.0  # storaged waits for something new before it answers
AGAIN_S = 5.0  # after no answer: hosts without storage never get one


class Stored:
    """A container of volume ids."""

    def __init__(self, storaged: Path) -> None:
        self._storaged = storaged
        self._prefixes: frozenset[bytes] = frozenset()
        self._digest, self._more = b"", False

    def __contains__(self, vid: object) -> bool:
        """Where there are more than can be told, any volume may be one of them."""
        return self._more or (isinstance(vid, str) and bytes.fromhex(vid)[:VID_PREFIX_BYTES] in self._prefixes)

    async def follow(self) -> None:
        """For ever."""
        while True:
            try:
                question = AskVolumesHere(self._digest)
                said = await local.ask(self._storaged, question, VolumesHere, timeout_s=ANSWER_S)
            except local.LocalError:
                said = VolumesHere(b"", b"", False)
            if isinstance(said, Refused) or not said.digest:  # storaged is away, or older than this question
                said = VolumesHere(b"", b"", False)
                await trio.sleep(AGAIN_S)
            self._take(said)

    def _take(self, said: VolumesHere) -> None:
        size, told = VID_PREFIX_BYTES, said.prefixes
        self._prefixes = frozenset(told[start : start + size] for start in range(0, len(told), size))
        self._digest, self._more = said.digest, said.more
