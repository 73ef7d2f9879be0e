"""The volumes of each host: a bootable one, one with nothing on it, and on h1 the bootable one as qcow2 as well.

Their ids follow from host and kind, so that a specfile written today finds its volume in tomorrow's lab.
"""

from __future__ import annotations

import json
import subprocess
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from lablib.plan import LAB_ID, ROOT, Host, LabError, Plan

SIZE_GB = 0.125
SIZE_BYTES = 128 * 1024 * 1024
WELL_KNOWN = {("h2", "boot"): "4f3c2d1e-0b9a-48f7-a6d5-c4b3a2918070"}  # as packaging/examples/volumes.json asks


@dataclass(frozen=True)
class Volume:
    host: str
    vid: str
    name: str
    format: str
    bootable: bool

    @property
    def meta(self) -> dict[str, object]:
        flags = {"bootable": self.bootable, "private": False, "shareable": False, "readonly": False}
        return {"size": SIZE_GB, "name": self.name, **flags, "format": self.format}


def volumes_of(host: Host) -> list[Volume]:
    kinds = [("boot", "raw", True), ("data", "raw", False)]
    if host.name == "h1":
        kinds.append(("qcow2", "qcow2", True))
    return [
        Volume(host.name, _vid(host, kind), f"{host.name}-{kind}", image_format, bootable)
        for kind, image_format, bootable in kinds
    ]


def volumes_as_json(plan: Plan) -> list[dict[str, object]]:
    return [asdict(volume) for host in plan.workers() for volume in volumes_of(host)]


def build_guest() -> Path:
    """The bootable image, from the cache if it is there."""
    built = subprocess.run([ROOT / "packaging" / "guest"], capture_output=True, text=True)
    if built.returncode:
        raise LabError((built.stderr.strip() or "packaging/guest failed").splitlines()[-1])
    return Path(built.stdout.strip())


def lay_volumes(plan: Plan, guest: Path) -> None:
    for host in plan.workers():
        for volume in volumes_of(host):
            folder = plan.folder(host) / "srv" / f"{volume.vid}.elimg"
            folder.mkdir()
            _make_image(volume, guest, folder / "data.img")
            (folder / "meta.json").write_text(json.dumps(volume.meta, indent=2) + "\n")


def _make_image(volume: Volume, guest: Path, image: Path) -> None:
    if not volume.bootable:
        with image.open("wb") as out:
            out.truncate(SIZE_BYTES)
    elif volume.format == "raw":
        _run("cp", "--sparse=always", str(guest), str(image))
    else:
        _run("qemu-img", "convert", "-f", "raw", "-O", volume.format, str(guest), str(image))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"{command[0]}: {done.stderr.strip()}")


def _vid(host: Host, kind: str) -> str:
    return WELL_KNOWN.get((host.name, kind)) or str(uuid.uuid5(LAB_ID, f"{host.name}/{kind}"))
