"""The hosts that were heard of: remembered, forgotten in time, and never an obstacle where the cache is damaged."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from matcher.cli import folders
from matcher.cli.known import FORGET_S, Known, door_of
from matcher.net.client import Said
from matcher.wire.messages import Answer, Role
from specs.ids import HostId

H1 = HostId("a" * 64)
COMPUTE = Answer("a" * 32, "h1", Role.COMPUTE, 7766, 3, "0.1.0", 0, "CPU", "X86_64", "tcg", 2, 2, 9, 9, 0, 0)
STORAGE = Answer("a" * 32, "h1", Role.STORAGE, 0, 3, "0.1.0", 0, "", "", "", 0, 0, 0, 0, 0, 2)
SAID = (Said(COMPUTE, H1, "10.0.0.1"), Said(STORAGE, H1, "10.0.0.1"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("ATOMOS_CONTEXT", raising=False)
    return folders.cache_folder() / "hosts.json"


def test_what_was_heard_is_known_the_next_time(cache: Path) -> None:
    assert Known().peers() == frozenset()
    Known().remember(SAID)
    assert Known().peers() == {(H1, "compute"), (H1, "storage")}
    assert [(door.host, door.address, door.port) for door in Known().doors()] == [("h1", "10.0.0.1", 7766)]
    assert cache.stat().st_mode & 0o077 == 0


def test_a_relay_may_be_any_host_and_those_with_storage_alone_come_last() -> None:
    stores = replace(STORAGE, front_door_port=7767)
    alone = Said(replace(stores, host="h3"), HostId("c" * 64), "10.0.0.3")
    later = Said(replace(COMPUTE, host="h2"), HostId("b" * 64), "10.0.0.2")
    Known().remember([Said(COMPUTE, H1, "10.0.0.1"), Said(stores, H1, "10.0.0.1"), alone, later])
    assert [(door.host, door.port) for door in Known().relays()] == [("h2", 7766), ("h1", 7766), ("h3", 7767)]


def test_a_host_not_heard_of_for_a_week_is_forgotten(cache: Path) -> None:
    Known().remember(SAID)
    entries = json.loads(cache.read_text())
    for entry in entries.values():
        entry["seen"] = time.time() - FORGET_S - 1
    cache.write_text(json.dumps(entries))
    assert Known().peers() == frozenset()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"x": 1}', '{"x": {"id": 1}}', "null", '{"x": {"id": "a", "seen": "today"}}', "\udcff"]
)
def test_a_damaged_cache_is_an_empty_one(cache: Path, text: str) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(text.encode(errors="surrogateescape"))
    assert Known().peers() == frozenset()
    Known().remember(SAID)
    assert len(Known().peers()) == 2


def test_storage_alone_has_no_door() -> None:
    door = door_of(SAID[0])
    assert door is not None
    assert (door.host_id, door.port) == (H1, 7766)
    assert door_of(SAID[1]) is None


def test_each_context_has_a_cache_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    Known().remember(SAID)
    monkeypatch.setenv("ATOMOS_CONTEXT", "work")
    assert Known().peers() == frozenset()
