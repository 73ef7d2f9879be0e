"""Why a pledge could not be served, host by host, and the smallest edits that would help. Pure.

Hosts tell their own reasons; what no host can know alone is added here: that a volume is on another host, and why that
one did not offer.
"""

from collections.abc import Collection, Iterable, Sequence

from matcher.scheduler.choosing import Volumes
from matcher.scheduler.heard import Answers, door, host_names
from matcher.scheduler.outcomes import HostReasons, Nearest, NoHostFits, NoHostInReach, VolumeMissing
from matcher.wire.messages import REASONS_MAX, Clock, Reach, Reason, Role
from specs.ids import HostId, PledgeId, Vid

PRETENDS = Reason(
    "hardware",
    "a machine that runs VMs",
    "a recording: this host shows another machine's hardware",
    "it answers `electros pledge` alone",
)


def reason(resource: str, asked: str, has: str, hint: str) -> Reason:
    """Cut to what a `Reason` may hold."""
    return Reason(_cut(resource, 80), _cut(asked, 120), _cut(has, 120), _cut(hint, 160))


def explain(
    answers: Answers, *, wall_ms: int, now_s: float, refused: Sequence[HostReasons] = ()
) -> NoHostFits | NoHostInReach | VolumeMissing:
    """What to tell a person when the answers to a dry pledge hold no complete choice. `refused`: hosts that offered
    before and then refused."""
    if not len(answers) and not refused:
        return NoHostInReach()
    unfits = host_reasons(answers, wall_ms=wall_ms, now_s=now_s)
    missing = missing_volumes(answers)
    if missing and (answers.vms or answers.volumes or answers.unfits):
        return VolumeMissing(missing, unfits)
    return NoHostFits(unfits, nearest(unfits), tuple(refused))


def host_reasons(
    answers: Answers, *, wall_ms: int, now_s: float, served: Collection[HostId] = ()
) -> tuple[HostReasons, ...]:
    """Every reason of every host that answered, but for those in `served`, by the hosts' names."""
    explainer = _Explainer(answers, wall_ms, now_s)
    named = sorted(explainer.names.items(), key=lambda item: (item[1], item[0]))
    unfits = (HostReasons(host, name, explainer.reasons(host)) for host, name in named if host not in served)
    return tuple(unfit for unfit in unfits if unfit.reasons)


def missing_volumes(answers: Answers) -> tuple[Vid, ...]:
    """The asked volumes that nobody has, as far as was heard, in the order asked."""
    offered = {volume.vid for heard in answers.volumes.values() for volume in heard.offer.volumes}
    told = [reason.resource for unfit in answers.unfits.values() for reason in unfit.reasons]
    return tuple(
        Vid(vid) for vid in answers.pledge.volumes if vid not in offered and not any(_is_about(r, vid) for r in told)
    )


def nearest(unfits: Iterable[HostReasons]) -> tuple[Nearest, ...]:
    """The hosts that would fit once every reason's edit is applied, those with the fewest edits first.

    A host with a reason that no edit removes is none of them, nor is one whose edits contradict each other.
    """
    near = [
        Nearest(unfit.host_id, unfit.host, edits) for unfit in unfits if (edits := _edits(unfit.reasons)) is not None
    ]
    return tuple(sorted(near, key=lambda near: (len(near.edits), near.host, near.host_id)))


class _Explainer:
    """What was heard, seen from each host in turn."""

    def __init__(self, answers: Answers, wall_ms: int, now_s: float) -> None:
        self.names = host_names(answers)
        self._answers, self._wall_ms, self._now_s = answers, wall_ms, now_s
        asked = tuple(Vid(vid) for vid in answers.pledge.volumes)
        self._volumes = Volumes(PledgeId(answers.pledge.pledge_id), asked, answers.volumes.values())
        self._offers_vm = {heard.host_id for heard in answers.vms.values()}
        self._pretend = {heard.host_id for heard in answers.vms.values() if heard.offer.pretended}
        self._has: dict[Vid, list[HostId]] = {vid: [] for vid in asked}
        self._withheld = {vid: self._withholds(vid) for vid in asked}
        self._told_of = dict[Vid, Reason]()
        self._unaskable: dict[Vid, HostId] = {}  # exported, by a server that no other host could ask
        for heard in answers.volumes.values():
            for volume in heard.offer.volumes:
                self._has.setdefault(Vid(volume.vid), []).append(heard.host_id)
                if volume.reach is Reach.NETWORK and door(heard) is None:
                    self._unaskable[Vid(volume.vid)] = heard.host_id

    def reasons(self, host_id: HostId) -> tuple[Reason, ...]:
        own = self._own(host_id, Role.COMPUTE)
        stored = self._own(host_id, Role.STORAGE)
        late = self._late(host_id)
        if host_id in self._pretend:
            own = (PRETENDS, *own)
        if late or host_id in self._offers_vm or own:
            apart = self._apart(host_id, stored) if host_id in self._offers_vm or own else ()
        else:
            apart = self._no_compute(host_id)
        return (*own, *stored, *apart, *late)[:REASONS_MAX]

    def _own(self, host_id: HostId, role: Role) -> tuple[Reason, ...]:
        unfit = self._answers.unfits.get((host_id, role))
        if unfit is None:
            return ()
        return (*unfit.reasons, _left_off(unfit.left_off)) if unfit.left_off else unfit.reasons

    def _apart(self, host_id: HostId, stored: Sequence[Reason]) -> tuple[Reason, ...]:
        """One for each volume that a VM here could not reach, unless the host itself says why."""
        return tuple(
            self._elsewhere(vid)
            for vid in self._has
            if self._volumes.claim(vid, host_id) is None and not any(_is_about(r.resource, vid) for r in stored)
        )

    def _elsewhere(self, vid: Vid) -> Reason:
        """The same for all hosts that can't reach it, of which there may be thousands."""
        if vid not in self._told_of:
            told = reason(f"volume {vid}", "on the VM's own host", self._whereabouts(vid), self._hint(vid))
            self._told_of[vid] = told
        return self._told_of[vid]

    def _no_compute(self, host_id: HostId) -> tuple[Reason, ...]:
        """Storage answered and compute did not: only then is silence itself the reason."""
        if self._answers.pledge.vm is None:
            return ()
        has = "it stores volumes, and no atomd answers there"
        hint = f"if {self.names[host_id]} should run VMs, start atomd on it"
        return (reason("vm", "a host that runs VMs", has, hint),)

    def _whereabouts(self, vid: Vid) -> str:
        """Where the volume is, and why not there."""
        places = [f"{self.names[host]} ({self._why_not(host)})" for host in self._has[vid]]
        places += [f"{self.names[host]} (which can't give it now)" for host in self._withheld.get(vid, ())]
        return f"on {', '.join(places)}" if places else "on no host in reach"

    def _why_not(self, host_id: HostId) -> str:
        if host_id in self._offers_vm:
            return "which fits"
        lacks = [reason.resource for reason in self._own(host_id, Role.COMPUTE)]
        if not lacks:
            return "which runs no VMs"
        return f"which does not fit: {', '.join(lacks[:2])}{', …' if len(lacks) > 2 else ''}"

    def _withholds(self, vid: Vid) -> list[HostId]:
        """The hosts that have the volume, and say why they can't give it."""
        unfits = self._answers.unfits.items()
        return [host for (host, _), unfit in unfits if any(_is_about(r.resource, vid) for r in unfit.reasons)]

    def _hint(self, vid: Vid) -> str:
        if withholding := self._withheld.get(vid):
            return f"see what {self.names[withholding[0]]} says of it"
        if not self._has[vid]:
            return "check the id; its host may be down"
        if vid in self._unaskable:
            there = self.names[self._unaskable[vid]]
            return f"{there} exports it, but was heard at a link-local address, which means nothing to others: use IPv4"
        return f"{self.names[self._has[vid][0]]} does not export it: make room there, or move the volume"

    def _late(self, host_id: HostId) -> tuple[Reason, ...]:
        clock, heard_s = self._answers.clocks.get(host_id, (None, 0.0))
        if clock is None:
            return ()
        here_ms = self._wall_ms - round((self._now_s - heard_s) * 1000)
        return (_clock_reason(clock, here_ms),)


def _left_off(count: int) -> Reason:
    """With no edit: what is not known can't be mended."""
    return reason("more", f"{count} more", "its answer had no room for what is wrong with them", "mend these first")


def _clock_reason(clock: Clock, here_ms: int) -> Reason:
    off_s = round((clock.now_ms - here_ms) / 1000)
    side = "ahead of" if off_s > 0 else "behind"
    hint = f"set the clock of {clock.host} or of this machine (timedatectl)"
    return reason("clock", "at most 30 s apart", f"{abs(off_s)} s {side} this machine", hint)


def _edits(reasons: Sequence[Reason]) -> tuple[str, ...] | None:
    edits = {reason.edit for reason in reasons}
    paths = {edit.partition("=")[0] for edit in edits}
    return tuple(sorted(edits)) if edits and "" not in edits and len(paths) == len(edits) else None


def _is_about(resource: str, vid: str) -> bool:
    """Whether a reason's `resource` names the volume, in full or cut short ("volume 4f…")."""
    word, _, name = resource.partition(" ")
    beginning = name.rstrip("….").replace("-", "")
    return word == "volume" and bool(beginning) and vid.startswith(beginning)


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[: characters - 1]}…"
