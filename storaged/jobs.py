"""What is being done to volumes at this moment: one change at a time for each, and nobody is given it meanwhile.

    asked --start--> doing --done, refused or cancelled--> told to whoever asked, and again where that is repeated

A job goes on when its client is gone: the same request again, by the name that the client gave it, hears of the same
job. Equal words under another name, or none, are another request: what they ask for may have been undone meanwhile.
Jobs end with the daemon; what they were making is swept up then.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field, replace

import trio

from matcher.wire.messages import Message, Reason, Refused
from matcher.wire.volumes import VolumeProgress, VolumeView
from specs.ids import UserId, Vid, dashed

JOBS_MAX = 16  # at one time
JOBS_OF_USER_MAX = 4
TELL_S = 0.5
LINGER_S = 240.0  # for a client that lost its connection, and asks again: longer than it goes on asking
ENDED_OF_USER_MAX = 64  # that are remembered so long

MIB = 2**20

log = logging.getLogger("storaged")


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
    is_cancelled: bool = False
    woken: Callable[[], None] = lambda: None  # what it may be waiting for is over

    def tell(self, step: str, done_bytes: int, total_bytes: int) -> None:
        """How far it is; from any thread."""
        self.step, self.done_bytes, self.total_bytes = step, done_bytes, total_bytes

    def now(self, event: str) -> VolumeProgress:
        return VolumeProgress(event, self.step[:64], self.done_bytes // MIB, self.total_bytes // MIB)

    def cancel(self) -> None:
        """Who does it looks at `is_cancelled` where it can be left off, and nowhere else."""
        self.is_cancelled = True
        self.woken()

    async def lines(self) -> AsyncGenerator[VolumeProgress, None]:
        """How it goes, until its end."""
        while True:
            with trio.move_on_after(TELL_S):
                await self.ended.wait()
            match self.result:
                case VolumeView() as volume:
                    yield replace(self.now("done"), volume=volume)
                    return
                case Refused() as refused:
                    yield VolumeProgress("refused", refused=refused)
                    return
            yield self.now("doing")


Work = Callable[[Job], Awaitable[VolumeView | Refused]]


def how_to_cancel(order: Order) -> str:
    """For the person who has asked for it."""
    return f"electros volume cancel {dashed(order.vid)} ends that; or wait until it is done"


class Jobs:
    """One host's. Jobs run in `nursery`."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._jobs: list[Job] = []

    def doing(self, vid: Vid, *, to_read: bool = False) -> str | None:
        """What is being done to the volume, so that it can't be had now; `to_read`: to read it only."""
        job = self._in_the_way(vid, to_read=to_read)
        return None if job is None else job.order.doing

    def of(self, vid: Vid, user_id: UserId) -> Job | None:
        """What this user has asked to be done to the volume, and is not done yet; the last of it."""
        mine = (job for job in reversed(self._running()) if job.order.user_id == user_id)
        return next((job for job in mine if job.order.vid == vid), None)

    def ended(self, vid: Vid, user_id: UserId) -> Job | None:
        """What was done to the volume on this user's word, a while ago at the most; the last of it."""
        done = (job for job in reversed(self._jobs) if isinstance(job.result, VolumeView))
        return next((job for job in done if job.order.vid == vid and job.order.user_id == user_id), None)

    def changing(self, vid: Vid) -> Job | None:
        """What changes the volume, or makes it."""
        return next((job for job in self._running() if vid in job.order.changes), None)

    def made_for(self, user_id: UserId) -> list[Job]:
        """What changes volumes for this user, or makes some."""
        return [job for job in self._running() if job.order.user_id == user_id and job.order.changes]

    def same(self, order: Order) -> Job | None:
        """The job of this very request: one that runs, or has ended lately."""
        return next((job for job in self._jobs if order.request and job.order == order), None)

    def start(self, order: Order, work: Work, *, woken: Callable[[], None] = lambda: None) -> Job | Refused:
        """Nothing is awaited between the look at what is being done and the start. `woken` is called where it is
        cancelled, perhaps more than once."""
        for vid, to_read in (*((v, False) for v in order.changes), *((v, True) for v in order.reads)):
            other = self._in_the_way(vid, to_read=to_read)
            if other is not None:
                is_mine = other.order.user_id == order.user_id
                hint = how_to_cancel(other.order) if is_mine else "try again when that is done"
                return _no("busy", f"volume {vid}", f"it is being {other.order.doing}", hint)
        running = self._running()
        if len(running) >= JOBS_MAX or sum(j.order.user_id == order.user_id for j in running) >= JOBS_OF_USER_MAX:
            return _no("too-many", "jobs", f"{len(running)} are under way here", "wait until one is done")
        self._forget_some(order.user_id)
        job = Job(order, woken=woken)
        self._jobs.append(job)
        self._nursery.start_soon(self._run, job, work)
        return job

    async def _run(self, job: Job, work: Work) -> None:
        try:
            job.result = await work(job)
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

    def _in_the_way(self, vid: Vid, *, to_read: bool) -> Job | None:
        """The job because of which the volume can't be had now, or read."""
        orders = ((job, job.order) for job in self._running())
        return next((job for job, it in orders if vid in it.changes or (vid in it.reads and not to_read)), None)

    def _running(self) -> list[Job]:
        return [job for job in self._jobs if job.result is None]


def _no(code: str, resource: str, has: str, hint: str) -> Refused:
    return Refused(code, (Reason(resource[:80], "to change it", has[:120], hint[:160]),))
