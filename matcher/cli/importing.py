"""`electros volume import`: a volume made from an image, which is a file here or what a host fetches from a URL."""

import os
import stat
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from threading import Thread
from typing import Annotated, BinaryIO

from cyclopts import Parameter

from matcher.cli.failures import Exit, Failure
from matcher.cli.making import Host, Name, find_room, made_at_best
from matcher.cli.output import Output, emit, note
from matcher.cli.reshaping import called, size_mib
from matcher.cli.session import Session, session
from matcher.cli.volume import document, volumes_table
from matcher.net.https import Door, Unanswered, Unreachable
from matcher.wire.messages import VOLUME_MIB_MAX, ImageFormat, VolumeAsk
from matcher.wire.realm import Done
from matcher.wire.volumes import ImportVolume, NewVolume, VolumeView
from specs.ids import Vid, new_id
from specs.units import MIB_BYTES

URL_ROOM_MIB = 16 * 1024  # for an image of which nobody has said how large it is
STEP_MIB = 128
SEND_S = 60.0  # for a host to take a piece

_QCOW2 = b"QFI\xfb"


def import_(
    image: str,
    *,
    name: Name,
    size: Annotated[float | None, Parameter(help="in GB: room for it, and its size where the image has less")] = None,
    kept: Annotated[
        ImageFormat, Parameter(name="--format", help="in which it is kept: raw or qcow2")
    ] = ImageFormat.RAW,
    stated: Annotated[
        ImageFormat | None, Parameter(name="--image-format", help="that of the image, where it can't be told")
    ] = None,
    sha256: Annotated[str | None, Parameter(help="the image's checksum, 64 hex digits: nothing else is taken")] = None,
    bootable: Annotated[bool, Parameter(help="VMs boot from it", negative="")] = False,
    private: Annotated[bool, Parameter(help="nobody else may see or use it", negative="")] = False,
    readonly: Annotated[bool, Parameter(help="nobody may write it", negative="")] = False,
    host: Host = None,
    output: Output = "table",
) -> None:
    """Make a volume from an image: a file on this machine, or a URL that the host fetches itself.

    Parameters
    ----------
    image
        A file, or a URL that begins with https:// or http://
    """
    traits = NewVolume("0" * 32, "", name, STEP_MIB, kept, bootable, private, shareable=False, readonly=readonly)
    told(made_of(image, traits, size, stated, sha256, host), output)


def made_of(
    image: str, traits: NewVolume, size: float | None, stated: ImageFormat | None, sha256: str | None, host: str | None
) -> VolumeView:
    """The volume that is made of a file or a URL, with the name and the flags of `traits`. Raises `Failure`."""
    called(traits.name)
    least_mib = size_mib(size) if size is not None else STEP_MIB
    with ExitStack() as stack:
        mine = stack.enter_context(session())
        new = replace(traits, vid=new_id(mine.random), size_mib=least_mib)
        asked = ImportVolume(new, "", stated, _digest(sha256))
        begun: Callable[[Door], None] = _nothing
        if image.startswith(("https://", "http://")):
            room_mib, asked = least_mib if size is not None else URL_ROOM_MIB, replace(asked, url=image)
        else:
            file = stack.enter_context(_opened(image))
            length = os.fstat(file.fileno()).st_size
            room_mib, asked = max(least_mib, _virtual_mib(file, length)), replace(asked, size_bytes=length)
            begun = _Sending(mine, Vid(new.vid), file, length).begin
        rooms = find_room(mine, VolumeAsk(room_mib, new.format), Vid(new.vid), host)
        return made_at_best(
            mine, rooms, "/v1/imports", lambda offer_id: replace(asked, new=replace(new, offer_id=offer_id)), begun
        )


def told(volume: VolumeView, output: str) -> None:
    note(f"electros: {volume.name} is made on {volume.host}")
    emit(output, {"volume": document(volume)}, volumes_table([volume]))


class _Sending:
    """Sends the file to a host that waits for it; while it is sent, the host tells how far it has come."""

    def __init__(self, mine: Session, vid: Vid, file: BinaryIO, length: int) -> None:
        self._mine, self._vid, self._file, self._length = mine, vid, file, length

    def begin(self, door: Door) -> None:
        Thread(target=self._send, args=(door,), daemon=True).start()

    def _send(self, door: Door) -> None:
        """What goes wrong here is told by the import's own answer. The file is opened anew: an earlier thread may still
        read it."""
        with (
            suppress(Unreachable, Unanswered),
            open(f"/proc/self/fd/{self._file.fileno()}", "rb") as file,
            self._mine.client.connect(door, timeout_s=SEND_S) as connection,
        ):
            connection.upload(f"/v1/uploads/{self._vid}", file, self._length, Done)


def _nothing(_: Door) -> None:
    """The host fetches it itself."""


def _opened(image: str) -> BinaryIO:
    """Raises `Failure`."""
    try:
        descriptor = os.open(image, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO would keep us waiting
    except OSError as error:
        raise Failure(Exit.USAGE, f"{image} can't be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Failure(Exit.USAGE, f"{image} is no file", helps="a file with an image, or a URL")
    return open(descriptor, "rb")


def _virtual_mib(file: BinaryIO, length: int) -> int:
    """How large a volume the image needs, as far as can be told here; the host judges for itself."""
    start = file.read(32)
    size = int.from_bytes(start[24:32], "big") if start.startswith(_QCOW2) and len(start) == 32 else length
    return min(VOLUME_MIB_MAX, -(-max(size, 1) // (STEP_MIB * MIB_BYTES)) * STEP_MIB)


def _digest(text: str | None) -> str:
    """Raises `Failure`."""
    digest = (text or "").lower().removeprefix("sha256:")
    if digest and not (len(digest) == 64 and set(digest) <= set("0123456789abcdef")):
        raise Failure(Exit.USAGE, f"--sha256 {digest[:80]}: a checksum has 64 hex digits", helps="sha256sum FILE")
    return digest
