"""What the kernel's own iSCSI target does, seen on Debian's kernel, inside storaged's own unit: its user, its rights.

This machine's kernel may have no such target. The emulated machine has Debian's kernel over a copy of this machine's
root, Debian's systemd, and storaged's unit with what `docs/install.md` adds to it; in the place of storaged that unit
runs the tests of the target. Each of their outcomes is one here.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
import trio

from tests.lab import test_export_lio, test_lio_changeover, test_lio_one_writer
from tests.lab.emulated import ENTER, KERNEL, ROOMY_MIB, ROOT, SEES_THIS_ROOT, machine, this_root
from tests.lab.machine import SYSTEMD

SUITES = (test_export_lio, test_lio_changeover, test_lio_one_writer)
RUN_S = 900.0  # some 3 minutes where nobody else works
DISK_BYTES = 1 << 30
RESULT_BYTES = 1 << 24
MODULES = ("virtio_pci", "virtio_blk", "virtiofs", "overlay", "crc32c_generic")
HEADING = "## Volumes by the kernel's own target"

pytestmark = [
    *SEES_THIS_ROOT,
    pytest.mark.skipif(not SYSTEMD.exists(), reason="systemd is not installed: packaging/setup"),
]

SCRIPT = (
    ENTER
    + """
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
in_new() {{ /bin/busybox chroot /new "$@"; }}
/bin/busybox mount -t ext4 /dev/vda /new/tmp && /bin/busybox chmod 1777 /new/tmp
cd /new/etc
/bin/busybox rm -f fstab /new/.dockerenv systemd/system/*/*
/bin/busybox mkdir -p modules-load.d sysusers.d tmpfiles.d systemd/system/storaged.service.d ../usr/lib/modules ../srv
in_new cp -rs {kernel}/lib/modules/. /usr/lib/modules/
in_new depmod
in_new cp {root}/packaging/systemd/atomos.sysusers /etc/sysusers.d/atomos.conf
in_new cp {root}/packaging/systemd/atomos.tmpfiles /etc/tmpfiles.d/atomos.conf
in_new cp {root}/packaging/systemd/storaged.service /etc/systemd/system/
echo {module} > modules-load.d/atomos.conf
/bin/busybox printf '[Journal]\\nForwardToConsole=yes\\nTTYPath=/dev/ttyS0\\n' > systemd/journald.conf
/bin/busybox cat > systemd/system/storaged.service.d/1.conf <<END
{drop_in}
END
/bin/busybox cat > systemd/system/storaged.service.d/2.conf <<END
[Unit]
OnFailure=told.service
OnSuccess=told.service
[Service]
ExecStart=
ExecStart={root}/.venv/bin/python -m pytest {words}
Type=exec
Restart=no
WorkingDirectory={root}
Environment=PYTHONDONTWRITEBYTECODE=1
END
/bin/busybox cat > systemd/system/told.service <<END
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'cat /srv/result > /dev/vdb; echo > /dev/console; echo ITS-DONE > /dev/console'
END
cd /
exec /bin/busybox switch_root /new {systemd} --unit=storaged.service
"""
)
WORDS = "-v -p no:cacheprovider -p no:hypothesispytest --color=no --tb=short --junitxml=/srv/result -m 'not slow'"


@dataclass(frozen=True)
class Outcome:
    has_passed: bool
    said: str


def drop_in() -> tuple[str, str]:
    """The module to load, and what is added to the unit: as a person would type it."""
    (section,) = re.findall(
        rf"^{re.escape(HEADING)}\n(.*?)^## ", (ROOT / "docs" / "install.md").read_text(), re.M | re.S
    )
    (module,) = re.findall(r"echo (\w+) \| sudo tee /etc/modules-load\.d/", section)
    return module, "\n".join(re.findall(r"# (\[Service\]|[A-Z]\w+=.*)$", section, re.M))


def names_of(suite: ModuleType) -> Iterator[str]:
    for holder in (suite, *(held for name, held in vars(suite).items() if name.startswith("Test"))):
        yield from (name for name in dir(holder) if name.startswith("test_") and callable(getattr(holder, name)))


def read(result: bytes) -> Mapping[str, Outcome]:
    """By the tests' names; one with several parameters has passed when all have."""
    outcomes: dict[str, Outcome] = {}
    for case in ElementTree.fromstring(result).iter("testcase"):
        name = case.attrib["name"].partition("[")[0]
        said = "\n".join(f"{part.tag}: {part.attrib.get('message', '')}\n{part.text or ''}" for part in case)
        before = outcomes.get(name, Outcome(True, ""))
        outcomes[name] = Outcome(before.has_passed and not len(case), before.said + said)
    return outcomes


async def seen_on_debians_kernel(folder: Path) -> Mapping[str, Outcome]:
    disk, result = folder / "disk", folder / "result"
    for path, size in ((disk, DISK_BYTES), (result, RESULT_BYTES)):
        path.touch()
        os.truncate(path, size)
    await trio.run_process(["mkfs.ext4", "-q", "-F", str(disk)])
    module, added = drop_in()
    files = " ".join(f"tests/lab/{suite.__name__.rpartition('.')[2]}.py" for suite in SUITES)
    script = SCRIPT.format(
        kernel=KERNEL, root=ROOT, systemd=SYSTEMD, module=module, drop_in=added, words=f"{WORDS} {files}"
    )
    disks = [word for path in (disk, result) for word in ("-drive", f"file={path},if=virtio,format=raw,cache=unsafe")]
    async with (
        this_root(folder) as root,
        machine(folder, script, modules=MODULES, devices=(*root, *disks), ram_mib=ROOMY_MIB) as running,
    ):
        await running.says("ITS-DONE", RUN_S)
        said = result.read_bytes().rstrip(b"\0")
        return read(said) if said else pytest.fail(f"pytest did not come to its end:\n{running.serial[-6000:]}")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Outcome]:
    return trio.run(seen_on_debians_kernel, tmp_path_factory.mktemp("lio"))


@pytest.mark.parametrize("name", sorted(name for suite in SUITES for name in names_of(suite)))
def test_on_debians_kernel(outcomes: Mapping[str, Outcome], name: str) -> None:
    assert name in outcomes, "it did not run there"
    assert outcomes[name].has_passed, outcomes[name].said
