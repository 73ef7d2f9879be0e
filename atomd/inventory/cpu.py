"""The machine's processors: which threads are online, and which of them make one core, one socket, one NUMA node.

Sources: the kernel's Documentation/admin-guide/cputopology.rst and Documentation/ABI/*/sysfs-devices-system-cpu and
sysfs-devices-node. Siblings are those that the kernel lists, never told from numbers. Where it lists none (old or small
kernels), /proc/cpuinfo is asked; where that is silent too, a thread is a core.
"""

import re
from collections.abc import Iterator

from atomd.inventory import cpuinfo, cpuset
from atomd.inventory.caches import read_caches
from atomd.inventory.cpuinfo import CpuInfo
from atomd.inventory.facts import Core, Cpu
from atomd.inventory.levels import level_of
from atomd.inventory.paths import CPU_DIR, NODE_DIR
from atomd.inventory.text import whole
from atomd.inventory.tree import Tree
from atomd.inventory.withheld import read_withheld

PERFORMANCE, EFFICIENCY = "performance", "efficiency"

_CPU_NAME = re.compile(r"cpu([0-9]{1,5})$")
_NODE_NAME = re.compile(r"node([0-9]{1,5})$")
# By falling trust: the present names (5.3 and later), the old ones, and their masks, which oldest kernels have alone.
_SIBLINGS = (("core_cpus_list", "thread_siblings_list"), ("core_cpus", "thread_siblings"))
_PACKAGE = (("package_cpus_list", "core_siblings_list"), ("package_cpus", "core_siblings"))
_KHZ_MAX = 1_000_000_000
_EFFICIENT_SHARE = 0.75  # of the largest capacity; the same kind of core differs by less from one to the next


def read_cpu(tree: Tree, info: CpuInfo) -> Cpu:
    online = online_threads(tree, info)
    numa = numa_of_threads(tree)
    nodes = node_numbers(tree)
    elsewhere = nodes[0] if nodes else 0
    cores = core_groups(tree, info, online)
    sockets = _sockets(tree, info, online)
    classes = core_classes(tree, cores)
    flags = cpuinfo.flags(info)
    found = tuple(
        Core(core, sockets[core[0]], numa.get(core[0], elsewhere), core_class, _die(tree, core[0]), _mhz(tree, core[0]))
        for core, core_class in zip(cores, classes, strict=True)
    )
    return Cpu(
        model=cpuinfo.model(info),
        flags=flags,
        level=level_of(flags),
        cores=found,
        caches=read_caches(tree, found),
        withheld=read_withheld(tree, online),
    )


def online_threads(tree: Tree, info: CpuInfo) -> list[int]:
    """By falling trust: the kernel's list, each CPU's own word, the CPUs that have a topology, /proc/cpuinfo."""
    present = {int(found[1]) for name in tree.names(CPU_DIR) if (found := _CPU_NAME.match(name))}
    present = {cpu for cpu in present if cpu < cpuset.CPUS_MAX}
    listed = cpuset.parse_list(tree.text(f"{CPU_DIR}/online") or "")
    if listed:
        return sorted(listed & present or listed)
    if present:
        # An offline CPU loses its topology; cpu0 often has no `online` file, since it cannot go offline.
        has_topology = {cpu for cpu in present if tree.has(f"{CPU_DIR}/cpu{cpu}/topology")} or present & set(
            info.processors
        )
        has_topology = has_topology or present
        own_word = {cpu: tree.number(f"{CPU_DIR}/cpu{cpu}/online") for cpu in present}
        return sorted(cpu for cpu in present if own_word[cpu] == 1 or (own_word[cpu] is None and cpu in has_topology))
    return sorted(info.online or info.processors)


def core_groups(tree: Tree, info: CpuInfo, online: list[int]) -> list[tuple[int, ...]]:
    """The online threads, partitioned into cores. Where lists contradict each other the lowest thread's counts, as
    lscpu has it: threads that may share a core are then held for one."""
    by_cpuinfo = _cpuinfo_cores(info)
    free = set(online)
    cores: list[tuple[int, ...]] = []
    for cpu in online:
        if cpu not in free:
            continue
        siblings = _listed(tree, cpu, _SIBLINGS) or by_cpuinfo.get(cpu) or frozenset([cpu])
        core = tuple(sorted((siblings | {cpu}) & free))
        free.difference_update(core)
        cores.append(core)
    return cores


def numa_of_threads(tree: Tree) -> dict[int, int]:
    """Thread → node. With emulated NUMA a thread is in several: the lowest counts."""
    found: dict[int, int] = {}
    for node in node_numbers(tree):
        for cpu in _node_cpus(tree, node):
            found.setdefault(cpu, node)
    return found


def node_numbers(tree: Tree) -> list[int]:
    return sorted(int(found[1]) for name in tree.names(NODE_DIR) if (found := _NODE_NAME.match(name)))


def core_classes(tree: Tree, cores: list[tuple[int, ...]]) -> list[str | None]:
    """ "performance" or "efficiency" on a hybrid machine, told by the first source that tells; else nothing."""
    for told in (_classes_by_pmu(tree), _classes_by_capacity(tree, cores), _classes_by_base_frequency(tree, cores)):
        if told:
            return [told.get(core[0]) for core in cores]
    return [None] * len(cores)


def _listed(tree: Tree, cpu: int, sources: tuple[tuple[str, ...], tuple[str, ...]]) -> frozenset[int] | None:
    """The first set that names `cpu` itself: one that does not is garbage, or was cut."""
    for names, parse in zip(sources, (cpuset.parse_list, cpuset.parse_mask), strict=True):
        for name in names:
            text = tree.text(f"{CPU_DIR}/cpu{cpu}/topology/{name}")
            if text and (cpus := parse(text)) and cpu in cpus:
                return cpus
    return None


def _cpuinfo_cores(info: CpuInfo) -> dict[int, frozenset[int]]:
    """x86: threads with one (physical id, core id) are one core, if "siblings" says that cores have several threads.

    Core ids alone do not tell: the dies of one AMD package repeat them.
    """
    groups: dict[tuple[str, str], set[int]] = {}
    for cpu, block in info.processors.items():
        siblings, cores = whole(block.get("siblings")), whole(block.get("cpu cores"))
        if siblings and cores and siblings > cores and "core id" in block:
            groups.setdefault((block.get("physical id", "0"), block["core id"]), set()).add(cpu)
    return {cpu: frozenset(group) for group in groups.values() for cpu in group}


def _sockets(tree: Tree, info: CpuInfo, online: list[int]) -> dict[int, int]:
    """The kernel's package number; where it has none (-1: POWER, s390, some ARM), packages by their lowest thread."""
    sockets: dict[int, int] = {}
    ranks: dict[frozenset[int], int] = {}
    for cpu in online:
        package = tree.number(f"{CPU_DIR}/cpu{cpu}/topology/physical_package_id")
        if package is None:
            package = whole(info.processors.get(cpu, {}).get("physical id"))
        if package is None or package < 0:
            package = ranks.setdefault(_listed(tree, cpu, _PACKAGE) or frozenset(), len(ranks))
        sockets[cpu] = package
    return sockets


def _node_cpus(tree: Tree, node: int) -> frozenset[int]:
    listed = cpuset.parse_list(tree.text(f"{NODE_DIR}/node{node}/cpulist") or "")
    if listed:
        return listed
    masked = cpuset.parse_mask(tree.text(f"{NODE_DIR}/node{node}/cpumap") or "")
    if masked is not None:
        return masked
    names = tree.names(f"{NODE_DIR}/node{node}")  # links to its CPUs
    return frozenset(int(found[1]) for name in names if (found := _CPU_NAME.match(name)))


def _die(tree: Tree, cpu: int) -> int | None:
    """Kernels before 5.3, and architectures that do not tell dies apart, have none, or say -1."""
    die = tree.number(f"{CPU_DIR}/cpu{cpu}/topology/die_id")
    return die if die is not None and die >= 0 else None


def _mhz(tree: Tree, cpu: int) -> int | None:
    khz = tree.number(f"{CPU_DIR}/cpu{cpu}/cpufreq/cpuinfo_max_freq")
    return khz // 1000 if khz is not None and 0 < khz <= _KHZ_MAX else None


def _classes_by_pmu(tree: Tree) -> dict[int, str]:
    """Intel: each kind of core has a performance monitor of its own, with the CPUs that it counts."""
    performance = cpuset.parse_list(tree.text("sys/devices/cpu_core/cpus") or "")
    efficiency = cpuset.parse_list(tree.text("sys/devices/cpu_atom/cpus") or "")
    if not performance or not efficiency or performance & efficiency:
        return {}
    return dict.fromkeys(performance, PERFORMANCE) | dict.fromkeys(efficiency, EFFICIENCY)


def _classes_by_capacity(tree: Tree, cores: list[tuple[int, ...]]) -> dict[int, str]:
    """ARM and others: `cpu_capacity`, 1024 for the largest core (Documentation/scheduler/sched-capacity.rst)."""
    capacity = dict(_numbers(tree, cores, "cpu_capacity"))
    if len(capacity) < len(cores) or not capacity:
        return {}
    least = _EFFICIENT_SHARE * max(capacity.values())
    classes = {cpu: EFFICIENCY if value < least else PERFORMANCE for cpu, value in capacity.items()}
    return classes if len(set(classes.values())) > 1 else {}


def _classes_by_base_frequency(tree: Tree, cores: list[tuple[int, ...]]) -> dict[int, str]:
    """Intel without the monitors: two base frequencies, and exactly the faster cores have two threads.

    The frequency alone would not tell: Speed Select gives some of the same cores a higher one.
    """
    base = dict(_numbers(tree, cores, "cpufreq/base_frequency"))
    frequencies: dict[bool, set[int | None]] = {True: set(), False: set()}
    for core in cores:
        frequencies[len(core) > 1].add(base.get(core[0]))
    fast, slow = ({value for value in frequencies[threaded] if value} for threaded in (True, False))
    if len(base) < len(cores) or not fast or not slow or min(fast) <= max(slow):
        return {}
    return {core[0]: PERFORMANCE if len(core) > 1 else EFFICIENCY for core in cores}


def _numbers(tree: Tree, cores: list[tuple[int, ...]], name: str) -> Iterator[tuple[int, int]]:
    for core in cores:
        value = tree.number(f"{CPU_DIR}/cpu{core[0]}/{name}")
        if value is None:
            return  # one unknown makes the comparison idle
        yield core[0], value
