"""What a host is, held against what an ask wants it to be: architecture, flags, ECC, firmware, TPM, cores. Pure.

Nothing here depends on who else sits on the host. A trait is there or it is not; unknown counts as not there.
"""

from atomd.capacity.hardware import Hardware
from atomd.inventory.facts import Core
from matcher.wire.messages import Accelerator, Arch, CoreClass, Firmware, VmAsk

UEFI_ARCHS = frozenset({Arch.X86_64, Arch.ARM_8})  # of guests


def wanted_archs(ask: VmAsk) -> tuple[Arch, ...]:
    """The alternatives of an ask, best first; X86_64 where it names none."""
    return ask.archs or (Arch.X86_64,)


def arch_for(ask: VmAsk, hardware: Hardware) -> Arch | None:
    """The first of the ask's alternatives that guests can have here, and that boots by the firmware asked for."""
    here = (arch for arch in wanted_archs(ask) if arch in hardware.archs)
    return next((arch for arch in here if ask.firmware in firmwares_for(arch, hardware)), None)


def firmwares_for(arch: Arch, hardware: Hardware) -> frozenset[Firmware]:
    return hardware.firmwares if arch in UEFI_ARCHS else hardware.firmwares & {Firmware.BIOS}


def firmwares_there(ask: VmAsk, hardware: Hardware) -> frozenset[Firmware]:
    """Those that some alternative of the ask has here; where none is at home here, the host's."""
    here = [firmwares_for(arch, hardware) for arch in wanted_archs(ask) if arch in hardware.archs]
    return frozenset[Firmware]().union(*here) if here else hardware.firmwares


def missing_flags(ask: VmAsk, hardware: Hardware) -> tuple[str, ...]:
    """The asked flags that a guest would not see, in the ask's order, in lowercase and once each."""
    asked = dict.fromkeys(flag.lower() for flag in ask.flags)
    return tuple(flag for flag in asked if flag not in hardware.guest_flags)


def may_run_so(ask: VmAsk, hardware: Hardware) -> bool:
    """A host that can only emulate serves those who allow it."""
    return hardware.accelerator is Accelerator.KVM or ask.allow_emulation


def is_of_class(core: Core, ask: VmAsk) -> bool:
    """Cores of a machine that has no classes are of none."""
    return ask.core_class in (None, CoreClass.ANY) or core.core_class == ask.core_class


def is_fast(core: Core, ask: VmAsk) -> bool:
    return not ask.min_frequency_mhz or (core.max_mhz or 0) >= ask.min_frequency_mhz


def may_use(core: Core, ask: VmAsk) -> bool:
    """Whether the core is one that the ask wants, whoever sits on it."""
    return is_of_class(core, ask) and is_fast(core, ask)


def suits(ask: VmAsk, hardware: Hardware) -> bool:
    """Whether every trait that is asked for is there."""
    return (
        may_run_so(ask, hardware)
        and arch_for(ask, hardware) is not None
        and not missing_flags(ask, hardware)
        and (hardware.ecc is True or not ask.ecc)
        and (hardware.tpm or not ask.tpm)
        and any(may_use(core, ask) for core in hardware.cores)
    )
