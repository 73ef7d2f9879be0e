"""What `run` gives a VM beside its volumespec: a disk, which is the user's own copy of an image, and a CD."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from matcher.cli.failures import Exit, Failure
from matcher.cli.image import is_image
from matcher.cli.ordering import ordered
from matcher.cli.session import Session
from matcher.cli.volume import Found, one
from matcher.wire.volumes import CloneVolume
from specs.ids import Vid, new_id


@contextmanager
def brought(
    mine: Session, called: str, vids: tuple[Vid, ...], image: str | None, iso: str | None
) -> Iterator[tuple[tuple[Vid, ...], frozenset[Vid]]]:
    """The volumes of a VM with what is brought: its own disk first, the CD last. Where no host takes the VM, nobody has
    had the disk, and it goes again. Raises `Failure`."""
    disc = None if iso is None else _disc_of(mine, iso)
    disk = None if image is None else _disk_of(mine, image, called)
    others = tuple(vid for vid in vids if vid != disc)
    mine_first = () if disk is None else (Vid(disk.volume.vid),)
    discs = () if disc is None else (disc,)
    try:
        yield (*mine_first, *others, *discs), frozenset(discs)
    except Failure as failure:
        if disk is not None and failure.exit_code in (Exit.NO_HOST_FITS, Exit.NOT_FOUND):
            with suppress(Failure):
                ordered(mine, disk.door, "DELETE", f"/v1/volumes/{disk.volume.vid}")
        raise


def _disc_of(mine: Session, iso: str) -> Vid:
    """The volume that is to be in the VM's CD drive. Raises `Failure`."""
    found = one(mine, iso)
    if not found.volume.readonly:
        said = f"{found.volume.name or found.volume.vid} can be written, and is no CD"
        helps = "electros volume import FILE --name NAME --readonly; or give the volume itself, by --volumes"
        raise Failure(Exit.USAGE, said, helps=helps)
    return Vid(found.volume.vid)


def _disk_of(mine: Session, image: str, name: str) -> Found:
    """A copy of the image, called as its VM is. Raises `Failure`."""
    found = one(mine, image)
    if not is_image(found.volume):
        said = f"{found.volume.name or found.volume.vid} is no image: those are bootable, and written by nobody"
        raise Failure(Exit.USAGE, said, helps="electros image ls; or give the volume itself, by --volumes")
    body = CloneVolume(new_id(mine.random), name, private=False)
    copied = ordered(mine, found.door, "POST", f"/v1/volumes/{found.volume.vid}/clones", body)
    return Found(copied, found.door)
