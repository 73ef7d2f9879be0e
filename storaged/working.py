"""How a job on a volume is done: only where the volume is at rest, in a worker thread, and written into the audit.

    asked --at rest, and no other job--> doing --its thread returns--> done: seen by all before its user is told
      '--in use, busy--> refused            |--it can't be----------> refused with the reason
                                            '--its user cancels------> refused: cancelled, and all is as it was

What needs the bytes at rest is refused while the volume is attached or held, and nobody is given it until the job has
ended. A thread hears that it is cancelled where it tells how far it is, and nowhere else: never between steps that
belong together, so that whoever cancels too late has the whole change.
"""

from collections.abc import Callable

import trio

from matcher.net.audit import Audit, outcome_of, why_of
from matcher.net.caller import Caller
from matcher.wire.messages import Message, Reason, Refused
from matcher.wire.realm import Done
from matcher.wire.volumes import RollBack, TakeSnapshot, VolumeView
from specs.ids import UserId, Vid, dashed
from storaged.beneath import Unusable
from storaged.images.copying import Progress
from storaged.jobs import Job, Jobs, Order, how_to_cancel
from storaged.journal import JournalCorrupt, JournalError
from storaged.promises import Promised, Promises
from storaged.shelf import Shelf, VmLife, no
from storaged.volume import Volume

CANCEL_S = 20.0  # for a thread to hear of it: a piece from a slow server, a full disk

MAKING = ("made", "imported", "copied")  # what is done to a volume that was not there

Blocking = Callable[[Progress], object]


class Working:
    """One host's. `turn` is that of attaching: whoever has it knows that nothing is given away meanwhile."""

    def __init__(self, shelf: Shelf, jobs: Jobs, promises: Promises, turn: trio.Lock, audit: Audit) -> None:
        self.shelf, self.promises, self.turn = shelf, promises, turn
        self.same = jobs.same
        self._jobs, self._audit = jobs, audit

    def start(
        self,
        order: Order,
        caller: Caller,
        path: str,
        work: Blocking,
        *,
        promised: Promised | None = None,
        last: VolumeView | None = None,
        life: VmLife | None = None,
        ended: Callable[[], None] = lambda: None,
    ) -> Job | Refused:
        """In turn, and without an await since the first look at the volume. `path`: of its folder. `promised`: what it
        will take. `last`: what is told of one that is gone. `life`: of a VM that may have it, as it is over. `ended` is
        called when it ends or is cancelled, once or more."""

        async def run(job: Job) -> VolumeView | Refused:
            try:
                why = await _done(work, job)
                await self.shelf.look(path)
            finally:
                ended()
                self.promises.end(order.vid)
            result = self._result(order, job, why, last)
            self._note(order, caller, result)
            return result

        started = self._resting(order, life) or self._jobs.start(order, run, woken=ended)
        if isinstance(started, Refused):
            ended()
            self._note(order, caller, started)
        elif promised is not None:
            self.promises.keep(order.vid, promised)
        return started

    async def cancel(self, vid: Vid, caller: Caller) -> Done | Refused:
        """Ends what the caller has asked to be done to that volume; all is then as it was before, or as it should
        become, and the answer says which."""
        user_id = UserId(caller.id)
        job = self._jobs.of(vid, user_id) or self._jobs.ended(vid, user_id)
        if job is None:
            # Without its id: another's private volume is as little there as one that nobody has.
            has, hint = "nothing is being done to it here on your word", "electros volume inspect shows what it is now"
            return Refused("not-found", (Reason("volume", "end what is done", has, hint),))
        job.cancel()
        with trio.move_on_after(CANCEL_S):
            await job.ended.wait()
        match job.result:
            case None:
                return no("not-now", vid, "end what is done", "it ends as soon as it hears of it", "run it again")
            case Refused(code="cancelled"):
                return Done(f"it is not {job.order.doing}: all is as it was before")
            case Refused():
                return Done(f"it was not {job.order.doing} anyway: {why_of(job.result)}"[:240])
            case _:
                hint = f"electros volume rm {dashed(vid)} removes it" if job.order.doing in MAKING else ""
                return no("too-late", vid, "end what is done", f"it was {job.order.doing} meanwhile", hint)

    def making(self, vid: Vid, caller: Caller) -> Refused | None:
        """Why a volume of the caller's, which is not there yet, can't be had."""
        job = self._jobs.of(vid, UserId(caller.id))
        if job is None or self.shelf.knows(vid):
            return None
        return no("busy", vid, "change it", f"it is being {job.order.doing}", how_to_cancel(job.order))

    def is_leased(self, volume: Volume, order: Order) -> Refused | None:
        """Who works on the image here does not hold its lease: that is the exporter's, and may be lost meanwhile."""
        if not self.shelf.snapshot().is_leased(volume):
            return None
        has = "its pool is shared by several servers: its image is changed and copied by VMs alone"
        return no("shared-pool", volume.vid, order.doing, has, "its sysadmin can end that: storaged pool unshare")

    def _result(self, order: Order, job: Job, why: str | None, last: VolumeView | None) -> VolumeView | Refused:
        if why is not None and job.is_cancelled:
            return no("cancelled", order.vid, order.doing, "it was cancelled, and all is as it was before", "")
        if why is not None:
            return no("not-done", order.vid, order.doing, why, "")
        has = "it can't be read after that; its host's log has more"
        view = last or self.shelf.views.one(order.vid, order.user_id)
        return view or no("not-done", order.vid, order.doing, has, "")

    def _resting(self, order: Order, life: VmLife | None) -> Refused | None:
        """Whether somebody has what has to be at rest. A volume that nobody can write may be read by all. A life
        that is over does not come back: its VM's next one has to attach, and is told to wait while the job runs."""
        volumes, held = self.shelf.snapshot().volumes, self.promises.held()
        written = [vid for vid in order.reads if vid in volumes and not volumes[vid].readonly]
        for vid in (*order.changes, *written):
            if not self.shelf.in_use(vid, life) and vid not in held:
                continue
            has = "its VM was started again, or another has it"
            if life is None:
                has = self.shelf.who_has(vid, order.user_id)
            hint = "take it from the VM first: electros volume detach, or electros rm"
            if isinstance(order.asked, TakeSnapshot | RollBack):
                hint = "stop the VM first: electros stop; or take it from the VM: electros volume detach"
            return no("volume-in-use", vid, order.doing, has, hint)
        return None

    def _note(self, order: Order, caller: Caller, result: VolumeView | Refused) -> None:
        detail = f"{order.doing}{': ' if isinstance(result, Refused) else ''}{why_of(result)}"
        self._audit.note(caller, "volume.change", dashed(order.vid), outcome_of(result), detail)


def order(
    caller: Caller, vid: Vid, doing: str, asked: Message, *, changes: tuple[Vid, ...] = (), reads: tuple[Vid, ...] = ()
) -> Order:
    """What the caller has asked to be done."""
    return Order(UserId(caller.id), vid, doing, asked, changes, reads, caller.request)


async def _done(work: Blocking, job: Job) -> str | None:
    """Why not, in a sentence."""

    def progress(step: str, done_bytes: int, total_bytes: int) -> None:
        trio.from_thread.check_cancelled()  # storaged ends
        if job.is_cancelled:
            raise Unusable("it was cancelled")
        job.tell(step, done_bytes, total_bytes)

    try:
        await trio.to_thread.run_sync(work, progress)
    except (Unusable, JournalError) as problem:
        if isinstance(problem, JournalCorrupt):
            raise
        return str(problem)
    return None
