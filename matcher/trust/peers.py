"""The other hosts that one host has heard of, kept beside its identity: whom to ask when nobody tells anything."""

import json
from collections.abc import Iterable
from pathlib import Path

from matcher.trust import files
from matcher.trust.spreading import PEERS_MAX, Peer
from specs.ids import HostId

FILE = "realm.peers"


def load_peers(folder: Path) -> list[Peer]:
    """None where that can't be read: they are heard of again."""
    try:
        found = files.read_json(folder / FILE)["peers"][-PEERS_MAX:]
        return [Peer(HostId(str(p["id"])), str(p["name"]), str(p["address"]), int(p["port"])) for p in found]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def save_peers(folder: Path, peers: Iterable[Peer]) -> None:
    """Raises `OSError`."""
    entries = [{"id": p.host_id, "name": p.name, "address": p.address, "port": p.port} for p in peers]
    files.write(folder / FILE, json.dumps({"peers": entries}).encode())
