"""What `atomd.volumes.shares` says to mount(8), said to a real kernel's NFS client: an emulated machine, a ganesha.

The machine on which tests run may have no NFS client in its kernel; Debian's has one. It boots from memory in seconds,
runs the very commands, and tells on its serial port what came of them.
"""

import gzip
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.socket

from atomd.volumes import shares
from atomd.volumes.shares import Shares
from matcher.wire.messages import Address, ImageFormat
from matcher.wire.volumes import AttachedVolume, NfsFolder
from specs.ids import VmId
from storaged.export.description import Access, Image
from tests.fakes.exporter_contract import exported, served
from tests.lab.test_export_nfs import GaneshaWorld, export_of
from tests.lab.test_export_nfs import root as root
from tests.lab.test_export_nfs import world as world

KERNEL = Path("/var/cache/atomos-lab/kernel")  # of the lab's guest: packaging/guest
HOST = "10.0.2.2"  # this machine, as QEMU's own network has it
BOOT_S = 120.0  # emulated, on a busy machine
PROGRAMS = ("mount", "umount", "mount.nfs4")
MODULES = ("virtio_pci", "virtio_net", "nfsv4")

pytestmark = [
    pytest.mark.lab,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("ganesha.nfsd") is None, reason="ganesha is not installed: packaging/setup"),
    pytest.mark.skipif(shutil.which("mount.nfs4") is None, reason="mount.nfs4 is not installed: packaging/setup"),
    pytest.mark.skipif(not (KERNEL / "done").exists(), reason="the guest's kernel is not there: packaging/guest"),
]

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /mnt /run
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules/order); do /bin/busybox insmod /modules/$module; done
/bin/busybox ip link set lo up
/bin/busybox ip link set eth0 up
/bin/busybox ip addr add 10.0.2.15/24 dev eth0
export PATH=/usr/bin:/usr/sbin:/sbin:/bin
{script}
/bin/busybox poweroff -f
"""


def built(folder: Path, script: str) -> Path:
    """An initial RAM disk that runs the script."""
    root = folder / "initrd"
    for place in ("bin", "sbin", "usr", "modules", "etc"):
        (root / place).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "", root / "bin" / "busybox")
    for program in PROGRAMS:
        found = Path(shutil.which(program) or "")
        shutil.copy(found, root / ("sbin" if "." in program else "bin") / program)
        for library in libraries(found):
            (root / library.parent.relative_to("/")).mkdir(parents=True, exist_ok=True)
            shutil.copy(library, root / library.relative_to("/"))
    if Path("/etc/netconfig").exists():
        shutil.copy("/etc/netconfig", root / "etc" / "netconfig")
    order: list[Path] = []
    for module in MODULES:
        with_needs(module, order)
    for module in order:
        shutil.copy(module, root / "modules" / module.name)
    (root / "modules" / "order").write_text("\n".join(module.name for module in order))
    (root / "init").write_text(INIT.format(script=script))
    (root / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    packed = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=names.encode(), capture_output=True
    )
    image = folder / "initrd.gz"
    image.write_bytes(gzip.compress(packed.stdout, 1))
    return image


def libraries(program: Path) -> list[Path]:
    said = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True).stdout
    return [Path(word) for word in said.split() if word.startswith("/")]


def with_needs(name: str, order: list[Path]) -> None:
    """After those that it needs; one that is built into the kernel has no file."""
    names = {f"{name}.ko", f"{name.replace('_', '-')}.ko"}
    found = [path for path in KERNEL.rglob("*.ko") if path.name in names]
    if not found or found[0] in order:
        return
    needs = subprocess.run(["modinfo", "-F", "depends", str(found[0])], capture_output=True, text=True, check=True)
    for need in needs.stdout.strip().split(","):
        if need:
            with_needs(need, order)
    order.append(found[0])


async def commands(access: Access, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[str]]:
    """Where it is mounted, and what mount(8) is told."""
    said: list[str] = []

    async def heard(words: Sequence[str]) -> tuple[str, str]:
        await trio.lowlevel.checkpoint()
        said.append(" ".join(words))
        return "", ""

    monkeypatch.setattr(shares, "_run", heard)
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    folder = NfsFolder(Address(HOST, access.port), access.name)
    volume = AttachedVolume("c" * 32, "", ImageFormat.FOLDER, False, True, False, None, folder)
    (mounted,) = await Shares(Path("/run/shares")).mounted((VmId("a" * 32), 1), (volume,))
    monkeypatch.undo()
    return mounted.path, said


async def forwarded(port: int, nursery: trio.Nursery) -> int:
    """A port whose connections reach ganesha from a port of root's, as a kernel's would without QEMU in between."""

    async def serve(near: trio.SocketStream) -> None:
        with trio.socket.socket() as asking:
            for low in range(600, 1024):
                with suppress(OSError):
                    await asking.bind(("127.0.0.1", low))
                    break
            with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                await asking.connect(("127.0.0.1", port))
                async with near, trio.open_nursery() as both:
                    both.start_soon(pour, trio.SocketStream(asking), near, both.cancel_scope)
                    both.start_soon(pour, near, trio.SocketStream(asking), both.cancel_scope)
        await near.aclose()

    async def pour(source: trio.SocketStream, target: trio.SocketStream, both: trio.CancelScope) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                await target.send_all(data)
        both.cancel()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, serve, [listener])
    return int(listener.socket.getsockname()[1])


class Machine:
    """One that runs; `said` is its serial port."""

    def __init__(self, said: Path) -> None:
        self._said = said

    async def says(self, word: str) -> None:
        with trio.move_on_after(BOOT_S):
            while f"\n{word}" not in self.serial.replace("\r", ""):  # noqa: ASYNC110  a machine of its own says it
                await trio.sleep(0.05)
            return
        pytest.fail(f"it never said {word}:\n{self.serial[-3000:]}")

    @property
    def serial(self) -> str:
        return self._said.read_text(errors="replace")


@asynccontextmanager
async def machine(folder: Path, script: str) -> AsyncIterator[Machine]:
    said = folder / "serial"
    said.touch()
    (kernel,) = (KERNEL / "boot").glob("vmlinuz-*")
    words = ["qemu-system-x86_64", "-accel", "tcg", "-m", "256", "-nographic", "-monitor", "none", "-no-reboot"]
    words += ["-kernel", str(kernel), "-initrd", str(built(folder, script)), "-append", "console=ttyS0 quiet panic=-1"]
    words += ["-serial", f"file:{said}", "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,romfile="]
    process = await trio.lowlevel.open_process(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield Machine(said)
    finally:
        process.kill()
        await process.wait()


def counted(image: Image) -> list[int]:
    return [int(number) for number in Path(image.file, "count").read_text().split()]


SCRIPT = """
/bin/busybox mkdir -p {place}
{mount} && echo && echo ITS-MOUNTED
/bin/busybox grep ' {place} ' /proc/self/mountinfo
/bin/busybox ln -s /proc/version {place}/link
/bin/busybox cat {place}/link || echo && echo ITS-UNFOLLOWED
n=0
while echo $n >> {place}/count && /bin/busybox sync {place}/count; do
    n=$((n + 1)); echo "ITS-AT-$n"; [ -e {place}/enough ] && break; /bin/busybox usleep 50000
done
[ -e {place}/enough ] && echo ITS-DONE || echo ITS-FAILED
umount -- {place} && echo ITS-UNMOUNTED
"""


async def test_a_real_kernel_mounts_a_share_and_waits_for_a_ganesha_that_was_killed(
    world: GaneshaWorld, nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = world.image(1)
    export = export_of(image)
    access = await exported(world, export)
    access = replace(access, port=await forwarded(access.port, nursery))
    place, said = await commands(access, monkeypatch)
    async with machine(tmp_path, SCRIPT.format(place=place, mount=" && ".join(said))) as running:
        await running.says("ITS-MOUNTED")
        await running.says("ITS-UNFOLLOWED")
        assert "nosuid,nodev,noexec" in running.serial
        assert "nosymfollow" in running.serial
        assert "Linux version" not in running.serial, "a link in the share was followed"
        await running.says("ITS-AT-5")
        world.signal(signal.SIGKILL)
        await served(world, export)
        await running.says(f"ITS-AT-{len(counted(image)) + 5}")
        (world.pool / image.file / "enough").touch()
        await running.says("ITS-DONE")
        await running.says("ITS-UNMOUNTED")
    numbers = counted(image)
    assert numbers == list(range(len(numbers))), "nothing is lost, and nothing is there twice"
