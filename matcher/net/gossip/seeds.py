"""Where others may be, for a host that multicast does not bring together with them: what was set, what DNS says, and
who was there before the last restart.

    "10.1.2.3"   "10.1.2.3:7766"   "[2001:db8::7]:7766"   "h1.example.org"   "srv:_atomos._udp.example.org"   "mdns"

A name is looked up in a thread, and again now and then; one that can't be is no mistake.
"""

import contextlib
import json
import logging
import re
import socket
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from annotated_types import MaxLen
from pydantic import AfterValidator

from matcher.gossip.membership import Seen
from matcher.gossip.voice import SEEDS_MAX
from matcher.net import discovery
from matcher.net.gossip import srv
from matcher.trust import files
from matcher.wire.gossip import HostState
from matcher.wire.messages import Address

FILE = "gossip.peers"
KEPT_MAX = 32
_NAMED = re.compile(r"(?:\[(?P<ipv6>[0-9a-fA-F:]+)\]|(?P<host>[^:\[\]]+))(?::(?P<port>[0-9]{1,5}))?")

Setting = Annotated[tuple[Annotated[str, AfterValidator(lambda seed: checked(seed))], ...], MaxLen(SEEDS_MAX)]

log = logging.getLogger("gossip")


def problem_with(seed: str) -> str | None:
    """A sentence where it names no host."""
    if seed == "mdns" or seed.startswith("srv:_") or _parts(seed) is not None:
        return None
    return f'{seed!r} names no host: "10.1.2.3", "host.example.org:7766", "srv:_atomos._udp.example.org" do'


def checked(seed: str) -> str:
    """Raises `ValueError`, for settings."""
    if problem := problem_with(seed):
        raise ValueError(problem)
    return seed


def look_up(seeds: Iterable[str], port: int) -> list[Address]:
    """The addresses behind them; blocking."""
    found: list[Address] = []
    for seed in seeds:
        try:
            found += _looked_up(seed, port)
        except OSError as error:
            log.info("%s could not be looked up: %s", seed, error)
    return list(dict.fromkeys(found))


def load(folder: Path) -> list[Address]:
    """Who was there before; none where that can't be read."""
    try:
        kept = files.read_json(folder / FILE)["peers"][:KEPT_MAX]
        return [Address(str(ip_address(str(ip))), int(port)) for ip, port in kept if 0 < int(port) < 65536]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def keep(folder: Path, hosts: Sequence[Seen], me: bytes) -> None:
    """Those that live, and how many."""
    living = [seen for seen in hosts if seen.state in (HostState.ALIVE, HostState.SUSPECT)]
    addresses = [seen.record.alive.addresses[0] for seen in living if seen.record.short != me]
    content = {"hosts": len(living), "peers": [[each.ip, each.port] for each in addresses[:KEPT_MAX]]}
    with contextlib.suppress(OSError):  # they are heard of again
        files.write(folder / FILE, json.dumps(content).encode())


def hosts_kept(folder: Path) -> int:
    """How many lived when that was last written."""
    try:
        return max(0, int(files.read_json(folder / FILE)["hosts"]))
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _parts(seed: str) -> tuple[str, int | None] | None:
    with contextlib.suppress(ValueError):
        return str(ip_address(seed)), None
    named = _NAMED.fullmatch(seed)
    if named is None or (named["port"] and not 0 < int(named["port"]) < 65536):
        return None
    return named["ipv6"] or named["host"], int(named["port"]) if named["port"] else None


def _looked_up(seed: str, port: int) -> list[Address]:
    if seed == "mdns":
        found = discovery.look(None)  # whose realm it is, their signatures tell
        return [Address(each.address, port) for each in found if "%" not in each.address]
    if seed.startswith("srv:"):
        return [each for name, at in srv.look_up(seed[4:]) for each in _resolved(name, at)]
    parts = _parts(seed)
    return _resolved(parts[0], parts[1] or port) if parts is not None else []


def _resolved(name: str, port: int) -> list[Address]:
    found = socket.getaddrinfo(name, port, type=socket.SOCK_DGRAM)
    return [Address(str(place[0]).partition("%")[0], port) for *_, place in found]
