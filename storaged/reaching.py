"""What every way to give a volume to another host needs to know: its image, and where that host finds this one."""

import socket

from storaged.export.description import Image
from storaged.volume import Volume

START_S = 4.0  # for what serves exports, at the first of them


def image_of(volume: Volume) -> Image:
    return Image(volume.vid, volume.pool, volume.path, volume.image, volume.format, volume.readonly)


def address_towards(ip: str) -> str:
    """The address of this host that a host at `ip` can reach: the one that the kernel would answer from."""
    address, _, link = ip.partition("%")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        scope = (socket.if_nametoindex(link),) if link else ()
        asking.connect((address, 9, 0, *scope) if family == socket.AF_INET6 and scope else (address, 9))
        return str(asking.getsockname()[0]).partition("%")[0]
