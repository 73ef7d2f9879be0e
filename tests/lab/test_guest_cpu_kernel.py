"""A guest on two NUMA nodes, each with a core of two threads: KVM and nodes, which this machine may lack.

The emulated machine has Debian's kernel, sees this one's root and repository, and runs a test of `test_guest_cpu`: in a
lab of its own, with a host whose VMs run on KVM.
"""

import re
import subprocess
import tempfile
from pathlib import Path

import trio

from tests.lab import test_guest_cpu
from tests.lab.emulated import ENTER, PLACES, ROOT, SEES_THIS_ROOT, USB_KERNEL, machine, this_root

RUN_S = 1200.0  # some 5 minutes where nobody else works
RAM_MIB, NODES = 2560, 2
MODULES = ("crc32c_generic", "virtio_pci", "virtiofs", "overlay", "virtio_net", "kvm-amd", "bridge", "veth", "tun")
MODULES += ("nft_compat", "nft_chain_nat", "xt_MASQUERADE", "xt_CHECKSUM", "xt_conntrack", "xt_tcpudp", "ipt_REJECT")

pytestmark = SEES_THIS_ROOT

# A lab's hosts are entered by their mount namespaces, whose root has to be the one that is seen: no chroot would do.
SCRIPT = (
    ENTER
    + PLACES
    + """
exec /bin/busybox switch_root /new /bin/sh -c '
    chown root:kvm /dev/kvm
    exec < /dev/null > /dev/console 2>&1
    cd {root} && PYTHONDONTWRITEBYTECODE=1 .venv/bin/python -m pytest {words}
    echo; echo ITS-DONE; sleep 1000'
"""
)
NAME = test_guest_cpu.test_a_guest_sees_the_cores_threads_and_nodes_that_it_was_promised.__name__
WORDS = (
    f"-rA -q -n 0 -p no:cacheprovider -p no:hypothesispytest --color=no --tb=short tests/lab/test_guest_cpu.py::{NAME}"
)


async def told(folder: Path) -> str:
    async with this_root(folder, RAM_MIB, NODES) as root:
        words = (*root, "-cpu", "qemu64,+svm,+npt")
        its = {"modules": MODULES, "devices": words, "kernel": USB_KERNEL, "ram_mib": RAM_MIB}
        async with machine(folder, SCRIPT.format(root=ROOT, words=WORDS), **its) as emulated:
            await emulated.says("ITS-DONE", RUN_S)
            return emulated.serial


def test_where_there_are_nodes_and_kvm() -> None:
    for flavour in ((), ("--usb",)):
        subprocess.run([ROOT / "packaging" / "guest", *flavour], check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory(prefix="atomos-") as folder:
        said = trio.run(told, Path(folder))
    assert re.search(rf"^PASSED \S+::{NAME}$", said, re.MULTILINE), said
