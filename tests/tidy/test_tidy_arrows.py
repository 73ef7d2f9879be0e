"""The house keeps its shape: imports point one way, pure modules are pure, and one file knows each library."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator

from tests.tidy.house import MODULES, ROOT, Module, closure, others, ours, third_party

# Each room, and the rooms that it may import from besides itself. A new package must be given its place here.
MIDDLE = ("matcher.gossip", "matcher.offers", "matcher.scheduler", "matcher.trust")
BELOW_NET = {"specs", "matcher.wire", *MIDDLE}
ARROWS: dict[str, set[str]] = {
    "specs": set(),
    "matcher": set(),
    "matcher.wire": {"specs"},
    **{room: {"specs", "matcher.wire"} for room in MIDDLE},
    "matcher.net": BELOW_NET,
    "matcher.cli": {*BELOW_NET, "matcher.net"},
    "atomd": {*BELOW_NET, "matcher.net"},
    "storaged": {*BELOW_NET, "matcher.net"},
}

PURE_ROOMS = ("specs", "matcher.wire", "matcher.gossip", "matcher.offers", "matcher.scheduler")
PURE_MODULES = (
    "atomd.capacity.fit",
    "atomd.capacity.placement",
    "atomd.vms.lifecycle",
    "atomd.vms.reconcile",
    "atomd.hypervisor.cells",
    "atomd.hypervisor.domain_xml",
)
WORDS = ("atomd.hypervisor.domains",)  # values, and a Protocol whose methods wait: there is nothing in it that runs
IMPURE = {
    *("asyncio", "datetime", "glob", "http", "io", "libvirt", "logging", "multiprocessing", "os", "pathlib"),
    *("pyudev", "secrets", "select", "selectors", "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "sys"),
    *("tempfile", "threading", "time", "trio", "urllib", "uuid"),
}
IMPURE_CALLS = {"open", "print", "input", "breakpoint"}

# Libraries that these files (or packages) alone know, and translate for all the others.
SOLE_IMPORTERS = {
    "libvirt": {"atomd.hypervisor"},
    "pyudev": {"atomd.devices"},
    "h11": {"matcher.net.door.conversing", "matcher.net.door.websocket", "matcher.net.host_door"},
    "starlette": {
        f"matcher.net.door.{room}"
        for room in ("asking", "describing", "entrance", "rooms", "realm_rooms", "relay_rooms", "volume_rooms")
    },
    "lxml": {f"atomd.hypervisor.{room}" for room in ("disk_xml", "domain_xml", "machine")},
    "pycdlib": {"storaged.images.seed"},
    "sqlite3": {"atomd.journal", "storaged.journal"},
    "subprocess": {"atomd.accelerator", "matcher.net.programs", "storaged.images.sandbox"},
    "rich": {"matcher.cli.output"},
    "yaml": {"matcher.cli.output"},
}
NEVER = {"pickle", "marshal", "shelve", "xml", "asyncio"}  # `xml`: the standard library's parsers

# What the extra `host` adds, and the names by which it is imported.
HOST_EXTRA = {
    "libvirt-python": {"libvirt"},
    "lxml": {"lxml"},
    "pycdlib": {"pycdlib"},
    "starlette": {"starlette", "anyio"},
    "trio": {"trio"},
}
HOST_ONLY = set().union(*HOST_EXTRA.values())
IMPORTED_AS = {
    "pyyaml": {"yaml"},
    "pydantic": {"pydantic", "pydantic_core"},
    "annotated-types": {"annotated_types"},
    "wsproto": {"wsproto"},
}


def room_of(name: str) -> str:
    return max((room for room in ARROWS if name == room or name.startswith(f"{room}.")), key=len)


def is_pure(module: Module) -> bool:
    """Because the design says so, or because the module itself does."""
    says_so = any(line.startswith("Pure") or " Pure" in line for line in module.doc.splitlines())
    return module.is_under(*PURE_ROOMS, *PURE_MODULES) or says_so


def pure_modules() -> list[Module]:
    return [module for module in MODULES.values() if is_pure(module)]


def test_imports_point_one_way() -> None:
    against = [
        f"{module.name} is in {room} and imports {name}"
        for module in MODULES.values()
        for name in ours(module.imports)
        if room_of(name) not in {(room := room_of(module.name)), *ARROWS[room]}
    ]
    assert not against


def test_every_package_has_its_place() -> None:
    lost = [m.name for m in MODULES.values() if room_of(m.name) == "matcher" and m.name != "matcher"]
    assert not lost, "ARROWS does not know this room"


def test_the_daemons_never_meet_even_by_way_of_others() -> None:
    for mine, other in (("atomd", "storaged"), ("storaged", "atomd")):
        along = closure(name for name in MODULES if room_of(name) == mine)
        assert not {name for name in along if room_of(name) == other}, f"{mine} brings {other} along"


def test_what_is_pure_imports_nothing_that_is_not() -> None:
    found = [
        f"{module.name} imports {name}"
        for module in pure_modules()
        for name in sorted(others(module.run_imports) & IMPURE | ours(module.run_imports))
        if name in IMPURE or not (name in WORDS or is_pure(MODULES[name]))
    ]
    assert not found


def test_what_is_pure_neither_waits_nor_opens_nor_rolls_dice() -> None:
    assert not [found for module in pure_modules() for found in impurities(module)]


def impurities(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        match node:
            case ast.AsyncFunctionDef() | ast.AsyncFor() | ast.AsyncWith() | ast.Await():
                yield f"{module.where(node)}: it waits"
            case ast.Call(func=ast.Name(id=name)) if name in IMPURE_CALLS:
                yield f"{module.where(node)}: {name}()"
            case ast.Call(func=ast.Name(id="Random"), args=[]):
                yield f"{module.where(node)}: a Random of its own; it comes in as an argument"
            case ast.Import(names=names) if any(alias.name == "random" for alias in names):
                yield f"{module.where(node)}: import random; `from random import Random` is for types"
            case ast.ImportFrom(module="random", names=names) if {alias.name for alias in names} != {"Random"}:
                yield f"{module.where(node)}: randomness other than the `Random` that comes in"


def test_the_modules_that_the_design_calls_pure_are_there() -> None:
    assert {*PURE_MODULES, *WORDS} <= MODULES.keys(), "moved? Then this list and the design's map have to follow"


def test_each_library_is_known_to_its_own_file_alone() -> None:
    strangers = [
        f"{module.name} imports {library}, which belongs to {sorted(SOLE_IMPORTERS[library])}"
        for module in MODULES.values()
        for library in others(module.imports) & SOLE_IMPORTERS.keys()
        if not module.is_under(*SOLE_IMPORTERS[library])
    ]
    assert not strangers


def test_nothing_is_read_by_what_could_run_it() -> None:
    """No pickle, no XML parser but lxml, no eval; YAML is written here and never read."""
    assert not [(module.name, found) for module in MODULES.values() if (found := others(module.imports) & NEVER)]
    calls = [
        (f"{module.where(node)}: {ast.unparse(node.func)}()", ast.unparse(node.func))
        for module in MODULES.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
    ]
    assert not [where for where, name in calls if name in ("eval", "exec", "__import__")]
    assert not [where for where, name in calls if name.startswith("yaml.") and "load" in name]


def test_every_import_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    host = {bare(requirement) for requirement in project["optional-dependencies"]["host"]}
    assert host == HOST_EXTRA.keys(), "a new dependency of hosts alone: say in HOST_EXTRA how it is imported"
    declared = HOST_ONLY.union(*(IMPORTED_AS.get(name, {name}) for name in map(bare, project["dependencies"])))
    assert not {
        module.name: unknown for module in MODULES.values() if (unknown := third_party(module.imports) - declared)
    }


def bare(requirement: str) -> str:
    return requirement.partition(">")[0].strip()


def test_the_client_needs_nothing_of_what_hosts_need() -> None:
    """Neither trio, which would cost more at each start than the whole protocol does."""
    along = closure(name for name in MODULES if room_of(name) == "matcher.cli" or name == "matcher.net.client")
    unwanted = {*HOST_ONLY, "trio"}
    assert not {name: found for name in along if (found := third_party(MODULES[name].run_imports) & unwanted)}


def test_no_library_brings_into_the_client_what_it_does_without() -> None:
    commands = sorted(name for name in MODULES if room_of(name) == "matcher.cli")
    unwanted = {*HOST_ONLY, "trio", "asyncio", "rich", "yaml"}
    code = f"import sys, {', '.join(commands)}; print(*sorted({unwanted!r} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not found.split(), "loaded by importing the commands; import it where it is needed"
