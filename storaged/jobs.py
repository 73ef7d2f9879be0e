"""What is being done to volumes at this moment: one change at a time for each, and nobody is given it meanwhile.

    asked --start--> doing --done, or refused--> told to whoever asked, and again where that very request is repeated

A job goes on when its client is gone: the same request again, by the name that the client gave it, hears of the same
job. Equal words under another name, or none, are another request: what they ask for may have been undone meanwhile.
Jobs end with the daemon; what they were making is swept up then.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field

import trio

from matcher.wire.messages import Message, Reason, Refused
from matcher.wire.volumes import VolumeProgress, VolumeView
from specs.ids import UserId, Vid

JOBS_MAX = 16  # at one time
JOBS_OF_USER_MAX = 4
TELL_S = 0.5
LINGER_S = 240.0  # for a client that lost its connection, and asks again: longer than it goes on asking
ENDED_OF_USER_MAX = 64  # that are remembered so long

MIB = 2**20

log = logging.getLogger("storaged")

Tell = Callable[[str, int, int], None]  # step, bytes done, bytes in all; from any thread
Work = Callable[[Tell], Awaitable[VolumeView | Refused]]


@dataclass(frozen=True, slots=True)
class Order:
    """`vid` is the volume meant, and `doing` completes "it is being …". `changes` is what nobody else may have
    meanwhile; `reads` may be read by others. `asked` is what a client repeats if it has heard nothing, and `request`
    its own name for it, empty where it can't be repeated."""

    user_id: UserId
    vid: Vid
    doing: str
    asked: Message
    changes: tuple[Vid, ...] = ()
    reads: tuple[Vid, ...] = ()
    request: str = ""


@dataclass(eq=False, slots=True)
class Job:
    order: Order
    step: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    result: VolumeView | Refused | None = None
    ended: trio.Event = field(default_factory=trio.Event)

    async def lines(self) -> AsyncGenerator[VolumeProgress, None]:
        """How it goes, until its end."""
        while True:
            with trio.move_on_after(TELL_S):
                await self.ended.wait()
            match self.result:
                case VolumeView() as volume:
                    yield VolumeProgress("done", volume=volume)
                    return
                case Refused() as refused:
                    yield VolumeProgress("refused", refused=refused)
                    return
            yield VolumeProgress("doing", self.step[:64], self.done_bytes // MIB, self.total_bytes // MIB)


class Jobs:
    """One host's. Jobs run in `nursery`."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._jobs: list[Job] = []

    def doing(self, vid: Vid, *, to_read: bool = False) -> str | None:
        """What is being done to the volume, so that it can't be had now; `to_read`: to read it only."""
        for job in self._running():
            order = job.order
            if vid in order.changes or (vid in order.reads and not to_read):
                return order.doing
        return None

    def same(self, order: Order) -> Job | None:
        """The job of this very request: one that runs, or has ended lately."""
        return next((job for job in self._jobs if order.request and job.order == order), None)

    def start(self, order: Order, work: Work) -> Job | Refused:
        """Nothing is awaited between the look at what is being done and the start."""
        for vid, to_read in (*((v, False) for v in order.changes), *((v, True) for v in order.reads)):
            doing = self.doing(vid, to_read=to_read)
            if doing is not None:
                return _no("busy", f"volume {vid}", f"it is being {doing}", "try again when that is done")
        running = self._running()
        if len(running) >= JOBS_MAX or sum(j.order.user_id == order.user_id for j in running) >= JOBS_OF_USER_MAX:
            return _no("too-many", "jobs", f"{len(running)} are under way here", "wait until one is done")
        self._forget_some(order.user_id)
        job = Job(order)
        self._jobs.append(job)
        self._nursery.start_soon(self._run, job, work)
        return job

    async def _run(self, job: Job, work: Work) -> None:
        def tell(step: str, done_bytes: int, total_bytes: int) -> None:
            job.step, job.done_bytes, job.total_bytes = step, done_bytes, total_bytes

        try:
            job.result = await work(tell)
        except Exception:
            log.exception("a fault of ours, while volume %s was %s", job.order.vid, job.order.doing)
            job.result = _no("fault", "volume", "this host has made a mistake", "its log has more")
        job.ended.set()
        await trio.sleep(LINGER_S)
        self._jobs = [other for other in self._jobs if other is not job]

    def _forget_some(self, user_id: UserId) -> None:
        """Whoever asks for much pushes out the oldest of their own."""
        ended = [job for job in self._jobs if job.result is not None and job.order.user_id == user_id]
        for job in ended[: max(0, len(ended) + 1 - ENDED_OF_USER_MAX)]:
            self._jobs.remove(job)

    def _running(self) -> list[Job]:
        return [job for job in self._jobs if job.result is None]


def _no(code: str, resource: str, has: str, hint: str) -> Refused:
    return Refused(code, (Reason(resource[:80], "to change it", has[:120], hint[:160]),))
