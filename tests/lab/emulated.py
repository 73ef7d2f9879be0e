"""An emulated machine with Debian's kernel, booted from memory in seconds: for what this machine's kernel may lack.

It runs a script of busybox's shell and says on its serial port what comes of it. The kernel is that of a lab's guest.
"""

import gzip
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

KERNEL = Path("/var/cache/atomos-lab/kernel")  # packaging/guest
USB_KERNEL = Path("/var/cache/atomos-lab/kernel-usb")  # packaging/guest --usb
BOOT_S = 120.0  # emulated, on a busy machine
START_S = 10.0
SMALL_MIB, ROOMY_MIB = 256, 1536
ROOT = Path(__file__).resolve().parents[2]
VIRTIOFSD = "/usr/lib/qemu/virtiofsd"

needs_kernel = pytest.mark.skipif(not (KERNEL / "done").exists(), reason="no kernel to boot: packaging/guest brings it")
SEES_THIS_ROOT = [
    pytest.mark.lab,
    pytest.mark.slow,
    needs_kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="to show this machine's root to another one takes root"),
    pytest.mark.skipif(not Path(VIRTIOFSD).exists(), reason="virtiofsd is not installed: packaging/setup"),
]

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /mnt /run
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules/order); do /bin/busybox insmod /modules/$module; done
/bin/busybox ip link set lo up
export PATH=/usr/bin:/usr/sbin:/sbin:/bin
{script}
/bin/busybox poweroff -f
"""


ENTER = """
/bin/busybox mkdir -p /root /written /new
/bin/busybox mount -t virtiofs -o ro root /root
/bin/busybox mount -t tmpfs -o size=50% written /written
/bin/busybox mkdir /written/upper /written/work
/bin/busybox mount -t overlay -o lowerdir=/root,upperdir=/written/upper,workdir=/written/work new /new
"""

PLACES = """
for place in proc sys dev; do mount -o rbind /$place /new/$place; done
mount -t tmpfs tmp /new/tmp
mount -t tmpfs run /new/run
mkdir -p /new/dev/pts /new/dev/shm /new/run/lock
mount -t devpts devpts /new/dev/pts
"""

_VIEW = """
mount --bind / "$0"
mount --bind "$1" "$0$1"
mount -o remount,bind,ro "$0$1"
mount -o remount,bind,ro "$0"
exec "$3" --socket-path="$2" -o source="$0" -o sandbox=chroot -o cache=always
"""


class Machine:
    """One that runs; `serial` is what it has said."""

    def __init__(self, said: Path, process: trio.Process) -> None:
        self._said, self._process = said, process

    async def says(self, word: str, within_s: float = BOOT_S) -> None:
        """Until a line begins with `word`; fails the test where none does in time, or the machine has ended."""
        with trio.move_on_after(within_s):
            while not self._has_said(word) and self._process.poll() is None:  # noqa: ASYNC110  a machine of its own says it
                await trio.sleep(0.05)
            if self._has_said(word):
                return
        pytest.fail(f"it never said {word}:\n{self.serial[-3000:]}")

    def _has_said(self, word: str) -> bool:
        return f"\n{word}" in self.serial

    @property
    def serial(self) -> str:
        return self._said.read_text(errors="replace").replace("\r", "")


@asynccontextmanager
async def machine(
    folder: Path,
    script: str,
    *,
    modules: Sequence[str],
    programs: Sequence[str] = (),
    devices: Sequence[str] = (),
    ram_mib: int = SMALL_MIB,
    told: str = "",
    kernel: Path = KERNEL,
) -> AsyncIterator[Machine]:
    """`programs` of this machine are in its path; `devices` are words for QEMU, `told` for its kernel. It ends with the
    block."""
    said = folder / "serial"
    said.touch()
    (vmlinuz,) = (kernel / "boot").glob("vmlinuz-*")
    words = ["qemu-system-x86_64", "-accel", "tcg", "-m", str(ram_mib), "-nographic", "-monitor", "none", "-no-reboot"]
    words += ["-kernel", str(vmlinuz), "-initrd", str(_built(folder, script, modules, programs, kernel))]
    words += ["-append", f"console=ttyS0 quiet panic=-1 {told}", "-serial", f"file:{said}", *devices]
    process = await trio.lowlevel.open_process(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield Machine(said, process)
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def this_root(folder: Path, ram_mib: int = ROOMY_MIB, nodes: int = 1) -> AsyncIterator[tuple[str, ...]]:
    """Devices by which a machine sees this one's root and repository, without a way to change them: `ENTER` mounts them
    at /new, where what is written is forgotten. It has two cores on each of its NUMA nodes."""
    view, socket = folder / "view", folder / "virtiofs"
    view.mkdir()
    words = [
        "unshare",
        "--mount",
        "--propagation=private",
        "sh",
        "-euc",
        _VIEW,
        str(view),
        str(ROOT),
        str(socket),
        VIRTIOFSD,
    ]
    process = await trio.lowlevel.open_process(words, stderr=subprocess.DEVNULL)
    try:
        with trio.fail_after(START_S):
            while not socket.exists():  # noqa: ASYNC110  it says so in no other way
                await trio.sleep(0.02)
        chardev = ("-chardev", f"socket,id=root,path={socket}", "-device", "vhost-user-fs-pci,chardev=root,tag=root")
        words = ["-machine", "q35", "-smp", f"{2 * nodes},sockets={nodes}"]
        for node in range(nodes):
            memory = f"memory-backend-memfd,id=ram{node},size={ram_mib // nodes}M,share=on"  # virtiofsd works there
            words += ["-object", memory, "-numa", f"node,memdev=ram{node},cpus={2 * node}-{2 * node + 1}"]
        yield (*words, *chardev)
    finally:
        process.terminate()
        await process.wait()


def _built(folder: Path, script: str, modules: Sequence[str], programs: Sequence[str], kernel: Path) -> Path:
    """An initial RAM disk that runs the script."""
    root = folder / "initrd"
    for place in ("bin", "sbin", "usr", "modules", "etc"):
        (root / place).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "", root / "bin" / "busybox")
    for program in programs:
        found = Path(shutil.which(program) or "")
        shutil.copy(found, root / ("sbin" if "." in program else "bin") / program)
        for library in _libraries(found):
            (root / library.parent.relative_to("/")).mkdir(parents=True, exist_ok=True)
            shutil.copy(library, root / library.relative_to("/"))
    if Path("/etc/netconfig").exists():
        shutil.copy("/etc/netconfig", root / "etc" / "netconfig")
    order: list[Path] = []
    for module in modules:
        _with_needs(module, kernel, order)
    for path in order:
        shutil.copy(path, root / "modules" / path.name)
    (root / "modules" / "order").write_text("\n".join(path.name for path in order))
    (root / "init").write_text(INIT.format(script=script))
    (root / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    packed = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=names.encode(), stdout=subprocess.PIPE
    )
    image = folder / "initrd.gz"
    image.write_bytes(gzip.compress(packed.stdout, 1))
    return image


def _libraries(program: Path) -> list[Path]:
    said = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True).stdout
    return [Path(word) for word in said.split() if word.startswith("/")]


def _with_needs(name: str, kernel: Path, order: list[Path]) -> None:
    """After those that it needs; one that is built into the kernel has no file."""
    names = {f"{name}.ko", f"{name.replace('_', '-')}.ko"}
    found = [path for path in kernel.rglob("*.ko") if path.name in names]
    if not found or found[0] in order:
        return
    needs = subprocess.run(["modinfo", "-F", "depends", str(found[0])], capture_output=True, text=True, check=True)
    for need in needs.stdout.strip().split(","):
        if need:
            _with_needs(need, kernel, order)
    order.append(found[0])
