"""What guests can be given of a machine."""

from dataclasses import replace

from atomd.capacity.guest_cpu import TCG_X86_FLAGS, hardware_of, lent_pages
from atomd.capacity.hardware import Claim
from atomd.inventory.facts import Cache, Core, Cpu, HugePages, Inventory, Memory, NumaNode, Pages, PciDevice, Withheld
from matcher.wire.messages import Accelerator, Arch, Firmware
from specs.ids import UserId, VmId

V2 = "lm cmov cx8 fpu fxsr mmx syscall sse sse2 cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"
NIC = PciDevice("0000:01:00.0", "8086", "1572", "020000", 0, 4, "i40e", True, None)
DISK = PciDevice("0000:02:00.0", "8086", "0a54", "010802", 0, 5, "nvme", False, "holds the root filesystem")


def machine(cores: int = 4, arch: str = "x86_64", flags: str = V2) -> Inventory:
    return Inventory(
        arch=arch,
        cpu=Cpu("Some CPU", frozenset(flags.split()), None, tuple(Core((n, n + cores), 0, 0) for n in range(cores))),
        memory=Memory(9216, None, (NumaNode(0, 4096), NumaNode(1, 5120))),
        pci=(NIC, DISK),
    )


def hardware(inventory: Inventory, accelerator: Accelerator = Accelerator.KVM, **settings: object):  # type: ignore[no-untyped-def]
    return hardware_of(inventory, accelerator=accelerator, firmwares={Firmware.BIOS}, **settings)  # type: ignore[arg-type]


def test_from_four_cores_up_the_host_keeps_the_one_with_the_lowest_thread() -> None:
    inventory = machine(4)
    shuffled = replace(inventory, cpu=replace(inventory.cpu, cores=inventory.cpu.cores[::-1]))
    assert {core.threads for core in hardware(shuffled).cores} == {(1, 5), (2, 6), (3, 7)}
    assert len(hardware(machine(3)).cores) == 3
    assert len(hardware(machine(4), reserved_core=False).cores) == 4


def test_what_the_sysadmin_keeps_is_kept_with_its_siblings_and_instead_of_the_first_core() -> None:
    kept = frozenset({2, 7})
    assert {core.threads for core in hardware(machine(4), reserved_cpus=kept).cores} == {(0, 4), (1, 5)}
    assert {core.threads for core in hardware(machine(2), reserved_cpus=frozenset({3})).cores} == {(0, 2)}
    assert len(hardware(machine(4), reserved_cpus=frozenset({99})).cores) == 3, (
        "threads that are not there keep nothing"
    )


def test_a_core_with_a_thread_that_is_withheld_is_lent_to_nobody() -> None:
    inventory = machine(4)
    withheld = replace(inventory.cpu, withheld=(Withheld((6,), "isolated at boot"),))
    assert {core.threads for core in hardware(replace(inventory, cpu=withheld)).cores} == {(1, 5), (3, 7)}


def test_a_machine_without_cores_lends_none() -> None:
    assert hardware(machine(0)).cores == ()


def test_the_reserve_comes_from_the_node_of_the_hosts_own_core_first() -> None:
    assert hardware(machine(), ram_reserve_mib=1024).ram_mib == ((0, 3072), (1, 5120))
    assert hardware(machine(), ram_reserve_mib=5000).ram_mib == ((0, 0), (1, 4216))
    assert hardware(machine(), ram_reserve_mib=10**9).ram_mib == ((0, 0), (1, 0))


def test_nodes_that_claim_more_than_the_machine_has_do_not_lend_it() -> None:
    inventory = machine()
    less = replace(inventory, memory=replace(inventory.memory, total_mib=9000))
    assert sum(mib for _, mib in hardware(less, ram_reserve_mib=0).ram_mib) == 9000


def test_what_is_kept_for_huge_pages_is_not_lent_as_other_memory() -> None:
    first, second = machine().memory.numa
    pages = (HugePages(2048, 512, 512), HugePages(1024 * 1024, 1, 0))
    memory = replace(machine().memory, numa=(replace(first, hugepages=pages), second))
    assert hardware(replace(machine(), memory=memory), ram_reserve_mib=1024).ram_mib == ((0, 1024), (1, 5120))
    too_many = replace(machine().memory, numa=(replace(first, hugepages=(HugePages(2048, 10**6, 0),)), second))
    assert dict(hardware(replace(machine(), memory=too_many), ram_reserve_mib=0).ram_mib)[0] == 0


def test_huge_pages_are_lent_that_nobody_uses_or_a_vm_does() -> None:
    first, second = machine().memory.numa
    memory = replace(machine().memory, numa=(replace(first, hugepages=(HugePages(2048, 512, 100),)), second))
    resident = Claim(VmId("2" * 32), UserId("a" * 64), (0,), 1, True, 1, ((0, 140),), 0, (), pages=Pages(0, 2048, 64))
    assert hardware(replace(machine(), memory=memory)).pages == (Pages(0, 2048, 100),)
    assert lent_pages(memory, [resident]) == (Pages(0, 2048, 164),)
    assert lent_pages(memory, (), {1024 * 1024}) == (), "QEMU could not have them"
    assert lent_pages(memory, (), {2048}) == (Pages(0, 2048, 100),)
    assert lent_pages(memory, [resident] * 9) == (Pages(0, 2048, 512),), "no more than there are"


def test_the_caches_of_the_last_level_are_known_where_cores_share_them() -> None:
    cores = tuple(Core((2 * n, 2 * n + 1), 0, 0) for n in range(4))
    own = tuple(Cache(2, "unified", 512, core.threads) for core in cores)
    shared = tuple(Cache(3, "unified", 8192, cores[n].threads + cores[n + 1].threads) for n in (0, 2))
    code = (Cache(4, "instruction", 64, tuple(range(8))),)

    def caches(*levels: tuple[Cache, ...]) -> tuple[tuple[int, ...], ...]:
        cpu = Cpu("Some CPU", frozenset(), None, cores, tuple(cache for level in levels for cache in level))
        known: tuple[tuple[int, ...], ...] = hardware(replace(machine(), cpu=cpu)).caches
        return known

    assert caches(own, shared) == caches(own, shared, code) == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert caches(own) == caches() == ()


def test_levels_count_as_flags() -> None:
    flags = hardware(machine()).guest_flags
    assert {"x86-64-v1", "x86-64-v2", "sse4_2"} <= flags
    assert "x86-64-v3" not in flags


def test_kvm_hides_what_it_does_not_virtualise_and_adds_what_it_makes() -> None:
    flags = hardware(machine(flags=f"{V2} monitor aperfmperf svm npt avx512f")).guest_flags
    assert {"avx512f", "svm", "npt", "hypervisor"} <= flags
    assert not flags & {"monitor", "aperfmperf"}
    assert "svm" not in hardware(machine(flags=f"{V2} svm"), nested=False).guest_flags


def test_amds_cpus_are_told_by_the_flag_that_says_which_threads_make_a_core() -> None:
    assert hardware(machine(flags=f"{V2} topoext")).topoext
    assert not hardware(machine()).topoext


def test_under_emulation_the_guest_sees_qemus_flags_whatever_the_host_has() -> None:
    flags = hardware(machine(flags="avx512f"), Accelerator.TCG).guest_flags
    assert flags >= TCG_X86_FLAGS | {"x86-64-v3"}
    assert not flags & {"avx512f", "x86-64-v4"}
    told = hardware(machine(), Accelerator.TCG, seen_flags=frozenset(V2.upper().split())).guest_flags
    assert {"x86-64-v2", "pni"} <= told
    assert "avx2" not in told


def test_an_x86_64_host_serves_32_bit_guests_and_others_their_own_kind() -> None:
    assert hardware(machine()).archs == {Arch.X86_64, Arch.X86_32}
    own = {"aarch64": Arch.ARM_8, "ppc64le": Arch.PPC_64, "s390x": Arch.S390X, "riscv64": Arch.RISCV_64}
    for arch, guest in own.items():
        given = hardware(machine(arch=arch, flags="asimd"))
        assert given.archs == {guest}
        assert given.guest_flags == {"asimd"}
    assert hardware(machine(arch="m68k")).archs == frozenset()


def test_devices_that_the_host_keeps_are_set_apart_with_their_reasons() -> None:
    given = hardware(machine())
    assert given.pci == (NIC,)
    assert given.pci_refused == (DISK,)
