"""Models, flags, levels and architectures, as each architecture's kernel prints them."""

import pytest

from atomd.inventory import cpuinfo
from atomd.inventory.levels import LEVELS, level_of

X86 = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R)  CPU\nflags\t\t: fpu LM sse2\n"
ARM64 = "processor\t: 0\nFeatures\t: fp asimd aes\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd0c\n"
ARM32 = (
    "Processor\t: ARMv7 Processor rev 4 (v7l)\nprocessor\t: 0\nBogoMIPS\t: 1694.10\n\nprocessor\t: 1\n\n"
    "Features\t: swp half thumb vfp neon\nCPU implementer\t: 0x41\nCPU architecture: 7\nCPU part\t: 0xc0f\n\n"
    "Hardware\t: SAMSUNG EXYNOS5\n"
)
POWER = (
    "processor\t: 0\ncpu\t\t: POWER9, altivec supported\nrevision\t: 2.2 (pvr 004e 1202)\n\n"
    "timebase\t: 512000000\nplatform\t: PowerNV\nmachine\t\t: PowerNV\n"
)
S390 = (
    "vendor_id       : IBM/S390\n# processors    : 2\nfeatures\t: esan3 zarch vx\n"
    "processor 0: version = FF,  identification = 3E8BC8,  machine = 2964\n"
    "processor 1: version = FF,  identification = 3E8BC8,  machine = 2964\n\n"
    "cpu number      : 0\ncpu MHz dynamic : 5000\n\ncpu number      : 1\ncpu MHz dynamic : 5000\n"
)
RISCV = "processor\t: 0\nhart\t\t: 3\nisa\t\t: rv64imafdc_zicsr_zba\nuarch\t\t: sifive,u74-mc\n"
SPARC = "cpu\t\t: UltraSparc T1 (Niagara)\ntype\t\t: sun4v\n"
LOONGARCH = (
    "system type\t\t: generic-loongson-machine\n\nprocessor\t\t: 0\nCPU Family\t\t: Loongson-64bit\n"
    "Model Name\t\t: Loongson-3A5000\nISA\t\t\t: loongarch32 loongarch64\nFeatures\t\t: cpucfg lam fpu lsx\n"
)
IA64 = (
    "processor  : 0\nvendor     : GenuineIntel\narch       : IA-64\nfamily     : Itanium 2\nfeatures   : branchlong\n"
)


@pytest.mark.parametrize(
    ("text", "arch", "model", "flag", "processors"),
    [
        (X86.replace("LM", "lm"), "x86_64", "Intel(R) Xeon(R) CPU", "sse2", {0}),
        (X86, "i686", "Intel(R) Xeon(R) CPU", "lm", {0}),
        (ARM64, "aarch64", "ARM Neoverse-N1", "asimd", {0}),
        (ARM32, "armv7l", "ARM Cortex-A15", "thumb", {0, 1}),
        (POWER, "ppc64", "POWER9, altivec supported", None, {0}),
        (S390, "s390x", "IBM/S390 2964", "vx", {0, 1}),
        (RISCV, "riscv64", "sifive,u74-mc", "zba", {0}),
        (SPARC, "sparc64", "UltraSparc T1 (Niagara)", None, set()),
        (LOONGARCH, "loongarch64", "Loongson-3A5000", "lsx", {0}),
        (IA64, "ia64", "Itanium 2", "branchlong", {0}),
        ("", "unknown", "unknown", None, set()),
    ],
)
def test_each_architecture_is_told_by_its_own_format(
    text: str, arch: str, model: str, flag: str | None, processors: set[int]
) -> None:
    info = cpuinfo.parse(text)
    assert (cpuinfo.arch(info, little_endian=False), cpuinfo.model(info)) == (arch, model)
    assert set(info.processors) == processors
    assert flag in cpuinfo.flags(info) if flag else cpuinfo.flags(info) == frozenset()


def test_the_byte_order_tells_the_two_power_machines_apart() -> None:
    assert cpuinfo.arch(cpuinfo.parse(POWER), little_endian=True) == "ppc64le"


def test_only_flags_that_every_processor_has_count() -> None:
    info = cpuinfo.parse("processor: 0\nflags: lm avx\n\nprocessor: 1\nflags: lm sse2\n")
    assert cpuinfo.flags(info) == {"lm"}


def test_a_machine_of_several_kinds_names_them_all() -> None:
    text = ARM64 + "\n" + ARM64.replace("processor\t: 0", "processor\t: 1").replace("0xd0c", "0xfff")
    assert cpuinfo.model(cpuinfo.parse(text)) == "ARM Neoverse-N1 + ARM part 0xfff"


def test_riscv_letters_and_long_extensions_are_flags() -> None:
    assert cpuinfo.flags(cpuinfo.parse(RISCV)) == {*"imafdc", "zicsr", "zba"}


def test_each_level_needs_all_below_it_and_every_flag_of_its_own() -> None:
    names = list(LEVELS)
    assert names == ["x86-64-v1", "x86-64-v2", "x86-64-v3", "x86-64-v4"]
    for lower, name in zip([None, *names], names, strict=False):
        assert level_of(LEVELS[name]) == name
        added = LEVELS[name] - (LEVELS[lower] if lower else frozenset())
        assert all(level_of(LEVELS[name] - {flag}) == lower for flag in added)


def test_the_levels_are_those_of_the_abi_under_the_kernels_names() -> None:
    """psABI: LZCNT is in v3, SSE3 and CMPXCHG16B are in v2; the kernel calls them abm, pni and cx16."""
    nehalem = "lm cmov cx8 fpu fxsr mmx syscall sse sse2 cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"
    haswell = f"{nehalem} avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"
    assert level_of(frozenset(nehalem.split())) == "x86-64-v2"
    assert level_of(frozenset(haswell.split())) == "x86-64-v3"
    assert level_of(frozenset(haswell.split()) - {"abm"}) == "x86-64-v2"


def test_there_is_no_level_off_x86() -> None:
    assert level_of(frozenset({"fp", "asimd", "sse2"})) is None
