"""Which driver serves disks by iSCSI: the kernel's target where it is there and storaged may use it, tgtd elsewhere.

    (start) --what the other driver served has ended, for certain--> the chosen one serves

Both give the same names and secrets at the same port, so that VMs of the other one reconnect, as after tgtd's end.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from shutil import which

import trio

from storaged.export.child import Child, Command
from storaged.export.configfs import Configfs
from storaged.export.description import Unknown
from storaged.export.exporter import Exporter

END_S = 4.0
MAY_ADMINISTRATE = 1 << 21  # CAP_SYS_ADMIN, linux/capability.h: the kernel takes secrets from nobody else
TGTD = "tgtd"


class Driver(StrEnum):
    """In the order in which they are preferred."""

    LIO = "lio"
    TGT = "tgt"


@dataclass(frozen=True, slots=True)
class Choice:
    """`driver` is `None` where volumes are for this host's own VMs alone."""

    driver: Driver | None
    why: str

    def __str__(self) -> str:
        match self.driver:
            case Driver.LIO:
                return f"disks reach other hosts by the kernel's own target (lio): {self.why}"
            case Driver.TGT:
                return f"disks reach other hosts by tgtd (tgt): {self.why}"
            case None:
                return f"volumes are for VMs on this host alone: {self.why}"


def chosen(asked: Driver | None, lacks: Mapping[Driver, str]) -> Choice:
    """`lacks`: for each driver why it can't be used here, empty where it can."""
    if asked is not None:
        return Choice(None if lacks[asked] else asked, lacks[asked] or "the settings say so")
    passed: list[str] = []
    for driver in Driver:
        if not lacks[driver]:
            return Choice(driver, "; ".join(passed) or "it is there, and storaged may use it")
        passed.append(lacks[driver])
    return Choice(None, "; ".join(passed))


def lacks_of(configfs: Configfs, capabilities: int) -> Mapping[Driver, str]:
    """As this host is. `capabilities`: this process's."""
    return {
        Driver.LIO: _lacks_of_kernel(configfs, capabilities),
        Driver.TGT: "" if which(TGTD) else f"there is no {TGTD} (Debian: tgt)",
    }


def _lacks_of_kernel(configfs: Configfs, capabilities: int) -> str:
    if not configfs.is_there():
        return "the kernel has no iSCSI target, or it is not loaded (iscsi_target_mod)"
    if not capabilities & MAY_ADMINISTRATE:
        return "for the kernel's target storaged's unit lacks CAP_SYS_ADMIN: docs/install.md"
    if not configfs.is_writable():
        return f"storaged's unit may not write to {configfs.root}: docs/install.md"
    return ""


async def end(command: Command, name: str) -> str:
    """Why it may still serve; empty when it is gone, and so are all its exports."""
    try:
        child = await trio.to_thread.run_sync(Child.find, command)
    except OSError as problem:
        return f"whether {name} runs can't be seen: {problem.strerror}"
    if child is None:
        return ""
    try:
        child.kill()
        with trio.move_on_after(END_S):
            await child.ended()
            return ""
        return f"{name} (pid {child.pid}) does not end"
    except OSError as problem:
        return f"{name} (pid {child.pid}) can't be ended: {problem.strerror}"
    finally:
        child.close()


async def end_exports(of: Exporter) -> str:
    """Why it may still serve some; empty when there are none."""
    problems = await of.reconcile(())
    found = await of.observe()
    if isinstance(found, Unknown):
        return f"whether the kernel serves some can't be seen: {found.why}"
    whys = [problem.why for problem in problems.values() if isinstance(problem, Unknown)]
    return f"the kernel still serves {len(found)}: {', '.join(whys[:1])}" if found else ""
