"""The guests of one host, as writers: each stamps the blocks of its volumes for as long as its domain is up.

A volume of the host itself is a file that QEMU opens and locks. One of another host comes by iSCSI: QEMU logs in, again
and again where it has to, sends what it writes, and knows nothing of who else may have the volume. A guest that stood
still goes on as if nothing had happened.
"""

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from matcher.wire.volumes import Attached, AttachedVolume
from specs.ids import Vid
from storaged.export.description import Access, parse_target
from tests.sim import papers
from tests.sim.images import BLOCKS, Stamp
from tests.sim.slow import Domain
from tests.sim.target import access_of
from tests.sim.timeline import Process

if TYPE_CHECKING:
    from tests.sim.host import Host

WRITES_S = (0.3, 2.5)
SENT_S = (0.0002, 0.003)
RETRANSMITTED_S = (0.1, 12.0)
LATE = 0.05  # of all that is sent
PAUSES = 0.3  # of all refused log-ins: QEMU takes it for an error, and waits for a word


class Guests:
    def __init__(self, host: "Host", process: Process, random: Random) -> None:
        self._host, self._process, self._random = host, process, random

    def open(self, domain: Domain, opened: Attached) -> bool:
        """As QEMU does at its start: not where another QEMU of this host has the image."""
        here = [volume for volume in opened.volumes if volume.iscsi is None and not volume.readonly]
        if any(self.have_open(Vid(volume.vid)) for volume in here):
            return False
        secrets = {secret.vid: secret.secret for secret in opened.secrets}
        domain.files = frozenset(Vid(volume.vid) for volume in here)
        for volume in opened.volumes:
            disk = _Disk(volume, None if volume.iscsi is None else access_of(volume, secrets[volume.vid]))
            self._soon(domain, disk)
        return True

    def have_open(self, vid: Vid) -> bool:
        return any(vid in domain.files for domain in self._host.libvirt.domains.values())

    def _stamp(self, domain: Domain, disk: "_Disk") -> Stamp:
        """What the guest writes: the epoch under which it was given the volume."""
        if disk.access is None:
            return self._host.storage.stamps.stamp_of(disk.vid, domain.vm_id, domain.generation)
        named = parse_target(disk.access.name)
        assert named is not None
        return Stamp(named[1], domain.vm_id, domain.generation)

    def _soon(self, domain: Domain, disk: "_Disk") -> None:
        self._process.after(self._random.uniform(*WRITES_S), lambda: self._write(domain, disk))

    def _write(self, domain: Domain, disk: "_Disk") -> None:
        if self._host.libvirt.domains.get(domain.vm_id) is not domain:
            return
        block = self._random.randrange(BLOCKS)
        if not domain.held and not domain.stalled:
            disk.stamp = disk.stamp or self._stamp(domain, disk)
            if disk.access is None:
                self._host.storage.land(disk.vid, block, disk.stamp)
            else:
                self._send(domain, disk, block, disk.stamp)
        self._soon(domain, disk)

    def _send(self, domain: Domain, disk: "_Disk", block: int, stamp: Stamp) -> None:
        """On the connection that it has; what is late comes by that same one."""
        assert disk.access is not None
        server = self._host.hosts[papers.number_at(disk.access.address) - 1]
        if self._host is not server and self._host.is_cut_from(server):
            return
        target, session = server.storage.target, disk.session
        delay_s = self._random.uniform(*(RETRANSMITTED_S if self._random.random() < LATE else SENT_S))

        def arrive() -> None:
            assert disk.access is not None
            export = target.exports.get(disk.access.name)
            if export is not None and target.has_session(disk.access.name, session):
                target.write(export, block, stamp)
            elif disk.session == session:
                disk.session = target.login(disk.access)
                if disk.session is None and not target.is_dead and self._random.random() < PAUSES:
                    domain.stalled = True

        target.process.after(delay_s, arrive)


@dataclass(slots=True)
class _Disk:
    volume: AttachedVolume
    access: Access | None
    session: int | None = None
    stamp: Stamp | None = None  # since the guest has begun

    @property
    def vid(self) -> Vid:
        return Vid(self.volume.vid)
