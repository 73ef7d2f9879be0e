"""Gives volumes to other hosts: from an attachment in the keeper's books to an export of a driver, and back.

What is exported is what is attached, no more and no less: told to the driver at start, and whenever something changes.
"""

import logging
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from shutil import which

import trio

from matcher.wire.messages import Address, ImageFormat, Refused
from matcher.wire.volumes import AttachedVolume, ChapSecret, IscsiTarget
from specs.ids import HostId
from storaged.attachments import Attachment
from storaged.beneath import Unusable
from storaged.export.description import Access, Export, Image, Kind, Unknown, chap_of
from storaged.export.exporter import Exporter
from storaged.export.key import load_key
from storaged.export.tgt import Portal, Tgt
from storaged.fit import reason
from storaged.keeper import Keeper, NotCut, not_exported
from storaged.volume import Snapshot, Volume

KEY = "exports.key"
TGTD = "tgtd"
START_S = 4.0  # for what serves exports, at the first of them

log = logging.getLogger("storaged")


class Iscsi:
    """Exports by iSCSI: `attaching.Exports`, and the keeper's *cut*. `key` makes each epoch's credential."""

    def __init__(self, exporter: Exporter, key: bytes, snapshot: Callable[[], Snapshot], server: HostId) -> None:
        self._exporter, self._key, self._snapshot, self._server = exporter, key, snapshot, server
        self._up = trio.Event()

    def why_not(self, volume: Volume) -> str | None:
        if volume.format is not ImageFormat.RAW:
            return f"its image is {volume.format}: only raw ones reach other hosts"
        if volume.shareable and not volume.readonly:
            return "a shareable volume reaches VMs on its own host alone, for now"
        return None

    async def give(
        self, attachment: Attachment, file: AttachedVolume, asker: str
    ) -> tuple[AttachedVolume, ChapSecret] | Refused:
        """Raises `Unusable` where it is not known whether it is exported."""
        export = self.export_of(attachment)
        with trio.move_on_after(START_S):
            await self._up.wait()
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
        volume = self._snapshot().volumes.get(attachment.vid)
        if volume is None:
            raise NotCut(f"volume {attachment.vid} is not here now, so that its export can't be seen to have ended")
        ended = await self._exporter.cut(image_of(volume), attachment.epoch)
        if isinstance(ended, Unknown):
            raise NotCut(f"the export of volume {attachment.vid} has not ended yet: {ended.why}")

    async def run(self, keeper: Keeper) -> None:
        """Make what is exported what is attached, and keep it so, for ever."""
        problems = await self._exporter.reconcile([*self.wanted(keeper)])
        for target, problem in problems.items():
            log.info("%s: not yet: %s", target, problem)
        async with trio.open_nursery() as nursery:
            await nursery.start(self._exporter.run)
            self._up.set()

    def wanted(self, keeper: Keeper) -> Iterator[Export]:
        """An export for each attachment to another host whose volume is here."""
        volumes = self._snapshot().volumes
        for attachment in keeper.state.attachments:
            if attachment.host_id != self._server and attachment.vid in volumes:
                yield self.export_of(attachment)

    def export_of(self, attachment: Attachment) -> Export:
        volume = self._snapshot().volumes[attachment.vid]
        chap = chap_of(self._key, attachment.vid, attachment.epoch)
        return Export(image_of(volume), attachment.epoch, Kind.ISCSI, attachment.host_id, chap)


class NoExports:
    """Of a host that gives its volumes to its own VMs alone."""

    def why_not(self, _: Volume) -> str | None:
        return "its host exports no volumes: the VM has to run there"

    async def give(self, attachment: Attachment, _: AttachedVolume, __: str) -> Refused:
        return Refused("not-reachable", (reason(attachment.vid, "its host exports no volumes"),))

    async def cut(self, attachment: Attachment) -> None:
        not_exported(attachment)

    async def run(self, _: Keeper) -> None:
        """There is nothing to do."""


def exports_of(
    port: int, folder: Path, state: Path, snapshot: Callable[[], Snapshot], server: HostId
) -> Iscsi | NoExports:
    """As this host's settings and programs allow. `folder` is the server's own, `state` keeps the key. Raises
    `KeyUnusable`."""
    if not port or which(TGTD) is None:
        why = f"there is no {TGTD} (Debian: tgt)" if port else "iscsi_port is 0"
        log.info("volumes are for VMs on this host alone: %s", why)
        return NoExports()
    everywhere = IPv4Address("0.0.0.0")  # noqa: S104  hosts come by any link
    return Iscsi(Tgt(Portal(everywhere, folder / "iscsi", port)), load_key(state / KEY), snapshot, server)


def image_of(volume: Volume) -> Image:
    return Image(volume.vid, volume.pool, volume.path, volume.image, volume.format, volume.readonly)


def address_towards(ip: str) -> str:
    """The address of this host that a host at `ip` can reach: the one that the kernel would answer from."""
    address, _, link = ip.partition("%")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        scope = (socket.if_nametoindex(link),) if link else ()
        asking.connect((address, 9, 0, *scope) if family == socket.AF_INET6 and scope else (address, 9))
        return str(asking.getsockname()[0]).partition("%")[0]
