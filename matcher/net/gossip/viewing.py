"""What this host believes of all hosts of its realm, for those who ask: users at the front door, sysadmins at the back.

A member may begin later than the door that tells of it; until then nothing is known.
"""

from collections.abc import Iterator

from matcher.gossip.membership import Seen
from matcher.net.gossip.member import Member
from matcher.net.peer import now_s
from matcher.wire.gossip import HostState
from matcher.wire.hosts import (
    ACCUSATIONS_MAX,
    MEMBERS_MAX,
    PAGE_MAX,
    Accusation,
    HostView,
    HostViews,
    MemberRow,
    MemberRows,
)


class View:
    def __init__(self) -> None:
        self.member: Member | None = None

    def look(self) -> None:
        """This host has changed: others are told at once."""
        if self.member is not None:
            self.member.look()

    def pages(self) -> Iterator[HostViews]:
        """All hosts as they are now, in parts, each made when it is asked for; one part at least."""
        seen, listens_s = self._now()
        for at in range(0, max(1, len(seen)), PAGE_MAX):
            rows = tuple(map(self._host, seen[at : at + PAGE_MAX]))
            yield HostViews(listens_s, len(seen), rows, self.member.realm if self.member is not None else "")

    def members(self, after: str) -> MemberRows:
        """Those behind `after`, in the order of their ids, and what is held against them."""
        seen, listens_s = self._now()
        later = sorted((each for each in seen if each.record.host_id > after), key=lambda each: each.record.host_id)
        return MemberRows(listens_s, tuple(map(self._row, later[:MEMBERS_MAX])), len(later) > MEMBERS_MAX)

    # ---- inside

    def _now(self) -> tuple[list[Seen], int]:
        member = self.member
        return (member.hosts(), _whole(member.listens_s)) if member is not None else ([], -1)

    def _host(self, seen: Seen) -> HostView:
        assert self.member is not None
        record, alive = seen.record, seen.record.alive
        told_s = self.member.told_s(record)
        state_s = now_s() - seen.since_s if seen.since_s else -1.0
        return HostView(
            id=record.host_id,
            name=record.name,
            state=seen.state,
            state_s=_whole(state_s),
            told_s=_whole(told_s),
            addresses=alive.addresses,
            front_door_port=alive.front_door_port,
            digest=alive.digest,
        )

    def _row(self, seen: Seen) -> MemberRow:
        assert self.member is not None
        charges, due_s = self.member.held_against(seen.record)
        return MemberRow(
            host=self._host(seen),
            accusations=tuple(Accusation(by, says) for by, says in charges[:ACCUSATIONS_MAX]),
            gone_in_s=_whole(max(0.0, due_s - now_s())) if seen.state is HostState.SUSPECT else -1,
            incarnation=seen.record.alive.incarnation,
            is_me=self.member.is_me(seen.record),
        )


def _whole(seconds: float) -> int:
    return int(seconds) if 0 <= seconds < 2**31 else -1
