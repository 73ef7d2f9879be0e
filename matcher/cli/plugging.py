"""`electros volume attach, detach`: a VM gets a volume more, or gives one back, whether it runs or is stopped."""

import time
from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter

from matcher.cli import records
from matcher.cli.failures import Exit, Failure
from matcher.cli.making import storage_answers
from matcher.cli.output import Output, emit, note
from matcher.cli.session import Found, Session, no_host_in_reach, session
from matcher.cli.views import vm_detail, vms_table
from matcher.cli.volume import one, shown
from matcher.net.client import Said
from matcher.scheduler.choosing import Volumes
from matcher.scheduler.heard import Answers
from matcher.scheduler.outcomes import HostReasons
from matcher.scheduler.pledging import Errand, make_pledge
from matcher.wire.messages import ConfirmVolume, ImageFormat, Pledge, Reveal, Unfit, VmView, VolumeClaim, VolumeOffer
from matcher.wire.volumes import VolumeView
from specs.ids import HostId, PledgeId, Vid, VmId, parse_id

CHANGED_S = 60.0  # storage, libvirt and the guest take their time
AGAIN_MAX = 3  # times that the same is asked; hosts know a repeated request
AGAIN_S = 30.0  # since the first time; a host that has not known it for longer has waited for libvirt already
UNDECIDED = ("unavailable", "unknown")


def attach(
    vm: str,
    volume: str,
    *,
    readonly: Annotated[bool, Parameter(help="this VM may read it alone", negative="")] = False,
    output: Output = "table",
) -> None:
    """Give a VM a volume more: at once where it runs, else from its next start on.

    Parameters
    ----------
    vm
        Its name, its UUID, or the start of either.
    volume
        Its name, its UUID, or the start of either.
    """
    with session(Pledge, VolumeOffer, ConfirmVolume, VmView) as mine:
        found, wanted = mine.one(vm), one(mine, volume).volume
        pledge_id, claim, reveal = _held(mine, found.vm, wanted, readonly=readonly)
        about, which = found.vm, shown(wanted)
        confirm = ConfirmVolume(about.id, about.generation, pledge_id, about.host_id, about.name, claim)
        words = mine.client.sealed_for(HostId(about.host_id), confirm)
        try:
            after = _asked(mine, found, f"give {about.name} {which}", "POST", f"/v1/vms/{about.id}/volumes", words)
        finally:
            mine.client.reveal(reveal)
    records.revise(after)
    when = "" if after.state == "running" else ", from its next start on"
    note(f"electros: {after.name} has {which}{when}")
    emit(output, {"vm": vm_detail(after)}, vms_table([after]))


def detach(vm: str, volume: str, *, output: Output = "table") -> None:
    """Take a volume from a VM. The guest of one that runs is asked to let go of it: unmount it there first.

    Parameters
    ----------
    vm
        Its name, its UUID, or the start of either.
    volume
        Its name, its UUID, or the start of either.
    """
    with session(VmView) as mine:
        found = mine.one(vm)
        vid = _of_vm(mine, found.vm, volume)
        doing = f"take {volume} from {found.vm.name}"
        after = _asked(mine, found, doing, "DELETE", f"/v1/vms/{found.vm.id}/volumes/{vid}")
    records.revise(after)
    note(f"electros: {after.name} has let go of {volume}")
    emit(output, {"vm": vm_detail(after)}, vms_table([after]))


def _of_vm(mine: Session, vm: VmView, meant: str) -> Vid:
    """The volume of this VM that is meant; its server need not be there if its UUID is said. Raises `Failure`."""
    vids = [volume.vid for volume in vm.volumes]
    vid = parse_id(meant)
    vid = vid if vid in vids else one(mine, meant).volume.vid
    if vid not in vids:
        said = f"{vm.name} does not have {meant}"
        raise Failure(Exit.NOT_FOUND, said, helps=f"electros inspect {vm.name} shows its volumes")
    return Vid(vid)


def _held(mine: Session, vm: VmView, volume: VolumeView, *, readonly: bool) -> tuple[str, VolumeClaim, Reveal]:
    """The claim on an offer of the volume's host, which holds it for some seconds. Raises `Failure`."""
    vid, now_s = Vid(volume.vid), time.monotonic()
    errand = Errand(VmId(vm.id), vm.generation, None, (vid,), readonly=frozenset({vid}) if readonly else frozenset())
    pledge, seal = make_pledge(errand, random=mine.random, wall_ms=time.time_ns() // 1_000_000, dry=False)
    heard = storage_answers(mine, pledge)
    answers = Answers(pledge, now_s)
    for said in heard:
        if isinstance(said.message, VolumeOffer):
            answers.volume(said.message, HostId(said.host_id), said.address, now_s)
    offers = Volumes(PledgeId(pledge.pledge_id), (vid,), answers.volumes.values())
    claim = offers.claim(vid, HostId(vm.host_id))
    if claim is None:
        raise _unheld(vm, volume, heard)
    return pledge.pledge_id, errand.wished(claim), Reveal(pledge.pledge_id, seal.done)


def _unheld(vm: VmView, volume: VolumeView, heard: Sequence[Said]) -> Failure:
    if not heard:
        return no_host_in_reach()
    which = shown(volume)
    reasons = [
        HostReasons(said.host_id, said.message.host, said.message.reasons)
        for said in heard
        if isinstance(said.message, Unfit) and said.message.reasons
    ]
    if reasons:
        return Failure(Exit.NO_HOST_FITS, f"{vm.name} can't have {which}", hosts=reasons)
    said = f"{which} is on {volume.host}, and can't reach {vm.host}, where {vm.name} is"
    helps = "only raw volumes that one VM writes, or nobody, reach other hosts"
    if volume.format is ImageFormat.QCOW2:
        helps = f"a qcow2 volume is for VMs on its own host; electros volume convert {which} --format raw"
    return Failure(Exit.NO_HOST_FITS, said, helps=helps)


def _asked(mine: Session, found: Found, doing: str, method: str, path: str, words: bytes | None = None) -> VmView:
    """The VM as it is then. Raises `Failure`, with the code "unknown" where it may have been done."""
    begun_s = time.monotonic()
    for attempt in range(AGAIN_MAX):
        try:
            return mine.ask(
                found.door,
                lambda connection: connection.ask(method, path, VmView, words),
                timeout_s=CHANGED_S,
                doing=doing,
            )
        except Failure as failure:
            is_open = failure.exit_code is Exit.TIMEOUT or failure.code in UNDECIDED
            if not is_open:
                raise
            if attempt == AGAIN_MAX - 1 or time.monotonic() > begun_s + AGAIN_S:
                helps = f"electros inspect {found.vm.name} shows what became of it"
                raise Failure(Exit.TIMEOUT, failure.message, helps=helps, code="unknown") from None
    raise AssertionError("the last attempt returns or raises")
