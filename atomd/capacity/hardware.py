"""What a host has to give, and what one VM takes of it. Pure.

`Hardware` is the inventory seen through the accelerator and the sysadmin's settings: what guests can be given.
`Claim` is the exact share of one VM; the claims of all holds and commitments are a host's residents.
"""

from dataclasses import dataclass

from atomd.inventory.facts import Core, Pages, PciDevice, UsbDevice
from matcher.wire.messages import Accelerator, Arch, Firmware
from specs.ids import UserId, VmId


@dataclass(frozen=True, slots=True)
class Hardware:
    """`cores` are those that VMs may use (from 4 cores up, the host keeps one for itself). `ram_mib` maps each NUMA
    node to what VMs may use there, after the host's reserve. `guest_flags` are those a guest sees with `accelerator`,
    the x86-64 levels among them. `pci` and `usb` hold assignable devices alone; `pci_refused` and `usb_refused` the
    others, with their reasons. `pages` are the huge pages that VMs may have. `caches` are the threads that share each
    last-level cache; empty where that is unknown, or where every core has one of its own. `topoext`: the CPU is one of
    AMD's, and says which threads make a core."""

    archs: frozenset[Arch]
    accelerator: Accelerator
    cpu_model: str
    guest_flags: frozenset[str]
    cores: tuple[Core, ...]
    ram_mib: tuple[tuple[int, int], ...]  # (NUMA node, MiB)
    ecc: bool | None
    pci: tuple[PciDevice, ...]
    pci_refused: tuple[PciDevice, ...]
    firmwares: frozenset[Firmware]
    share_cores_between_users: bool = False
    usb: tuple[UsbDevice, ...] = ()
    usb_refused: tuple[UsbDevice, ...] = ()
    pages: tuple[Pages, ...] = ()
    ecc_source: str = ""  # who says so, as the inventory has it
    tpm: bool = False  # whether guests can have one of their own
    caches: tuple[tuple[int, ...], ...] = ()
    topoext: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """One VM's share. `ram_mib` is charged: the guest's RAM and QEMU's own, by NUMA node; of a guest whose RAM is in
    huge pages (`pages`), QEMU's own alone.

    A claim on whole cores (`smt` false) holds every sibling in `threads`. At most `overprovision` VMs in total may
    share each unit (core or thread) of it. `spans_classes`: its cores are of more than one class, as was asked.
    """

    vm_id: VmId
    user_id: UserId
    threads: tuple[int, ...]
    threads_per_core: int  # of the guest's topology: 1 with `smt`
    smt: bool
    overprovision: int
    ram_mib: tuple[tuple[int, int], ...]  # (NUMA node, MiB)
    numa: int  # -1 when it spans nodes
    pci: tuple[str, ...]  # addresses
    spans_classes: bool = False
    usb: tuple[str, ...] = ()  # ports
    pages: Pages | None = None

    @property
    def charged_mib(self) -> int:
        """All memory that it costs, of whichever pages."""
        return sum(mib for _, mib in self.ram_mib) + (self.pages.mib if self.pages is not None else 0)

    def of(self, vm_id: VmId, user_id: UserId) -> "Claim":
        """The same share for another VM; `dataclasses.replace` takes half as long again, for every answer."""
        return Claim(
            vm_id,
            user_id,
            self.threads,
            self.threads_per_core,
            self.smt,
            self.overprovision,
            self.ram_mib,
            self.numa,
            self.pci,
            self.spans_classes,
            self.usb,
            self.pages,
        )
