"""Images on their way in: what a request brings, piece by piece, to the job that makes a volume of it.

    opened by a job --first piece in time--> flowing --last piece--> whole
        '--nobody comes--> over                '--it breaks off--> over: the job hears of it, and makes nothing

No more than a few pieces are in memory: whoever sends waits for the disk.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import trio

from specs.ids import UserId, Vid
from storaged.beneath import Unusable

COME_S = 30.0  # for the sender to come, and for each piece
PIECES_MAX = 4


@dataclass(eq=False, slots=True)
class Upload:
    """One image. `read` blocks, and is for the job's thread."""

    user_id: UserId
    send: trio.MemorySendChannel[bytes | None]
    receive: trio.MemoryReceiveChannel[bytes | None]
    taken: bool = False
    ended: bool = False
    rest: bytes = field(default=b"", repr=False)

    def read(self, size: int) -> bytes:
        """Some bytes, none at the end. Raises `Unusable` where it breaks off."""
        if not self.rest and not self.ended:
            piece = trio.from_thread.run(self._next)
            self.ended, self.rest = piece is None, piece or b""
        data, self.rest = self.rest[:size], self.rest[size:]
        return data

    async def _next(self) -> bytes | None:
        try:
            with trio.fail_after(COME_S):
                return await self.receive.receive()
        except trio.TooSlowError:
            raise Unusable(f"no image came for {COME_S:g} s") from None
        except trio.EndOfChannel:
            raise Unusable("the image broke off while it was sent") from None
        except trio.ClosedResourceError:
            raise Unusable("nobody wants the image any more") from None


class Uploads:
    """Those that are waited for, by the volume that is made of them."""

    def __init__(self) -> None:
        self._open: dict[Vid, Upload] = {}

    def open(self, vid: Vid, user_id: UserId) -> Upload:
        assert vid not in self._open, "a volume has one job"
        send, receive = trio.open_memory_channel[bytes | None](PIECES_MAX)
        self._open[vid] = upload = Upload(user_id, send, receive)
        return upload

    def close(self, vid: Vid) -> None:
        """The job has ended, or is to end: who still sends has to stop."""
        upload = self._open.pop(vid, None)
        if upload is not None:
            upload.receive.close()

    def waiting(self, vid: Vid, user_id: UserId) -> Upload | None:
        """Where this user may send the image, which is to be done once."""
        upload = self._open.get(vid)
        if upload is None or upload.user_id != user_id or upload.taken:
            return None
        upload.taken = True
        return upload

    async def feed(self, upload: Upload, pieces: AsyncIterator[bytes]) -> bool:
        """`False`: the job has no use for more of it. Where `pieces` raises, the job hears that it broke off."""
        with upload.send as send:
            try:
                async for piece in pieces:
                    await send.send(piece)
                await send.send(None)
            except trio.BrokenResourceError:
                return False
            return True
