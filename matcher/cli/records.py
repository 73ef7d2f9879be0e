"""What was run from here: the specfile lives with the user as well, and so does the last generation that was tried.

A generation that was tried once is never tried again, even if nobody knows what became of it: two hosts must not get
the same one. A lock keeps two terminals of one user apart.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matcher.cli import folders
from matcher.cli.failures import Exit, Failure
from matcher.scheduler.pledging import Errand
from matcher.wire.messages import VmView
from specs.ids import Vid, VmId, parse_id

RECORDS_MAX = 4096


def last_generation(vm_id: VmId) -> int:
    """The highest one that was tried from here; 0 where nothing is known."""
    found = folders.read_json(_path(vm_id))
    generation = found.get("generation") if isinstance(found, dict) else None
    return generation if isinstance(generation, int) else 0


def keep(errand: Errand, host: str = "", host_id: str = "") -> None:
    """Write down the errand, and where it went as far as that is known. Raises `OSError`."""
    record = {
        "id": errand.vm_id,
        "generation": errand.generation,
        "name": errand.name,
        "host": host,
        "host_id": host_id,
        "volumes": list(errand.volumes),
        "readonly": sorted(errand.readonly),
        "cdroms": sorted(errand.cdroms),
        "specfile": errand.specfile,
    }
    folders.write_json(_path(errand.vm_id), record)


def revise(vm: VmView) -> None:
    """Its volumes have changed; nothing where it was run from elsewhere."""
    with suppress(OSError):
        found = folders.read_json(_path(VmId(vm.id)))
        if isinstance(found, dict) and found.get("generation") == vm.generation:
            folders.write_json(_path(VmId(vm.id)), found | _volumes_of(vm))


def _volumes_of(vm: VmView) -> dict[str, list[str]]:
    return {
        "volumes": [volume.vid for volume in vm.volumes],
        "readonly": [volume.vid for volume in vm.volumes if volume.readonly],
        "cdroms": [volume.vid for volume in vm.volumes if volume.cdrom],
    }


@dataclass(frozen=True, slots=True)
class Record:
    """A VM as it was run from here last."""

    vm_id: VmId
    generation: int
    name: str
    host: str
    host_id: str
    volumes: tuple[Vid, ...]
    readonly: frozenset[Vid]
    cdroms: frozenset[Vid]
    specfile: str


def named(meant: str) -> Record | None:
    """The one whose name or id this is; `None` where there is none, or more than one of a name."""
    folder = folders.state_folder() / "vms"
    paths = sorted(folder.glob("*.json"))[:RECORDS_MAX] if folder.is_dir() else []
    found = [record for path in paths if (record := _record(folders.read_json(path))) is not None]
    hits = [record for record in found if record.name == meant or record.vm_id == parse_id(meant)]
    return hits[0] if len(hits) == 1 else None


def _record(found: Any) -> Record | None:
    try:
        vids = tuple(Vid(vid) for vid in map(str, found["volumes"]))
        readonly, cdroms = (frozenset(map(Vid, map(str, found.get(key, ())))) for key in ("readonly", "cdroms"))
        record = Record(
            VmId(found["id"]),
            found["generation"],
            found["name"],
            found["host"],
            found["host_id"],
            vids,
            readonly,
            cdroms,
            found["specfile"],
        )
    except (KeyError, TypeError):
        return None
    texts = (record.vm_id, record.name, record.host, record.host_id, record.specfile)
    return record if isinstance(record.generation, int) and all(isinstance(text, str) for text in texts) else None


def forget(vm_id: VmId) -> None:
    _path(vm_id).unlink(missing_ok=True)
    _path(vm_id).with_suffix(".lock").unlink(missing_ok=True)


@contextmanager
def alone(vm_id: VmId) -> Iterator[None]:
    """While this user starts this VM nowhere else on this machine."""
    path = _path(vm_id).with_suffix(".lock")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
    except BlockingIOError:
        raise Failure(Exit.FAILED, "this VM is just being started from another terminal", helps="electros ps") from None


def _path(vm_id: VmId) -> Path:
    return folders.state_folder() / "vms" / f"{vm_id}.json"
