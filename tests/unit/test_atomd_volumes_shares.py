"""Folders that VMs share, mounted by programs of this test's own that keep a list as the kernel does."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from atomd.volumes import shares as rooms
from atomd.volumes.shares import NotMounted, Shares
from matcher.wire.messages import Address, ImageFormat
from matcher.wire.volumes import AttachedVolume, NfsFolder
from specs.ids import VmId

VM, OTHER = VmId("a" * 32), VmId("b" * 32)
VID = "c" * 32
HERE = AttachedVolume(VID, "/pool/x.elimg/share", ImageFormat.FOLDER, False, True, False)
EXPORTED = f"/vol.{VID}.1.{'0' * 16}"
THERE = AttachedVolume(
    VID, "", ImageFormat.FOLDER, False, True, False, None, NfsFolder(Address("10.0.0.2", 7769), EXPORTED)
)
DISK = AttachedVolume("d" * 32, "/pool/y.elimg/data.img", ImageFormat.RAW, False, False, True)

MOUNT = """#!/bin/sh
echo "mount $*" >> {folder}/said
[ -e {folder}/hangs ] && exec sleep 60
[ -e {folder}/fails ] && echo "mount.nfs4: Connection refused" >&2 && exit 32
for last; do :; done
case "$*" in *remount*) exit 0;; esac
printf '1 2 0:3 / %s rw - nfs4 x rw\\n' "$(echo "$last" | sed 's/ /\\\\040/g')" >> {folder}/mountinfo
"""
UMOUNT = """#!/bin/sh
echo "umount $*" >> {folder}/said
case "$*" in */{hung}.*) [ -e {folder}/hangs ] && exec sleep 60;; esac
[ -e {folder}/busy ] && [ "$1" != --force ] && echo "umount: target is busy." >&2 && exit 32
for last; do :; done
grep -v -F "$(echo "$last" | sed 's/ /\\\\040/g') " {folder}/mountinfo > {folder}/rest
mv {folder}/rest {folder}/mountinfo
"""


class World:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        for name, text in (("mount", MOUNT), ("umount", UMOUNT)):
            (folder / "bin" / name).write_text(text.format(folder=folder, hung=OTHER))
            (folder / "bin" / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")
        monkeypatch.setattr(rooms, "_managed", lambda: ())
        (folder / "mountinfo").write_text("25 1 254:0 / / rw - ext4 /dev/vda rw\n")
        self.shares = self.again()

    def again(self) -> Shares:
        """Of an atomd that was started again."""
        return Shares(self.folder / "the shares", mountinfo=self.folder / "mountinfo")

    def said(self) -> list[str]:
        said = self.folder / "said"
        return said.read_text().splitlines() if said.exists() else []


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


async def test_a_folder_of_this_host_is_bound_harmless_and_a_disk_stays_as_it_is(world: World) -> None:
    folder, disk = await world.shares.mounted((VM, 1), (HERE, DISK))
    assert folder.path == str(world.folder / "the shares" / f"{VM}.1.{VID}")
    assert disk == DISK
    bound, made_harmless = world.said()
    assert bound == f"mount --bind -- {HERE.path} {folder.path}"
    assert made_harmless == f"mount -o remount,bind,nosuid,nodev,noexec,nosymfollow,rw -- {folder.path}"
    assert await world.shares.places() == [(VM, 1, VID)]


async def test_a_folder_of_another_host_is_mounted_by_nfs_and_its_server_waited_for(world: World) -> None:
    (folder,) = await world.shares.mounted((VM, 1), (THERE,))
    mounted, made_harmless = world.said()
    assert mounted.endswith(f"-- 10.0.0.2:{EXPORTED} {folder.path}")
    options = mounted.split(" ")[4].split(",")
    assert {"vers=4.2", "hard", "port=7769", "nosuid", "nodev", "noexec", "retry=0"} <= set(options)
    assert "nosymfollow" in made_harmless


@pytest.mark.parametrize("volume", [HERE, THERE])
async def test_what_nobody_may_write_is_mounted_read_only(world: World, volume: AttachedVolume) -> None:
    locked = AttachedVolume(
        volume.vid, volume.path, volume.format, readonly=True, shareable=True, bootable=False, nfs=volume.nfs
    )
    await world.shares.mounted((VM, 1), (locked,))
    assert ",ro " in world.said()[-1]


async def test_the_same_again_mounts_nothing_and_so_does_an_atomd_that_was_killed(world: World) -> None:
    first = await world.shares.mounted((VM, 1), (HERE,))
    said = world.said()
    assert await world.shares.mounted((VM, 1), (HERE,)) == first
    assert await world.again().mounted((VM, 1), (HERE,)) == first
    assert world.said() == said


async def test_each_vm_has_its_own_and_the_end_of_one_leaves_the_other(world: World) -> None:
    await world.shares.mounted((VM, 1), (HERE,))
    await world.shares.mounted((OTHER, 1), (HERE,))
    assert await world.shares.unmount((VM, 1))
    assert await world.shares.places() == [(OTHER, 1, VID)]
    assert os.listdir(world.folder / "the shares") == [f"{OTHER}.1.{VID}"]


async def test_an_end_takes_earlier_lives_along_and_leaves_later_ones(world: World) -> None:
    for generation in (1, 2, 3):
        await world.shares.mounted((VM, generation), (HERE,))
    assert await world.shares.unmount((VM, 2))
    assert await world.shares.places() == [(VM, 3, VID)]


async def test_a_mount_that_is_busy_is_torn_out(world: World) -> None:
    await world.shares.mounted((VM, 1), (THERE,))
    (world.folder / "busy").touch()
    assert await world.shares.unmount((VM, 1))
    assert world.said()[-1].startswith("umount --force --lazy")
    assert await world.shares.places() == []


async def test_strays_of_an_atomd_that_died_are_swept_and_lives_stay(world: World) -> None:
    await world.shares.mounted((VM, 1), (HERE,))
    await world.shares.mounted((OTHER, 4), (HERE,))
    assert await world.again().sweep(lambda: [(VM, 1)])
    assert await world.shares.places() == [(VM, 1, VID)]


async def test_a_stray_whose_server_hangs_holds_up_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for life in ((VM, 1), (OTHER, 1)):  # the latest one is looked at first
        await world.shares.mounted(life, (HERE,))
    (world.folder / "hangs").touch()
    monkeypatch.setattr(rooms, "UMOUNT_S", 600.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.again().sweep, list)
        await until(lambda: f"{VM}.1" not in (world.folder / "mountinfo").read_text())
        assert f"{OTHER}.1" in (world.folder / "mountinfo").read_text()
        nursery.cancel_scope.cancel()


async def test_so_many_strays_at_once_and_no_more_are_unmounted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    running, most = 0, 0

    async def counted(words: Sequence[str]) -> tuple[str, str]:
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        await trio.testing.wait_all_tasks_blocked()
        running -= 1
        return "", table

    vms = [VmId(f"{number:032x}") for number in range(2 * rooms.AT_ONCE)]
    folder = world.folder / "the shares"
    folder.mkdir()
    table = "".join(f"1 2 0:3 / {str(folder).replace(' ', chr(92) + '040')}/{vm}.1.{VID} rw\n" for vm in vms)
    monkeypatch.setattr(rooms, "_run", counted)
    assert not await world.shares.sweep(list)
    assert most == rooms.AT_ONCE


async def test_a_life_that_begins_while_strays_are_looked_for_keeps_its_mount(world: World) -> None:
    await world.shares.mounted((VM, 1), (HERE,))
    lives: list[rooms.Life] = []

    def asked() -> list[rooms.Life]:
        lives.append((VM, 1))  # known by now
        return lives

    assert await world.shares.sweep(asked)
    assert await world.shares.places() == [(VM, 1, VID)]


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not is_so():  # noqa: ASYNC110  a program writes it
            await trio.sleep(0.01)


async def test_a_server_that_refuses_is_asked_again_and_then_has_what_it_needs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "AGAIN_S", 0.01)
    (world.folder / "fails").touch()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.shares.mounted, (VM, 1), (THERE,))
        await until(lambda: len(world.said()) >= 2)
        (world.folder / "fails").unlink()
    assert await world.shares.places() == [(VM, 1, VID)]


@pytest.mark.parametrize(("how", "why"), [("fails", "Connection refused"), ("hangs", "takes too long")])
async def test_a_mount_has_a_deadline_and_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, how: str, why: str
) -> None:
    monkeypatch.setattr(rooms, "MOUNT_S", 0.3)
    (world.folder / how).touch()
    with pytest.raises(NotMounted, match=why):
        await world.shares.mounted((VM, 1), (THERE,))
    assert await world.shares.places() == []


async def test_a_host_has_a_limit_of_mounts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "SHARES_MAX", 1)
    await world.shares.mounted((VM, 1), (HERE,))
    with pytest.raises(NotMounted, match="the most"):
        await world.shares.mounted((OTHER, 1), (HERE,))
