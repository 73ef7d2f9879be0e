"""A VM whose RAM is in huge pages, which the kernel keeps for that: real ones, of this machine."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.conftest import Lab, raised
from tests.lab.vms import plainly

pytestmark = pytest.mark.lab

KEPT = Path("/proc/sys/vm/nr_hugepages")
PAGES, ASKED_MIB, PAGE_MIB = 100, 128, 2


def free_pages() -> int:
    found = re.search(r"HugePages_Free: +(\d+)", Path("/proc/meminfo").read_text())
    assert found is not None
    return int(found[1])


@pytest.fixture
def kept() -> Iterator[None]:
    """So many huge pages more, while the test runs."""
    if not Path("/sys/kernel/mm/hugepages/hugepages-2048kB").is_dir():
        pytest.skip("this kernel has no huge pages of 2 MiB")
    before = int(KEPT.read_text())
    KEPT.write_text(str(before + PAGES))
    try:
        if free_pages() < PAGES:
            pytest.skip("this machine's memory is too scattered for huge pages")
        yield
    finally:
        KEPT.write_text(str(before))


@pytest.fixture
def lab(kept: None) -> Iterator[Lab]:
    with raised("hugepages", "-n", "1") as lab:
        yield lab


def test_its_ram_is_in_huge_pages_which_nobody_else_is_promised(lab: Lab, tmp_path: Path) -> None:
    specfile = tmp_path / "huge.json"
    specfile.write_text(f'{{"slots": 1, "overprovision": 4, "ramsize": {ASKED_MIB}, "hugepages": "2M"}}')
    before = free_pages()
    plainly(lab, "run", str(specfile), "--name", "huge")
    assert before - free_pages() == ASKED_MIB // PAGE_MIB
    refused = plainly(lab, "run", str(specfile), "--name", "another", code=3)
    assert "hugepages: asked 64 pages of 2 MiB" in refused.err
    lab.restart("h1", "atomd")
    plainly(lab, "run", str(specfile), "--name", "another", code=3)  # they are the VM's still
    plainly(lab, "rm", "--force", "huge")
    assert free_pages() == before
    plainly(lab, "run", str(specfile), "--name", "another")
    plainly(lab, "rm", "--force", "another")
