"""What guests can be given of a machine: the inventory, seen through the accelerator and the host's settings. Pure.

A flag in /proc/cpuinfo is not yet a flag in the guest. Under KVM, libvirt's host-passthrough shows the guest what KVM
can virtualise: the host's flags less those that concern power, monitoring and the hypervisor's own business, and more
by a few that KVM makes itself. Under TCG the guest sees QEMU's `max` model, whatever the host is.
"""

from collections import Counter
from collections.abc import Collection, Iterable

from atomd.capacity.hardware import Claim, Hardware
from atomd.inventory.facts import Core, Cpu, Inventory, Memory, NumaNode, Pages
from atomd.inventory.levels import LEVELS
from matcher.wire.messages import Accelerator, Arch, Firmware

RESERVED_CORE_FROM = 4  # cores; on smaller machines the host shares with its VMs
RAM_RESERVE_MIB = 1024

GUEST_ARCHS: dict[str, frozenset[Arch]] = {
    "x86_64": frozenset({Arch.X86_64, Arch.X86_32}),
    "i386": frozenset({Arch.X86_32}),
    "i486": frozenset({Arch.X86_32}),
    "i586": frozenset({Arch.X86_32}),
    "i686": frozenset({Arch.X86_32}),
    # Many 64-bit Arm cores have no AArch32 at EL1, and /proc does not tell: ARM_7 is promised by 32-bit hosts alone.
    "aarch64": frozenset({Arch.ARM_8}),
    "armv8l": frozenset({Arch.ARM_7}),
    "armv7l": frozenset({Arch.ARM_7}),
    "ppc64": frozenset({Arch.PPC_64}),
    "ppc64le": frozenset({Arch.PPC_64}),
    "s390x": frozenset({Arch.S390X}),
    "riscv64": frozenset({Arch.RISCV_64}),
}
"""The kernel's machine name -> what guests on it may be. An accelerator runs its own kind; emulating another
architecture is left out on purpose."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Kept from guests: KVM masks them (Linux, arch/x86/kvm/cpuid.c), or the VM's XML would have to ask for them.
_NOT_VIRTUALISED = _words("""
    aperfmperf arch_lbr bts ds_cpl dtes64 dts pebs intel_pt ibs perfctr_llc perfctr_nb sdbg
    cqm cqm_llc cqm_occup_llc cqm_mbm_total cqm_mbm_local rdt_a cat_l2 cat_l3 cdp_l2 cdp_l3 mba bmec abmc
    acpi cppc cpb hw_pstate proc_feedback est tm tm2 ida epb pln pts hfi tme monitor mwaitx ring3mwait
    hwp hwp_notify hwp_act_window hwp_epp hwp_pkg_req
    sme sev sev_es sev_snp debug_swap tdx_host_platform sgx sgx_lc smx skinit svm_lock intel_ppin amd_ppin
    split_lock_detect bus_lock_detect user_shstk ibt pconfig enqcmd
    avic x2avic decodeassists v_spec_ctrl
    wdt tce pbe xtpr dca extd_apicid amd_dcm nodeid_msr smca succor overflow_recov
""")
# A hypervisor's own features: seen by guests where KVM nests.
_NESTED = _words("""
    vmx ept ept_ad ept_x_only ept_1gb vpid tpr_shadow flexpriority vnmi
    svm npt lbrv nrip_save tsc_scale vmcb_clean flushbyasid pausefilter pfthreshold v_vmsave_vmload vgif
""")
# KVM makes these itself on any x86 host (Linux, Documentation/virt/kvm/api.rst, KVM_GET_SUPPORTED_CPUID).
_KVM_MADE = _words("hypervisor x2apic tsc_deadline_timer")

# Measured: QEMU 7.2.22 (Debian 12), `-machine none -accel tcg`, QMP query-cpu-model-expansion, type full, model max;
# QEMU's own switches and second spellings left out, the rest as the kernel names it.
TCG_X86_FLAGS = _words("""
    3dnow 3dnowext abm adx aes apic arat avx avx2 bmi1 bmi2 clflush clflushopt clwb cmov cr8_legacy cx16 cx8 de
    erms f16c fma fpu fsgsbase fxsr hypervisor la57 lahf_lm lm mca mce mmx mmxext movbe mpx msr mtrr npt nx pae pat
    pclmulqdq pdpe1gb pge pku pni popcnt pse pse36 rdrand rdtscp sep smap smep sse sse2 sse4_1 sse4_2 sse4a ssse3
    svm syscall tsc umip vaes vgif xgetbv1 xsave xsaveopt
""")


def hardware_of(
    inventory: Inventory,
    *,
    accelerator: Accelerator,
    firmwares: Collection[Firmware],
    tpm: bool = False,
    seen_flags: frozenset[str] | None = None,
    ram_reserve_mib: int = RAM_RESERVE_MIB,
    reserved_core: bool = True,
    reserved_cpus: frozenset[int] = frozenset(),
    nested: bool = True,
    share_cores_between_users: bool = False,
) -> Hardware:
    """`seen_flags`, in the kernel's names, are those that this host's QEMU says its guests see; where it was not asked
    or does not tell, the tables above stand in. `ram_reserve_mib` stays with the host, and so do `reserved_cpus`; where
    there are none, one core (`reserved_core`) of four or more. A core with a thread that is reserved or withheld is
    lent to nobody: what runs on its sibling would be felt there. `nested`: KVM's parameter of that name, on by default
    since Linux 4.20."""
    withheld = reserved_cpus.union(*(each.threads for each in inventory.cpu.withheld))
    cores = tuple(core for core in inventory.cpu.cores if core.threads and withheld.isdisjoint(core.threads))
    kept = _kept_core(inventory.cpu, reserved_core=reserved_core, reserved_cpus=reserved_cpus)
    return Hardware(
        archs=GUEST_ARCHS.get(inventory.arch, frozenset()),
        accelerator=accelerator,
        cpu_model=inventory.cpu.model,
        guest_flags=_guest_flags(inventory, accelerator, seen_flags, nested=nested),
        cores=tuple(core for core in cores if core is not kept),
        ram_mib=_lent(inventory.memory, ram_reserve_mib, first=kept),
        ecc=inventory.memory.ecc,
        pci=tuple(device for device in inventory.pci if device.assignable),
        pci_refused=tuple(device for device in inventory.pci if not device.assignable),
        firmwares=frozenset(firmwares),
        share_cores_between_users=share_cores_between_users,
        usb=tuple(device for device in inventory.usb if device.assignable),
        usb_refused=tuple(device for device in inventory.usb if not device.assignable),
        pages=lent_pages(inventory.memory, ()),
        ecc_source=inventory.memory.ecc_source,
        tpm=tpm,
        caches=_shared_caches(inventory.cpu),
        topoext="topoext" in inventory.cpu.flags,
    )


def _shared_caches(cpu: Cpu) -> tuple[tuple[int, ...], ...]:
    """Those of the last level, if it is one that cores share: what a core has for itself says nothing of neighbours."""
    holding = [cache for cache in cpu.caches if cache.kind != "instruction"]
    last = max((cache.level for cache in holding), default=0)
    caches = tuple(cache.threads for cache in holding if cache.level == last)
    owns = {core.threads for core in cpu.cores}
    return () if owns.issuperset(caches) else caches


def lent_mib(
    cpu: Cpu, memory: Memory, *, ram_reserve_mib: int, reserved_core: bool, reserved_cpus: frozenset[int]
) -> tuple[tuple[int, int], ...]:
    """`Hardware.ram_mib`, of memory as it is now; the settings are those of `hardware_of`."""
    kept = _kept_core(cpu, reserved_core=reserved_core, reserved_cpus=reserved_cpus)
    return _lent(memory, ram_reserve_mib, first=kept)


def _kept_core(cpu: Cpu, *, reserved_core: bool, reserved_cpus: frozenset[int]) -> Core | None:
    return _reserved(cpu.cores, reserved_cpus) if reserved_core or reserved_cpus else None


def _reserved(cores: tuple[Core, ...], chosen: frozenset[int]) -> Core | None:
    """The core that the host keeps: the one with the lowest thread, where interrupts and housekeeping land anyway; of
    those that its sysadmin has chosen, if there are any."""
    online = [core for core in cores if core.threads]
    own = [core for core in online if not chosen.isdisjoint(core.threads)]
    if not own and len(online) < RESERVED_CORE_FROM:
        return None
    return min(own or online, key=lambda core: min(core.threads))


def _guest_flags(
    inventory: Inventory, accelerator: Accelerator, seen: frozenset[str] | None, *, nested: bool
) -> frozenset[str]:
    is_x86 = Arch.X86_32 in GUEST_ARCHS.get(inventory.arch, frozenset())
    if seen is not None:
        flags = frozenset(flag.lower() for flag in seen)
    elif accelerator is Accelerator.TCG:
        flags = TCG_X86_FLAGS if is_x86 else frozenset()
    else:
        flags = frozenset(flag.lower() for flag in inventory.cpu.flags)
        if is_x86:
            flags = flags - _NOT_VIRTUALISED - (frozenset() if nested else _NESTED) | _KVM_MADE
    return flags | {name for name, needed in LEVELS.items() if needed <= flags} if is_x86 else flags


def _lent(memory: Memory, reserve_mib: int, *, first: Core | None) -> tuple[tuple[int, int], ...]:
    """RAM for VMs on each node: the reserve comes from the node of the host's own core, then from the largest ones.
    Where the nodes claim more than the machine has, the difference is not lent either; nor is what the kernel keeps for
    huge pages, which whoever does not ask for them can't get."""
    excess = max(0, sum(max(0, node.total_mib) for node in memory.numa) - memory.total_mib)
    left = {node.number: max(0, node.total_mib - _kept_mib(node)) for node in memory.numa}
    reserve, node = max(0, reserve_mib) + excess, first.numa if first else None
    for number in sorted(left, key=lambda number: (number != node, -left[number], number)):
        taken = min(reserve, left[number])
        left[number] -= taken
        reserve -= taken
    return tuple(sorted(left.items()))


def _kept_mib(node: NumaNode) -> int:
    return sum(pages.total * pages.size_kib for pages in node.hugepages) // 1024


def lent_pages(
    memory: Memory, claims: Iterable[Claim], mounted_kib: Collection[int] | None = None
) -> tuple[Pages, ...]:
    """The huge pages that VMs may have: those that nobody uses, and those that these claims, of VMs that run now,
    have. What else on the host uses some is not asked to give them back. `mounted_kib`: QEMU can have those of these
    sizes alone; `None`: of all."""
    ours = Counter[tuple[int, int]]()
    for pages in (claim.pages for claim in claims):
        if pages is not None:
            ours[pages.node, pages.size_kib] += pages.count
    return tuple(
        Pages(node.number, each.size_kib, min(each.total, each.free + ours[node.number, each.size_kib]))
        for node in memory.numa
        for each in node.hugepages
        if mounted_kib is None or each.size_kib in mounted_kib
    )
