"""Where nothing keeps a device from the host, no guest gets one."""

from pathlib import Path

import pytest

from atomd.inventory import iommu
from atomd.inventory.config_space import CONFIG_BYTES, acs
from tests.fakes.machine_files import GPU, PORT, MachineFiles

UNSAFE = "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"
REMAPPED = "  8:   0  IR-IO-APIC   8-edge  rtc0\n 24:  5  IR-PCI-MSI 0-edge  nvme0q0\n"
PLAIN = "  8:   0   IO-APIC   8-edge  rtc0\n 24:  5   PCI-MSI 0-edge  nvme0q0\n"
ARM = " 11:  9  GICv3  27 Level  arch_timer\n 40:  3  ITS-PCI-MSI 0 Edge  nvme0q0\n"


@pytest.fixture
def machine(tmp_path: Path) -> MachineFiles:
    made = MachineFiles(tmp_path)
    made.device(GPU, "030000", 5)
    return made


@pytest.mark.parametrize("said", ["Y", "1"])
def test_unsafe_interrupts_keep_every_device(machine: MachineFiles, said: str) -> None:
    machine.file(UNSAFE, "N\n")
    assert machine.read()[GPU].assignable
    machine.file(UNSAFE, f"{said}\n")
    assert machine.read()[GPU].why_not == iommu.UNSAFE_INTERRUPTS


def test_vfio_without_an_iommu_keeps_every_device(machine: MachineFiles) -> None:
    machine.file("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n")
    assert machine.read()[GPU].why_not == iommu.NO_IOMMU_MODE


@pytest.mark.parametrize(
    ("file", "text", "safe"),
    [
        ("proc/cmdline", "quiet vfio_iommu_type1.allow_unsafe_interrupts=1 ro", False),
        ("proc/cmdline", "quiet vfio_iommu_type1.allow_unsafe_interrupts ro", False),
        ("proc/cmdline", "quiet vfio_iommu_type1.allow_unsafe_interrupts=0 ro", True),
        (
            "etc/modprobe.d/vfio.conf",
            "# no\noptions vfio_iommu_type1 x=1 allow_unsafe_interrupts=y\n",
            False,
        ),
        ("etc/modprobe.d/vfio.conf", "#options vfio_iommu_type1 allow_unsafe_interrupts=1\n", True),
    ],
)
def test_a_module_that_is_not_loaded_yet_is_known_by_what_it_will_be_told(
    machine: MachineFiles, file: str, text: str, safe: bool
) -> None:
    machine.file(file, text)
    assert machine.read()[GPU].assignable is safe
    machine.file(UNSAFE, "N\n")
    assert machine.read()[GPU].assignable


@pytest.mark.parametrize(("interrupts", "why_not"), [(REMAPPED, None), (PLAIN, iommu.NO_REMAPPING), (ARM, None)])
def test_interrupts_that_are_not_remapped_keep_every_device(
    machine: MachineFiles, interrupts: str, why_not: str | None
) -> None:
    machine.file("proc/interrupts", interrupts)
    assert machine.read()[GPU].why_not == why_not


def config(*capabilities: tuple[int, int], control: int = 0) -> bytes:
    """A configuration space with these (id, offset), one after the other."""
    space = bytearray(CONFIG_BYTES)
    places = [offset for _, offset in capabilities[1:]] + [0]
    for (kind, offset), after in zip(capabilities, places, strict=True):
        space[offset : offset + 4] = (after << 20 | 1 << 16 | kind).to_bytes(4, "little")
        space[offset + 6 : offset + 8] = control.to_bytes(2, "little")
    return bytes(space)


@pytest.mark.parametrize(
    ("space", "told"),
    [
        (config((1, 0x100), (0xD, 0x148), control=0x1D), "on"),
        (config((0xD, 0x100), control=0x1C), "off"),
        (config((1, 0x100)), "none"),
        (config((1, 0x100), (2, 0x100)), "none"),  # in a circle
        (config((0xD, 0x100), control=0x1D)[:64], None),
        (b"", None),
    ],
)
def test_acs_is_told_where_it_can_be_read(space: bytes, told: str | None) -> None:
    assert acs(space) == told


def test_acs_is_told_of_bridges_alone(machine: MachineFiles) -> None:
    space = config((0xD, 0x100), control=0x1D)
    folder = machine.device(PORT, "060400", 2, "pcieport")
    for each in (folder, f"sys/devices/pci0000:00/{GPU}"):
        (machine.root / each / "config").write_bytes(space)
    assert {address: device.acs for address, device in machine.read().items()} == {PORT: "on", GPU: None}
