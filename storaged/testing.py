"""Volumes for tests: made on disk in one line."""

from pathlib import Path

from matcher.wire.messages import ImageFormat
from specs.ids import HostId, UserId, Vid, VmId, dashed
from storaged.metadata import Metadata, write_metadata

ALICE, BOB = UserId("a1" * 32), UserId("b2" * 32)
H1, H2 = HostId("11" * 32), HostId("22" * 32)


def vid_of(number: int) -> Vid:
    return Vid(f"{number:032x}")


def vm_of(number: int) -> VmId:
    return VmId(f"{number:032x}")


def a_tick_later(folder: Path) -> None:
    """Wait until the filesystem's clock has moved on: only then does a change to what is there now show in its stat."""
    first = _now_ns(folder)
    while _now_ns(folder) == first:
        pass


def _now_ns(folder: Path) -> int:
    clock = folder / ".clock"
    clock.touch()
    now_ns = clock.stat().st_ctime_ns
    clock.unlink()
    return now_ns


def make_volume(
    pool: Path,
    vid: Vid,
    *,
    name: str = "",
    size_mib: int = 128,
    bootable: bool = False,
    shareable: bool = False,
    readonly: bool = False,
    owner: UserId | None = None,
    meta: bytes | None = None,
) -> Path:
    """A raw, sparse volume of `size_mib` in `pool`; private where it has an owner. `meta` stands in for meta.json."""
    folder = pool / f"{dashed(vid)}.elimg"
    folder.mkdir(parents=True)
    metadata = Metadata(
        size_mib,
        name,
        bootable=bootable,
        private=owner is not None,
        shareable=shareable,
        readonly=readonly,
        format=ImageFormat.RAW,
        owner=owner,
    )
    (folder / "meta.json").write_bytes(write_metadata(metadata) if meta is None else meta)
    with (folder / "data.img").open("wb") as image:
        image.truncate(size_mib * 2**20)
    return folder
