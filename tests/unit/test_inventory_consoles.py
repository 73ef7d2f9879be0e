"""What a person sits at stays with the host."""

from pathlib import Path

import pytest

from tests.fakes.machine_files import GPU, NIC, USB, MachineFiles

ALL_KEYS = "402000007ff 9f207ac14057ffff febeffdfffefffff fffffffffffffffe"
REMOTE_CONTROL = "c 0 0 0 10000 2fc 0 3ffe"  # digits, and no letters
POWER_BUTTON = "10000000000000 0"
MOUSE = "1f0000 0 0 0 0"


@pytest.fixture
def machine(tmp_path: Path) -> MachineFiles:
    return MachineFiles(tmp_path)


def with_screen(machine: MachineFiles) -> None:
    folder = machine.device(GPU, "030000", 5, "amdgpu")
    machine.file(f"{folder}/graphics/fb0/name", "amdgpudrmfb\n")
    machine.link("sys/class/graphics/fb0", f"/{folder}/graphics/fb0")


def test_the_framebuffer_with_the_text_console_is_not_assignable(machine: MachineFiles) -> None:
    with_screen(machine)
    assert machine.read()[GPU].why_not == "draws the host's console (fb0)"


@pytest.mark.parametrize(("bind", "free"), [("0", True), ("1", False), ("", False)])
def test_a_framebuffer_that_the_text_console_let_go_of_is(machine: MachineFiles, bind: str, free: bool) -> None:
    with_screen(machine)
    machine.file("sys/class/vtconsole/vtcon0/name", "(S) dummy device\n")
    machine.file("sys/class/vtconsole/vtcon0/bind", "1\n")
    machine.file("sys/class/vtconsole/vtcon1/name", "(M) frame buffer device\n")
    machine.file("sys/class/vtconsole/vtcon1/bind", f"{bind}\n")
    assert machine.read()[GPU].assignable is free


@pytest.mark.parametrize(
    ("enabled", "status", "free"),
    [
        ("enabled", "connected", False),
        ("enabled", "unknown", False),
        ("enabled", "disconnected", True),
        ("disabled", "connected", True),
    ],
)
def test_a_card_that_lights_a_screen_is_not_assignable(
    machine: MachineFiles, enabled: str, status: str, free: bool
) -> None:
    folder = machine.device(GPU, "030000", 5, "amdgpu")
    connector = f"{folder}/drm/card1/card1-HDMI-A-1"
    machine.file(f"{connector}/enabled", f"{enabled}\n")
    machine.file(f"{connector}/status", f"{status}\n")
    machine.link("sys/class/drm/card1-HDMI-A-1", f"/{connector}")
    why_not = machine.read()[GPU].why_not
    assert why_not == (None if free else "lights the host's screen at card1-HDMI-A-1")


def test_the_serial_console_is_not_assignable(machine: MachineFiles) -> None:
    folder = machine.device(NIC, "070002", 5, "serial")
    machine.link("sys/class/tty/ttyS4", f"/{folder}/tty/ttyS4")
    machine.file("sys/class/tty/console/active", "tty0\n")
    assert machine.read()[NIC].assignable
    machine.file("sys/class/tty/console/active", "tty0 ttyS4\n")
    assert machine.read()[NIC].why_not == "carries the host's console ttyS4"


@pytest.mark.parametrize(
    ("keys", "free"), [(ALL_KEYS, False), (POWER_BUTTON, True), (REMOTE_CONTROL, True), (MOUSE, True), ("zz", True)]
)
def test_a_usb_controller_with_a_keyboard_is_not_assignable(machine: MachineFiles, keys: str, free: bool) -> None:
    keyboard = machine.device(USB, "0c0330", 5, "xhci_hcd") + "/usb1/1-4/1-4:1.0/0003:046D:C31C.0001/input/input7"
    machine.file(f"{keyboard}/name", "Logitech USB Keyboard\n")
    machine.file(f"{keyboard}/capabilities/key", f"{keys}\n")
    machine.link("sys/class/input/input7", f"/{keyboard}")
    why_not = machine.read()[USB].why_not
    assert why_not == (None if free else "has the host's keyboard behind it (Logitech USB Keyboard)")


@pytest.mark.parametrize(("protocol", "free"), [("01", False), ("02", True)])
def test_a_keyboard_without_a_driver_counts_too(machine: MachineFiles, protocol: str, free: bool) -> None:
    interface = machine.device(USB, "0c0330", 5, "xhci_hcd") + "/usb1/1-4/1-4:1.0"
    for name, text in {"Class": "03", "SubClass": "01", "Protocol": protocol}.items():
        machine.file(f"{interface}/bInterface{name}", f"{text}\n")
    machine.link("sys/bus/usb/devices/1-4:1.0", f"/{interface}")
    assert machine.read()[USB].assignable is free
