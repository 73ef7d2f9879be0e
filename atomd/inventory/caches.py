"""The caches, and which threads share each: Documentation/ABI/testing/sysfs-devices-system-cpu, `cache/index*`."""

import re
from collections.abc import Iterable, Iterator

from atomd.inventory import cpuset
from atomd.inventory.facts import Cache, Core
from atomd.inventory.paths import CPU_DIR
from atomd.inventory.text import whole
from atomd.inventory.tree import Tree

_KINDS = {"Data": "data", "Instruction": "instruction", "Unified": "unified"}
_LEVEL_MAX = 16
_SIZE_KIB_MAX = 1 << 32


def read_caches(tree: Tree, cores: Iterable[Core]) -> tuple[Cache, ...]:
    """By level, kind and threads; each once, however many threads name it."""
    online = frozenset(thread for core in cores for thread in core.threads)
    found = {
        (cache.level, cache.kind, cache.threads): cache
        for core in cores
        for cache in _caches_of(tree, core.threads[0], online)
    }
    return tuple(found[key] for key in sorted(found))


def _caches_of(tree: Tree, thread: int, online: frozenset[int]) -> Iterator[Cache]:
    folder = f"{CPU_DIR}/cpu{thread}/cache"
    for name in tree.names(folder):
        level, kind = tree.number(f"{folder}/{name}/level"), _KINDS.get(tree.text(f"{folder}/{name}/type") or "")
        shared = _shared(tree, f"{folder}/{name}")
        if name.startswith("index") and level and 0 < level <= _LEVEL_MAX and kind and thread in shared:
            size = re.match(r"([0-9]{1,12})K$", tree.text(f"{folder}/{name}/size") or "")
            size_kib = whole(size[1]) if size else None
            is_sane = size_kib is not None and size_kib <= _SIZE_KIB_MAX
            yield Cache(level, kind, size_kib if is_sane else None, tuple(sorted(shared & online)))


def _shared(tree: Tree, folder: str) -> frozenset[int]:
    listed = cpuset.parse_list(tree.text(f"{folder}/shared_cpu_list") or "")
    return listed or cpuset.parse_mask(tree.text(f"{folder}/shared_cpu_map") or "") or frozenset()
