"""`electros volume rename, resize, convert, clone, rm`: what becomes of volumes that are there."""

from collections.abc import Callable, Sequence
from typing import Annotated

from cyclopts import Parameter

from matcher.cli.failures import Exit, Failure
from matcher.cli.ordering import ordered
from matcher.cli.output import Output, emit, note
from matcher.cli.roster import confirm, told_done
from matcher.cli.session import session
from matcher.cli.volume import document, one, volumes_table
from matcher.wire.messages import ImageFormat
from matcher.wire.realm import Done
from matcher.wire.volumes import ChangeVolume, CloneVolume, VolumeView
from specs.ids import dashed, new_id
from specs.units import VOLUME_GB_MAX, mib_of_gb

NAME_MAX = 64

Format = Annotated[ImageFormat, Parameter(name="--format", help="raw or qcow2")]


def rename(volume: str, name: str, *, output: Output = "table") -> None:
    """Give a volume of yours another name.

    Parameters
    ----------
    volume
        Its name, its UUID, or the start of either.
    name
        The new one.
    """
    _told(_changed(volume, ChangeVolume(name=called(name))), output)


def resize(
    volume: str, *, size: Annotated[float, Parameter(help="in GB, a multiple of 0.125")], output: Output = "table"
) -> None:
    """Make a volume of yours larger, while no VM has it. The filesystem in it is the guest's to grow.

    Parameters
    ----------
    volume
        Its name, its UUID, or the start of either.
    """
    _told(_changed(volume, ChangeVolume(size_mib=size_mib(size))), output)


def convert(volume: str, *, image_format: Format, output: Output = "table") -> None:
    """Give a volume of yours another image format, while no VM has it; its content stays.

    Parameters
    ----------
    volume
        Its name, its UUID, or the start of either.
    """
    _told(_changed(volume, ChangeVolume(format=image_format)), output)


def clone(
    volume: str,
    *,
    name: Annotated[str, Parameter(help="of the copy")],
    private: Annotated[bool, Parameter(help="nobody else may see or use the copy", negative="")] = False,
    output: Output = "table",
) -> None:
    """Copy a volume that no VM writes, on the host where it is. The copy is yours, and can be written.

    Parameters
    ----------
    volume
        Its name, its UUID, or the start of either.
    """
    with session() as mine:
        found = one(mine, volume)
        body = CloneVolume(new_id(mine.random), called(name), private)
        copied = ordered(mine, found.door, "POST", f"/v1/volumes/{found.volume.vid}/clones", body)
    _told(copied, output)


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
        said = "which volume? Say its name, its UUID, or the start of either"
        raise Failure(Exit.USAGE, said, helps="electros volume ls")
    gone: list[VolumeView] = []
    with session() as mine:
        meant = [one(mine, volume) for volume in volumes]
        for each in meant:
            check(each.volume)
        which = ", ".join(f"{each.volume.name or '-'} ({each.volume.vid[:8]} on {each.volume.host})" for each in meant)
        confirm(f"Remove {which} for good?", yes=yes)
        for each in meant:
            gone.append(ordered(mine, each.door, "DELETE", f"/v1/volumes/{each.volume.vid}"))
            note(f"electros: {each.volume.name or dashed(each.volume.vid)} is removed from {each.volume.host}")
    if output != "table":
        emit(output, {"removed": [document(volume) for volume in gone]}, volumes_table(gone))


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
        done = mine.ask(found.door, lambda connection: connection.ask("POST", path, Done))
    told_done(output, {"vid": dashed(found.volume.vid), "said": done.said}, found.volume.name, done)


def called(name: str) -> str:
    """The name, if a volume can have it. Raises `Failure`."""
    if 0 < len(name) <= NAME_MAX and name.isprintable() and not name.isspace():
        return name
    said = f"{name[:NAME_MAX]!r} can't be a volume's name: 1 to {NAME_MAX} characters, all of them visible"
    raise Failure(Exit.USAGE, said, helps="--name data")


def size_mib(size_gb: float) -> int:
    """Raises `Failure`."""
    mib = mib_of_gb(size_gb)
    if mib is None:
        said = f"--size {size_gb:.12g}: it has to be a multiple of 0.125 GB, more than 0 and at most {VOLUME_GB_MAX}"
        raise Failure(Exit.USAGE, said, helps="--size 10")
    return mib


def _changed(meant: str, change: ChangeVolume) -> VolumeView:
    with session() as mine:
        found = one(mine, meant)
        return ordered(mine, found.door, "PATCH", f"/v1/volumes/{found.volume.vid}", change)


def _told(volume: VolumeView, output: str) -> None:
    emit(output, {"volume": document(volume)}, volumes_table([volume]))
