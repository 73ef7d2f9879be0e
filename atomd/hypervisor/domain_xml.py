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

from atomd.hypervisor.cells import Cell, sockets
from atomd.hypervisor.disk_xml import NAME_PREFIX, Element, add, add_disks, add_folders, parse
from atomd.inventory.addresses import is_mediated, mdev_uuid
from atomd.inventory.facts import Pages, UsbDevice
from atomd.inventory.levels import LEVELS
from atomd.volumes.answers import HOT_MAX, is_folder
from matcher.wire.messages import USB_DEVICES_MAX, Accelerator, Arch, Firmware
from matcher.wire.volumes import AttachedVolume
from specs.ids import UserId, VmId, dashed, parse_id

NAMESPACE = "urn:atomos:domain:1"  # of our metadata; the number grows if its meaning ever changes
TITLE_MAX = 64
GUEST_AGENT = "org.qemu.guest_agent.0"


@dataclass(frozen=True, slots=True)
class DomainSpec:
    """One domain, every choice made.

    `threads` are the host's hardware threads of the claim. `exclusive`: vCPU n stays on `threads[n]`; else every vCPU
    floats over all of `threads` and nowhere else. `emulator_threads` is where QEMU's own threads may run (`None`: with
    the vCPUs); the caller keeps them off other VMs' exclusive threads. `flags` are the kernel's names. `numa` is -1
    where the VM spans nodes; `cells` are what its guest is told of them. `topoext`: the host's CPU is AMD's, and its
    guests learn of the threads of a core by that flag. `volumes` are in the user's order.
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
    cells: tuple[Cell, ...] = ()
    pci: tuple[str, ...] = ()
    usb: tuple[UsbDevice, ...] = ()
    pages: Pages | None = None
    volumes: tuple[AttachedVolume, ...] = ()
    flags: tuple[str, ...] = ()
    topoext: bool = False
    firmware: Firmware = Firmware.BIOS
    tpm: bool = False
    network: str = "default"
    emulator_threads: tuple[int, ...] | None = None
    qemu_agent: bool = False

    def __post_init__(self) -> None:
        assert parse_id(self.vm_id) == self.vm_id, "a vm_id is 32 lowercase hex digits"
        assert self.vcpus >= 1, "a VM has a vCPU"
        assert self.vcpus % self.threads_per_core == 0, "guest cores are whole"
        assert len(set(self.threads)) == len(self.threads) > 0, "a claim names each thread once"
        assert not self.exclusive or len(self.threads) == self.vcpus, "one thread for each pinned vCPU"
        assert not self.cells or sum(cell.vcpus for cell in self.cells) == self.vcpus, "each vCPU is in one cell"
        assert not self.cells or sum(cell.ram_mib for cell in self.cells) == self.ram_mib, "cells have all the RAM"


@dataclass(frozen=True, slots=True)
class Tag:
    """What we wrote into a domain's metadata; `None` where it is missing or garbled."""

    vm_id: VmId | None
    generation: int | None
    user_id: UserId | None


@dataclass(frozen=True, slots=True)
class _Platform:
    """How libvirt names an architecture, and its least surprising machine. `uefi_only`: it knows no other firmware.
    `has_ports`: it is a PCI Express machine. `has_cells`: NUMA guests were tried there; the others see one node."""

    libvirt_arch: str
    machine: str
    is_x86: bool = False
    uefi_only: bool = False
    has_uefi: bool = False
    has_ports: bool = False
    has_cells: bool = False


PLATFORMS = {
    Arch.X86_32: _Platform("i686", "q35", is_x86=True, has_ports=True),
    Arch.X86_64: _Platform("x86_64", "q35", is_x86=True, has_uefi=True, has_ports=True, has_cells=True),
    Arch.ARM_7: _Platform("armv7l", "virt", has_ports=True),
    Arch.ARM_8: _Platform("aarch64", "virt", uefi_only=True, has_uefi=True, has_ports=True),
    Arch.PPC_64: _Platform("ppc64le", "pseries"),
    Arch.S390X: _Platform("s390x", "s390-ccw-virtio"),
    Arch.RISCV_64: _Platform("riscv64", "virt", has_ports=True),
}

# The kernel's flag names, without their separators, to libvirt's (its cpu_map/x86_features.xml). Most differ in their
# separators alone. A flag that is not here (the kernel's own, as `constant_tsc`; one that the kernel makes of other
# bits on Intel's CPUs than on AMD's, as `ibrs`) was held against what guests see when the offer was made, and is not
# checked again.
_LIBVIRT_FLAGS = """
    3dnow 3dnowext 3dnowprefetch abm adx aes amd-ssbd amd-stibp amx-bf16 amx-int8 amx-tile apic arat
    arch-capabilities avx avx-vnni avx2 avx512-4fmaps avx512-4vnniw avx512-bf16 avx512-fp16 avx512-vp2intersect
    avx512-vpopcntdq avx512bitalg avx512bw avx512cd avx512dq avx512er avx512f avx512ifma avx512pf avx512vbmi
    avx512vbmi2 avx512vl avx512vnni bmi1 bmi2 cldemote clflush clflushopt clwb clzero cmov cr8legacy cx16 cx8 de
    decodeassists erms f16c flushbyasid fma fma4 fpu fsgsbase fsrm fxsr fxsr_opt gfni hle hypervisor invpcid la57
    lahf_lm lbrv lm mca mce md-clear misalignsse mmx mmxext movbe movdir64b movdiri msr mtrr npt nrip-save nx osvw
    pae pat pause-filter pcid pdpe1gb perfctr_core pfthreshold pge pks pku pni popcnt pse pse36 rdpid rdrand rdseed
    rdtscp rtm sep serialize sha-ni smap smep spec-ctrl sse sse2 sse4.1 sse4.2 sse4a ssse3 svm syscall tbm topoext
    tsc tsc-deadline tsc-scale tsc_adjust umip v-vmsave-vmload vaes vgif virt-ssbd vmcb-clean vme vmx vpclmulqdq
    waitpkg wbnoinvd x2apic xgetbv1 xop xsave xsavec xsaveerptr xsaveopt xsaves
"""


def _bare(flag: str) -> str:
    return flag.replace("-", "").replace("_", "").replace(".", "")


_ENFORCED = {_bare(name): name for name in _LIBVIRT_FLAGS.split()} | {
    "pclmulqdq": "pclmuldq",
    "tscdeadlinetimer": "tsc-deadline",
}


def enforced_flags(flags: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the kernel's flag names that libvirt can hold a guest to, in libvirt's names, sorted; a level is all of
    its flags."""
    single = {part for flag in flags for part in LEVELS.get(flag, {flag})}
    return tuple(sorted({_ENFORCED[_bare(flag)] for flag in single if _bare(flag) in _ENFORCED}))


def domain_name(vm_id: VmId) -> str:
    return NAME_PREFIX + dashed(vm_id)


def mac_address(vm_id: VmId) -> str:
    """The same VM has the same address wherever and how often it starts, so that its DHCP lease and its guest's network
    rules stay. First octet 06: locally administered, unicast, and neither QEMU's own 52:54:00, nor Docker's 02:42, nor
    the fe: that libvirt keeps for itself. Hashed: the client chooses the vm_id, and must not choose the address."""
    digest = sha256(b"atomos-mac:" + vm_id.encode()).digest()
    return ":".join(f"{octet:02x}" for octet in (0x06, *digest[:5]))


def safe_title(label: str) -> str:
    """A label that may stand in XML, in `virsh list --title` and on a terminal: one line, nothing that moves the cursor
    or turns the direction of writing, nothing that XML forbids. Letters of every script stay."""
    return "".join(_harmless(character) for character in label)[:TITLE_MAX].strip()


def _harmless(character: str) -> str:
    if character in "\t\n\v\f\r\x85\u2028\u2029":
        return " "
    turns = bidirectional(character) in {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
    marks = character in "\u200e\u200f\u061c"
    return "\ufffd" if turns or marks or category(character) in {"Cc", "Cs", "Cn", "Co"} else character


# ---- the XML


def domain_xml(spec: DomainSpec) -> str:
    """The whole domain. It is meant for `createXML`: a transient domain is gone when it ends, so that neither libvirt's
    autostart nor a `virsh start` can bring it back without a commitment (I6). Raises `StartFailed` for a volume whose
    path can't be said in XML."""
    domain = etree.Element("domain", type="kvm" if spec.accelerator is Accelerator.KVM else "qemu")
    parts: tuple[Callable[[Element, DomainSpec], None], ...] = (
        _identity,
        _memory,
        _threads,
        _boot,
        _cpu,
        _clock,
        _endings,
        _devices,
    )
    for part in parts:
        part(domain, spec)
    return etree.tostring(domain, pretty_print=True, encoding="unicode")


def _identity(domain: Element, spec: DomainSpec) -> None:
    add(domain, "name", domain_name(spec.vm_id))
    add(domain, "uuid", dashed(spec.vm_id))
    title = safe_title(spec.title)
    if title:
        add(domain, "title", title)
    metadata = add(domain, "metadata")
    tag = etree.SubElement(metadata, f"{{{NAMESPACE}}}vm", nsmap={"atomos": NAMESPACE})
    for name, value in (("id", spec.vm_id), ("generation", str(spec.generation)), ("user", spec.user_id)):
        etree.SubElement(tag, f"{{{NAMESPACE}}}{name}").text = value


def _memory(domain: Element, spec: DomainSpec) -> None:
    add(domain, "memory", str(spec.ram_mib), unit="MiB")
    add(domain, "currentMemory", str(spec.ram_mib), unit="MiB")
    # No page merging: by its timing, one user's guest could learn what another's holds.
    backing = add(domain, "memoryBacking")
    if spec.pages is not None:
        add(add(backing, "hugepages"), "page", size=spec.pages.size_kib, unit="KiB")
    add(backing, "nosharepages")
    if any(is_folder(volume) for volume in spec.volumes):
        add(backing, "source", type="memfd")  # virtiofsd reads and writes the guest's memory
        add(backing, "access", mode="shared")
    cells = _cells(spec)
    node = spec.pages.node if spec.pages is not None else spec.numa
    if node >= 0 or cells:
        # Preferred, not strict: the ledger keeps room on the node, but the host itself may have grown there, and a
        # guest with some distant memory is better than a guest killed for the lack of near memory.
        tune = add(domain, "numatune")
        if not cells:
            add(tune, "memory", mode="preferred", nodeset=node)
        for number, cell in enumerate(cells):
            add(tune, "memnode", cellid=number, mode="preferred", nodeset=cell.node)


def _cells(spec: DomainSpec) -> tuple[Cell, ...]:
    """A vCPU that floats over the nodes is near none of them: telling its guest a cell would be a lie."""
    return spec.cells if spec.exclusive and PLATFORMS[spec.arch].has_cells else ()


def _threads(domain: Element, spec: DomainSpec) -> None:
    everywhere = _cpuset(spec.threads)
    add(domain, "vcpu", str(spec.vcpus), placement="static", cpuset=everywhere)
    tune = add(domain, "cputune")
    if spec.exclusive:
        for vcpu, thread in enumerate(spec.threads):
            add(tune, "vcpupin", vcpu=vcpu, cpuset=thread)
    add(tune, "emulatorpin", cpuset=_cpuset(spec.emulator_threads or spec.threads))


def _cpuset(threads: tuple[int, ...]) -> str:
    return ",".join(str(thread) for thread in sorted(threads))


def _boot(domain: Element, spec: DomainSpec) -> None:
    os, uefi = _firmware(domain, spec.arch, spec.firmware), is_uefi(spec.arch, spec.firmware)
    if PLATFORMS[spec.arch].is_x86 and not uefi:
        # The BIOS speaks on the serial port: without it, "No bootable device" would be an empty console.
        add(os, "bios", useserial="yes")
    if uefi:  # it has network drivers of its own, and no option ROM is needed for them
        settings = add(domain, "sysinfo", type="fwcfg")
        for version in ("IPv4", "IPv6"):
            add(settings, "entry", "no", name=f"opt/org.tianocore/{version}Support")
    features = add(domain, "features")
    if PLATFORMS[spec.arch].is_x86 or uefi:  # on ARM, ACPI comes with UEFI alone
        add(features, "acpi")
    if PLATFORMS[spec.arch].is_x86:
        add(features, "apic")
        add(features, "vmport", state="off")  # VMware's back door: nobody here needs it
        if spec.firmware is Firmware.UEFI_SECURE:
            add(features, "smm", state="on")  # else the guest's kernel could rewrite the firmware's variables


def _firmware(domain: Element, arch: Arch, firmware: Firmware) -> Element:
    """libvirt chooses the file by QEMU's descriptors, and makes the VM's own variables in its folder."""
    platform, secure = PLATFORMS[arch], firmware is Firmware.UEFI_SECURE
    uefi = is_uefi(arch, firmware)
    os = add(domain, "os", **({"firmware": "efi"} if uefi else {}))
    add(os, "type", "hvm", arch=platform.libvirt_arch, machine=platform.machine)
    if uefi:
        features = add(os, "firmware")
        # Without secure boot no vendor's keys either: an unsigned system boots too, since the image is the user's own.
        # With it their keys are in: without any, firmware that could be secure boots whatever there is.
        add(features, "feature", name="enrolled-keys", enabled="yes" if secure else "no")
        if secure:
            add(features, "feature", name="secure-boot", enabled="yes")
    return os


def is_uefi(arch: Arch, firmware: Firmware) -> bool:
    """Whether such a guest starts by UEFI, whatever it has asked for."""
    platform = PLATFORMS[arch]
    return platform.uefi_only or (firmware is not Firmware.BIOS and platform.has_uefi)


def _cpu(domain: Element, spec: DomainSpec) -> None:
    """All that the accelerator can give; `check='full'` makes libvirt refuse to start a guest that lacks a required
    flag (QEMU alone only warns). `host-passthrough` needs KVM; under TCG the same idea is called `maximum`."""
    kvm = spec.accelerator is Accelerator.KVM
    flags = enforced_flags(spec.flags) if PLATFORMS[spec.arch].is_x86 else ()
    mode = "host-passthrough" if kvm else "maximum"
    cpu = add(domain, "cpu", mode=mode, check="full" if flags else "none")
    cells = _cells(spec)
    packages = sockets(cells, spec.threads_per_core)
    cores = spec.vcpus // spec.threads_per_core // packages
    add(cpu, "topology", sockets=packages, dies=1, cores=cores, threads=spec.threads_per_core)
    # Without it, a guest on AMD's CPUs takes the threads of a core for cores; QEMU gives it to whoever names it alone.
    told = {"topoext"} if kvm and spec.topoext and spec.threads_per_core > 1 else set()
    for flag in sorted({*flags, *told}):
        add(cpu, "feature", policy="require", name=flag)
    if cells:
        _numa(add(cpu, "numa"), cells)


def _numa(numa: Element, cells: tuple[Cell, ...]) -> None:
    for number, cell in enumerate(cells):
        vcpus = {"cpus": f"{cell.first}-{cell.first + cell.vcpus - 1}"} if cell.vcpus else {}
        add(numa, "cell", id=number, memory=cell.ram_mib, unit="MiB", **vcpus)


def _clock(domain: Element, spec: DomainSpec) -> None:
    clock = add(domain, "clock", offset="utc")
    if PLATFORMS[spec.arch].is_x86:
        # What virt-install has settled on: catch up lost RTC ticks, never the PIT's; the HPET costs host CPU when idle.
        add(clock, "timer", name="rtc", tickpolicy="catchup")
        add(clock, "timer", name="pit", tickpolicy="delay")
        add(clock, "timer", name="hpet", present="no")


def _endings(domain: Element, spec: DomainSpec) -> None:
    add(domain, "on_poweroff", "destroy")
    add(domain, "on_reboot", "restart")
    add(domain, "on_crash", "destroy")
    if PLATFORMS[spec.arch].is_x86:
        # A guest that puts itself to sleep would hold its resources with nobody able to wake it.
        power = add(domain, "pm")
        add(power, "suspend-to-mem", enabled="no")
        add(power, "suspend-to-disk", enabled="no")


def _devices(domain: Element, spec: DomainSpec) -> None:
    x86 = PLATFORMS[spec.arch].is_x86
    devices = add(domain, "devices")
    add_disks(devices, spec.volumes, spec.vm_id, is_x86=x86)
    add_folders(devices, spec.volumes)
    _slots(devices, spec)
    if spec.usb:
        add(devices, "controller", type="usb", model="qemu-xhci", ports=USB_DEVICES_MAX)
    else:
        add(devices, "controller", type="usb", model="none")  # nobody could plug anything in
    _network(devices, spec)
    _serial(devices, spec.console_log)
    if spec.qemu_agent:
        channel = add(devices, "channel", type="unix")  # libvirt chooses the path, in its own folder
        add(channel, "target", type="virtio", name=GUEST_AGENT)
    for address in spec.pci:
        _pci(devices, address)
    for device in spec.usb:
        _usb(devices, device)
    if spec.tpm:
        _tpm(devices)
    # No graphics: nothing of a guest ever listens on a TCP port. The serial console is the way in.
    add(add(devices, "video"), "model", type="none")
    add(devices, "memballoon", model="none")  # RAM is promised whole; nobody will ever ask for it back
    add(add(devices, "rng", model="virtio"), "backend", "/dev/urandom", model="random")  # boots need entropy
    if x86:
        add(devices, "panic", model="isa")  # a guest's kernel panic is seen as a crash, not as a busy CPU


def _slots(devices: Element, spec: DomainSpec) -> None:
    """On a PCI Express machine each device has a port of its own, and a running guest grows none: as many more as it
    may get disks. (libvirt itself makes those that are lacking for the devices here.)"""
    if PLATFORMS[spec.arch].has_ports:
        disks = sum(not volume.cdrom for volume in spec.volumes)
        others = 2 + spec.qemu_agent + len(spec.pci) + bool(spec.usb)  # the link and the entropy
        add(devices, "controller", type="pci", index=0, model="pcie-root")
        for index in range(1, 1 + disks + others + HOT_MAX):
            add(devices, "controller", type="pci", index=index, model="pcie-root-port")


def _network(devices: Element, spec: DomainSpec) -> None:
    nic = add(devices, "interface", type="network")
    add(nic, "mac", address=mac_address(spec.vm_id))
    add(nic, "source", network=spec.network)
    add(nic, "model", type="virtio")
    add(nic, "rom", enabled="no")  # a VM boots its volumes, never what some network tells it


def _serial(devices: Element, console_log: str) -> None:
    """A terminal for people and a log of all that was said. virtlogd writes the log and bounds it (2 MiB, rotated), so
    that a talkative guest can't fill the host's disk. Appended: what the last boot said is often the reason."""
    serial = add(devices, "serial", type="pty")
    add(serial, "log", file=console_log, append="on")
    add(serial, "target", port=0)


def _pci(devices: Element, address: str) -> None:
    """`managed`: libvirt takes the device from its driver before the start and gives it back after the end. A mediated
    device is made by then."""
    if is_mediated(address):
        hostdev = add(devices, "hostdev", mode="subsystem", type="mdev", model="vfio-pci")
        add(add(hostdev, "source"), "address", uuid=mdev_uuid(address))
        return
    domain, bus, rest = address.split(":")
    slot, function = rest.split(".")
    hostdev = add(devices, "hostdev", mode="subsystem", type="pci", managed="yes")
    parts = {"domain": domain, "bus": bus, "slot": slot, "function": function}
    add(add(hostdev, "source"), "address", **{name: f"0x{value}" for name, value in parts.items()})


def _usb(devices: Element, device: UsbDevice) -> None:
    """By kind and by number: what was plugged in since is never taken for it, and without it there is no start."""
    hostdev = add(devices, "hostdev", mode="subsystem", type="usb", managed="yes")
    source = add(hostdev, "source")
    add(source, "vendor", id=f"0x{device.vendor}")
    add(source, "product", id=f"0x{device.model}")
    add(source, "address", bus=device.bus or 0, device=device.number or 0)


def _tpm(devices: Element) -> None:
    """swtpm's, one process for each VM, in the model that is the machine's default. Its state outlives the domain, for
    all that ours are transient: what was sealed by it opens after the next start too."""
    add(add(devices, "tpm"), "backend", type="emulator", version="2.0", persistent_state="yes")


# ---- what outlives the domain


def state_xml(vm_id: VmId, arch: Arch, firmware: Firmware, *, tpm: bool) -> str:
    """A domain that is never started: by it libvirt finds what it keeps for the VM beyond its domain, which are UEFI's
    variables and the TPM's state, to remove that."""
    domain = etree.Element("domain", type="qemu")
    add(domain, "name", domain_name(vm_id))
    add(domain, "uuid", dashed(vm_id))
    add(domain, "memory", "64", unit="MiB")
    _firmware(domain, arch, firmware)
    features = add(domain, "features")
    if is_uefi(arch, firmware):
        add(features, "acpi")
    if firmware is Firmware.UEFI_SECURE and PLATFORMS[arch].is_x86:
        add(features, "smm", state="on")
    devices = add(domain, "devices")
    if tpm:
        _tpm(devices)
    return etree.tostring(domain, pretty_print=True, encoding="unicode")


# ---- reading back


def vm_id_of(xml: str) -> VmId:
    """Which VM a domain XML of ours is for."""
    domain = parse(xml)
    uuid = None if domain is None else parse_id(domain.findtext("uuid") or "")
    assert uuid is not None, "domain XML of ours has a uuid"
    return VmId(uuid)


def read_tag(metadata: str) -> Tag:
    """Our metadata element, as libvirt gives it back; whoever may use virsh may have changed it, so nothing is sure."""
    tag = parse(metadata)
    if tag is None:
        return Tag(None, None, None)
    values = {etree.QName(child).localname: (child.text or "").strip() for child in tag.iterchildren(etree.Element)}
    vm_id = parse_id(values.get("id", ""))
    generation = values.get("generation", "")
    user = values.get("user", "")
    return Tag(
        VmId(vm_id) if vm_id else None,
        int(generation) if generation.isascii() and generation.isdigit() and len(generation) <= 10 else None,
        UserId(user) if len(user) == 64 and set(user) <= set("0123456789abcdef") else None,
    )
