"""A VM as libvirt is told it: one frozen `DomainSpec` in, domain XML out, and our own tag read back. Pure.

Everything a guest gets is decided here, and every element says why it stands as it does. What a user wrote reaches two
places only: the title, made harmless and escaped, and the names of required CPU flags, which pass through a fixed
table. Paths, networks and devices come from this host. The XML is built by a library, so that nothing can inject.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from unicodedata import bidirectional, category

from lxml import etree

from matcher.wire.messages import Accelerator, Arch, AttachedVolume, Firmware
from specs.ids import UserId, VmId, dashed, parse_id

NAME_PREFIX = "atomos-"
NAMESPACE = "urn:atomos:domain:1"  # of our metadata; the number grows if its meaning ever changes
TITLE_MAX = 64
GUEST_AGENT = "org.qemu.guest_agent.0"
DISK_SERIAL_MAX = 20  # virtio-blk's own limit: the guest sees /dev/disk/by-id/virtio-<first 20 digits of the vid>


@dataclass(frozen=True, slots=True)
class DomainSpec:
    """One domain, every choice made.

    `threads` are the host's hardware threads of the claim. `exclusive`: vCPU n stays on `threads[n]`; else every vCPU
    floats over all of `threads` and nowhere else. `emulator_threads` is where QEMU's own threads may run (`None`: with
    the vCPUs); the caller keeps them off other VMs' exclusive threads. `flags` are the kernel's names. `numa` is -1
    where the VM spans nodes. `volumes` are in the user's order.
    """

    vm_id: VmId
    generation: int
    title: str
    user_id: UserId
    accelerator: Accelerator
    arch: Arch
    vcpus: int
    threads: tuple[int, ...]
    exclusive: bool
    threads_per_core: int
    ram_mib: int
    console_log: str
    numa: int = -1
    pci: tuple[str, ...] = ()
    volumes: tuple[AttachedVolume, ...] = ()
    flags: tuple[str, ...] = ()
    firmware: Firmware = Firmware.BIOS
    network: str = "default"
    emulator_threads: tuple[int, ...] | None = None
    qemu_agent: bool = False

    def __post_init__(self) -> None:
        assert parse_id(self.vm_id) == self.vm_id, "a vm_id is 32 lowercase hex digits"
        assert self.vcpus >= 1, "a VM has a vCPU"
        assert self.vcpus % self.threads_per_core == 0, "guest cores are whole"
        assert len(set(self.threads)) == len(self.threads) > 0, "a claim names each thread once"
        assert not self.exclusive or len(self.threads) == self.vcpus, "one thread for each pinned vCPU"


@dataclass(frozen=True, slots=True)
class Tag:
    """What we wrote into a domain's metadata; `None` where it is missing or garbled."""

    vm_id: VmId | None
    generation: int | None
    user_id: UserId | None


@dataclass(frozen=True, slots=True)
class _Platform:
    """How libvirt names an architecture, and its least surprising machine. `uefi_only`: it knows no other firmware."""

    libvirt_arch: str
    machine: str
    is_x86: bool = False
    uefi_only: bool = False
    has_uefi: bool = False


PLATFORMS = {
    Arch.X86_32: _Platform("i686", "q35", is_x86=True),
    Arch.X86_64: _Platform("x86_64", "q35", is_x86=True, has_uefi=True),
    Arch.ARM_7: _Platform("armv7l", "virt"),
    Arch.ARM_8: _Platform("aarch64", "virt", uefi_only=True, has_uefi=True),
    Arch.PPC_64: _Platform("ppc64le", "pseries"),
    Arch.S390X: _Platform("s390x", "s390-ccw-virtio"),
    Arch.RISCV_64: _Platform("riscv64", "virt"),
}
