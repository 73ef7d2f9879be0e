"""What a person sits at: the screen, the serial console and the keyboard of the host, with the PCI devices behind them.

Sources: Documentation/ABI/testing/sysfs-bus-pci (boot_vga), sysfs-class-tty (console/active), fbcon.rst (vtconsole),
the kernel's drm_sysfs.c (enabled, status), and udev's rule for what a keyboard is (udev-builtin-input_id.c). A server's
remote console types by a USB keyboard of its management controller, so that such a controller stays as well.
"""

import re
from collections.abc import Iterator

from atomd.inventory.text import printable, whole
from atomd.inventory.tree import Tree

_TTY_DIR = "sys/class/tty"
_DRM_DIR = "sys/class/drm"
_INPUT_DIR = "sys/class/input"
_USB_DIR = "sys/bus/usb/devices"
_VTCONSOLE_DIR = "sys/class/vtconsole"
_FIRST_SCREEN = "sys/class/graphics/fb0"  # fbcon draws on this one, unless told otherwise
_LETTERS = 0xFFFF_FFFE  # keys 1 to 31: escape, digits and the first letters
_BTN_LEFT = 0x110
_BOOT_KEYBOARD = ("03", "01", "01")  # class, subclass, protocol of a USB interface


def is_boot_console(tree: Tree, folder: str) -> bool:
    return whole(tree.text(f"{folder}/boot_vga", 8)) == 1


def consoles_in_use(tree: Tree) -> Iterator[tuple[str, str]]:
    """(path of sysfs, why the devices on it stay with the host)."""
    yield from screens(tree)
    for folder, name in keyboards(tree):
        yield tree.real(folder) or "", f"has the host's keyboard behind it ({printable(name, 60)})"


def screens(tree: Tree) -> Iterator[tuple[str, str]]:
    """As `consoles_in_use`, of what the host is seen by and what carries its console."""
    if _draws_text(tree):
        yield tree.real(_FIRST_SCREEN) or "", "draws the host's console (fb0)"
    for name in tree.names(_DRM_DIR):
        folder = f"{_DRM_DIR}/{name}"
        if tree.text(f"{folder}/enabled", 16) == "enabled" and tree.text(f"{folder}/status", 16) != "disconnected":
            yield tree.real(folder) or "", f"lights the host's screen at {printable(name)}"
    for name in (tree.text(f"{_TTY_DIR}/console/active", 4096) or "").split():
        yield tree.real(f"{_TTY_DIR}/{name}") or "", f"carries the host's console {printable(name)}"


def _draws_text(tree: Tree) -> bool:
    """Whether the kernel's text console is on the first framebuffer; yes, where it does not say."""
    consoles = [f"{_VTCONSOLE_DIR}/{name}" for name in tree.names(_VTCONSOLE_DIR)]
    graphic = [folder for folder in consoles if "frame buffer" in (tree.text(f"{folder}/name", 256) or "")]
    return not consoles or any(whole(tree.text(f"{folder}/bind", 8)) != 0 for folder in graphic)


def keyboards(tree: Tree) -> Iterator[tuple[str, str]]:
    """(folder, name): those that a driver reads, and those on USB that none does."""
    for name in tree.names(_INPUT_DIR):
        folder = f"{_INPUT_DIR}/{name}"
        if re.match(r"input\d+$", name) and _has_letters(tree.text(f"{folder}/capabilities/key", 4096)):
            yield folder, tree.text(f"{folder}/name", 256) or name
    for name in tree.names(_USB_DIR):
        folder = f"{_USB_DIR}/{name}"
        kind = (tree.text(f"{folder}/bInterface{part}", 8) for part in ("Class", "SubClass", "Protocol"))
        if ":" in name and tuple(kind) == _BOOT_KEYBOARD:
            yield folder, f"usb {name}"


def mice(tree: Tree) -> Iterator[str]:
    """The folders of what points: mice, tablets, a management controller's pointer."""
    for name in tree.names(_INPUT_DIR):
        folder = f"{_INPUT_DIR}/{name}"
        if re.match(r"input\d+$", name) and _has_left_button(tree.text(f"{folder}/capabilities/key", 4096)):
            yield folder


def _has_left_button(keys: str | None) -> bool:
    """As a kernel of 64 bits writes it; of fewer, such a bitmap says nothing here."""
    word, bit = divmod(_BTN_LEFT, 64)
    words = (keys or "").split()[::-1]
    return (
        len(words) > word
        and re.match(r"[0-9a-fA-F]{1,16}$", words[word]) is not None
        and bool(int(words[word], 16) >> bit & 1)
    )


def _has_letters(keys: str | None) -> bool:
    """A bitmap in hexadecimal words, the lowest last."""
    words = (keys or "").split()
    lowest = words[-1] if words else ""
    return re.match(r"[0-9a-fA-F]{1,16}$", lowest) is not None and int(lowest, 16) & _LETTERS == _LETTERS
