"""`electros volume seed`: a volume that tells a guest's cloud-init who it is (NoCloud)."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from matcher.cli.failures import Exit, Failure
from matcher.cli.making import Host, Name, find_room, made_at_best
from matcher.cli.output import Output, emit, note
from matcher.cli.session import session
from matcher.cli.volume import document, volumes_table
from matcher.wire.messages import ImageFormat, VolumeAsk
from matcher.wire.volumes import SEED_TEXT_MAX, NewSeed, NewVolume
from specs.ids import Vid, new_id

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

    What is in it can't be shown again; remove it when the guest has read it, if it holds secrets.
    """
    texts = [None if path is None else _text(path) for path in (user_data, meta_data, network_config)]
    with session() as mine:
        vid = new_id(mine.random)
        new = NewVolume(vid, "", name, SEED_MIB, ImageFormat.RAW, False, True, False, True)
        asked = NewSeed(new, texts[0] or "", texts[1], texts[2])
        rooms = find_room(mine, VolumeAsk(SEED_MIB, ImageFormat.RAW), Vid(vid), host)
        made = made_at_best(
            mine, rooms, "/v1/seeds", lambda offer_id: replace(asked, new=replace(new, offer_id=offer_id))
        )
    note(f"electros: {name} is made on {made.host}")
    emit(output, {"volume": document(made)}, volumes_table([made]))


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
