"""Folders that VMs share, as this host has them: each mounted for one life of one VM, in a place of its own.

    (nothing) --a VM starts--> mounted: here by a bind, from another host by NFSv4 --the VM has ended--> (nothing)
    mounted, of a life that has ended or that nobody knows (atomd died) --swept--> (nothing)

The guest has the mount by virtiofs, and reaches no NFS server. What guests put there is theirs: nothing of it is run,
opened as a device, or followed as a link on this host. A server that dies makes the mount wait for it, for as long as
it takes, so that the guest sees a pause and no error. Each call that mounts or unmounts has a deadline.

Mounted is in the machine's own view, where libvirtd is: under systemd by its manager, as this daemon has a view of its
own, and not the right to mount. What is mounted is looked up there as well.
"""

import logging
import re
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from weakref import WeakValueDictionary

import trio

from matcher.net.programs import ask
from matcher.wire.messages import ImageFormat
from matcher.wire.volumes import AttachedVolume
from specs.ids import Vid, VmId

MOUNT_S = 10.0  # for all of one folder; a server that is being started again is there by then
UMOUNT_S = 5.0  # until a mount that is busy, or whose server is dead, is torn out
AGAIN_S = 0.5
AT_ONCE = 16  # that are unmounted: where their servers hang, each takes its time, and none waits for one of them alone
SHARES_MAX = 1024  # mounts of ours, on one host

HARMLESS = "nosuid,nodev,noexec"
# `hard`: a guest waits, and never gets an error for a server that is away. `actimeo`: what another host's guest
# changes is seen a second later at most, as by virtiofs itself.
NFS = f"vers=4.2,proto=tcp,hard,timeo=20,retry=0,actimeo=1,{HARMLESS}"

_PLACE = re.compile(r"([0-9a-f]{32})\.(\d{1,10})\.([0-9a-f]{32})")
_OCTAL = re.compile(r"\\([0-7]{3})")

log = logging.getLogger("atomd")

Life = tuple[VmId, int]  # of a VM: its id, and its generation


class NotMounted(Exception):
    """The message is a sentence for a person."""


class Shares:
    """All of one host, in `folder`."""

    def __init__(self, folder: Path, *, mountinfo: Path = Path("/proc/self/mountinfo")) -> None:
        self._folder, self._mountinfo = folder, mountinfo
        self._turns = WeakValueDictionary[VmId, trio.Lock]()  # `mount` and `umount` of one place must not meet

    async def mounted(self, life: Life, volumes: Collection[AttachedVolume]) -> tuple[AttachedVolume, ...]:
        """The volumes with each folder's path as this host's VM may have it; the same again for the same life. Raises
        `NotMounted`."""
        return tuple([await self._mounted(life, volume) for volume in volumes])

    async def unmount(self, life: Life) -> bool:
        """Whether nothing of this life, or of an earlier one, is mounted any more."""
        vm_id, generation = life
        try:
            places = await self.places()
            return await self._end([place for place in places if place[0] == vm_id and place[1] <= generation])
        except NotMounted as problem:
            log.warning("%s", problem)
            return False

    async def sweep(self, lives: Callable[[], Collection[Life]]) -> bool:
        """Unmount what is of no life in `lives`, which is asked after the mounts were looked at: so a life that begins
        meanwhile keeps its own."""
        try:
            places = await self.places()
            known = set(lives())
            strays = [place for place in places if place[:2] not in known]
            for vm_id, generation, vid in strays:
                log.info("volume %s is mounted for %s, generation %d, which has ended", vid, vm_id, generation)
            return await self._end(strays)
        except NotMounted as problem:
            log.warning("%s", problem)
            return False

    async def places(self) -> list[tuple[VmId, int, Vid]]:
        """What is mounted here now, the latest first. Raises `NotMounted` where that can't be told."""
        if not self._folder.exists():  # nothing was, since the machine has started
            return []
        why, table = "it takes too long", ""
        with trio.move_on_after(UMOUNT_S):
            why, table = await _run(("cat", str(self._mountinfo)))
        if why:
            raise NotMounted(f"what is mounted can't be told: {why}")
        found = []
        for line in table.splitlines():
            path = Path(_OCTAL.sub(lambda octal: chr(int(octal[1], 8)), line.split(" ")[4]))
            named = _PLACE.fullmatch(path.name) if path.parent == self._folder else None
            if named is not None:
                found.append((VmId(named[1]), int(named[2]), Vid(named[3])))
        return found[::-1]

    # ---- one folder

    async def _mounted(self, life: Life, volume: AttachedVolume) -> AttachedVolume:
        if volume.format is not ImageFormat.FOLDER:
            return volume
        place = (*life, Vid(volume.vid))
        path = self._path(place)
        async with self._turn(life[0]):
            if place not in (places := await self.places()):
                if len(places) >= SHARES_MAX:
                    raise NotMounted(f"this host has {SHARES_MAX} folders of VMs mounted, the most there may be")
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                await self._mount(volume, path)
        return replace(volume, path=str(path))

    async def _mount(self, volume: AttachedVolume, path: Path) -> None:
        """Raises `NotMounted`, with nothing left behind as far as that can be."""
        harmless = f"{HARMLESS},nosymfollow,{'ro' if volume.readonly else 'rw'}"
        source: tuple[str, ...] = ("mount", "--bind", "--", volume.path, str(path))
        if volume.nfs is not None:
            server = volume.nfs.server
            named = f"[{server.ip}]" if ":" in server.ip else server.ip
            options = f"{NFS},port={server.port},{'ro' if volume.readonly else 'rw'}"
            source = ("mount", "-t", "nfs4", "-o", options, "--", f"{named}:{volume.nfs.path}", str(path))
        why = "it takes too long"
        with trio.move_on_after(MOUNT_S) as calls:
            while why := (await _run(source))[0]:  # noqa: ASYNC110  there is nobody who would tell
                await trio.sleep(AGAIN_S)
            why, _ = await _run(("mount", "-o", f"remount,bind,{harmless}", "--", str(path)))
        if why or calls.cancelled_caught:
            with trio.CancelScope(shield=True):
                await self._torn_out(path)
            raise NotMounted(f"the folder of volume {volume.vid} can't be mounted: {why or 'it takes too long'}")

    async def _end(self, places: Collection[tuple[VmId, int, Vid]]) -> bool:
        at_once = trio.CapacityLimiter(AT_ONCE)
        async with trio.open_nursery() as nursery:
            for place in places:
                nursery.start_soon(self._end_one, place, at_once)
        return not places or not set(places) & set(await self.places())

    async def _end_one(self, place: tuple[VmId, int, Vid], at_once: trio.CapacityLimiter) -> None:
        async with self._turn(place[0]), at_once:
            path, why = self._path(place), "it takes too long"
            with trio.move_on_after(UMOUNT_S):
                why, _ = await _run(("umount", "--", str(path)))
            if why:
                log.warning("%s is torn out: %s", path, why)
                await self._torn_out(path)
            with suppress(OSError):  # it is mounted still, and tried again
                path.rmdir()

    def _turn(self, vm_id: VmId) -> trio.Lock:
        return self._turns.setdefault(vm_id, trio.Lock())

    async def _torn_out(self, path: Path) -> None:
        """Gone from here at once; the kernel forgets it when the last program has let go."""
        with trio.move_on_after(UMOUNT_S):
            await _run(("umount", "--force", "--lazy", "--", str(path)))

    def _path(self, place: tuple[VmId, int, Vid]) -> Path:
        vm_id, generation, vid = place
        return self._folder / f"{vm_id}.{generation}.{vid}"


async def _run(words: Sequence[str]) -> tuple[str, str]:
    """What is wrong, in one line, empty where all went well; and what it says."""
    try:
        done = await ask([*_managed(), *words])
    except OSError as problem:
        return f"{words[0]} can't be run: {problem.strerror}", ""
    if done.code == 0:
        return "", done.out.decode(errors="surrogateescape")
    said = done.err.decode(errors="replace").strip().splitlines()
    return ascii(said[-1] if said else f"exit {done.code}")[1:-1][:160], ""


def _managed() -> tuple[str, ...]:
    if not Path("/run/systemd/system").is_dir():  # as sd_booted(3) looks
        return ()
    return ("systemd-run", "--quiet", "--wait", "--collect", "--pipe", "--")
