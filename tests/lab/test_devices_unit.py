"""What systemd lets atomd write below /sys: nothing, but for the card that a sysadmin names, as the docs say."""

import os
import re
from pathlib import Path

import pytest

from tests.lab.machine import booted

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "packaging" / "systemd" / "atomd.service"
DOCS = ROOT / "docs" / "devices.md"
BUS = Path("/sys/bus/pci/devices")

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(not BUS.is_dir() or not any(BUS.iterdir()), reason="this machine has no PCI device to write to"),
]


def test_a_card_is_writable_for_atomd_where_the_docs_line_names_it() -> None:
    card = os.path.realpath(next(BUS.iterdir()))
    (line,) = re.findall(r"^ +(ReadWritePaths)=/sys/devices/pci\S+/0000:3b:00\.0$", DOCS.read_text(), re.MULTILINE)
    protects = " ".join(f"-p {each}" for each in re.findall(r"^Protect\w+=\w+$", UNIT.read_text(), re.MULTILINE))
    asks = f"sh -c 'test -w {card}/driver_override && echo yes || echo no'"
    with booted() as machine:
        assert machine.sh(f"systemd-run -q --wait --pipe {protects} {asks}") == "no"
        assert machine.sh(f"systemd-run -q --wait --pipe {protects} -p {line}={card} {asks}") == "yes"
