"""`electros image`: named volumes that nobody writes, to make VMs' disks from."""

from typing import Annotated

from cyclopts import App, Parameter

from matcher.cli.failures import Exit, Failure
from matcher.cli.importing import STEP_MIB, made_of, told
from matcher.cli.making import Host, Name
from matcher.cli.output import Output, emit
from matcher.cli.reshaping import removed
from matcher.cli.session import session, tell_silent
from matcher.cli.volume import all_of, document, volumes_table
from matcher.wire.messages import ImageFormat
from matcher.wire.volumes import NewVolume, VolumeView

app = App(name="image", help="Images to make VMs' disks from: electros run SPECFILE --image NAME")


@app.command
def add(
    image: str,
    *,
    name: Name,
    kept: Annotated[ImageFormat, Parameter(name="--format", help="how it is kept: raw or qcow2")] = ImageFormat.RAW,
    stated: Annotated[
        ImageFormat | None, Parameter(name="--image-format", help="that of the image, where it can't be told")
    ] = None,
    sha256: Annotated[str | None, Parameter(help="its checksum, 64 hex digits: nothing else is taken")] = None,
    size: Annotated[float | None, Parameter(help="in GB: room for it, where a URL does not tell")] = None,
    host: Host = None,
    output: Output = "table",
) -> None:
    """Import an image: bootable, and written by nobody.

    Parameters
    ----------
    image
        A file, or a URL that begins with https:// or http://
    """
    traits = NewVolume("0" * 32, "", name, STEP_MIB, kept, True, False, False, True)
    told(made_of(image, traits, size, stated, sha256, host), output)


@app.command
def ls(*, output: Output = "table") -> None:
    """List the images on all storage hosts in reach."""
    with session() as mine:
        found, heard = all_of(mine)
    images = sorted((each.volume for each in found if is_image(each.volume)), key=lambda image: (image.name, image.vid))
    emit(output, {"images": [document(image) for image in images]}, volumes_table(images))
    tell_silent(heard)


@app.command
def rm(
    *images: str,
    yes: Annotated[bool, Parameter(name=["--yes", "-y"], help="don't ask", negative="")] = False,
    output: Output = "table",
) -> None:
    """Remove images of yours; disks that were made from them stay."""
    removed(images, _must_be_image, yes=yes, output=output)


def _must_be_image(volume: VolumeView) -> None:
    """A volume of an image's name is no image. Raises `Failure`."""
    if not is_image(volume):
        said = f"{volume.name or volume.vid} is no image: those are bootable, and written by nobody"
        raise Failure(Exit.USAGE, said, helps="electros image ls; a volume goes by: electros volume rm")


def is_image(volume: VolumeView) -> bool:
    return volume.readonly and volume.bootable
