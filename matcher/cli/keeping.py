"""`electros volume snapshot, snapshots, rollback`: earlier states of a volume."""

import time
from typing import Annotated

from cyclopts import Parameter

from matcher.cli.ordering import Copying, Order, how_it_goes, ordered
from matcher.cli.output import Output, Table, emit, note
from matcher.cli.roster import confirm
from matcher.cli.session import Session, session
from matcher.cli.volume import document, one, shown, volumes_table
from matcher.wire.volumes import DropSnapshot, RollBack, Snapshots, StoppedVm, TakeSnapshot, VolumeView
from specs.units import show_gb


def snapshot(
    volume: str,
    name: str,
    *,
    drop: Annotated[bool, Parameter(help="delete that snapshot instead", negative="")] = False,
    output: Output = "table",
) -> None:
    """Keep the state of a volume of yours, under a name; no VM that runs may have it.

    Parameters
    ----------
    volume
        Its name, its UUID, or the start of either.
    name
        Of the snapshot: a-z, 0-9, dots, dashes and underscores.
    """
    with session() as mine:
        found = one(mine, volume)
        path = f"/v1/volumes/{found.volume.vid}/snapshots"
        body = DropSnapshot(name) if drop else TakeSnapshot(name, _stopped(mine, found.volume))
        doing = f"drop {name} of {shown(found.volume)}" if drop else f"keep {shown(found.volume)} as {name}"
        order = Order(doing, "DELETE" if drop else "POST", path, body, how_it_goes(found.volume.vid))
        now = ordered(mine, found.door, order, ended=Copying(shown(found.volume)).ended)
    note(f"electros: {name} of {shown(now)} is {'dropped' if drop else 'kept'}")
    if output != "table":
        emit(output, {"volume": document(now)}, volumes_table([now]))


def snapshots(volume: str, *, output: Output = "table") -> None:
    """List the snapshots of a volume of yours.

    Parameters
    ----------
    volume
        Its name, its UUID, or the start of either.
    """
    with session() as mine:
        found = one(mine, volume)
        path = f"/v1/volumes/{found.volume.vid}/snapshots"
        doing = f"list the snapshots of {shown(found.volume)}"
        kept = mine.ask(found.door, lambda connection: connection.ask("GET", path, Snapshots), doing=doing).snapshots
    documents = [{"name": each.name, "size_gb": each.size_mib / 1024, "taken": _utc(each.taken_s)} for each in kept]
    rows = [(each.name, show_gb(each.size_mib), _utc(each.taken_s)) for each in kept]
    emit(output, {"snapshots": documents}, Table(("NAME", "SIZE", "TAKEN"), rows, [each.name for each in kept]))


def rollback(
    volume: str,
    name: str,
    *,
    yes: Annotated[bool, Parameter(name=["--yes", "-y"], help="don't ask", negative="")] = False,
    output: Output = "table",
) -> None:
    """Give a volume of yours the state that a snapshot has; what was written since is lost.

    No VM that runs may have it.

    Parameters
    ----------
    volume
        Its name, its UUID, or the start of either.
    name
        Of the snapshot.
    """
    with session() as mine:
        found = one(mine, volume)
        which = shown(found.volume)
        confirm(f"Roll {which} back to {name}, and lose what was written since?", yes=yes)
        body = RollBack(name, _stopped(mine, found.volume))
        path = f"/v1/volumes/{found.volume.vid}/rollback"
        order = Order(f"roll {which} back to {name}", "POST", path, body, how_it_goes(found.volume.vid))
        now = ordered(mine, found.door, order, ended=Copying(name).ended)
    emit(output, {"volume": document(now)}, volumes_table([now]))


def _stopped(mine: Session, volume: VolumeView) -> StoppedVm | None:
    """The VM of mine that has the volume, if its host says that this life of it is over."""
    if volume.state != "attached":
        return None
    having = [each.vm for each in mine.vms()[0] if any(its.vid == volume.vid for its in each.vm.volumes)]
    last = max(having, key=lambda vm: vm.generation, default=None)
    return StoppedVm(last.id, last.generation) if last is not None and last.state == "stopped" else None


def _utc(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
