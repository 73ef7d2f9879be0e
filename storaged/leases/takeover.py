"""Whether a lease may be taken from a server that has not given it back.

    free, or this server's own      yes
    another server's                by itself only where losing it has surely ended the old writer:
                                      the filesystem shows each server the others' writes, and
                                      the server that has it would be reset by its watchdog
    a person says that it is dead   yes; sanlock still waits until the lease has run out

Without a watchdog a server whose sanlock stands still keeps its exporter, and what that wakes up to write lands. The
watchdog that matters is that of the server which has the lease, as it said when it joined; this one's proves nothing.
Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matcher.wire.messages import Reason, Refused
from specs.ids import HostId, Vid
from storaged.leases.words import Leader

# Those that show a write to every server before it is acknowledged.
COHERENT = frozenset({"ceph", "gfs2", "nfs4", "ocfs2"})
# NFS as it should not be mounted: a write that gave up, or locks that no other client sees.
NFS_UNFIT = frozenset({"soft", "softerr", "nolock", "local_lock=all", "local_lock=flock", "local_lock=posix"})

NOT_FENCED = "not-fenced"
HINT = "switch that server off and see that it is off; only a person can say that it is dead"


@dataclass(frozen=True, slots=True)
class Ground:
    """The filesystem that a pool lies on, and how it is mounted."""

    filesystem: str
    options: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Member:
    """A server of the pool: its number in the lockspace, and whether a watchdog ends it where sanlock can't."""

    number: int
    host_id: HostId
    watched: bool


def incoherent(ground: Ground) -> str:
    """Why servers may not see each other's writes there; empty where they do."""
    if ground.filesystem not in COHERENT:
        return f"{ground.filesystem[:24]} is not known to show servers each other's writes"
    unfit = sorted(ground.options & NFS_UNFIT)
    if ground.filesystem == "nfs4" and unfit:
        return f"nfs4 is mounted with {', '.join(unfit)}"
    return ""


def why_not(
    vid: Vid, leader: Leader, members: Sequence[Member], ground: Ground, *, me: int, is_said_dead: bool = False
) -> Refused | None:
    """`me`: this server's number. `is_said_dead`: a person's word about the server that has the lease."""
    if leader.is_free or leader.number == me or is_said_dead:
        return None
    holder = next((member for member in members if member.number == leader.number), None)
    who = f"server {holder.host_id[:16]}" if holder else f"server number {leader.number}"
    lacking = [incoherent(ground)] if incoherent(ground) else []
    if holder is None:
        lacking.append("nobody knows whether a watchdog ends it")
    elif not holder.watched:
        lacking.append("no watchdog ends it")
    if not lacking:
        return None
    has = (f"{who} has its lease", *lacking)
    return Refused(NOT_FENCED, tuple(Reason(f"volume {vid}", "to take it over", each, HINT) for each in has))
