"""What it takes to list a realm: of the host that is asked, and of the client. A real front door, on loopback.

.venv/bin/python -m tests.bench.bench_hosts [HOSTS...]
"""

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import trio

from tests.fakes.door import open_door
from tests.fakes.neighbours import FakeNeighbours, host
from tests.fakes.realms import FOUNDER, make_realm

RUNS = 3
ELECTROS = str(Path(sys.executable).parent / "electros")
COMMANDS = (["hosts", "-o", "json"], ["hosts"], ["top", "--once"])


def main() -> None:
    counts = [int(word) for word in sys.argv[1:]] or [3, 3000, 10_000]
    print("hosts   command            client s  client CPU s  peak MiB  stdout MB  host CPU s  host's longest pause ms")
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            trio.run(_measure, Path(folder, str(count)), count)


async def _measure(folder: Path, count: int) -> None:
    realm = make_realm(folder / "realm", "ada")
    (folder / "config" / "atomos").mkdir(parents=True)
    realm["ada"].folder.rename(folder / "config" / "atomos" / "default")
    asked = host(0, id=realm[FOUNDER].principal.id)
    async with open_door(realm, neighbours=FakeNeighbours(asked, *map(host, range(1, count)))) as door:
        _remember(folder, realm[FOUNDER].principal.id, door.port)
        for words in COMMANDS:
            runs = [await _run(folder, words) for _ in range(RUNS)]
            print(f"{count:<7} {' '.join(words):<18}", *(f"{value:>10.3f}" for value in sorted(runs)[RUNS // 2]))


def _remember(folder: Path, host_id: str, port: int) -> None:
    cache = folder / "cache" / "atomos" / "default" / "hosts.json"
    cache.parent.mkdir(parents=True)
    entry = {"id": host_id, "role": "compute", "name": "h0", "address": "127.0.0.1", "port": port, "seen": time.time()}
    cache.write_text(json.dumps({f"{host_id}:compute": entry}))


async def _run(folder: Path, words: list[str]) -> tuple[float, ...]:
    environment = os.environ | {"XDG_CONFIG_HOME": str(folder / "config"), "XDG_CACHE_HOME": str(folder / "cache")}
    out = folder / "out"
    began_s, cpu_s = time.monotonic(), time.process_time()
    pause = [0.0]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch_for_pauses, pause)
        used = await trio.to_thread.run_sync(_spawned, words, environment, out)
        nursery.cancel_scope.cancel()
    took = (time.monotonic() - began_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
    return (*took, out.stat().st_size / 1e6, time.process_time() - cpu_s, pause[0] * 1000)


def _spawned(words: list[str], environment: dict[str, str], out: Path) -> resource.struct_rusage:
    with out.open("wb") as file, Path(os.devnull).open("wb") as nowhere:
        actions = [(os.POSIX_SPAWN_DUP2, file.fileno(), 1), (os.POSIX_SPAWN_DUP2, nowhere.fileno(), 2)]
        pid = os.posix_spawn(ELECTROS, [ELECTROS, *words], environment, file_actions=actions)
    return os.wait4(pid, 0)[2]


async def _watch_for_pauses(longest: list[float]) -> None:
    """How long others have waited for their turn."""
    while True:
        before_s = time.monotonic()
        await trio.sleep(0.001)
        longest[0] = max(longest[0], time.monotonic() - before_s - 0.001)


if __name__ == "__main__":
    main()
