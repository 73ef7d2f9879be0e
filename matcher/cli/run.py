"""`electros run` and `electros start`: a specfile and its volumes become a running VM on the best host."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from matcher.cli import records, tpm_stays
from matcher.cli.asking import (
    Edits,
    Emulation,
    Lease,
    PolicyName,
    Rank,
    Volumes,
    allows_emulation,
    lease_seconds,
    ranking,
)
from matcher.cli.failures import Exit, Failure
from matcher.cli.output import Output, Progress, emit, note, warm_up
from matcher.cli.reading import read_specfile, read_volumespec
from matcher.cli.session import Found, Session, no_host_in_reach, session
from matcher.cli.views import vm_document, vms_table
from matcher.net.https import Connection, Door, Unanswered
from matcher.scheduler.outcomes import (
    AllRefused,
    Interrupted,
    NoHostFits,
    NoHostInReach,
    Outcome,
    Placed,
    Surveyed,
    Unknown,
    VolumeMissing,
)
from matcher.scheduler.placing import Placing
from matcher.scheduler.pledging import Errand, vm_ask
from matcher.wire.messages import Answer, Confirm, Pledge, Policy, Role, VmAsk, VmOffer, VmView, VolumeOffer
from matcher.wire.messages import Progress as Step
from matcher.wire.naming import device_kind
from specs.ids import HostId, Vid, VmId, dashed, new_id

UP_S = 60.0
NAMESAKE_S = 0.15  # a known host that is down must not hold up every run
POLL_S = 0.25
SOON = (Pledge, VmOffer, VolumeOffer, Confirm, Step)  # what a placing says and hears, in this order
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
WaitFor = Annotated[
    Literal["committed", "running", "address"],
    Parameter(help="return when the host has promised it, when it runs, or when the guest has an address"),
]
Elsewhere = Annotated[bool, Parameter(help="its host is gone: start it on another one", negative="")]
HostIsDead = Annotated[
    bool, Parameter(help="with --elsewhere: you say that its host is off, whatever others have heard", negative="")
]
NewTpm = Annotated[
    bool, Parameter(help="its TPM's keys may be lost: where it starts on another host, its TPM is empty", negative="")
]
Timeout = Annotated[float, Parameter(help="how many seconds to wait for that; the VM stays, whatever comes")]


def run(
    specfile: str,
    *,
    volumes: Volumes = None,
    image: Annotated[
        str | None, Parameter(help="an image: the VM boots from a copy of it, which is yours and stays when it goes")
    ] = None,
    iso: Annotated[
        str | None, Parameter(help="a read-only volume, as a CD: booted where no bootable volume has a system yet")
    ] = None,
    user_data: Annotated[
        Path | None,
        Parameter(
            help="for the guest's cloud-init: a file; the guest is told the VM's name too, and it goes with the VM"
        ),
    ] = None,
    name: str | None = None,
    edits: Edits = None,
    policy: PolicyName = Policy.PACK,
    rank: Rank = None,
    allow_emulation: Emulation = None,
    lease: Lease = None,
    wait: WaitFor = "running",
    timeout: Timeout = UP_S,
    output: Output = "table",
) -> None:
    """Run a specfile with its volumes on the best host in reach.

    Parameters
    ----------
    specfile
        The hardware that the VM needs; "-" reads standard input.
    name
        What to call the VM; made from the specfile's own name where it is not given.
    """
    spec = read_specfile(specfile, edits or ())
    vids = read_volumespec(volumes) if volumes else ()
    value = ranking(rank)
    allow, lease_s = allows_emulation(allow_emulation), lease_seconds(lease)
    with session(*SOON) as mine:
        vm_id = VmId(new_id(mine.random))
        called = _name(name, spec.info.name if spec.info else None, vm_id)
        hosts_known = _refuse_namesake(mine, called)
        with _disks(mine, vm_id, called, vids, image, iso, user_data) as (vids, cdroms):
            errand = Errand(
                vm_id,
                1,
                vm_ask(spec, allow_emulation=allow, lease_s=lease_s),
                vids,
                policy=policy,
                hosts_known=hosts_known,
                name=called,
                specfile=spec.canonical_json(),
                cdroms=cdroms,
            )
            placing = Placing(errand, random=mine.random, value=value)
            placed = _place(mine, placing, errand, specfile, output, wait)
        vm = _await_up(mine, placed, wait, timeout)
        emit(output, {"vm": vm_document(vm)}, vms_table([vm]))


@contextmanager
def _disks(
    mine: Session,
    vm_id: VmId,
    called: str,
    vids: tuple[Vid, ...],
    image: str | None,
    iso: str | None,
    user_data: Path | None,
) -> Iterator[tuple[tuple[Vid, ...], frozenset[Vid]]]:
    """The VM's volumes in boot order, and which of them are CDs. Most are given none of these."""
    if image is None and iso is None and user_data is None:
        yield vids, frozenset()
        return
    from matcher.cli.disks import brought

    with brought(mine, vm_id, called, vids, image, iso, user_data) as disks:
        yield disks


def start(
    vm: str,
    *,
    policy: PolicyName = Policy.PACK,
    allow_emulation: Emulation = None,
    lease: Lease = None,
    elsewhere: Elsewhere = False,
    host_is_dead: HostIsDead = False,
    new_tpm: NewTpm = False,
    wait: WaitFor = "running",
    timeout: Timeout = UP_S,
    output: Output = "table",
) -> None:
    """Start a stopped VM again: it is pledged anew, and prefers the host where it was.

    A VM whose host is gone is started on another one with --elsewhere, if its volumes are not on the dead host. Where
    other hosts do not hold it for gone, you are asked to say so. Should that host live after all, the VM there has lost
    its volumes and ends.

    What a TPM holds stays on its host. So a VM that has one starts there alone, and elsewhere with --new-tpm.

    Parameters
    ----------
    vm
        Its name, its UUID, or the start of either.
    """
    lease_s = lease_seconds(lease)
    with session(*SOON) as mine:
        found = _still_there(mine, vm, elsewhere=elsewhere, host_is_dead=host_is_dead)
        if isinstance(found, records.Record):
            with records.alone(found.vm_id):
                errand = _again(found, policy, allows_emulation(allow_emulation), lease_s, new_tpm=new_tpm)
                placed = _place(mine, Placing(errand, random=mine.random), errand, found.name, output, wait)
            now = _await_up(mine, placed, wait, timeout)
            emit(output, {"vm": vm_document(now)}, vms_table([now]))
            return
        if found.vm.state in ("running", "committed"):
            note(f"electros: {found.vm.name} is {found.vm.state} on {found.vm.host} already")
            now = _await_up(mine, found, wait, timeout)
            emit(output, {"vm": vm_document(now)}, vms_table([now]))
            return
        with records.alone(VmId(found.vm.id)):
            errand = _again(found.vm, policy, allows_emulation(allow_emulation), lease_s)
            stays = errand.vm is not None and errand.vm.tpm and not new_tpm
            placing = Placing(errand, random=mine.random, prefer=HostId(found.vm.host_id), stays=stays)
            with tpm_stays.at_home(found.vm) if stays else nullcontext():
                placed = _place(mine, placing, errand, found.vm.name, output, wait)
        _forget_older(mine, found, placed.vm)
        now = _await_up(mine, placed, wait, timeout)
        emit(output, {"vm": vm_document(now)}, vms_table([now]))


def _still_there(mine: Session, meant: str, *, elsewhere: bool, host_is_dead: bool) -> Found | records.Record:
    """The VM where it is; or what was kept of it here, where its host does not answer, and is gone or said to be so.
    Raises `Failure`."""
    try:
        return mine.one(meant)
    except Failure as failure:
        kept = records.named(meant) if failure.exit_code is Exit.NOT_FOUND else None
        if kept is None:
            raise
        if not elsewhere:
            said = f"{kept.name} was run on {kept.host or 'a host'}, which does not answer"
            helps = f"if that host is dead: electros start {kept.name} --elsewhere"
            raise Failure(Exit.UNREACHABLE, said, helps=helps) from None
    if not host_is_dead:
        from matcher.cli.rerun import judge  # few VMs outlive their hosts

        judge(mine, kept)
    return kept


def _again(
    vm: VmView | records.Record, policy: Policy, allow_emulation: bool, lease_s: int, *, new_tpm: bool = True
) -> Errand:
    """The same VM, one generation on; noted before anybody hears of it. Raises `Failure`."""
    from specs.problems import SpecError
    from specs.specfile import parse_specfile

    try:
        spec = parse_specfile(vm.specfile)
    except SpecError:  # whoever confirmed it did so without electros
        said = f"{vm.host} keeps a specfile of {vm.name} that can't be read"
        raise Failure(Exit.FAILED, said, helps="run it anew: electros run SPECFILE, with its volumes") from None
    ask = vm_ask(spec, allow_emulation=allow_emulation, lease_s=lease_s)
    if ask.tpm and not new_tpm:
        raise tpm_stays.lost(vm.name, vm.host)
    if isinstance(vm, records.Record):
        vm_id, vids, readonly, cdroms = vm.vm_id, vm.volumes, vm.readonly, vm.cdroms
    else:
        vm_id, vids = VmId(vm.id), tuple(Vid(volume.vid) for volume in vm.volumes if volume.change != "detaching")
        readonly = frozenset(Vid(volume.vid) for volume in vm.volumes if volume.readonly)
        cdroms = frozenset(Vid(volume.vid) for volume in vm.volumes if volume.cdrom)
    generation = max(vm.generation, records.last_generation(vm_id)) + 1
    errand = Errand(
        vm_id,
        generation,
        ask,
        vids,
        policy=policy,
        name=vm.name,
        specfile=vm.specfile,
        readonly=readonly,
        cdroms=cdroms,
    )
    try:
        records.keep(errand)
    except OSError as error:
        said = f"generation {generation} of {vm.name} can't be noted here: {error.strerror or error}"
        raise Failure(Exit.FAILED, said, helps="free space in your home folder: it must never be tried twice") from None
    return errand


def _place(mine: Session, placing: Placing, errand: Errand, what: str, output: str, wait: str) -> Found:
    """Drive the placing, and read the progress of the host that took it. The VM, up or on its way."""
    progress = Progress()
    progress.say("asking the hosts in reach …")
    outcome = mine.client.drive(placing)
    warm_up(output)
    placed = _placed(outcome, what)
    _keep(errand, placed)
    if errand.vm is not None and errand.vm.pci_else:
        progress.clear()
        note(f"electros: {_taken(errand.vm, placed)}")
    progress.say(f"{placed.host} has promised it, and starts it …")
    door = Door(placed.host, placed.host_id, placed.address, placed.offer.front_door_port)
    connection = mine.client.taken if wait != "committed" else None
    try:
        with mine.client.interrupts.waiting():
            vm = _last_view(connection) if connection is not None else None
        return Found(vm or _view(mine, door, errand.vm_id), door)
    except KeyboardInterrupt:
        progress.clear()
        raise Failure(
            Exit.INTERRUPTED,
            f"interrupted; {errand.name} is promised on {placed.host} and goes on starting there",
            helps=f"electros rm {errand.name}",
        ) from None
    finally:
        progress.clear()


def _taken(ask: VmAsk, placed: Placed) -> str:
    """Which of several alternatives it is."""
    lists, choice = (ask.pci, *ask.pci_else), placed.offer.choice
    devices = [
        f"{each.quantity} x {device_kind(each.vendor, each.model, each.device_class, each.mdev_type)}"
        for each in lists[choice]
    ]
    return f"alternative {choice + 1} of {len(lists)}, on {placed.host}: {', '.join(devices) or 'no device'}"


def _last_view(connection: Connection) -> VmView | None:
    last = None
    with suppress(Unanswered):  # the stream broke: the VM is promised, and its host is asked again
        for step in connection.progress(UP_S):
            last = step.vm
    return last


def _view(mine: Session, door: Door, vm_id: str) -> VmView:
    return mine.ask(door, lambda connection: connection.ask("GET", f"/v1/vms/{vm_id}", VmView))


def _start_failed(mine: Session, vm: VmView, door: Door) -> Failure:
    """A first start that libvirt refuses leaves nothing behind; a later one leaves the VM as it was, stopped."""
    if vm.generation == 1:
        with suppress(Failure):
            path = f"/v1/vms/{vm.id}?generation=1"
            mine.ask(door, lambda connection: connection.ask("DELETE", path, VmView))
        records.forget(VmId(vm.id))
    left = "nothing is left of it" if vm.generation == 1 else "it is kept, with its volumes"
    return Failure(Exit.FAILED, f"{vm.host} could not start {vm.name}: {vm.why}; {left}")


def _await_up(mine: Session, found: Found, wait: str, timeout_s: float) -> VmView:
    """Until the VM is as far as was asked for."""
    vm, end_s = found.vm, time.monotonic() + timeout_s
    while not _has_come_to(vm, wait):
        if vm.state == "failed":
            raise _start_failed(mine, vm, found.door)
        if vm.state not in ("running", "committed"):
            raise Failure(Exit.FAILED, f"{vm.name} is {vm.state}: {vm.why}")
        if time.monotonic() > end_s:
            lacks = "has no address" if vm.state == "running" else "is not up"
            raise Failure(Exit.TIMEOUT, f"{vm.name} is {vm.state} on {vm.host}, and {lacks} after {timeout_s:g} s")
        with mine.client.interrupts.waiting():
            time.sleep(POLL_S)
        vm = _view(mine, found.door, vm.id)
    return vm


def _has_come_to(vm: VmView, wait: str) -> bool:
    match wait:
        case "address":
            return bool(vm.addresses)
        case "running":
            return vm.state == "running"
    return vm.state in ("committed", "running")


def _forget_older(mine: Session, before: Found, now: VmView) -> None:
    """Where it moved, the host that it left must not keep its name."""
    if now.host_id == before.vm.host_id:
        return
    path = f"/v1/vms/{before.vm.id}?generation={before.vm.generation}"
    try:
        mine.ask(before.door, lambda connection: connection.ask("DELETE", path, VmView))
    except Failure as failure:
        note(f"electros: {before.vm.host} keeps a record of the older generation: {failure.message}")


def _placed(outcome: Outcome, what: str) -> Placed:
    """The placement, or the failure that says why there is none."""
    match outcome:
        case Placed():
            return outcome
        case Interrupted():
            raise _interrupted(outcome)
        case Unknown():
            raise _unknown(outcome)
        case NoHostInReach():
            raise no_host_in_reach()
        case NoHostFits(unfits=unfits, nearest=nearest, refused=refused):
            raise Failure(Exit.NO_HOST_FITS, f'no host fits "{what}"', hosts=(*refused, *unfits), nearest=nearest)
        case VolumeMissing(vids=vids, unfits=unfits):
            missing = ", ".join(dashed(vid) for vid in vids)
            raise Failure(Exit.NOT_FOUND, f"no host in reach has volume {missing}", hosts=unfits)
        case AllRefused(refused=refused):
            raise Failure(Exit.FAILED, f'hosts offered, and then refused "{what}"', hosts=refused, code="refused")
        case Surveyed():
            raise AssertionError("a placing does not end in a survey")


def _interrupted(outcome: Interrupted) -> Failure:
    match outcome.left:
        case None:
            return Failure(Exit.INTERRUPTED, "interrupted; nothing was started, and nothing is held")
        case Placed(host=host, vm_id=vm_id):
            said = f"interrupted; the VM was promised already, on {host}"
            return Failure(Exit.INTERRUPTED, said, helps=f"electros rm {dashed(vm_id)}")
        case Unknown() as unknown:
            return _unknown(unknown)


def _unknown(unknown: Unknown) -> Failure:
    said = f"{unknown.host} ({unknown.address}) may have taken the VM or not: it answers no more"
    helps = f"it was not run elsewhere, since it would then run twice; look again: electros ps, or ask {unknown.host}"
    return Failure(Exit.TIMEOUT, said, helps=helps, code="unknown")


def _name(given: str | None, from_spec: str | None, vm_id: VmId) -> str:
    if given is None:
        base = re.sub(r"[^a-z0-9]+", "-", (from_spec or "vm").lower()).strip("-") or "vm"
        return f"{base[:50]}-{vm_id[:4]}"
    if NAME.fullmatch(given):
        return given
    helps = "1 to 63 letters, digits, dots, dashes and underscores, a letter or digit first"
    raise Failure(Exit.USAGE, f"{given[:70]!r} can't be a VM's name", helps=helps)


def _refuse_namesake(mine: Session, name: str) -> int:
    """Best effort over the hosts in reach; each host refuses a second one of a name by itself. How many hosts said that
    they know of none."""
    found, heard = mine.vms(name, exact=True, patience_s=NAMESAKE_S)
    if found:
        vm = found[0].vm
        said = f'you have a VM named "{name}" already: {vm.state} on {vm.host}'
        raise Failure(Exit.FAILED, said, helps=f"choose another --name, or: electros rm {name}", code="name-taken")
    return sum(isinstance(said.message, Answer) and said.message.role is Role.COMPUTE for said in heard.answers)


def _keep(errand: Errand, placed: Placed) -> None:
    """If the host dies, this is what to run again."""
    try:
        records.keep(errand, placed.host, placed.host_id)
    except OSError as error:
        note(f"electros: the VM is placed; its record could not be kept here: {error}")
