"""One host's `Compute` with a journal in memory that can fail and a crash at hand; slow work waits to be answered."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from atomd import effects as wanted
from atomd.capacity.hardware import Claim
from atomd.capacity.occupancy import charged_mib
from atomd.capacity.quota import Quota
from atomd.compute import Compute, Looked
from atomd.effects import Effect, Effects
from atomd.vms.admission import Admission
from atomd.vms.lifecycle import State, Vm
from atomd.vms.moment import Moment
from atomd.vms.reconcile import Observed
from atomd.volumes.answers import Answer, Silent
from matcher.offers.ledger import Ledger, User
from matcher.offers.offering import Nothing, Offering, Proposal
from matcher.trust.principal import Principal
from matcher.trust.realm import EVERYTHING
from matcher.wire.messages import (
    Abandon,
    Accelerator,
    Address,
    Arch,
    Confirm,
    ConfirmVolume,
    Firmware,
    ImageFormat,
    Pledge,
    Policy,
    Refused,
    Role,
    VmAsk,
    VmOffer,
    VolumeClaim,
)
from matcher.wire.realm import Grant
from matcher.wire.seal import Seal
from matcher.wire.volumes import Attached, AttachedVolume, ChapSecret, IscsiTarget
from specs.ids import HostId, OfferId, UserId, VmId, new_id

HOST = HostId("f" * 64)
ANN, BOB = UserId("a" * 64), UserId("b" * 64)
ASK = VmAsk(1, True, 1, (Arch.X86_64,), (), 512, False, (), Firmware.BIOS, True)
NAMES = {ANN: "ann", BOB: "bob"}
VID = "e" * 32
DATA = "c" * 32
VM_ID = VmId("d" * 32)
THREADS = 4
BOOT = "boot 1"


class DiskFull(Exception):
    pass


class Crashed(Exception):
    """Before an effect: what follows is not done. The test calls `crash`."""


class OneHost:
    """`THREADS` threads, one to a VM. `slow` is the work that waits for its answer; `told` the VMs that changed."""

    def __init__(self, seed: int = 1) -> None:
        self.random = Random(seed)
        self.ask = ASK
        self.now_s = 100.0
        self.wall_s = 1_000_000.0
        self.grants: dict[UserId, Grant] = {}  # everything, where none is given
        self.revoked: set[UserId] = set()
        self.closed: Refused | None = None
        self.seal = Seal.new(self.random)
        self.rows: dict[tuple[VmId, int], Vm] = {}
        self.abandoned: list[OfferId] = []
        self.is_full = False
        self.fails_in: int | None = None  # so many writes succeed, and one does not
        self.crashes_in: int | None = None  # so many effects are performed, and then the daemon dies
        self.boot_id = BOOT
        self.slow: list[Effect] = []
        self.told: list[VmId] = []
        self.quarantined: list[VmId] = []
        self.up: dict[VmId, int] = {}  # domains, with their generation
        self.stalled: set[VmId] = set()  # those that QEMU has paused on an I/O error
        self.held: set[VmId] = set()  # those whose guest has not begun
        self.disks: dict[VmId, set[str]] = {}  # of those domains
        self.deaf: set[VmId] = set()  # guests that let go of nothing
        self.servers: dict[str, HostId] = {}  # of volumes that are not on this host
        self._begin()

    def _begin(self) -> None:
        quota = Quota(host="h1", kinds={}, vms=lambda user_id: self.compute.ids_of(user_id))
        self.ledger = Ledger[Claim](_fits, quota.allows)
        self.offering = Offering(host="h1", role=Role.COMPUTE, proposer=self, ledger=self.ledger, random=self.random)
        self.compute = Compute(
            host_id=HOST,
            boot_id=self.boot_id,
            ledger=self.ledger,
            offering=self.offering,
            admission=Admission(
                quota, is_member=lambda user_id: user_id not in self.revoked, takes_new=lambda: self.closed
            ),
        )
        self.compute.restore(list(self.rows.values()), self.abandoned, self.moment())

    def crash(self, *, reboot: bool = False) -> None:
        """Everything but the disk is forgotten; after a reboot, no domain is left."""
        self.slow.clear()
        self.crashes_in = None
        if reboot:
            self.up.clear()
            self.boot_id += "'"
        self._begin()

    def moment(self) -> Moment:
        return Moment(self.now_s, self.wall_s)

    # ---- a person

    def who(self, user_id: UserId = ANN) -> Principal:
        return Principal("user", user_id, NAMES[user_id], self.grants.get(user_id, EVERYTHING))

    def pledge(
        self, *, vm_id: str | None = None, generation: int = 1, volumes: Sequence[str] = (), lease_s: int = 0
    ) -> Pledge:
        vm_id = vm_id or new_id(self.random)
        return Pledge(
            new_id(self.random), 0, (), False, vm_id, generation, replace(self.ask, lease_s=lease_s), tuple(volumes),
            self.seal.sealed, 3000, 0, Policy.PACK,
        )  # fmt: skip

    def offered(self, pledge: Pledge, user_id: UserId = ANN, name: str = "") -> Confirm:
        """The confirm that takes this host's offer for the pledge."""
        (offer,) = self.offering.pledge(pledge, self.who(user_id), self.now_s)
        assert isinstance(offer, VmOffer), offer
        return self.confirm_of(pledge, offer.offer_id, name)

    def confirm_of(self, pledge: Pledge, offer_id: str, name: str = "") -> Confirm:
        claims = tuple(VolumeClaim(vid, self.servers.get(vid, HOST), "0" * 32) for vid in pledge.volumes)
        assert pledge.vm is not None
        return Confirm(pledge.vm_id, pledge.generation, pledge.pledge_id, offer_id, HOST, name, pledge.vm, claims, "")

    def confirm(self, confirm: Confirm, user_id: UserId = ANN) -> Vm | Refused | None:
        """What the front door would answer now; `None`: it waits."""
        decided = self.compute.confirm(confirm, b"", self.who(user_id), self.moment())
        refusal = decided if isinstance(decided, Refused) else self.apply(decided)
        return refusal or self.compute.outcome(OfferId(confirm.offer_id))

    def abandon(self, confirm: Confirm, user_id: UserId = ANN) -> Vm | Refused | None:
        """`None`: noted."""
        abandon = Abandon(confirm.vm_id, confirm.generation, confirm.offer_id, HOST)
        vm, effects = self.compute.abandon(abandon, user_id, self.now_s)
        return self.apply(effects) or vm

    def vm(self, confirm: Confirm) -> Vm | None:
        return self.compute.vms.get(VmId(confirm.vm_id))

    def running(self, *, name: str = "", volumes: Sequence[str] = (), **rest: object) -> Confirm:
        """A VM that is up."""
        confirm = self.offered(self.pledge(volumes=volumes, **rest), name=name)  # type: ignore[arg-type]
        self.confirm(confirm)
        if volumes:
            self.attach()
        self.start()
        return confirm

    def stopped(self, *, name: str = "", volumes: Sequence[str] = ()) -> Confirm:
        confirm = self.running(name=name, volumes=volumes)
        vm = self.vm(confirm)
        assert vm is not None
        self.do(self.compute.stop(vm, self.now_s, force=True))
        self.destroy()
        return confirm

    def confirm_volume(self, confirm: Confirm, vid: str, *, cdrom: bool = False) -> ConfirmVolume:
        """One volume more for the VM, by a new offer."""
        claim = VolumeClaim(vid, self.servers.get(vid, HOST), new_id(self.random), cdrom=cdrom)
        pledge_id = new_id(self.random)
        return ConfirmVolume(confirm.vm_id, confirm.generation, pledge_id, HOST, confirm.name, claim)

    def plug(self, words: ConfirmVolume, user_id: UserId = ANN) -> Vm | Refused | None:
        """What the front door would answer now; `None`: it waits."""
        decided = self.compute.plugging.attach(words, b"", self.who(user_id), HOST)
        refusal = decided if isinstance(decided, Refused) else self.apply(decided)
        return refusal or self.compute.plugging.attach_outcome(words)

    def unplug(self, confirm: Confirm, vid: str) -> Vm | Refused | None:
        vm = self.compute.vms[VmId(confirm.vm_id)]
        decided = self.compute.plugging.detach(vm, vid, self.wall_s)
        refusal = decided if isinstance(decided, Refused) else self.apply(decided)
        return refusal or self.compute.plugging.detach_outcome(vm.vm_id, vm.generation, vid)

    # ---- slow work

    def boot(self, vm: Vm) -> None:
        self.up[vm.vm_id] = vm.generation
        self.disks[vm.vm_id] = {volume.vid for volume in vm.volumes}

    def attach_one(self, answer: Answer | None = None) -> Refused | None:
        vm, vid = self.take_one(wanted.AttachVolume)
        given = Attached(tuple(v for v in attached_all(vm).volumes if v.vid == vid))
        return self.apply(self.compute.plugging.attached(vm.vm_id, vm.generation, vid, answer or given))

    def plug_one(self, failure: str | None = None) -> Refused | None:
        vm, vid = self.take_one(wanted.PlugVolume)
        if failure is None:
            self.disks[vm.vm_id].add(vid)
        return self.apply(self.compute.plugging.plugged(vm.vm_id, vm.generation, vid, failure))

    def unplug_one(self) -> Refused | None:
        vm, vid = self.take_one(wanted.UnplugVolume)
        there = self.disks.get(vm.vm_id, set()) if vm.vm_id in self.up else set()
        if self.asked and vm.vm_id not in self.deaf:
            there.discard(vid)
        return self.apply(self.compute.plugging.unplugged(vm.vm_id, vm.generation, vid, gone=vid not in there))

    def detach_one(self, *, done: bool = True) -> Refused | None:
        vm, vid = self.take_one(wanted.DetachVolume)
        return self.apply(self.compute.plugging.detached(vm.vm_id, vm.generation, vid, done=done))

    def take_one(self, kind: type[Effect]) -> tuple[Vm, str]:
        """As `take`, with the volume that it is about; `asked` tells whether the guest is."""
        effect = next(effect for effect in self.slow if isinstance(effect, kind))
        assert isinstance(effect, wanted.AttachVolume | wanted.PlugVolume | wanted.UnplugVolume | wanted.DetachVolume)
        self.slow.remove(effect)
        self.asked = isinstance(effect, wanted.UnplugVolume) and effect.asks
        return effect.vm, effect.vid

    def take(self, kind: type[Effect]) -> Vm:
        """The oldest slow work of this kind, from now on answered by the test."""
        effect = next(effect for effect in self.slow if isinstance(effect, kind))
        self.slow.remove(effect)
        assert not isinstance(effect, wanted.JournalAbandoned | wanted.Changed | wanted.Quarantined | wanted.Journal)
        return effect.vm

    def attach(self, answer: Answer | None = None, *, silent: bool = False) -> Refused | None:
        vm = self.take(wanted.AttachVolumes)
        said = Silent("storaged is silent") if silent else answer or attached_for(vm)
        return self.apply(self.compute.attached(vm.vm_id, vm.generation, said))

    def detach(self, *, done: bool = True) -> Refused | None:
        vm = self.take(wanted.DetachVolumes)
        return self.apply(self.compute.detached(vm.vm_id, vm.generation, done=done))

    def erase(self, *, done: bool = True) -> Refused | None:
        vm = self.take(wanted.EraseState)
        return self.apply(self.compute.erased(vm.vm_id, vm.generation, done=done))

    def start(self, failure: str | None = None) -> Refused | None:
        vm = self.take(wanted.StartDomain)
        if failure is None:
            self.boot(vm)
        return self.apply(self.compute.started(vm.vm_id, vm.generation, failure))

    def destroy(self, *, done: bool = True) -> Refused | None:
        vm = self.take(wanted.DestroyDomain)
        if done:
            self.up.pop(vm.vm_id, None)
        return self.apply(self.compute.destroyed(vm.vm_id, vm.generation, done=done))

    def reconcile(self) -> None:
        self.reconcile_with(self.compute.look())

    def reconcile_with(self, looked: Looked) -> None:
        observed = [
            Observed(vm_id, generation, vm_id in self.stalled, vm_id in self.held)
            for vm_id, generation in self.up.items()
        ]
        for effects in self.compute.reconcile(observed, looked, self.now_s):
            self.apply(effects)

    def tick(self) -> None:
        for effects in self.compute.tick(self.now_s):
            self.apply(effects)

    # ---- effects

    def do(self, decided: Refused | Effects) -> Refused | None:
        return decided if isinstance(decided, Refused) else self.apply(decided)

    def apply(self, effects: Effects) -> Refused | None:
        """As `atomd.performing` does."""
        for effect in effects:
            try:
                self._perform(effect)
            except DiskFull:
                assert isinstance(effect, wanted.Durable)
                refusal, undo = self.compute.rollback(effect, "the disk is full")
                self.apply(undo)
                return refusal
        return None

    def _perform(self, effect: Effect) -> None:
        if self.crashes_in == 0:
            raise Crashed
        if self.crashes_in is not None:
            self.crashes_in -= 1
        match effect:
            case wanted.Journal(put=vm, replaces=older):
                self._write()
                self.rows[vm.vm_id, vm.generation] = vm
                if older is not None:
                    self.rows.pop((older.vm_id, older.generation), None)
            case wanted.JournalForget(vm=vm):
                self._write()
                self.rows.pop((vm.vm_id, vm.generation), None)
            case wanted.JournalAbandoned(offer_id=offer_id):
                self._write()
                self.abandoned.append(offer_id)
            case wanted.Changed(vm_id=vm_id):
                self.told.append(vm_id)
            case wanted.Quarantined(vm_id=vm_id):
                self.quarantined.append(vm_id)
            case _:
                self.slow.append(effect)

    def _write(self) -> None:
        fails = self.fails_in == 0
        if self.fails_in is not None:
            self.fails_in = self.fails_in - 1 if self.fails_in else None
        if self.is_full or fails:
            raise DiskFull

    # ---- as the offering's proposer

    def propose(self, pledge: Pledge, user: User, residents: Sequence[Claim]) -> Proposal[Claim] | Nothing:
        taken = {thread for claim in residents for thread in claim.threads}
        free = [thread for thread in range(THREADS) if thread not in taken]
        if not free:
            return Nothing(())
        ram = ((0, charged_mib(ASK.ram_mib)),)
        claim = Claim(VmId(pledge.vm_id), UserId(user.id), (free[0],), 1, True, 1, ram, 0, ())
        offer = VmOffer(pledge.pledge_id, "", "h1", 1, 0, 0, 0.5, (free[0],), 1, 0, (), Arch.X86_64, Accelerator.KVM)
        return Proposal(claim, offer)


def _fits(residents: Sequence[Claim], claim: Claim) -> bool:
    return not any(set(claim.threads) & set(other.threads) for other in residents)


def attached_for(vm: Vm, epoch: int = 1) -> Attached:
    """What it has to keep, see `attached_all`."""
    return attached_all(vm.standing, epoch)


def attached_all(vm: Vm, epoch: int = 1) -> Attached:
    """Files where the claims are on this host, exports in this epoch where they are not."""
    volumes = []
    for claim in vm.claims:
        iqn = f"iqn.2026-01.atomos:{claim.vid}.{epoch}"
        away = IscsiTarget(Address("10.0.0.2", 3260), iqn, 1, f"{iqn}.h", f"u{epoch}")
        target = None if claim.server == HOST else away
        path = "/x" if target is None else ""
        volumes.append(AttachedVolume(claim.vid, path, ImageFormat.RAW, False, False, True, target))
    return Attached(tuple(volumes), tuple(ChapSecret(v.vid, f"s{epoch}") for v in volumes if v.iscsi))


def again(confirm: Confirm, **changes: object) -> Confirm:
    return replace(confirm, **changes)  # type: ignore[arg-type]


def a_vm(state: State, *, vm_id: VmId = VM_ID, generation: int = 1, boot_id: str = BOOT) -> Vm:
    """One by itself, on no host."""
    confirm = Confirm(vm_id, generation, "1" * 32, "2" * 32, HOST, "web", ASK, (), "")
    claim = Claim(vm_id, ANN, (0,), 1, True, 1, ((0, 512),), 0, ())
    return Vm(confirm, b"envelope", ANN, "ann", state, claim, boot_id=boot_id)
