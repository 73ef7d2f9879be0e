"""Which accelerator runs guests on this host: KVM where it really does, else TCG, and why.

A /dev/kvm that opens is no proof: there are machines where KVM makes a VM and the guest then hangs, or QEMU aborts.
What tells is a guest: 512 bytes (`kvm_selftest.S`) that enter long mode and say so, run as QEMU's own user. The answer
holds until the next boot or another QEMU, and is remembered for as long. QEMU is also asked which CPU flags its guests
will see, since /proc/cpuinfo tells what the host has, and KVM may give less.
"""

import errno
import grp
import json
import os
import platform
import pwd
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import trio

from matcher.wire.messages import Accelerator

Preference = Literal["auto", "kvm", "tcg"]

KVM_DEVICE = Path("/dev/kvm")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
REMEMBERED = "accelerator.json"
WORKS = 33  # isa-debug-exit turns 0x10 into 2 * 0x10 + 1
TEST_S = 1.5
SECOND_TEST_S = 6.0  # a busy host gets a second chance, since the answer stays until the next boot
CONTROL_S = 10.0  # the same guest under TCG, which tells a broken KVM from a broken QEMU
ASK_S = 10.0
QEMU_USERS = ("libvirt-qemu", "qemu")  # Debian's and Red Hat's
DISK_BYTES = 1 << 20  # SeaBIOS reads by cylinder, and finds none on a smaller disk

UNTRIED = "KVM opens; that guests run was not tried, since QEMU has no test guest for it here"
SO_EMULATED = "; guests are emulated by TCG, and slow"

# kvm_selftest.S, assembled; a test does it again and compares.
BOOT_SECTOR = (
    bytes.fromhex(
        """
        fa31c08e d88ec08e d0bc0070 66bf0010 00006631 c066b900 0c000066 f3ab66c7 06001003 20000066 c7060020
        03300000 66c70600 30830000 0066b800 1000000f 22d80f20 e06683c8 200f22e0 66b98000 00c00f32 660d0001
        00000f30 0f0116a0 7c0f20c0 660d0100 00800f22 c0ea727c 0800b810 0000008e d88ed0b0 1066baf4 00eef4eb
        fd0f1f00 00000000 00000000 ffff0000 009aaf00 ffff0000 0092cf00 1700887c
        """
    ).ljust(510, b"\0")
    + b"\x55\xaa"
)


class NoAccelerator(Exception):
    """No guest can run on this host as it is configured; the text is a sentence for people."""


@dataclass(frozen=True, slots=True)
class Detected:
    """`why` is a sentence for people. `guest_flags` are those that guests will see, in the kernel's names; `None` where
    QEMU does not tell (not on x86)."""

    accelerator: Accelerator
    why: str
    qemu_version: str
    guest_flags: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Qemu:
    """A QEMU to ask, and as whom: libvirt's guests run as `user`, and only what that user can do counts."""

    binary: str
    version: str
    user: str | None  # None: as ourselves, since only root can become somebody else


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a QEMU ended: its exit code (negative: the signal), `None` if it had to be killed for being late."""

    code: int | None
    stdout: bytes
    words: str


async def detect(
    preference: Preference, *, state_dir: Path, kvm: Path = KVM_DEVICE, qemu: Qemu | None = None
) -> Detected:
    """`auto` takes KVM if it works; `kvm` insists, and raises `NoAccelerator` where it does not; `tcg` never asks."""
    qemu = qemu or await find_qemu()
    if preference == "tcg":
        why = "the configuration says tcg: guests are emulated"
        return Detected(Accelerator.TCG, why, qemu.version, await guest_flags(qemu, Accelerator.TCG))
    key = _key(qemu, kvm)
    detected = _recall(state_dir, key, qemu)
    if detected is None:
        detected = await _find_out(qemu, kvm)
        _remember(state_dir, key, detected)
    if preference == "kvm" and detected.accelerator is not Accelerator.KVM:
        raise NoAccelerator(f"the configuration says kvm, but {detected.why.removesuffix(SO_EMULATED)}")
    return detected


async def find_qemu() -> Qemu:
    """The QEMU for this machine's own architecture. Raises `NoAccelerator` where there is none."""
    machine = platform.machine()
    name = (
        f"qemu-system-{ {'i686': 'i386', 'i586': 'i386', 'ppc64le': 'ppc64', 'armv7l': 'arm'}.get(machine, machine) }"
    )
    binary = shutil.which(name) or shutil.which("qemu-kvm", path="/usr/libexec:/usr/bin")
    if binary is None:
        raise NoAccelerator(f"{name} is not installed: no guest can run on this host")
    ended = await _run([binary, "--version"], user=None, deadline_s=ASK_S)
    first_line = ended.stdout.decode(errors="replace").partition("\n")[0].strip()
    if ended.code != 0 or not first_line:
        raise NoAccelerator(f"{binary} does not run: {ended.words or 'it says nothing'}")
    return Qemu(binary, first_line.removeprefix("QEMU emulator version "), _qemu_user())


def _qemu_user() -> str | None:
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in QEMU_USERS if name in names), None)


# ---- finding out


async def _find_out(qemu: Qemu, kvm: Path) -> Detected:
    problem = await _kvm_problem(qemu, kvm)
    if problem is None or problem == UNTRIED:
        why, accelerator = problem or "KVM runs guests (tried with one)", Accelerator.KVM
    else:
        why, accelerator = problem + SO_EMULATED, Accelerator.TCG
    return Detected(accelerator, why, qemu.version, await guest_flags(qemu, accelerator))


async def _kvm_problem(qemu: Qemu, kvm: Path) -> str | None:
    """Why KVM can't be used, as the beginning of a sentence; `None` if it can, `UNTRIED` if that is a guess."""
    if not await trio.Path(kvm).exists():
        return f"there is no {kvm} (is virtualization enabled in the firmware, and the module kvm loaded?)"
    opened = await _ask(qemu, Accelerator.KVM, [])
    if opened is None:
        opened_words = (await _bare_start(qemu)).words
        if os.strerror(errno.EACCES) in opened_words:
            return f"QEMU's user {qemu.user or 'here'} may not open {kvm} (make it group kvm, mode 0660)"
        return f"{kvm} is there but QEMU can't use it ({opened_words or 'it says nothing'})"
    return await _guest_problem(qemu) if _is_x86() else UNTRIED


async def _guest_problem(qemu: Qemu) -> str | None:
    ended = await _boot(qemu, "kvm", "host", TEST_S)
    if ended.code is None:
        ended = await _boot(qemu, "kvm", "host", SECOND_TEST_S)
    if ended.code == WORKS:
        return None
    if "isa-debug-exit" in ended.words:
        return UNTRIED
    control = await _boot(qemu, "tcg", "max", CONTROL_S)
    if control.code != WORKS:
        raise NoAccelerator(f"{qemu.binary} can't run even a test guest: {control.words or 'it hangs'}")
    if ended.code is None:
        return f"KVM opens on this host but does not run guests (a test guest hung for {SECOND_TEST_S:g} s)"
    how = signal.Signals(-ended.code).name if ended.code < 0 else f"exit code {ended.code}"
    return f"KVM opens on this host but does not run guests (QEMU ended with {how}: {ended.words})"


async def _boot(qemu: Qemu, accelerator: str, cpu: str, deadline_s: float) -> _Ended:
    """Boot the sector from anonymous memory: no file that QEMU's user would have to find and to read."""
    disk = os.memfd_create("atomos-selftest")
    try:
        os.write(disk, BOOT_SECTOR)
        os.ftruncate(disk, DISK_BYTES)
        command = [
            *(qemu.binary, "-machine", "q35", "-accel", accelerator, "-cpu", cpu, "-m", "16"),
            *("-display", "none", "-nodefaults", "-no-user-config", "-no-reboot"),
            *("-drive", f"file=/proc/self/fd/{disk},format=raw,if=none,id=disk", "-device", "ide-hd,drive=disk"),
            *("-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"),
        ]
        return await _run(command, user=qemu.user, deadline_s=deadline_s, pass_fds=(disk,))
    finally:
        os.close(disk)


async def _bare_start(qemu: Qemu) -> _Ended:
    command = [qemu.binary, "-machine", "none", "-accel", "kvm", "-display", "none", "-nodefaults", "-S"]
    return await _run([*command, "-qmp", "stdio"], user=qemu.user, deadline_s=ASK_S, stdin=b'{"execute":"quit"}')


# ---- asking QEMU

# QEMU's name of a flag -> the kernel's, where they differ in more than `-` and `.` for `_`.
_KERNEL_NAMES = {
    "sse3": "pni",
    "ffxsr": "fxsr_opt",
    "tsc_deadline": "tsc_deadline_timer",
    "cr8legacy": "cr8_legacy",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512bitalg": "avx512_bitalg",
}
# What QEMU lists beside flags: its own switches, and second names.
_SWITCHES = """
    check cpuid_0xb enforce fill_mtrr_mask full_cpuid_auto_level host_phys_bits i64 kvm l3_cache legacy_cache migratable
    pclmuldq pmu tcg_cpuid vmware_cpuid_freq xd
"""


async def guest_flags(qemu: Qemu, accelerator: Accelerator) -> frozenset[str] | None:
    """The CPU flags that a guest will see, in the kernel's names; `None` off x86, or where QEMU does not tell."""
    if not _is_x86():
        return None
    model = {"name": "host" if accelerator is Accelerator.KVM else "max"}
    answer = await _ask(
        qemu,
        accelerator,
        [{"execute": "query-cpu-model-expansion", "arguments": {"type": "full", "model": model}}],
    )
    return None if answer is None else _kernel_flags(answer["model"]["props"])


def _kernel_flags(properties: dict[str, Any]) -> frozenset[str]:
    plain = {name.replace("-", "_").replace(".", "_") for name, value in properties.items() if value is True}
    flags = {_KERNEL_NAMES.get(name, name) for name in plain - set(_SWITCHES.split())}
    return frozenset(flag for flag in flags if not flag.startswith(("x_", "kvm_", "kvmclock", "hv_")))


async def _ask(qemu: Qemu, accelerator: Accelerator, commands: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The answer to the last of `commands` by QMP, from a QEMU with no machine; `None` if it does not even start."""
    command = [qemu.binary, "-machine", "none", "-accel", accelerator.value, "-display", "none", "-nodefaults"]
    script = [{"execute": "qmp_capabilities"}, *commands, {"execute": "quit"}]
    stdin = "".join(f"{json.dumps(line)}\n" for line in script).encode()
    ended = await _run([*command, "-qmp", "stdio"], user=qemu.user, deadline_s=ASK_S, stdin=stdin)
    try:
        lines = [json.loads(line) for line in ended.stdout.splitlines()]
    except ValueError:
        return None
    answers = [line["return"] for line in lines if isinstance(line, dict) and "return" in line]
    return answers[len(commands)] if ended.code == 0 and len(answers) == len(script) else None


async def _run(
    command: Sequence[str], *, user: str | None, deadline_s: float, stdin: bytes = b"", pass_fds: Sequence[int] = ()
) -> _Ended:
    become: dict[str, Any] = {}
    if user is not None:
        entry = pwd.getpwnam(user)
        groups = [group.gr_gid for group in grp.getgrall() if user in group.gr_mem]
        become = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}
    result: subprocess.CompletedProcess[bytes] | None = None
    with trio.move_on_after(deadline_s):
        try:
            result = await trio.run_process(
                list(command),
                stdin=stdin,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                deliver_cancel=_kill,
                pass_fds=pass_fds,
                cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C"},
                **become,
            )
        except OSError as error:
            return _Ended(127, b"", str(error))
    if result is None:
        return _Ended(None, b"", "")
    return _Ended(result.returncode, result.stdout, _last_words(result.stderr))


async def _kill(process: trio.Process) -> None:
    """A hung guest does not deserve a second signal."""
    process.kill()


def _last_words(stderr: bytes) -> str:
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    return (lines[0] if lines else "")[:200]


def _is_x86() -> bool:
    return platform.machine() == "x86_64"


# ---- remembering


def _key(qemu: Qemu, kvm: Path) -> dict[str, str]:
    """What the answer depends on. The device's owner and mode are part of it, since a sysadmin may mend them."""
    try:
        found = kvm.stat()
        device = f"{found.st_rdev:x} {found.st_uid}:{found.st_gid} {found.st_mode:o}"
    except OSError:
        device = "none"
    boot_id = BOOT_ID.read_text().strip()
    return {"boot_id": boot_id, "qemu": f"{qemu.binary} {qemu.version}", "user": qemu.user or "", "kvm": device}


def _recall(state_dir: Path, key: dict[str, str], qemu: Qemu) -> Detected | None:
    """What was found before, if nothing that it depends on has changed; a garbled file counts as none."""
    try:
        found = json.loads((state_dir / REMEMBERED).read_text())
        if found["key"] != key:
            return None
        accelerator, flags = Accelerator(found["accelerator"]), found["guest_flags"]
        known = None if flags is None else frozenset(str(flag) for flag in flags)
        return Detected(accelerator, str(found["why"]), qemu.version, known)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(state_dir: Path, key: dict[str, str], detected: Detected) -> None:
    """A cache: written whole or not at all, and not worth a failure."""
    flags = None if detected.guest_flags is None else sorted(detected.guest_flags)
    found = {"accelerator": detected.accelerator.value, "why": detected.why, "guest_flags": flags}
    new = state_dir / f".{REMEMBERED}.new"
    try:
        new.write_text(json.dumps({"key": key, **found}, indent=1))
        new.replace(state_dir / REMEMBERED)
    except OSError:
        new.unlink(missing_ok=True)
