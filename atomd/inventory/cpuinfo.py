"""What /proc/cpuinfo says, whichever architecture wrote it. Pure.

Each architecture prints a format of its own (arch/*/kernel in the kernel): blocks of "key : value", one for each
processor, with general blocks before (s390, 32-bit ARM) or after them (POWER, 32-bit ARM), or one block in all (SPARC).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from atomd.inventory.cpuset import CPUS_MAX
from atomd.inventory.text import printable, whole

CPUINFO_BYTES_MAX = 32 * 1024 * 1024  # 8,192 processors with long lists of flags
UNKNOWN = "unknown"

_FLAG_KEYS = ("flags", "Features", "features", "isa", "cpucaps")
_ONE_LINE = re.compile(r"processor (\d+): .*?(?:machine = (\w+))?$")  # s390
_STATE = re.compile(r"CPU(\d+)$")  # SPARC: "CPU6: online"

# The main parts of MIDR_EL1 (arch/arm64/include/asm/cputype.h); others are shown by number.
_ARM_MAKERS = {
    0x41: "ARM", 0x42: "Broadcom", 0x43: "Cavium", 0x46: "Fujitsu", 0x48: "HiSilicon", 0x4E: "NVIDIA",
    0x50: "APM", 0x51: "Qualcomm", 0x61: "Apple", 0x6D: "Microsoft", 0xC0: "Ampere",
}  # fmt: skip
_ARM_PARTS = {
    (0x41, 0xC07): "Cortex-A7", (0x41, 0xC09): "Cortex-A9", (0x41, 0xC0F): "Cortex-A15", (0x41, 0xD03): "Cortex-A53",
    (0x41, 0xD04): "Cortex-A35", (0x41, 0xD05): "Cortex-A55", (0x41, 0xD07): "Cortex-A57", (0x41, 0xD08): "Cortex-A72",
    (0x41, 0xD09): "Cortex-A73", (0x41, 0xD0A): "Cortex-A75", (0x41, 0xD0B): "Cortex-A76", (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD0D): "Cortex-A77", (0x41, 0xD40): "Neoverse-V1", (0x41, 0xD41): "Cortex-A78", (0x41, 0xD44): "Cortex-X1",
    (0x41, 0xD46): "Cortex-A510", (0x41, 0xD47): "Cortex-A710", (0x41, 0xD48): "Cortex-X2",
    (0x41, 0xD49): "Neoverse-N2", (0x41, 0xD4D): "Cortex-A715", (0x41, 0xD4E): "Cortex-X3",
    (0x41, 0xD4F): "Neoverse-V2", (0x41, 0xD80): "Cortex-A520", (0x41, 0xD81): "Cortex-A720",
    (0x41, 0xD82): "Cortex-X4", (0x41, 0xD84): "Neoverse-V3", (0x41, 0xD8E): "Neoverse-N3",
    (0x43, 0x0A1): "ThunderX", (0x43, 0x0AF): "ThunderX2", (0x46, 0x001): "A64FX", (0x48, 0xD01): "Kunpeng-920",
    (0x50, 0x000): "X-Gene", (0xC0, 0xAC3): "Ampere-1", (0xC0, 0xAC4): "Ampere-1a",
}  # fmt: skip


@dataclass(slots=True)
class CpuInfo:
    """`general` holds what is said of no processor in particular; the first word on a matter counts."""

    general: dict[str, str] = field(default_factory=dict)
    processors: dict[int, dict[str, str]] = field(default_factory=dict)
    online: set[int] = field(default_factory=set)  # SPARC lists the states of its CPUs

    def values(self, *keys: str) -> list[str]:
        """The distinct values of the first key that has any: the processors' in order, then the general one."""
        for key in keys:
            found = [block[key] for _, block in sorted(self.processors.items()) if block.get(key)]
            if key in self.general:
                found.append(self.general[key])
            if found:
                return list(dict.fromkeys(found))
        return []

    def first(self, *keys: str) -> str:
        return next(iter(self.values(*keys)), "")


def parse(text: str) -> CpuInfo:
    info = CpuInfo()
    for block in _blocks(text, info):
        number = whole(block.get("processor", block.get("cpu number")))
        if number is not None and 0 <= number < CPUS_MAX:
            info.processors.setdefault(number, {}).update(block)
        else:
            info.general = block | info.general
    return info


def model(info: CpuInfo) -> str:
    """The name a person would use; the distinct ones of a machine with several kinds of core."""
    names = _arm_names(info) or info.values("model name", "Model Name", "cpu model", "uarch")
    if not names and (machine := info.first("machine number")):
        names = [f"{info.first('vendor_id')} {machine}"]
    if not names:
        names = info.values("cpu", "Processor", "family", "isa", "Hardware", "vendor_id")
    return printable(" + ".join(names)) or UNKNOWN


def flags(info: CpuInfo) -> frozenset[str]:
    """What every processor can do, lowercase: a guest may run on any of them."""
    if (texts := info.values("isa", "hart isa")) and texts[0].startswith("rv"):
        return frozenset.intersection(*map(_riscv, texts))
    texts = info.values(*_FLAG_KEYS)
    return frozenset.intersection(*(frozenset(text.lower().replace(",", " ").split()) for text in texts or [""]))


def arch(info: CpuInfo, *, little_endian: bool | None) -> str:
    """The kernel's machine name, told from the format and contents; "unknown" where they do not tell."""
    if isa := info.first("isa"):
        return "riscv64" if isa.startswith("rv64") else "riscv32" if isa.startswith("rv32") else UNKNOWN
    if "IBM/S390" in info.first("vendor_id"):
        return "s390x" if "zarch" in info.first("features").split() else "s390"
    if info.values("CPU implementer", "CPU architecture"):
        return _arm_arch(info)
    if info.first("arch") == "IA-64" or info.first("archrev"):
        return "ia64"
    if "Loongson-64bit" in info.first("CPU Family") or "loongarch64" in info.first("ISA"):
        return "loongarch64"
    if flag_text := info.first("flags"):
        return "x86_64" if "lm" in flag_text.split() else "i686"
    return _arch_by_cpu(info, little_endian)


def _arch_by_cpu(info: CpuInfo, little_endian: bool | None) -> str:
    name = info.first("cpu")
    if info.first("type").startswith("sun4"):
        return "sparc64" if info.first("type") in ("sun4u", "sun4v") else "sparc"
    if "pvr" in info.first("revision") or info.first("timebase"):
        if re.match(r"POWER|PPC970|PA6T|Cell|RS64|e5500|e6500", name):
            return "ppc64le" if little_endian else "ppc64"
        return "ppc"
    return "alpha" if name == "Alpha" else UNKNOWN


def _arm_arch(info: CpuInfo) -> str:
    """64-bit kernels name the features `fp` and `asimd`, 32-bit ones `vfp`, `thumb`, `half`."""
    words = set(info.first("Features").split())
    architecture = info.first("CPU architecture")
    if architecture == "AArch64" or (words & {"fp", "asimd"} and not words & {"half", "thumb"}):
        return "aarch64"
    if not words and architecture == "8":
        return "aarch64"
    return (
        "armv7l" if architecture in ("7", "8") else f"armv{architecture[:1]}l" if architecture[:1].isdigit() else "arm"
    )


def _arm_names(info: CpuInfo) -> list[str]:
    """By part number: ARM's "model name" is the architecture ("ARMv7 Processor rev 4 (v7l)")."""
    blocks = [block for _, block in sorted(info.processors.items()) if "CPU part" in block] or [info.general]
    return list(dict.fromkeys(name for name in map(_arm_name, blocks) if name))


def _arm_name(block: dict[str, str]) -> str:
    maker, part = _hex(block.get("CPU implementer", "")), _hex(block.get("CPU part", ""))
    if maker is None or part is None:
        return ""
    brand = _ARM_MAKERS.get(maker, f"ARM implementer {maker:#04x}")
    return f"{brand} {_ARM_PARTS.get((maker, part), f'part {part:#05x}')}"


def _riscv(isa: str) -> frozenset[str]:
    """ "rv64imafdc_zicsr_zba" → i m a f d c zicsr zba."""
    base, *extensions = isa.lower().split("_")
    single, _, long = base[4:].partition("z")  # "rv64imacz..." would be older than the underscores
    return frozenset([*filter(str.isalpha, single), *extensions, *([f"z{long}"] if long else [])])


def _hex(text: str) -> int | None:
    try:
        return int(text, 16) if len(text) <= 18 else None
    except ValueError:
        return None


def _blocks(text: str, info: CpuInfo) -> Iterator[dict[str, str]]:
    """Blocks end at blank lines, or where a processor's line begins another."""
    block: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        key = key.strip()
        if one := _ONE_LINE.match(line):
            _note_one_line(one, info)
        elif colon and (state := _STATE.match(key)):
            info.online |= {cpu for cpu in [whole(state[1])] if cpu is not None and value.strip() == "online"}
        elif block and ((not colon and not key) or key in ("processor", "cpu number")):
            yield block
            block = {}
        if colon and key and not one:
            block.setdefault(key, value.strip())
    yield block


def _note_one_line(one: re.Match[str], info: CpuInfo) -> None:
    number = whole(one[1])
    if number is not None and number < CPUS_MAX:
        info.processors.setdefault(number, {})
    if one[2]:
        info.general.setdefault("machine number", one[2])
