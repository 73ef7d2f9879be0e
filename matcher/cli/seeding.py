"""`electros volume seed`: a volume that tells a guest's cloud-init who it is (NoCloud)."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from matcher.cli.failures import Exit, Failure
from matcher.cli.making import Host, Name, find_room, made_at_best
from matcher.cli.ordering import Order, ordered
from matcher.cli.output import Output, emit, note
from matcher.cli.reshaping import called
from matcher.cli.session import Session, session
from matcher.cli.volume import Found, all_of, document, shown, volumes_table
from matcher.net.https import Door
from matcher.wire.messages import ImageFormat, VolumeAsk
from matcher.wire.volumes import SEED_TEXT_MAX, NewSeed, NewVolume, VolumeView
from specs.ids import Vid, VmId, new_id

SEED_MIB = 128


def seed(
    *,
    user_data: Annotated[Path, Parameter(help="a file that begins with #cloud-config, #! or a MIME header")],
    name: Name,
    meta_data: Annotated[
        Path | None, Parameter(help="a file; without it, the guest is told an instance-id alone")
    ] = None,
    network_config: Annotated[Path | None, Parameter(help="a file")] = None,
    host: Host = None,
    output: Output = "table",
) -> None:
    """Make a cloud-init seed: a small volume, private to you and read-only, that a VM gets beside its disk.

    What is in it can't be shown again. It stays until you remove it; one that `electros run --user-data` makes
    goes with its VM.
    """
    texts = [None if path is None else _text(path) for path in (user_data, meta_data, network_config)]
    with session() as mine:
        vid = new_id(mine.random)
        new = NewVolume(vid, "", called(name), SEED_MIB, ImageFormat.RAW, False, True, False, True)
        made, _ = _made(mine, NewSeed(new, texts[0] or "", texts[1], texts[2]), host)
    note(f"electros: {name} is made on {made.host}")
    emit(output, {"volume": document(made)}, volumes_table([made]))


def seed_of(mine: Session, user_data: Path, vm_id: VmId, name: str, host: str | None) -> Found:
    """A seed that tells a guest the name of its VM, and goes with the VM. Raises `Failure`."""
    text = _text(user_data)
    new = NewVolume(new_id(mine.random), "", f"{name[:59]}-seed", SEED_MIB, ImageFormat.RAW, False, True, False, True)
    meta_data = f"instance-id: {vm_id}\nlocal-hostname: {json.dumps(name)}\n"
    made, door = _made(mine, NewSeed(new, text, meta_data, goes_with=vm_id), host)
    return Found(made, door)


def remove_left_of(mine: Session, vm_id: VmId) -> None:
    """Removes my seeds that go with a VM which is gone; what can't be removed now, `electros volume ls` tells of."""
    me = mine.client.identity.principal.id
    with suppress(Failure):
        found, _ = all_of(mine)
        for each in found:
            if each.volume.goes_with == vm_id and each.volume.owner == me:
                ordered(mine, each.door, Order("remove its seed", "DELETE", f"/v1/volumes/{each.volume.vid}"))
                note(f"electros: {shown(each.volume)} is removed from {each.volume.host}, too")


def _made(mine: Session, asked: NewSeed, host: str | None) -> tuple[VolumeView, Door]:
    new = asked.new
    rooms = find_room(mine, VolumeAsk(SEED_MIB, ImageFormat.RAW), Vid(new.vid), host)
    order = Order.to_make("/v1/seeds", new.vid, f"make {new.name}")
    made = made_at_best(mine, rooms, order, lambda offer_id: replace(asked, new=replace(new, offer_id=offer_id)))
    return made, next(room.door for room in rooms.rooms if room.door.host_id == made.host_id)


def _text(path: Path) -> str:
    """Raises `Failure`, which repeats nothing of what the file says."""
    try:
        with path.open("rb") as file:
            text = file.read(SEED_TEXT_MAX + 1).decode()
    except UnicodeDecodeError:
        raise Failure(Exit.USAGE, f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise Failure(Exit.USAGE, f"{path} can't be read: {error.strerror}") from None
    if len(text) > SEED_TEXT_MAX:
        raise Failure(Exit.USAGE, f"{path} is longer than {SEED_TEXT_MAX // 1024} KiB")
    return text
