"""Gives volumes to other hosts: from an attachment in the keeper's books to an export of a driver, and back.

What is exported is what is attached, no more and no less: told to the driver at start, and whenever something changes.
"""

import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from shutil import which

import trio

from matcher.wire.messages import Address, ImageFormat, Refused
from matcher.wire.volumes import AttachedVolume, ChapSecret, IscsiTarget
from specs.ids import HostId, Vid
from storaged.attachments import Attachment
from storaged.beneath import Unusable
from storaged.config import Config
from storaged.export.choosing import TGTD, Choice, Driver, chosen, end, end_exports, lacks_of
from storaged.export.configfs import Configfs
from storaged.export.description import Access, Export, Kind, Unknown, chap_of
from storaged.export.exporter import Exporter
from storaged.export.keeping import LOOK_S
from storaged.export.key import load_key
from storaged.export.lio import Lio
from storaged.export.lio import Portal as LioPortal
from storaged.export.nfs import Nfs, Place
from storaged.export.tgt import Portal as TgtPortal
from storaged.export.tgt import Tgt
from storaged.fit import reason
from storaged.keeper import Keeper, NotCut, not_exported
from storaged.reaching import START_S, address_towards, capabilities, image_of
from storaged.sharing import Folders
from storaged.volume import Snapshot, Volume

KEY = "exports.key"
NUMBERS = "nfs-numbers.json"
EVERYWHERE = IPv4Address("0.0.0.0")  # noqa: S104  hosts come by any link
# CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_SETGID, CAP_SETUID: linux/capability.h
GANESHA_NEEDS = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 7
GANESHA = ("ganesha.nfsd", "dbus-daemon", "dbus-send")

log = logging.getLogger("storaged")


class Iscsi:
    """Exports by iSCSI: `attaching.Exports`, and the keeper's *cut*. `key` makes each epoch's credential."""

    def __init__(
        self,
        exporter: Exporter,
        key: bytes,
        snapshot: Callable[[], Snapshot],
        server: HostId,
        *,
        before: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        """`before` ends what another driver still serves, and says why it could not: no image has two targets."""
        self._exporter, self._key, self._snapshot, self._server, self._before = exporter, key, snapshot, server, before
        self._alone, self._up = trio.Event(), trio.Event()
        if before is None:
            self._alone.set()

    def why_not(self, volume: Volume) -> str | None:
        if volume.format is not ImageFormat.RAW:
            return f"its image is {volume.format}: only raw ones reach other hosts"
        if volume.shareable and not volume.readonly:
            return "a shareable disk reaches VMs on its own host alone; a shareable folder reaches all"
        return None

    async def give(
        self, attachment: Attachment, file: AttachedVolume, asker: str
    ) -> tuple[AttachedVolume, ChapSecret] | Refused:
        """Raises `Unusable` where it is not known whether it is exported."""
        export = self.export_of(attachment)
        with trio.move_on_after(START_S):
            await self._up.wait()
        if not self._alone.is_set():
            raise Unusable(f"volume {attachment.vid} is not exported yet: another driver's exports have not ended")
        made = await self._exporter.export(export)
        if isinstance(made, Unknown):
            raise Unusable(f"volume {attachment.vid} is not exported yet: {made.why}")
        if not isinstance(made, Access):
            return Refused(made.code, made.reasons)
        assert made.chap is not None, "iSCSI is never without"
        target = IscsiTarget(
            Address(address_towards(asker), made.port), made.name, made.lun, made.initiator, made.chap.user
        )
        return replace(file, path="", iscsi=target), ChapSecret(file.vid, made.chap.secret)

    async def cut(self, attachment: Attachment) -> None:
        """Raises `NotCut` where its holder may still write."""
        volume = self._snapshot().volumes[attachment.vid]
        with trio.move_on_after(START_S):
            await self._alone.wait()
        if not self._alone.is_set():
            raise NotCut(f"another driver's export of volume {attachment.vid} may not have ended")
        ended = await self._exporter.cut(image_of(volume), attachment.epoch)
        if isinstance(ended, Unknown):
            raise NotCut(f"the export of volume {attachment.vid} has not ended yet: {ended.why}")

    async def run(self, keeper: Keeper) -> None:
        """Make what is exported what is attached, and keep it so, for ever."""
        told = ""
        while self._before is not None and (why := await self._before()):
            if why != told:
                log.error("disks reach no other host: %s", why)
            told = why
            await trio.sleep(LOOK_S)
        self._alone.set()
        await self.tell(keeper)
        async with trio.open_nursery() as nursery:
            await nursery.start(self._exporter.run)
            self.is_up()

    async def tell(self, keeper: Keeper) -> None:
        """The exporter, what is attached."""
        problems = await self._exporter.reconcile([*self.wanted(keeper)])
        for target, problem in problems.items():
            log.info("%s: not yet: %s", target, problem)

    def is_up(self) -> None:
        """It runs, and has been told."""
        self._up.set()

    def wanted(self, keeper: Keeper) -> Iterator[Export]:
        """An export for each attachment whose volume is here, and is its to export."""
        volumes = self._snapshot().volumes
        for attachment in keeper.state.attachments:
            volume = volumes.get(attachment.vid)
            if volume is not None and self._is_mine(attachment, volume):
                yield self.export_of(attachment)

    def _is_mine(self, attachment: Attachment, volume: Volume) -> bool:
        """Those to other hosts, but for what has a lease, and so an exporter of its own."""
        is_disk = volume.format is not ImageFormat.FOLDER
        return attachment.host_id != self._server and is_disk and not self._snapshot().is_leased(volume)

    def export_of(self, attachment: Attachment) -> Export:
        volume = self._snapshot().volumes[attachment.vid]
        chap = chap_of(self._key, attachment.vid, attachment.epoch)
        return Export(image_of(volume), attachment.epoch, Kind.ISCSI, attachment.host_id, chap)


class NoExports:
    """Of a host that gives its volumes to its own VMs alone, or those of one kind."""

    def why_not(self, _: Volume) -> str | None:
        return "its host exports no volumes: the VM has to run there"

    def only_exports(self, _: Vid) -> bool:
        return False

    async def give(self, attachment: Attachment, _: AttachedVolume, __: str) -> Refused:
        return Refused("not-reachable", (reason(attachment.vid, "its host exports no volumes"),))

    async def cut(self, attachment: Attachment) -> None:
        not_exported(attachment)

    async def run(self, _: Keeper) -> None:
        """There is nothing to do."""


class Exporting:
    """Each volume in its own way: disks by iSCSI, folders by NFS, what has a lease by its pool's exporter (`leased`, by
    the pool's root). `attaching.Exports`, and the keeper's *cut*."""

    def __init__(
        self,
        disks: Iscsi | NoExports,
        folders: Folders | NoExports,
        snapshot: Callable[[], Snapshot],
        leased: Callable[[str], Iscsi | None] = lambda _: None,
        *,
        status: str = "",
    ) -> None:
        """`leased`: what serves the pool that lies there, if several servers do. `status`: how disks reach other hosts,
        for a person."""
        self.status = status
        self._disks, self._folders, self._snapshot, self._leased = disks, folders, snapshot, leased

    def why_not(self, volume: Volume) -> str | None:
        if self._snapshot().is_leased(volume):
            return None  # one that it can't give is none in good order
        return self._of(volume).why_not(volume)

    def only_exports(self, vid: Vid) -> bool:
        """Whether VMs on this host have the volume by its export as well: what serves it has its lease."""
        volume = self._snapshot().volumes.get(vid)
        return volume is not None and self._snapshot().is_leased(volume)

    async def give(
        self, attachment: Attachment, file: AttachedVolume, asker: str
    ) -> tuple[AttachedVolume, ChapSecret | None] | Refused:
        volume = self._snapshot().volumes.get(attachment.vid)
        way = self._of(file) if volume is None else self._of(volume)
        return await way.give(attachment, file, asker)

    async def cut(self, attachment: Attachment) -> None:
        """Raises `NotCut` where its holder may still write."""
        volume = self._snapshot().volumes.get(attachment.vid)
        if volume is None:
            raise NotCut(f"volume {attachment.vid} is not here now, so that its export can't be seen to have ended")
        await self._of(volume).cut(attachment)

    async def run(self, keeper: Keeper) -> None:
        async with trio.open_nursery() as nursery:
            for way in (self._disks, self._folders):
                nursery.start_soon(way.run, keeper)

    def _of(self, volume: Volume | AttachedVolume) -> Iscsi | Folders | NoExports:
        if isinstance(volume, Volume) and self._snapshot().is_leased(volume):
            leased = self._leased(volume.pool)
            if leased is None:
                raise NotCut(f"volume {volume.vid}: its pool is shared by several servers, and not joined now")
            return leased
        return self._folders if volume.format is ImageFormat.FOLDER else self._disks


def exports_of(
    config: Config,
    snapshot: Callable[[], Snapshot],
    server: HostId,
    leased: Callable[[str], Iscsi | None] = lambda _: None,
) -> Exporting:
    """As this host's settings and programs allow. Raises `KeyUnusable`."""
    folders: Folders | NoExports = NoExports()
    choice = _choice(config)
    log.info("%s", choice)
    disks = _disks(choice.driver, config, snapshot, server)
    if _is_able("folders", config.nfs_port, "nfs_port", GANESHA, "nfs-ganesha-vfs dbus-bin") and _may_serve_folders():
        place = Place(EVERYWHERE, config.exports / "nfs", config.state / NUMBERS, config.nfs_port)
        folders = Folders(Nfs(place), snapshot, server)
    return Exporting(disks, folders, snapshot, leased, status=str(choice))


def _choice(config: Config) -> Choice:
    if not config.iscsi_port:
        return Choice(None, "iscsi_port is 0")
    asked = None if config.iscsi_driver == "auto" else config.iscsi_driver
    return chosen(asked, lacks_of(Configfs(""), capabilities()))


def _disks(
    driver: Driver | None, config: Config, snapshot: Callable[[], Snapshot], server: HostId
) -> Iscsi | NoExports:
    if driver is None:
        return NoExports()
    on_both = socket.has_dualstack_ipv6()
    more = (IPv6Address("::"),) if on_both else ()
    tgtd = TgtPortal(EVERYWHERE, config.exports / "iscsi", config.iscsi_port, more=more)
    kernel = Lio(LioPortal(IPv6Address("::") if on_both else EVERYWHERE, config.iscsi_port))
    exporter: Exporter = kernel if driver is Driver.LIO else Tgt(tgtd)
    before = partial(end, tgtd.command, TGTD) if driver is Driver.LIO else partial(end_exports, kernel)
    return Iscsi(exporter, load_key(config.state / KEY), snapshot, server, before=before)


def _may_serve_folders() -> bool:
    """ganesha acts as whoever a guest says that it is, and has of storaged's capabilities what it needs for that."""
    lacks = GANESHA_NEEDS & ~capabilities()
    if lacks:
        log.info("folders are for VMs on this host alone: storaged's unit lacks what ganesha needs: docs/install.md")
    return not lacks


def _is_able(what: str, port: int, setting: str, programs: tuple[str, ...], packages: str) -> bool:
    lacks = [program for program in programs if which(program) is None]
    if port and not lacks:
        return True
    why = f"there is no {lacks[0]} (Debian: {packages})" if port else f"{setting} is 0"
    log.info("%s are for VMs on this host alone: %s", what, why)
    return False
