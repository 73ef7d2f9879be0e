"""What `run` gives a VM beside its volumespec: a disk, which is the user's own copy of an image, a seed for its
cloud-init, and a CD.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from matcher.cli.failures import Exit, Failure
from matcher.cli.image import is_image
from matcher.cli.ordering import Order, ordered
from matcher.cli.reshaping import cancelled, copy_of
from matcher.cli.session import Session
from matcher.cli.volume import Found, one, shown
from specs.ids import Vid, VmId, new_id


@contextmanager
def brought(
    mine: Session,
    vm_id: VmId,
    called: str,
    vids: tuple[Vid, ...],
    image: str | None,
    iso: str | None,
    user_data: Path | None,
) -> Iterator[tuple[tuple[Vid, ...], frozenset[Vid]]]:
    """The volumes of a VM with what is brought: its own disk first, then those of its volumespec, its seed, the CD; and
    which are CDs. Where no host takes the VM, nobody has had what was made for it, and it goes again. Raises
    `Failure`."""
    disc = None if iso is None else _disc_of(mine, iso)
    disk, seed = _made(mine, vm_id, called, image, user_data)
    others = tuple(vid for vid in vids if vid != disc)
    discs = () if disc is None else (disc,)
    try:
        yield (*_vids(disk), *others, *_vids(seed), *discs), frozenset(discs)
    except Failure as failure:
        if failure.exit_code in (Exit.NO_HOST_FITS, Exit.NOT_FOUND):
            _discard(mine, disk, seed)
        raise


def _made(
    mine: Session, vm_id: VmId, called: str, image: str | None, user_data: Path | None
) -> tuple[Found | None, Found | None]:
    """The new VM's disk and its seed, the seed beside the disk. Raises `Failure`, and leaves nothing then."""
    disk = None if image is None else _disk_of(mine, image, called)
    if user_data is None:
        return disk, None
    from matcher.cli.seeding import seed_of

    try:
        return disk, seed_of(mine, user_data, vm_id, called, disk.door.host if disk else None)
    except Failure:
        _discard(mine, disk)
        raise


def _vids(found: Found | None) -> tuple[Vid, ...]:
    return () if found is None else (Vid(found.volume.vid),)


def _discard(mine: Session, *made: Found | None) -> None:
    for each in made:
        if each is not None:
            with suppress(Failure):
                order = Order(f"remove {shown(each.volume)}", "DELETE", f"/v1/volumes/{each.volume.vid}")
                ordered(mine, each.door, order)


def _disc_of(mine: Session, iso: str) -> Vid:
    """The volume that is to be in the VM's CD drive. Raises `Failure`."""
    found = one(mine, iso)
    if not found.volume.readonly:
        said = f"{shown(found.volume)} can be written, and is no CD"
        helps = "electros volume import FILE --name NAME --readonly; or give the volume itself, by --volumes"
        raise Failure(Exit.USAGE, said, helps=helps)
    return Vid(found.volume.vid)


def _disk_of(mine: Session, image: str, name: str) -> Found:
    """A copy of the image, called as its VM is. Raises `Failure`."""
    found = one(mine, image)
    if not is_image(found.volume):
        said = f"{shown(found.volume)} is no image: those are bootable, and written by nobody"
        raise Failure(Exit.USAGE, said, helps="electros image ls; or give the volume itself, by --volumes")
    vid = new_id(mine.random)
    try:
        return Found(copy_of(mine, found, name, vid=vid), found.door)
    except Failure as failure:
        if failure.exit_code is Exit.INTERRUPTED:
            try:
                _undo_copy(mine, found, vid)
            except Failure:
                raise failure from None  # which says what goes on, and what ends it
            said = f"interrupted while {found.door.host} copied {image}; nothing is left of the copy"
            raise Failure(Exit.INTERRUPTED, said) from None
        raise


def _undo_copy(mine: Session, image: Found, vid: str) -> None:
    """Nobody has asked for a copy without its VM. Raises `Failure`."""
    try:
        cancelled(mine, image.door, vid, "the copy")
    except Failure as failure:
        if failure.code != "too-late":
            raise
        ordered(mine, image.door, Order("remove the copy", "DELETE", f"/v1/volumes/{vid}"))
