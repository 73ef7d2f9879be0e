"""What `run` gives a VM beside its volumespec: a disk, which is the user's own copy of an image, and a CD."""

from contextlib import suppress
from dataclasses import dataclass

from matcher.cli.failures import Exit, Failure
from matcher.cli.image import is_image
from matcher.cli.ordering import ordered
from matcher.cli.session import Session
from matcher.cli.volume import one
from matcher.net.https import Door
from matcher.wire.volumes import CloneVolume
from specs.ids import Vid, new_id


@dataclass(frozen=True, slots=True)
class Disk:
    vid: Vid
    door: Door

    def discard(self, mine: Session) -> None:
        """Where no host takes the VM; nobody has had the disk."""
        with suppress(Failure):
            ordered(mine, self.door, "DELETE", f"/v1/volumes/{self.vid}")


def disc_of(mine: Session, iso: str) -> Vid:
    """The volume that is to be in the VM's CD drive. Raises `Failure`."""
    found = one(mine, iso)
    if not found.volume.readonly:
        said = f"{found.volume.name or found.volume.vid} can be written, and is no CD"
        helps = "electros volume import FILE --name NAME --readonly; or give the volume itself, by --volumes"
        raise Failure(Exit.USAGE, said, helps=helps)
    return Vid(found.volume.vid)


def disk_of(mine: Session, image: str, name: str) -> Disk:
    """A copy of the image, called as its VM is. Raises `Failure`."""
    found = one(mine, image)
    if not is_image(found.volume):
        said = f"{found.volume.name or found.volume.vid} is no image: those are bootable, and written by nobody"
        raise Failure(Exit.USAGE, said, helps="electros image ls; or give the volume itself, by --volumes")
    body = CloneVolume(new_id(mine.random), name, private=False)
    copied = ordered(mine, found.door, "POST", f"/v1/volumes/{found.volume.vid}/clones", body)
    return Disk(Vid(copied.vid), found.door)
