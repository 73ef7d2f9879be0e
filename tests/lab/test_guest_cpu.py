"""What Linux in a guest says of its cores, nodes and RAM, beside what its user was told: the offer, and `inspect`.

A core of this host has two threads, whatever the machine is: its kernel's files are shown otherwise to it.
`test_guest_cpu_kernel` runs the first test once more where there are nodes and KVM; here an emulated guest, which can't
be told of threads, takes each for a core.
"""

import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from atomd.capacity.guest_cpu import RESERVED_CORE_FROM
from tests.lab.conftest import Lab, raised
from tests.lab.vms import BOOT_S, Vms, domains, electros, serial_of

pytestmark = pytest.mark.lab

RAM_MIB = 192  # for each core
TELLS = r"""
cd /sys/devices/system
for c in cpu/cpu[0-9]*; do t=$c/topology; n=$(basename $c/node*)
echo ITS-CPU $(cat $t/physical_package_id $t/core_id $t/core_cpus_list) ${n#node}; done
dmesg | sed -n 's/.*SRAT: Node \([0-9]*\) .*mem 0x\([0-9a-f]*\)-0x\([0-9a-f]*\).*/ITS-RAM \1 \2 \3/p'
echo ITS-ALL
"""


@dataclass(frozen=True)
class Seen:
    """By a guest. `cpus`: package, core within it, and node of each. `siblings`: how many threads its cores have.
    `ram_mib`: of its nodes, where it was told of some."""

    cpus: tuple[tuple[int, int, int], ...]
    siblings: frozenset[int]
    ram_mib: dict[int, int]

    def by_node(self) -> Counter[int]:
        return Counter(node for _, _, node in self.cpus)


def seen(said: str) -> Seen:
    cpus = re.findall(r"^ITS-CPU (\d+) (\d+) (\S+) (\d+)$", said, re.MULTILINE)
    ram = Counter[int]()
    for node, first, last in re.findall(r"^ITS-RAM (\d+) (\w+) (\w+)$", said, re.MULTILINE):
        ram[int(node)] += int(last, 16) + 1 - int(first, 16)
    return Seen(
        tuple((int(package), int(core), int(node)) for package, core, _, node in cpus),
        frozenset(len(threads_of(listed)) for _, _, listed, _ in cpus),
        {node: -(-size // (1 << 20)) for node, size in ram.items()},
    )


def threads_of(listed: str) -> list[int]:
    """As the kernel lists them: "0-1,4"."""
    ranges = [part.partition("-") for part in listed.split(",")]
    return [thread for first, _, last in ranges for thread in range(int(first), int(last or first) + 1)]


def in_pairs(root: Path, lab: Lab) -> None:
    """Show h1 its threads two by two as cores, and the flag by which AMD's CPUs say that."""
    threads = sorted(os.sched_getaffinity(0))
    root.mkdir()
    for number, thread in enumerate(threads[: len(threads) // 2 * 2]):
        core = threads[number // 2 * 2 :][:2]
        for name in ("core_cpus_list", "thread_siblings_list"):
            file = root / f"{thread}-{name}"
            file.write_text(",".join(map(str, core)) + "\n")
            lab.exec("h1", "mount", "--bind", str(file), f"/sys/devices/system/cpu/cpu{thread}/topology/{name}")
    cpuinfo = root / "cpuinfo"
    cpuinfo.write_text(re.sub(r"^(flags\t*: )", r"\1topoext ", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE))
    lab.exec("h1", "mount", "--bind", str(cpuinfo), "/proc/cpuinfo")
    for daemon in ("libvirtd", "atomd"):
        lab.restart("h1", daemon)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one hardware thread is too few for a core with two")
    with raised("cores", "-n", "1") as lab:
        in_pairs(tmp_path_factory.mktemp("machine") / "root", lab)
        yield lab


@pytest.fixture
def vms(lab: Lab, tmp_path: Path) -> Iterator[Vms]:
    mine = Vms(lab, tmp_path)
    yield mine
    mine.remove_all()


def inventory_of(lab: Lab) -> Any:
    return json.loads(lab.exec("h1", "atomd", "inventory", "-o", "json").stdout)


def offers_of(lab: Lab, specfile: str) -> list[dict[str, Any]]:
    """None, of a host that has just started and does not speak yet."""
    pledged = electros(lab, "pledge", specfile, code=None)
    return list(pledged.document["offers"]) if pledged.code == 0 else []


def told_by(lab: Lab, until: Callable[..., Any], vm: dict[str, Any]) -> Seen:
    until(lambda: "ATOMOS-GUEST-UP" in serial_of(lab, vm), within_s=BOOT_S)
    console = lab.virsh("h1", "ttyconsole", vm["domain"]).strip()
    # QEMU reads a console while somebody has it open.
    types = f"exec > {console}; printf %s {shlex.quote(TELLS)}; exec sleep {BOOT_S:g}"
    typed = lab.popen("h1", "sh", "-c", types)
    until(lambda: "\nITS-ALL\n" in said_by(lab, vm), within_s=BOOT_S)
    typed.terminate()
    typed.communicate()
    return seen(said_by(lab, vm))


def said_by(lab: Lab, vm: dict[str, Any]) -> str:
    return serial_of(lab, vm).replace("\r", "")


def test_a_guest_sees_the_cores_threads_and_nodes_that_it_was_promised(
    lab: Lab, vms: Vms, until: Callable[..., Any]
) -> None:
    cores = inventory_of(lab)["cpu"]["cores"]
    cores = cores if len(cores) < RESERVED_CORE_FROM else cores[1:]
    node_of = {thread: core["numa"] for core in cores for thread in core["threads"]}
    spec = {"slots": len(cores), "ramsize": RAM_MIB * len(cores)}
    (offer,) = until(lambda: offers_of(lab, vms.specfile(spec)), within_s=BOOT_S)
    ran = vms.run("wide", spec, volumes=[lab.volumes("h1")["h1-boot"]])
    vm = electros(lab, "inspect", ran["id"]).document["vm"]
    assert vm["threads"] == offer["threads"] == sorted(node_of)
    assert vm["topology"] == {"cores": len(cores), "threads": 2}
    says = told_by(lab, until, vm)
    assert len(says.cpus) == vm["vcpus"]
    nodes = Counter(node_of[thread] for thread in vm["threads"])
    assert says.by_node() == dict(enumerate(count for _, count in sorted(nodes.items())))
    packages = {package for package, _, _ in says.cpus}
    assert len(packages) == len(nodes), "a package in each node"
    assert says.siblings == {2 if vm["accelerator"] == "kvm" else 1}
    share = spec["ramsize"] // len(nodes)
    assert says.ram_mib == (dict.fromkeys(range(len(nodes)), share) if len(nodes) > 1 else {})


@pytest.fixture
def promising(lab: Lab) -> Iterator[str]:
    """A flag that h1 believes its guests to see, and that its QEMU can't give."""
    flag, remembered = "avx512f", lab.folder("h1") / "lib" / "accelerator.json"
    before = remembered.read_text()
    detected = json.loads(before)
    assert flag not in detected["guest_flags"]
    remembered.write_text(json.dumps(detected | {"guest_flags": [*detected["guest_flags"], flag]}))
    lab.restart("h1", "atomd")
    yield flag
    remembered.write_text(before)
    lab.restart("h1", "atomd")


def test_a_flag_that_went_missing_since_the_offer_fails_the_start_and_its_user_is_told(
    lab: Lab, vms: Vms, until: Callable[..., Any], promising: str
) -> None:
    spec = {"slots": 1, "ramsize": 64, "flags": [promising]}
    (offer,) = until(lambda: offers_of(lab, vms.specfile(spec)), within_s=BOOT_S)
    assert offer["host"] == "h1"
    failed = electros(lab, *vms.arguments("lacking", spec), code=1)
    sentence = (
        f"guests on this host do not get the CPU flags {promising}: something has changed since it made the offer"
    )
    assert sentence in failed.error["message"]
    assert domains(lab, "h1") == []
    assert "lacking" not in vms.ps()
