"""What was run from here: the specfile lives with the user as well, and so does the last generation that was tried.

A generation that was tried once is never tried again, even if nobody knows what became of it: two hosts must not get
the same one. A lock keeps two terminals of one user apart.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matcher.cli import folders
from matcher.cli.failures import Exit, Failure
from matcher.scheduler.pledging import Errand
from specs.ids import VmId


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
        "specfile": errand.specfile,
    }
    folders.write_json(_path(errand.vm_id), record)


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
