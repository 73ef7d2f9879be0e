"""The hosts that were heard of before: how many answers to wait for, and where the doors of a long pledge are."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

from matcher.cli import folders
from matcher.net.client import Said
from matcher.net.https import Door
from matcher.wire.messages import Answer, Role

FORGET_S = 7 * 86_400
DOUBT_S = 3600.0
HOSTS_MAX = 4096


class Known:
    """Read from the cache, and written back when something was heard."""

    def __init__(self) -> None:
        found = folders.read_json(folders.cache_folder() / "hosts.json")
        entries: dict[str, dict[str, Any]] = found if isinstance(found, dict) else {}
        oldest = time.time() - FORGET_S
        self._hosts = {key: entry for key, entry in entries.items() if _is_sound(entry) and entry["seen"] > oldest}

    def peers(self) -> frozenset[tuple[str, str]]:
        """(host_id, role) of every daemon that should answer a query."""
        return frozenset((entry["id"], entry["role"]) for entry in self._hosts.values())

    def names(self) -> dict[tuple[str, str], str]:
        return {(entry["id"], entry["role"]): entry["name"] for entry in self._hosts.values()}

    def doors(self) -> tuple[Door, ...]:
        """Of compute: where a long pledge goes, and what the realm has signed can be learned."""
        return tuple(map(_door, self._with_doors(Role.COMPUTE)))

    def relays(self) -> tuple[Door, ...]:
        """One door of each host, those heard last first; behind them, those of hosts that have storage alone."""
        computes = list(self._with_doors(Role.COMPUTE))
        compute_ids = {entry["id"] for entry in computes}
        alone = [entry for entry in self._with_doors(Role.STORAGE) if entry["id"] not in compute_ids]
        return tuple(_door(each) for hosts in (computes, alone) for each in sorted(hosts, key=lambda e: -e["seen"]))

    def seen(self) -> dict[str, float]:
        """When each host was heard last, by its id; on the wall clock."""
        return {entry["id"]: entry["seen"] for entry in sorted(self._hosts.values(), key=lambda entry: entry["seen"])}

    def remember(self, answers: Iterable[Said]) -> None:
        for said in answers:
            assert isinstance(said.message, Answer)
            answer = said.message
            self._hosts[f"{said.host_id}:{answer.role}"] = {
                "id": said.host_id,
                "role": answer.role.value,
                "name": answer.host,
                "address": said.address,
                "port": answer.front_door_port,
                "seen": time.time(),
            }
        self._keep()

    def doubt(self, host_id: str) -> None:
        """It did not answer at its door: others are asked first, until it is heard again."""
        for entry in self._hosts.values():
            if entry["id"] == host_id:
                entry["seen"] -= DOUBT_S
        self._keep()

    def forget(self, peer: tuple[str, str]) -> None:
        self._hosts.pop(f"{peer[0]}:{peer[1]}", None)

    def _with_doors(self, role: Role) -> Iterator[dict[str, Any]]:
        return (entry for entry in self._hosts.values() if entry["port"] and entry["role"] == role)

    def _keep(self) -> None:
        newest = sorted(self._hosts.items(), key=lambda item: -item[1]["seen"])[:HOSTS_MAX]
        folders.write_json(folders.cache_folder() / "hosts.json", dict(newest))


def door_of(said: Said, role: Role = Role.COMPUTE) -> Door | None:
    """Where to ask the daemon of this role for more, if it was this one that answered."""
    answer = said.message
    assert isinstance(answer, Answer)
    if answer.role is not role or not answer.front_door_port:
        return None
    return Door(answer.host, said.host_id, said.address, answer.front_door_port)


def _door(entry: dict[str, Any]) -> Door:
    return Door(entry["name"], entry["id"], entry["address"], entry["port"])


def _is_sound(entry: Any) -> bool:
    wanted = {"id": str, "role": str, "name": str, "address": str, "port": int, "seen": float}
    return isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in wanted.items())
