"""What a person wants, as asks, and the pledges that carry them. Pure.

An `Errand` is everything that stays the same when a pledge has to be made anew; each pledge has its own id and seal.
"""

from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING

from matcher.wire.messages import (
    Address,
    Arch,
    CoreClass,
    Firmware,
    PciAsk,
    Pledge,
    Policy,
    UsbAsk,
    VmAsk,
    VolumeAsk,
    VolumeClaim,
)
from matcher.wire.seal import Seal
from specs.ids import Vid, VmId, new_id

if TYPE_CHECKING:
    from specs.specfile import Specfile  # for its shape alone: placing an ask that is ready does not load the parser

HOLD_MS = 3000


@dataclass(frozen=True, slots=True)
class Errand:
    """`reply` holds the addresses where answers are awaited, one for each family at most; `volumes` in boot order, of
    which the VM gets those in `readonly` to read alone, and those in `cdroms` as CDs.
    `specfile` is canonical JSON; it and `name` travel in the confirm alone."""

    vm_id: VmId
    generation: int
    vm: VmAsk | None
    volumes: tuple[Vid, ...] = ()
    reply: tuple[Address, ...] = ()
    policy: Policy = Policy.PACK
    hosts_known: int = 0
    hold_ms: int = HOLD_MS
    name: str = ""
    specfile: str = ""
    readonly: frozenset[Vid] = frozenset()
    cdroms: frozenset[Vid] = frozenset()
    room: VolumeAsk | None = None  # for a new volume, whose vid stands for the VM's id
    counts: bool = False  # how many such VMs would fit; of a dry pledge alone

    def wished(self, claim: VolumeClaim) -> VolumeClaim:
        """The claim, as the VM is to have its volume."""
        return replace(claim, readonly=claim.vid in self.readonly, cdrom=claim.vid in self.cdroms)


def vm_ask(spec: "Specfile", *, allow_emulation: bool, lease_s: int = 0) -> VmAsk:
    """What the specfile asks of one host, with nothing left implicit."""
    first, *others = (
        tuple(PciAsk(need.vendor, need.model, need.quantity, need.device_class, need.mdev_type) for need in needs)
        for needs in spec.pci_alternatives
    )
    return VmAsk(
        slots=spec.slots,
        smt=spec.allow_smt,
        overprovision=spec.overprovision,
        archs=tuple(Arch(arch) for arch in spec.archs),
        flags=tuple(sorted({flag.lower() for flag in spec.flags})),
        ram_mib=spec.ramsize_mib,
        ecc=spec.req_ecc,
        pci=first,
        usb=tuple(UsbAsk(need.vendor, need.model, need.quantity) for need in spec.usb),
        firmware=Firmware(spec.misc.firmware),
        allow_emulation=allow_emulation,
        tpm=spec.misc.tpm,
        qemu_agent=spec.misc.qemu_agent,
        lease_s=lease_s,
        core_class=CoreClass(spec.core_class) if spec.core_class else None,
        min_frequency_mhz=spec.min_frequency_mhz,
        hugepages_kib=spec.hugepages_kib,
        pci_else=tuple(others),
    )


def make_pledge(
    errand: Errand, *, random: Random, wall_ms: int, dry: bool, hosts_known: int = 0
) -> tuple[Pledge, Seal]:
    """A new pledge for the errand, and the seal that its maker alone can open. `wall_ms` is the wall clock, since the
    epoch: hosts refuse what is stale."""
    seal = Seal.new(random)
    pledge = Pledge(
        pledge_id=new_id(random),
        sent_at_ms=wall_ms,
        reply=errand.reply,
        dry=dry,
        vm_id=errand.vm_id,
        generation=errand.generation,
        vm=errand.vm,
        volumes=errand.volumes,
        seal=seal.sealed,
        hold_ms=errand.hold_ms,
        hosts_known=max(errand.hosts_known, hosts_known),
        policy=errand.policy,
        room=errand.room,
        counts=errand.counts and dry,
    )
    return pledge, seal
