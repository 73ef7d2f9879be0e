"""Gives folders that VMs share to other hosts, by NFSv4: each attachment is one export, for its host's address alone.

    (nothing is shared) --the first folder for another host--> ganesha runs, and is kept running
    attached --export--> mounted there --detached--> cut: the last export for a host takes its right along

NFS knows its clients by address alone: the address is the one from which the host itself, by its key, has asked for the
attachment. It asks again now and then, so that a host that has moved is followed, and what a machine's end has taken is
made again. A storaged that is started again finds the addresses where they are used: at ganesha.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address

import trio

from matcher.wire.messages import Address, ImageFormat, Refused
from matcher.wire.volumes import AttachedVolume, NfsFolder
from specs.ids import HostId
from storaged.attachments import Attachment
from storaged.beneath import Unusable
from storaged.export.description import Access, Export, Kind, Unknown, target_name
from storaged.export.exporter import Exporter
from storaged.keeper import Keeper, NotCut
from storaged.reaching import START_S, address_towards, image_of
from storaged.volume import Snapshot, Volume

Client = IPv4Address | IPv6Address

log = logging.getLogger("storaged")


class Folders:
    """`attaching.Exports` and the keeper's *cut*, for folders."""

    def __init__(self, exporter: Exporter, snapshot: Callable[[], Snapshot], server: HostId) -> None:
        self._exporter, self._snapshot, self._server = exporter, snapshot, server
        self._clients: dict[str, Client] = {}  # of what is exported, by the export's name
        self._needed, self._up = trio.Event(), trio.Event()

    def why_not(self, _: Volume) -> str | None:
        return None

    async def give(
        self, attachment: Attachment, file: AttachedVolume, asker: str
    ) -> tuple[AttachedVolume, None] | Refused:
        """Raises `Unusable` where it is not known whether it is exported."""
        client = ip_address(asker.partition("%")[0])
        export = self._export(attachment, client)
        self._clients[export.target] = client  # wanted from now on, even if ganesha comes up late
        self._needed.set()
        with trio.move_on_after(START_S):
            await self._up.wait()
        made = await self._exporter.export(export)
        if isinstance(made, Unknown):
            raise Unusable(f"volume {attachment.vid} is not exported yet: {made.why}")
        if not isinstance(made, Access):
            self._clients.pop(export.target, None)
            return Refused(made.code, made.reasons)
        folder = NfsFolder(Address(address_towards(asker), made.port), made.name)
        return replace(file, path="", nfs=folder), None

    async def cut(self, attachment: Attachment) -> None:
        """Raises `NotCut` where its host may still write."""
        volume = self._snapshot().volumes[attachment.vid]
        ended = await self._exporter.cut(image_of(volume), attachment.epoch)
        if isinstance(ended, Unknown):
            raise NotCut(f"the export of volume {attachment.vid} has not ended yet: {ended.why}")
        self._clients.pop(target_name(attachment.vid, attachment.epoch), None)

    async def run(self, keeper: Keeper) -> None:
        """Make what is exported what is attached, and keep it so, for ever."""
        found = await self._exporter.observe()
        if not isinstance(found, Unknown):
            self._clients = {seen.target: ip_address(ip) for seen in found for ip in seen.initiators} | self._clients
        elif not any(self._attached(keeper)):
            await self._needed.wait()
        for target, problem in (await self._exporter.reconcile([*self._wanted(keeper)])).items():
            log.info("%s: not yet: %s", target, problem)
        async with trio.open_nursery() as nursery:
            await nursery.start(self._exporter.run)
            self._up.set()

    def _wanted(self, keeper: Keeper) -> Iterator[Export]:
        for attachment in self._attached(keeper):
            client = self._clients.get(target_name(attachment.vid, attachment.epoch))
            if client is not None:  # else its host will ask
                yield self._export(attachment, client)

    def _attached(self, keeper: Keeper) -> Iterator[Attachment]:
        volumes = self._snapshot().volumes
        for attachment in keeper.state.attachments:
            volume = volumes.get(attachment.vid)
            if attachment.host_id != self._server and volume and volume.format is ImageFormat.FOLDER:
                yield attachment

    def _export(self, attachment: Attachment, client: Client) -> Export:
        image = image_of(self._snapshot().volumes[attachment.vid])
        return Export(image, attachment.epoch, Kind.NFS, attachment.host_id, client=client)
