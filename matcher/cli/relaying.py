"""Which hosts may be a relay for this machine: what a person said, what did it last, who made the token, who is known.

`--relay HOST[:PORT]`, else ATOMOS_RELAY, else `electros context relay`: that host alone, and the own links are not
asked.
"""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from matcher.cli import folders
from matcher.cli.failures import Exit, Failure
from matcher.cli.known import Known
from matcher.cli.output import note
from matcher.net import multicast
from matcher.net.client import Client
from matcher.net.https import Door
from matcher.net.relay.calling import Calling
from matcher.trust.identity import Identity

PORT = 7766  # of a front door
FORCED = "relay"  # in a context's folder: what a person said,
DOORS = "doors.json"  # and the host that made the token
WAY = "way.json"  # in its cache: how hosts were reached last, and from where
DOORS_MAX = 8
_NAMED = re.compile(r"(?:\[(?P<ipv6>[0-9a-fA-F:.%\w]+)\]|(?P<host>[^\s:\[\]/]+))(?::(?P<port>[0-9]{1,5}))?")


def calling(identity: Identity, known: Known) -> Calling:
    """Raises `Failure` where what was said names no host."""
    forced, tell = _forced(identity.folder, known), _tell()
    if forced is not None:
        return Calling(identity, lambda: [forced], is_only=True, tell=tell)
    way = _way()

    def candidates() -> list[Door]:
        doors = [*([way] if way is not None else []), *_doors(identity.folder), *known.relays()]
        return list({(door.address, door.port): door for door in doors}.values())

    def look() -> list[Door]:
        from matcher.net.discovery import look as look_by_mdns

        return [Door("", "", found.address, found.port) for found in look_by_mdns(identity.bundle.anchor.realm_id)]

    return Calling(identity, candidates, look=look, is_first=way is not None, tell=tell)


def remember(client: Client) -> None:
    """How hosts were reached, for the next command from here."""
    path = folders.cache_folder() / WAY
    with suppress(OSError):  # then it is found out again
        if client.relay is not None:
            folders.write_json(path, {"from": _here(), "relay": _entry(client.relay)})
        elif client.has_heard_near:
            path.unlink(missing_ok=True)


def keep_door(folder: Path, door: Door) -> None:
    """The host that made somebody a member, in their new identity's folder."""
    with suppress(OSError):
        folders.write_json(folder / DOORS, [_entry(door)])


def force(folder: Path, text: str) -> None:
    """From now on by this relay alone; empty: as it finds out. Raises `Failure`."""
    if text:
        named(text)
    path = folder / FORCED
    if text:
        folders.write_text(path, text + "\n")
    else:
        path.unlink(missing_ok=True)


def forced_text(folder: Path) -> str:
    """What `force` wrote."""
    with suppress(OSError, ValueError):
        return (folder / FORCED).read_text().strip()
    return ""


def named(text: str) -> tuple[str, int]:
    """Raises `Failure`."""
    found = _NAMED.fullmatch(text)
    port = int(found["port"] or PORT) if found is not None else 0
    if found is None or not 0 < port < 65536:
        helps = "a host's name or address: h1, 10.1.2.3, h1.example.org:7766, [2001:db8::7]:7766"
        raise Failure(Exit.USAGE, f"{text[:70]!r} names no host", helps=helps)
    return found["ipv6"] or found["host"], port


def _forced(folder: Path, known: Known) -> Door | None:
    text = os.environ.get("ATOMOS_RELAY", "") or forced_text(folder)
    if not text:
        return None
    host, port = named(text)
    for door in known.doors():
        if door.host == host:
            return door
    return Door(host, "", host, port)


def _way() -> Door | None:
    """The relay that did it last, if that was from here."""
    kept = folders.read_json(folders.cache_folder() / WAY)
    if isinstance(kept, dict) and kept.get("from") == _here():
        return _door(kept.get("relay"))
    return None


def _here() -> list[str]:
    """What tells one network that this machine may be in from another."""
    return sorted(ip for link in multicast.links() for ip in (link.ipv4, link.ipv6) if ip)


def _doors(folder: Path) -> list[Door]:
    kept = folders.read_json(folder / DOORS)
    found = map(_door, kept[:DOORS_MAX] if isinstance(kept, list) else ())
    return [door for door in found if door is not None]


def _entry(door: Door) -> dict[str, Any]:
    return {"name": door.host, "id": door.host_id, "address": door.address, "port": door.port}


def _door(entry: Any) -> Door | None:
    wanted = {"name": str, "id": str, "address": str, "port": int}
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), kind) for key, kind in wanted.items()):
        return None
    return Door(entry["name"], entry["id"], entry["address"], entry["port"])


def _tell() -> Callable[[str], None]:
    is_asked = os.environ.get("ATOMOS_VERBOSE", "") not in ("", "0")
    return (lambda said: note(f"electros: {said}")) if is_asked else lambda _: None
