"""Volumes that a VM gets and gives back after its confirm: one at a time, on the way to one of two ends. Pure.

    (without) --user--> ATTACHING --storage--> ATTACHING, given --domain has it--> (with)
        ^                   | refused               | the domain does not take it
        |                   v                       v
        '----------- storage lets go <--- the guest lets go <--- DETACHING <--user--- (with)
                                                                  |  ^
                                 (with) <--off, or plugged anew-- KEEPING: its user wants it back

The journal knows the volume before storage gives it and until storage has ended that, so that what storage or a domain
has is never unknown here. A VM that is not up gets and gives without a domain: its next start asks for what it has.

A crash is made good by looking: ATTACHING is (with) where the domain has the volume, and else undone; DETACHING goes
on. A request to let go can't be taken back from a guest. One that does not obey keeps the volume, DETACHING, and when
it lets go after all, storage is told then; a guest that is off has let go. Its user may take the volume back meanwhile
(attach it again): KEEPING, it is the VM's as before, and where the guest lets go of it still, at its reboot say, it is
plugged in anew.
"""

from dataclasses import replace

from atomd.effects import AttachVolume, Changed, DetachVolume, Effects, PlugVolume, UnplugVolume
from atomd.vms import refusals as no
from atomd.vms.admission import Admission
from atomd.vms.closed import Closed
from atomd.vms.lifecycle import AT_REST, Added, Change, Stage, State, Vm
from atomd.vms.refusals import on_volume, refused, silent, too_old
from atomd.vms.table import VmTable
from atomd.volumes.answers import ASK_AGAIN, HOT_MAX, Answer, Silent, is_folder
from matcher.offers.ledger import User
from matcher.wire.messages import VOLUMES_MAX, ConfirmVolume, Refused
from matcher.wire.volumes import Attached
from specs.ids import OfferId, UserId, VmId


class Plugging:
    """What is promised to a user is remembered as for confirms: see `Closed`."""

    def __init__(self, table: VmTable, closed: Closed, admission: Admission) -> None:
        self._table, self._closed, self._admission = table, closed, admission
        self._deaf: set[tuple[VmId, int, str]] = set()  # guests that were asked in this run, and have not let go
        self._unheard: set[tuple[VmId, int, str]] = set()  # storage that was told in this run, and has not answered

    # ---- from users

    def attach(self, confirm: ConfirmVolume, envelope: bytes, user: User, host_id: str) -> Refused | Effects:
        """The user takes the offer of one volume more. Repeats change nothing: see `attach_outcome`."""
        vm = self._table.vms.get(VmId(confirm.vm_id))
        if confirm.host_id != host_id:
            return refused("wrong-host", "confirm", "another host", "this is not it", "send it to the host it names")
        if vm is None or vm.user_id != user.id or vm.state is State.PREPARED:
            return no.NOT_FOUND
        if any(added.confirm == confirm for added in vm.added) or _is_kept(vm, confirm.volume.vid):
            return []
        refusal = self._closed.refusal(OfferId(confirm.volume.offer_id)) or self._objection(vm, confirm)
        if refusal is not None:
            return refusal
        if vm.change is not None:  # the one that its guest has not let go of
            return self._take_back(vm, vm.change)
        change = Change(confirm.volume.vid, Stage.ATTACHING)
        attaching = replace(vm, added=(*vm.added, Added(confirm, envelope)), change=change)
        entered = self._table.enter(attaching, before=vm)
        self._table.busy.add(vm.vm_id)
        return [entered, Changed(vm.vm_id), AttachVolume(attaching, change.vid)]

    def detach(self, vm: Vm, vid: str, wall_s: float) -> Refused | Effects:
        """The user wants the VM to give it back; nothing where it has no such volume. Asked again, so is the guest."""
        if vid not in [claim.vid for claim in vm.claims]:
            return []
        going = vm.change if _is_going(vm, vid) else None
        if vm.vm_id in self._table.busy or not (vm.state in AT_REST or vm.state is State.RUNNING):
            return [] if going else self._table.not_now(vm, "detach")
        if vm.change is not None and not going and not _is_kept(vm, vid):
            return _changing(vm, vm.change, "to detach it")
        if vm.state is State.RUNNING and any(volume.vid == vid and is_folder(volume) for volume in vm.volumes):
            hint = "electros stop it first, or electros rm"
            return on_volume(vid, "not-hot", "a folder stays with a VM while it runs", hint, "to detach it")
        if vm.state is State.RUNNING and vid == _boots_from(vm):
            hint = "electros stop it first, or electros rm"
            return on_volume(vid, "boots-from", "the VM runs from it", hint, "to detach it")
        change = going or Change(vid, Stage.DETACHING, asked_s=wall_s)
        detaching = replace(vm, change=change)
        self._deaf.discard((vm.vm_id, vm.generation, vid))
        entered = self._table.enter(detaching, before=vm)
        return [entered, Changed(vm.vm_id), *self._let_go(detaching, change, asks=True)]

    def attach_outcome(self, confirm: ConfirmVolume) -> Vm | Refused | None:
        """What became of it: the VM that has the volume, the refusal, or `None` while it is being decided."""
        if (refusal := self._closed.refusal(OfferId(confirm.volume.offer_id))) is not None:
            return refusal
        vm = self._table.at(VmId(confirm.vm_id), confirm.generation)
        if vm is not None and _is_kept(vm, confirm.volume.vid):
            return vm
        if vm is None or all(added.confirm != confirm for added in vm.added):
            return no.UNDONE
        coming = vm.change is not None and vm.change.vid == confirm.volume.vid
        return None if coming else vm

    def detach_outcome(self, vm_id: VmId, generation: int, vid: str) -> Vm | Refused | None:
        """The VM without the volume; why it is to be waited for; `None` while it is being decided."""
        vm = self._table.at(vm_id, generation)
        if vm is None:
            return no.REMOVED
        if vid not in [claim.vid for claim in vm.claims]:
            return vm
        if vm_id in self._table.busy:
            return None
        if (vm_id, generation, vid) in self._deaf:
            hint = "unmount it there and ask again; electros stop ends it, electros volume attach takes it back"
            return on_volume(vid, "guest-keeps-it", "the guest has not let go of it: it stays attached", hint, "back")
        if (vm_id, generation, vid) in self._unheard:
            hint = "the VM's next start is without it in any case"
            return on_volume(vid, "storage", "its host does not answer, and is told when it is back", hint, "back")
        return None

    # ---- from slow work

    def attached(self, vm_id: VmId, generation: int, vid: str, answer: Answer) -> Effects:
        """Storage has spoken, or not."""
        vm = self._changing(vm_id, generation, vid, Stage.ATTACHING, Stage.KEEPING)
        if vm is None or vm.change is None:
            return []
        if vm.change.is_kept:
            return self._given_again(vm, vm.change, answer)
        if isinstance(answer, Attached) and not self._admission.is_member(vm.user_id):
            return self._undo(vm, vid, no.REVOKED)
        match answer:
            case Attached():
                given = replace(vm, change=Change(vid, Stage.ATTACHING, answer.volumes[0]))
                if vm.state in AT_REST:
                    return self._have(given, before=vm)
                if is_folder(answer.volumes[0]):
                    hint = "stop the VM (electros stop), attach it then, and start the VM again"
                    return self._undo(vm, vid, on_volume(vid, "not-hot", "a folder can't come to a running VM", hint))
                entered = self._table.enter(given, before=vm)
                self._table.busy.add(vm_id)
                return [entered, PlugVolume(given, vid)]
            case Silent():
                return self._undo(vm, vid, silent(answer)) if answer.asked else self._refuse(vm, vid, silent(answer))
            case Refused():
                return self._refuse(vm, vid, answer)

    def plugged(self, vm_id: VmId, generation: int, vid: str, failure: str | None) -> Effects:
        """The domain has it, or libvirt has said no in so many words."""
        vm = self._changing(vm_id, generation, vid, Stage.ATTACHING, Stage.KEEPING)
        if vm is None:
            return []
        if failure is None:
            return self._have(vm, before=vm)
        if _is_kept(vm, vid):
            return [Changed(vm_id)]  # and tried again
        hint = "stop the VM (electros stop), attach it then, and start the VM again"
        return self._undo(vm, vid, on_volume(vid, "not-plugged", failure, hint))

    def unplugged(self, vm_id: VmId, generation: int, vid: str, *, gone: bool | None) -> Effects:
        """Whether the domain has let go of it, or there is none; `None` where libvirt did not say."""
        vm = self._changing(vm_id, generation, vid)
        if vm is None or vm.change is None or gone is None:
            return []
        if vm.change.is_kept:
            return self._plug_again(vm, vid) if gone else [Changed(vm_id)]
        if gone:
            return self._tell_storage(vm, vm.change)
        if vm.change.stage is Stage.ATTACHING and vm.change.volume is not None:
            return self._have(vm, before=vm)
        self._deaf.add((vm_id, generation, vid))
        return [Changed(vm_id)]

    def detached(self, vm_id: VmId, generation: int, vid: str, *, done: bool) -> Effects:
        """Storage has let go (`done`), or will be asked again by reconcile."""
        vm = self._changing(vm_id, generation, vid)
        if vm is None or done:
            return [] if vm is None else self._forget(vm, vid)
        self._unheard.add((vm_id, generation, vid))
        return [Changed(vm_id)]

    # ---- what a crash has left, or a guest that took its time

    def resolve(self, vm: Vm, *, up: bool) -> Effects:
        """The next step of a change that no slow work is busy with; `up`: libvirt has the domain."""
        if vm.change is None or vm.state not in {*AT_REST, State.RUNNING, State.STOPPING}:
            return []
        if vm.change.is_kept and (vm.state in AT_REST or not up):  # a guest that is off has forgotten
            return self._have(vm, before=vm) if vm.state in AT_REST else []
        asks = vm.change.stage is Stage.DETACHING and (vm.vm_id, vm.generation, vm.change.vid) not in self._deaf
        return self._let_go(vm, vm.change, asks=asks and vm.state is State.RUNNING, up=up)

    # ---- inside

    def _objection(self, vm: Vm, confirm: ConfirmVolume) -> Refused | None:
        vid = confirm.volume.vid
        if confirm.generation != vm.generation:
            return too_old(vm.generation, confirm.generation)
        if not self._admission.is_member(UserId(vm.user_id)):
            return no.REVOKED
        if any(added.confirm.volume.offer_id == confirm.volume.offer_id for added in vm.added):
            return refused("another-body", "confirm", "this offer", "taken with other words", "ask again")
        if vm.change is not None and (vm.vm_id, vm.generation, vid) not in self._deaf:
            return _changing(vm, vm.change, "to attach one more")
        if vm.vm_id in self._table.busy or not (vm.state in AT_REST or vm.state is State.RUNNING):
            return self._table.not_now(vm, "attach")
        if _is_going(vm, vid):
            return None if vm.state is State.RUNNING else _changing(vm, vm.change, "to attach it")
        if vid in [claim.vid for claim in vm.claims]:
            return on_volume(vid, "attached-already", "this VM has it", "electros inspect shows its volumes")
        most = min(VOLUMES_MAX, len(vm.confirm.volumes) + HOT_MAX)
        if len(vm.claims) >= most:
            has = f"this VM has {len(vm.claims)} volumes, and can't have more before its next start"
            return on_volume(vid, "too-many", has, "detach one, or electros stop and electros start it")
        if confirm.volume.cdrom and vm.state is State.RUNNING:
            hint = "electros stop it first; or attach it as a disk, which any guest can mount"
            return on_volume(vid, "not-hot", "a running VM can't be given a CD drive", hint)
        return None

    def _changing(self, vm_id: VmId, generation: int, vid: str, *stages: Stage) -> Vm | None:
        """The VM whose slow work has come back, if it was about this."""
        vm = self._table.at(vm_id, generation)
        if vm is None or vm.change is None or vm.change.vid != vid or (stages and vm.change.stage not in stages):
            return None
        if vm.state is State.REMOVING:
            return None
        self._table.busy.discard(vm_id)
        return vm

    def _have(self, vm: Vm, *, before: Vm) -> Effects:
        assert vm.change is not None
        volumes = vm.volumes
        if not vm.change.is_kept:
            assert vm.change.volume is not None, "storage has given it"
            volumes = (*volumes, vm.change.volume)
        self._deaf.discard((vm.vm_id, vm.generation, vm.change.vid))
        return [self._table.enter(replace(vm, volumes=volumes, change=None), before=before), Changed(vm.vm_id)]

    def _take_back(self, vm: Vm, change: Change) -> Effects:
        """As it is: the words that it came with count still. Whether the guest has let go meanwhile is looked at."""
        self._deaf.discard((vm.vm_id, vm.generation, change.vid))
        keeping = replace(vm, change=Change(change.vid, Stage.KEEPING))
        entered = self._table.enter(keeping, before=vm)
        self._table.busy.add(vm.vm_id)
        return [entered, Changed(vm.vm_id), UnplugVolume(keeping, change.vid, asks=False)]

    def _plug_again(self, vm: Vm, vid: str) -> Effects:
        """The guest has let go of what its user wants back. Storage was not told, and says again what opens it."""
        self._table.busy.add(vm.vm_id)
        return [AttachVolume(vm, vid)]

    def _given_again(self, vm: Vm, change: Change, answer: Answer) -> Effects:
        if isinstance(answer, Silent) or (isinstance(answer, Refused) and answer.code in ASK_AGAIN):
            return [Changed(vm.vm_id)]
        if isinstance(answer, Refused):
            return self._forget(vm, change.vid)
        if vm.state in AT_REST:
            return self._have(vm, before=vm)
        others = tuple(volume for volume in vm.volumes if volume.vid != change.vid)
        given = replace(vm, volumes=(*others, *answer.volumes), change=replace(change, volume=answer.volumes[0]))
        entered = self._table.enter(given, before=vm)
        self._table.busy.add(vm.vm_id)
        return [entered, PlugVolume(given, change.vid)]

    def _undo(self, vm: Vm, vid: str, refusal: Refused) -> Effects:
        """Storage may have given it."""
        self._closed.refuse(_offer_of(vm, vid), refusal)
        self._table.busy.add(vm.vm_id)
        return [Changed(vm.vm_id), DetachVolume(vm, vid)]

    def _refuse(self, vm: Vm, vid: str, refusal: Refused) -> Effects:
        """Nobody has given it."""
        self._closed.refuse(_offer_of(vm, vid), refusal)
        return self._forget(vm, vid)

    def _let_go(self, vm: Vm, change: Change, *, asks: bool, up: bool = True) -> Effects:
        """By the guest, where there is one."""
        if vm.state in AT_REST or not up:
            return self._tell_storage(vm, change)
        self._table.busy.add(vm.vm_id)
        return [UnplugVolume(vm, change.vid, asks)]

    def _tell_storage(self, vm: Vm, change: Change) -> Effects:
        if change.stage is Stage.ATTACHING:
            self._closed.settle(_offer_of(vm, change.vid), no.UNDONE)
        self._table.busy.add(vm.vm_id)
        return [DetachVolume(vm, change.vid)]

    def _forget(self, vm: Vm, vid: str) -> Effects:
        added = tuple(added for added in vm.added if added.confirm.volume.vid != vid)
        dropped = vm.dropped
        if len(added) < len(vm.added):
            self._closed.settle(_offer_of(vm, vid), no.DETACHED)
        else:
            dropped = (*dropped, vid)
        self._deaf.discard((vm.vm_id, vm.generation, vid))
        self._unheard.discard((vm.vm_id, vm.generation, vid))
        volumes = tuple(volume for volume in vm.volumes if volume.vid != vid)
        without = replace(vm, volumes=volumes, added=added, dropped=dropped, change=None)
        return [self._table.enter(without, before=vm), Changed(vm.vm_id)]


def _boots_from(vm: Vm) -> str | None:
    """What came later is not what it has booted from."""
    added = {each.confirm.volume.vid for each in vm.added}
    disks = (volume for volume in vm.volumes if volume.bootable and not volume.cdrom and volume.vid not in added)
    return next((volume.vid for volume in disks), None)


def _offer_of(vm: Vm, vid: str) -> OfferId:
    return next(words.offer_id for words in vm.words if vid in [claim.vid for claim in words.claims])


def _is_going(vm: Vm, vid: str) -> bool:
    return vm.change is not None and vm.change.vid == vid and vm.change.stage is Stage.DETACHING


def _is_kept(vm: Vm, vid: str) -> bool:
    return vm.change is not None and vm.change.vid == vid and vm.change.is_kept


def _changing(vm: Vm, change: Change | None, asked: str) -> Refused:
    assert change is not None
    doing = "another volume" if asked == "to attach one more" else "it"
    has = f"{doing} is being {'attached' if change.stage is Stage.ATTACHING else 'detached'}"
    if change.is_kept:
        has = f"its guest was asked to let go of {doing}, and may do so still"
    return refused("not-now", f"volume {change.vid}", asked, has, "electros inspect shows when that is over")
