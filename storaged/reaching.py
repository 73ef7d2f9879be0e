"""What ways to give a volume to another host need to know: its image, where that host finds this one, and what this
process may do."""

import socket
from pathlib import Path

from storaged.export.description import Image
from storaged.volume import Volume

START_S = 4.0  # for what serves exports, at the first of them


def image_of(volume: Volume) -> Image:
    return Image(volume.vid, volume.pool, volume.path, volume.image, volume.format, volume.readonly, volume.pool_id)


def address_towards(ip: str) -> str:
    """The address of this host that a host at `ip` can reach: the one that the kernel would answer from."""
    address, _, link = ip.partition("%")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        scope = (socket.if_nametoindex(link),) if link else ()
        asking.connect((address, 9, 0, *scope) if family == socket.AF_INET6 and scope else (address, 9))
        return str(asking.getsockname()[0]).partition("%")[0]


def capabilities(status: Path = Path("/proc/self/status")) -> int:
    """Those that this process has, one bit for each: capabilities(7)."""
    lines = status.read_text().splitlines()
    return next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)
