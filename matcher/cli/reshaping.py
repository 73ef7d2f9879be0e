"""`electros volume rename, resize, convert, clone, cancel, rm`: what becomes of volumes that are there."""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from cyclopts import Parameter

from matcher.cli.failures import Exit, Failure
from matcher.cli.ordering import Copying, Order, how_it_goes, ordered
from matcher.cli.output import Output, emit, note
from matcher.cli.roster import confirm, told_done
from matcher.cli.session import Session, session
from matcher.cli.volume import Found, document, one, shown, volumes_table
from matcher.net.https import Door
from matcher.wire.messages import ImageFormat
from matcher.wire.realm import Done
from matcher.wire.volumes import ChangeVolume, CloneVolume, VolumeView
from specs.ids import dashed, new_id
from specs.units import GB_MIB, VOLUME_GB_MAX, guess_mib, mib_of_gb

NAME_MAX = 64
CANCEL_S = 30.0  # longer than hosts wait for it

Disk = Literal["raw", "qcow2"]  # of the formats, those that a disk image can have
DiskFormat = Annotated[Disk, Parameter(name="--format", help="raw or qcow2")]


def rename(volume: str, name: str, *, output: Output = "table") -> None:
    """Give a volume of yours another name.

    Parameters
    ----------
    volume
        Its name, its UUID, or the start of either.
    name
        The new one.
    """
    _told(_changed(volume, ChangeVolume(name=called(name)), "rename {}"), output)


def resize(
    volume: str,
    *,
    size: Annotated[str, Parameter(help="in GB, a multiple of 0.125", allow_leading_hyphen=True)],
    output: Output = "table",
) -> None:
    """Make a volume of yours larger, while no VM has it. The filesystem in it is the guest's to grow.

    Parameters
    ----------
    volume
        Its name, its UUID, or the start of either.
    """
    _told(_changed(volume, ChangeVolume(size_mib=size_mib(size)), "make {} larger"), output)


def convert(volume: str, *, image_format: DiskFormat, output: Output = "table") -> None:
    """Give a volume of yours another image format, while no VM has it; its content stays.

    Parameters
    ----------
    volume
        Its name, its UUID, or the start of either.
    """
    _told(_changed(volume, ChangeVolume(format=ImageFormat(image_format)), "convert {}"), output)


def clone(
    volume: str,
    *,
    name: Annotated[str, Parameter(help="of the copy")],
    private: Annotated[bool, Parameter(help="nobody else may see or use the copy", negative="")] = False,
    output: Output = "table",
) -> None:
    """Copy a volume that no VM writes, on the host where it is. The copy is yours, and can be written. It is thin: it
    shares blocks where the host's filesystem can, and elsewhere takes as long, and as much space, as the data in it.

    Parameters
    ----------
    volume
        Its name, its UUID, or the start of either.
    """
    with session() as mine:
        found = one(mine, volume)
        copied = copy_of(mine, found, called(name), private=private)
    _told(copied, output)


def copy_of(mine: Session, found: Found, name: str, *, private: bool = False, vid: str = "") -> VolumeView:
    """On the volume's own host, under a new UUID where `vid` says none. Raises `Failure`."""
    body, path = CloneVolume(vid or new_id(mine.random), name, private), f"/v1/volumes/{found.volume.vid}/clones"
    which = shown(found.volume)
    order = Order.to_make(path, body.vid, f"copy {which}", body)
    return ordered(mine, found.door, order, ended=Copying(which).ended)


def rm(
    *volumes: str,
    yes: Annotated[bool, Parameter(name=["--yes", "-y"], help="don't ask", negative="")] = False,
    output: Output = "table",
) -> None:
    """Remove volumes of yours for good, with their snapshots. One that a VM has stays."""
    removed(volumes, lambda _: None, yes=yes, output=output)


def removed(volumes: Sequence[str], check: Callable[[VolumeView], None], *, yes: bool, output: str) -> None:
    """All of them; or none, where `check` raises. Raises `Failure`."""
    if not volumes:
        raise Failure(Exit.USAGE, "which one? Say its name, its UUID, or the start of either")
    gone: list[VolumeView] = []
    with session() as mine:
        meant = list({found.volume.vid: found for found in (one(mine, volume) for volume in volumes)}.values())
        for each in meant:
            check(each.volume)
        which = ", ".join(f"{each.volume.name or '-'} ({each.volume.vid[:8]} on {each.volume.host})" for each in meant)
        confirm(f"Remove {which} for good?", yes=yes)
        for each in meant:
            which = shown(each.volume)
            gone.append(ordered(mine, each.door, Order(f"remove {which}", "DELETE", f"/v1/volumes/{each.volume.vid}")))
            note(f"electros: {which} is removed from {each.volume.host}")
    if output != "table":
        emit(output, {"removed": [document(volume) for volume in gone]}, volumes_table(gone))


def cancel(volume: str, *, output: Output = "table") -> None:
    """End what you have asked to be done to a volume and is not done yet: an import, a copy, a conversion, a snapshot.
    All is then as it was before; nothing half-made remains.

    Parameters
    ----------
    volume
        Its name, its UUID, or the start of either; electros volume ls lists what is being made as well.
    """
    with session() as mine:
        found = one(mine, volume)
        done = cancelled(mine, found.door, found.volume.vid, shown(found.volume))
    said = Done(f"{shown(found.volume)}: {done.said}")
    told_done(output, {"vid": dashed(found.volume.vid), "said": done.said}, found.volume.name, said)


def cancelled(mine: Session, door: Door, vid: str, which: str) -> Done:
    """What the host says once it has ended what I have asked to be done to the volume. Raises `Failure`."""
    path, doing = f"/v1/volumes/{vid}/job", f"end what it does to {which}"
    return mine.ask(door, lambda connection: connection.ask("DELETE", path, Done), timeout_s=CANCEL_S, doing=doing)


def takeover(
    volume: str,
    *,
    host_is_dead: Annotated[
        bool,
        Parameter(
            help="you say that the VM that has it will not be missed; it is cut in any case. Of a volume that several "
            "servers serve: that the server that has it is off, and will not write again",
            negative="",
        ),
    ] = False,
    output: Output = "table",
) -> None:
    """Free a volume of yours that a VM has on another host. That VM is cut first, and never writes it again; it fails
    when its host hears of that.

    A VM on the volume's own host is ended there instead: electros rm, or virsh destroy.

    Parameters
    ----------
    volume
        Its name, its UUID, or the start of either.
    """
    with session() as mine:
        found = one(mine, volume)
        is_away = found.volume.lent_by not in (None, found.volume.host_id)  # its server judges what has to be said
        if found.volume.state == "attached" and not host_is_dead and not is_away:
            which = f"your VM {', '.join(found.volume.vms)} has it" if found.volume.vms else "a VM has it"
            helps = (
                f"electros volume takeover {volume} --host-is-dead; to start that VM on another host: electros start"
            )
            raise Failure(Exit.FAILED, f"{which}, and loses it by this", helps=helps, code="volume-in-use")
        path = f"/v1/volumes/{found.volume.vid}/takeover?dead={int(host_is_dead)}"
        doing = f"free {shown(found.volume)}"
        done = mine.ask(found.door, lambda connection: connection.ask("POST", path, Done), doing=doing)
    told_done(output, {"vid": dashed(found.volume.vid), "said": done.said}, found.volume.name, done)


def called(name: str) -> str:
    """The name, if a volume can have it. Raises `Failure`."""
    if 0 < len(name) <= NAME_MAX and name.isprintable() and not name.isspace():
        return name
    said = f"{name[:NAME_MAX]!r} can't be a volume's name: 1 to {NAME_MAX} characters, all of them visible"
    raise Failure(Exit.USAGE, said, helps="--name data")


def size_mib(size: str) -> int:
    """Of "10", "0.125", "10GB" or "512MiB": a number alone is in GB, as everywhere with volumes. Raises `Failure`."""
    mib = guess_mib(size if size[-1:].isalpha() else f"{size}GB")
    if mib is None or mib_of_gb(mib / GB_MIB) is None:
        said = f"--size {size[:40]}: it has to be a multiple of 0.125 GB, more than 0 and at most {VOLUME_GB_MAX}"
        raise Failure(Exit.USAGE, said, helps="--size 10")
    return mib


def _changed(meant: str, change: ChangeVolume, doing: str) -> VolumeView:
    with session() as mine:
        found = one(mine, meant)
        which, vid = shown(found.volume), found.volume.vid
        helps = how_it_goes(vid) if change.format else f"electros volume inspect {dashed(vid)} shows what became of it"
        return ordered(mine, found.door, Order(doing.format(which), "PATCH", f"/v1/volumes/{vid}", change, helps))


def _told(volume: VolumeView, output: str) -> None:
    emit(output, {"volume": document(volume)}, volumes_table([volume]))
