"""A guest with secure boot and a TPM, real ones: what they keep stays with its VM, and goes with it."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import Lab
from tests.lab.vms import Vms, booted, electros, serial_of

pytestmark = pytest.mark.lab

SPEC = {"slots": 1, "ramsize": 512, "misc": {"firmware": "uefi-secure", "tpm": True}}  # no less: GRUB has it all in RAM
BOOT_S = 400.0  # emulated firmware that hashes all that it loads, on a busy machine
KEPT = "/var/lib/libvirt/qemu/nvram", "/var/lib/libvirt/swtpm"


@pytest.fixture
def vms(lab: Lab, tmp_path: Path) -> Iterator[Vms]:
    mine = Vms(lab, tmp_path)
    yield mine
    for host in ("h1", "h2", "h3"):
        lab.exec(host, "atomctl", "drain", "--undo")
    mine.remove_all()


def kept(lab: Lab, host: str) -> list[str]:
    """What is on the host of all VMs' firmware and TPMs: "libvirt-qemu 600 PATH"."""
    found = lab.exec(host, "find", *KEPT, "-type", "f", "-printf", "%u %m %p\n", check=False).stdout
    return sorted(line for line in found.splitlines() if not line.endswith("/.lock"))


def said(lab: Lab, vm: dict[str, Any]) -> tuple[dict[str, str], ...]:
    """What the guest found at each of its boots on this host."""
    lines = re.findall(r"ATOMOS-FIRMWARE uefi (.*?)\r?\n", serial_of(lab, vm))
    return tuple(dict(word.split("=") for word in line.split()) for line in lines)


def test_a_guest_boots_securely_and_what_firmware_and_tpm_keep_lives_as_long_as_its_vm(
    lab: Lab, vms: Vms, until: Callable[..., Any]
) -> None:
    volume = lab.volumes("h1")["h1-boot"]
    vm = booted(lab, until, vms.run("sealed", SPEC, volumes=[volume], host="h1"), within_s=BOOT_S)
    home = vm["host"]
    (first,) = said(lab, vm)
    assert (first["secureboot"], first["counted"], first["tpm"]) == ("1", "1", "2")
    state = kept(lab, home)
    assert [line.rsplit("/", 1)[0].replace(vm["id"], "ID") for line in state] == [
        f"libvirt-qemu 600 {KEPT[0]}",
        f"tss 600 {KEPT[1]}/ID/tpm2",
    ]

    electros(lab, "stop", "sealed")
    assert kept(lab, home) == state
    mark = len(serial_of(lab, vm))
    electros(lab, "start", "sealed")
    booted(lab, until, vm, since=mark, within_s=BOOT_S)
    _, second = said(lab, vm)
    assert (second["secureboot"], second["counted"]) == ("1", "2"), "UEFI's variables are those of before"
    assert int(second["resets"]) == int(first["resets"]) + 1, "and so is the TPM"

    electros(lab, "stop", "sealed")
    lab.exec(home, "atomctl", "drain")
    refused = electros(lab, "start", "sealed", code=3).error
    assert refused["message"] == f"{home}, where the TPM of sealed is, does not fit now"
    assert refused["hint"].endswith("electros start sealed --new-tpm")
    moved = electros(lab, "start", "sealed", "--new-tpm").document["vm"]
    assert moved["host"] != home
    assert kept(lab, home) == []
    assert len(kept(lab, moved["host"])) == 2

    electros(lab, "rm", "--force", "sealed")
    assert kept(lab, moved["host"]) == []
    assert not lab.virsh(moved["host"], "list", "--all", "--name").strip()


def test_what_nobody_has_signed_is_not_started_nor_what_a_network_offers(
    lab: Lab, vms: Vms, until: Callable[..., Any]
) -> None:
    """Where no disk boots, the firmware tries the shell that it brings along, which has no signature; before that it
    would ask the network."""
    vm = vms.run("diskless", SPEC)
    until(lambda: "EFI Internal Shell" in serial_of(lab, vm), within_s=BOOT_S)
    until(lambda: "Security Violation" in serial_of(lab, vm), within_s=BOOT_S)
    assert not re.search(r"PXE|HTTP Boot", serial_of(lab, vm))
