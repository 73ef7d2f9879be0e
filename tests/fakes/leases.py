"""Leases of one pool, in memory: each server's tgtd has those that it took, and loses them when it ends."""

from collections.abc import Callable, Collection

from matcher.wire.messages import Reason, Refused
from specs.ids import HostId, Vid
from storaged.keeper import NotHeld
from storaged.leases.sanlock import IN_USE
from storaged.leases.takeover import NOT_FENCED
from storaged.volume import Volume


class LeaseTable:
    """What the disk says. Who has `died` renews no lease, and has not given back those that it had."""

    def __init__(self) -> None:
        self.holders: dict[Vid, HostId] = {}
        self.died: set[HostId] = set()
        self.said: list[str] = []  # what was done, in order

    def of(self, server: HostId, served: Callable[[Vid], bool] = lambda _: False) -> "FakeLeases":
        return FakeLeases(self, server, served)


class FakeLeases:
    """A server's own: a keeper's `Leases`. `served`: whether its exporter has the volume."""

    def __init__(self, table: LeaseTable, server: HostId, served: Callable[[Vid], bool]) -> None:
        self.table, self.server, self._served = table, server, served
        self.is_silent = False

    def hold(self, volume: Volume, *, is_said_dead: bool = False) -> None:
        vid, table = volume.vid, self.table
        if self.is_silent:
            raise NotHeld("sanlock does not answer")
        holder = table.holders.get(vid, self.server)
        if holder != self.server and holder not in table.died:
            raise NotHeld("it lives", _refused(IN_USE, vid))
        if holder != self.server and not is_said_dead:
            raise NotHeld("nothing ends it", _refused(NOT_FENCED, vid))
        table.holders[vid] = self.server
        table.said.append(f"{self.server[:2]} holds")

    def release(self, volume: Volume) -> None:
        assert not self._served(volume.vid), "its exporter still serves what is let go of"
        if not self.is_silent and self.table.holders.get(volume.vid) == self.server:
            del self.table.holders[volume.vid]
            self.table.said.append(f"{self.server[:2]} lets go")

    def held(self) -> Collection[Vid]:
        return [vid for vid, holder in self.table.holders.items() if holder == self.server]


def _refused(code: str, vid: Vid) -> Refused:
    return Refused(code, (Reason(f"volume {vid}", "to hold its lease", "another server has it", ""),))
