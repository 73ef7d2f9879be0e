"""What `atomd.volumes.shares` says to mount(8), said to a real kernel's NFS client: an emulated machine, a ganesha.

The machine on which tests run may have no NFS client in its kernel; Debian's has one. It boots from memory in seconds,
runs the very commands, and tells on its serial port what came of them.
"""

import shutil
import signal
from collections.abc import Sequence
from contextlib import suppress
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
from tests.lab.emulated import machine, needs_kernel
from tests.lab.test_export_nfs import GaneshaWorld, export_of
from tests.lab.test_export_nfs import root as root
from tests.lab.test_export_nfs import world as world

HOST = "10.0.2.2"  # this machine, as QEMU's own network has it
LINK = ("-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,romfile=")
PROGRAMS = ("mount", "umount", "mount.nfs4")
MODULES = ("virtio_pci", "virtio_net", "nfsv4")

pytestmark = [
    pytest.mark.lab,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("ganesha.nfsd") is None, reason="ganesha is not installed: packaging/setup"),
    pytest.mark.skipif(shutil.which("mount.nfs4") is None, reason="mount.nfs4 is not installed: packaging/setup"),
    needs_kernel,
]


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


def counted(image: Image) -> list[int]:
    return [int(number) for number in Path(image.file, "count").read_text().split()]


SCRIPT = """
/bin/busybox ip link set eth0 up
/bin/busybox ip addr add 10.0.2.15/24 dev eth0
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
    script = SCRIPT.format(place=place, mount=" && ".join(said))
    async with machine(tmp_path, script, modules=MODULES, programs=PROGRAMS, devices=LINK) as running:
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
