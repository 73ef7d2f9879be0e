"""USB devices as the machine names them, and which of them a VM may have."""

from pathlib import Path

import pytest

from atomd.inventory.facts import UsbDevice
from atomd.inventory.usb import IN_A_PROGRAM, UsbRules
from tests.fakes.machine_files import USB, MachineFiles

MOUNTED = "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
TOKEN = "1050:0407"
TYPES, POINTS, STORES, FREE = "030101", "030102", "080650", "ff0000"
LETTERS, LEFT_BUTTON = "fffffffffffffffe", "1f0000 0 0 0 0"
CONSOLE = "as the host's console may: atomd.toml's [usb] lend can say that it is none"


@pytest.fixture
def machine(tmp_path: Path) -> MachineFiles:
    return MachineFiles(tmp_path)


def test_a_device_is_told_by_its_files(machine: MachineFiles) -> None:
    words = {"manufacturer": "Yubico", "product": "YubiKey  FIDO+CCID\x1b[2J"}
    machine.usb("3-1.4", TOKEN, ("030000", "usbhid"), ("0b0000", None), number=17, **words)
    said = UsbDevice(
        address="3-1.4",
        vendor="1050",
        model="0407",
        device_class="000000",
        name="Yubico YubiKey FIDO+CCID?[2J",
        bus=3,
        number=17,
        controller=USB,
        driver="usbhid",
        assignable=True,
        why_not=None,
    )
    assert machine.read_usb() == {"3-1.4": said}


def test_hubs_and_the_roots_of_buses_are_nobodys(machine: MachineFiles) -> None:
    machine.usb("3-1", "05e3:0610", ("090000", "hub"), bDeviceClass="09")
    machine.usb("3-2", "05e3:0611", ("090000", "hub"))
    machine.usb("3-1.4", TOKEN, (FREE, None))
    machine.file("sys/bus/usb/devices/usb3/idVendor", "1d6b")
    assert list(machine.read_usb()) == ["3-1.4"]


def test_devices_come_in_the_order_of_their_ports(machine: MachineFiles) -> None:
    for port in ("10-1", "2-10", "2-9", "2-1.2"):
        machine.usb(port, TOKEN, (FREE, None))
    assert list(machine.read_usb()) == ["2-1.2", "2-9", "2-10", "10-1"]


@pytest.mark.parametrize("missing", ["idVendor", "busnum", "devnum"])
def test_a_device_that_does_not_say_what_or_where_it_is_stays(machine: MachineFiles, missing: str) -> None:
    machine.usb("3-1", TOKEN, (FREE, None), **{missing: "\0garbage"})
    assert machine.read_usb()["3-1"].why_not == "does not say what it is"


def test_a_stick_is_the_hosts_as_long_as_it_is_mounted(machine: MachineFiles) -> None:
    machine.disk(machine.usb("3-1", "0951:1666", (STORES, "usb-storage")), "sda", "sda1")
    assert machine.read_usb()["3-1"].assignable
    machine.file("proc/self/mountinfo", MOUNTED)
    assert machine.read_usb()["3-1"].why_not == "holds the host's own disk sda1"


def test_where_disks_do_not_say_what_lies_on_them_all_storage_stays(machine: MachineFiles) -> None:
    machine.usb("3-1", "0951:1666", (STORES, "usb-storage"))
    machine.usb("3-2", TOKEN, (FREE, None))
    machine.file("proc/spl/kstat/zfs/tank/state", "ONLINE")
    assert machine.read_usb()["3-1"].why_not == "may hold the host's ZFS pool tank"
    assert machine.read_usb()["3-2"].assignable


@pytest.mark.parametrize(
    ("files", "why_not"),
    [
        ({"operstate": "up"}, "carries the host's network link eth9, which is up"),
        ({"operstate": "down", "flags": "0x1003"}, "carries the host's network link eth9, which is switched on"),
        ({"operstate": "down", "flags": "0x1002"}, None),
    ],
)
def test_a_link_that_the_host_uses_stays(machine: MachineFiles, files: dict[str, str], why_not: str | None) -> None:
    folder = machine.usb("3-1", "0bda:8153", ("020d00", "cdc_ncm"))
    machine.interface(f"{folder}/3-1:1.0", "eth9", **files)
    assert machine.read_usb()["3-1"].why_not == why_not


def test_a_link_that_the_host_does_not_see_is_in_a_container_and_stays(machine: MachineFiles) -> None:
    machine.usb("3-1", "0bda:8153", ("ff0000", "r8152"))
    expected = "has a driver (r8152) and no link that can be seen: another namespace may use it"
    assert machine.read_usb()["3-1"].why_not == expected


@pytest.mark.parametrize(("kind", "how"), [(TYPES, "types"), (POINTS, "points")])
def test_what_types_or_points_is_the_console_with_a_driver_or_without(
    machine: MachineFiles, kind: str, how: str
) -> None:
    machine.usb("3-1", TOKEN, (kind, None))
    machine.usb("3-2", TOKEN, (kind, "usbhid"))
    assert {device.why_not for device in machine.read_usb().values()} == {f"{how}, {CONSOLE}"}


@pytest.mark.parametrize(("keys", "why_not"), [(LETTERS, f"types, {CONSOLE}"), (LEFT_BUTTON, f"points, {CONSOLE}"),
                                               ("1ff 0", None), ("1f0000 0 0", None)])  # fmt: skip
def test_what_types_or_points_is_known_by_its_keys(machine: MachineFiles, keys: str, why_not: str | None) -> None:
    """A management controller's tablet has no protocol of a mouse."""
    machine.input(machine.usb("3-1", "046b:ff10", ("030000", "usbhid")), 4, keys)
    assert machine.read_usb()["3-1"].why_not == why_not


def test_the_sysadmin_says_which_tokens_are_no_console_and_what_stays(machine: MachineFiles) -> None:
    machine.usb("3-1", TOKEN, (TYPES, "usbhid"), ("0b0000", None))
    machine.usb("3-2", "051d:0002", ("030000", "usbhid"))
    machine.usb("3-3", "051d:0003", ("030000", "usbhid"))
    said = machine.read_usb(UsbRules(lend=frozenset({TOKEN}), keep=frozenset({"051d:*"})))
    assert said["3-1"].assignable
    assert [said[port].why_not for port in ("3-2", "3-3")] == ["is kept for the host, as atomd.toml says"] * 2


def test_what_is_said_to_be_no_console_stays_for_any_other_reason(machine: MachineFiles) -> None:
    machine.disk(machine.usb("3-1", TOKEN, (TYPES, "usbhid"), (STORES, "usb-storage")), "sda", "sda1")
    machine.file("proc/self/mountinfo", MOUNTED)
    assert machine.read_usb(UsbRules(lend=frozenset({"1050:*"})))["3-1"].why_not == "holds the host's own disk sda1"


@pytest.mark.parametrize(
    ("driver", "why_not"),
    [("usbfs", IN_A_PROGRAM), ("usbip-host", "is lent to another machine (usbip)"), ("cdc_acm", None)],
)
def test_what_a_program_or_another_machine_has_is_not_given(
    machine: MachineFiles, driver: str, why_not: str | None
) -> None:
    machine.usb("3-1", TOKEN, (FREE, None), (FREE, driver))
    assert machine.read_usb()["3-1"].why_not == why_not


def test_what_the_host_has_not_authorized_is_not_given(machine: MachineFiles) -> None:
    machine.usb("3-1", TOKEN, authorized="0")
    assert machine.read_usb()["3-1"].why_not == "is not authorized on this host (USBGuard, or the like)"


def test_a_serial_console_stays(machine: MachineFiles) -> None:
    folder = machine.usb("3-1", "0403:6001", ("ff0000", "ftdi_sio"))
    machine.link("sys/class/tty/ttyUSB0", f"/{folder}/3-1:1.0/ttyUSB0/tty/ttyUSB0")
    assert machine.read_usb()["3-1"].assignable
    machine.file("sys/class/tty/console/active", "tty0 ttyUSB0")
    assert machine.read_usb()["3-1"].why_not == "carries the host's console ttyUSB0"
