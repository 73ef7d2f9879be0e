"""Threads that were isolated at boot are lent to nobody, whichever file says so."""

from pathlib import Path

import pytest

from atomd.inventory.withheld import CMDLINE, ISOLATED, read_withheld
from tests.unit.test_inventory_ecc import tree


@pytest.mark.parametrize(
    ("files", "threads", "source"),
    [
        ({ISOLATED: "2-3\n"}, (2, 3), ISOLATED),
        ({CMDLINE: "quiet isolcpus=2-3 ro\n"}, (2, 3), CMDLINE),
        ({CMDLINE: "isolcpus=managed_irq,domain,1,3\n"}, (1, 3), CMDLINE),
        ({ISOLATED: "2-\n", CMDLINE: "isolcpus=2-3"}, (2, 3), CMDLINE),
        ({ISOLATED: "2\n", CMDLINE: "isolcpus=2-3"}, (2,), ISOLATED),
    ],
)
def test_what_the_kernel_isolated_is_withheld_with_its_source(
    tmp_path: Path, files: dict[str, str], threads: tuple[int, ...], source: str
) -> None:
    (withheld,) = read_withheld(tree(tmp_path, files), range(4))
    assert withheld.threads == threads
    assert source in withheld.why


@pytest.mark.parametrize(
    "files",
    [
        {},
        {ISOLATED: "\n", CMDLINE: "isolcpus=2-3"},  # the kernel refused what it was told
        {CMDLINE: "isolcpus=managed_irq,2-3"},
        {CMDLINE: "isolcpus=3-"},
        {CMDLINE: "noisolcpus=2-3"},
    ],
)
def test_nothing_is_withheld_that_nobody_isolated(tmp_path: Path, files: dict[str, str]) -> None:
    assert read_withheld(tree(tmp_path, files), range(4)) == ()
