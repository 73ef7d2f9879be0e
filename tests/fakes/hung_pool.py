"""A pool whose filesystem answers nobody, as where its server is away: the kernel's own waiting, by a FUSE without one.

For a process with a view of mounts of its own (`unshare --mount`), so that nothing else on the machine waits.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MNT_DETACH = 2


@contextmanager
def hung(folder: Path) -> Iterator[None]:
    """Whatever is asked of `folder` or beneath it waits until this ends, and finds what was there then."""
    libc = ctypes.CDLL(None, use_errno=True)
    server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    place, options = os.fsencode(folder), f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()
    try:
        if libc.mount(b"nobody", place, b"fuse", 0, options) != 0:
            raise OSError(ctypes.get_errno(), "it can't be mounted", str(folder))
        try:
            yield
        finally:
            libc.umount2(place, _MNT_DETACH)
    finally:
        os.close(server)  # whoever waits is told so
