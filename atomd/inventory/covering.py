"""What a recording of a machine may tell others: how it is built, and nothing of whose it is. Pure.

A recording goes into bug reports and tests. So what is written is what the inventory needs of each file, and where that
could be a name, a number that is this one machine's, or an address, another stands in for it: the same one wherever it
stands. A file without a rule here is left empty.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from atomd.inventory.config_space import covered_config
from atomd.inventory.paths import DMI_RECORD, SMBIOS_TABLES
from atomd.inventory.smbios import only_memory

_WORDS_MAX_BYTES = 64 * 1024
# What sysfs says in the files that are read: numbers, sets, and words of the kernel's own.
_PLAIN = re.compile(r"[0-9a-fA-FxX,.:+\-\s]*[KMG]?\s*|[A-Za-z][A-Za-z0-9_ +/().-]{0,40}\s*")
_MAC = re.compile(r"(?:[0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}")
_ONES_OWN = re.compile(r"(?:[0-9].*){5}|[0-9a-fA-F]{8}")
_BOOT_WORDS = re.compile(r"(?:console|isolcpus|nohz_full|iommu|intel_iommu|amd_iommu|vfio[\w.-]*|pci|nosmt)(?:=\S*)?$")
_MODULE_LINE = re.compile(r"^\s*options\s+vfio.*$", re.MULTILINE)
_SERIAL = re.compile(r"^\s*[^:\n]*serial[^:\n]*:.*\n?", re.MULTILINE | re.IGNORECASE)
_S390_IDENTITY = re.compile(r"(identification = )[0-9A-Fa-f]+")
_WITHOUT_DISKS = {"zfs", "bcachefs", "btrfs"}
_ROOT_MOUNT = "1 1 0:1 / / rw - rootfs rootfs rw\n"


@dataclass(slots=True)
class Cover:
    """Stand-ins for the names of one machine."""

    names: dict[str, str] = field(default_factory=dict)

    def hide(self, kind: str, names: Iterable[str]) -> None:
        """All of one kind: "link", "disk"."""
        for name in sorted(names):
            self.names.setdefault(name, f"{kind}{len(self.names)}")

    def path(self, path: str) -> str:
        """With the stand-in of each part that has one; also behind `upper_`, as sysfs writes it, or a link's target."""
        return "/".join(self._part(part) for part in path.split("/"))

    def content(self, path: str, data: bytes) -> bytes:
        for pattern, cover in _RULES:
            if re.fullmatch(pattern, path):
                return cover(self, data)
        return data if path.startswith("sys/") and self._is_plain(data) else b""

    def _part(self, part: str) -> str:
        head, tail = ("upper_", part[6:]) if part.startswith("upper_") else ("", part)
        return head + self.names.get(tail, tail)

    def _is_plain(self, data: bytes) -> bool:
        text = data.decode(errors="replace")
        is_known = any(name in text for name in self.names)
        return len(data) <= _WORDS_MAX_BYTES and not is_known and not _MAC.search(text) and bool(_PLAIN.fullmatch(text))


def _cpuinfo(_: Cover, data: bytes) -> bytes:
    return _S390_IDENTITY.sub(r"\g<1>000000", _SERIAL.sub("", _text(data))).encode()


def _command_line(_: Cover, data: bytes) -> bytes:
    return " ".join(word for word in _text(data).split() if _BOOT_WORDS.match(word)).encode()


def _module_options(_: Cover, data: bytes) -> bytes:
    return "\n".join(_MODULE_LINE.findall(_text(data))).encode()


def _interrupts(_: Cover, data: bytes) -> bytes:
    return "\n".join(f" {kind}" for kind in ("IO-APIC", "IR-IO-APIC") if f" {kind}" in _text(data)).encode()


def _version(_: Cover, data: bytes) -> bytes:
    return b"Linux ppc64le" if b"ppc64le" in data else b"Linux"


def _mounts(cover: Cover, data: bytes) -> bytes:
    """Those with a disk below, without the places."""
    lines = [_ROOT_MOUNT]
    for line in _text(data).splitlines():
        words = line.split(" ")
        dash = words.index("-", 6) if "-" in words[6:] else len(words)
        if len(words) > dash + 2 and (words[dash + 2].startswith("/dev/") or words[dash + 1] in _WITHOUT_DISKS):
            source = cover.path(words[dash + 2])
            lines.append(f"{words[0]} 1 {words[2]} / /mount rw - {words[dash + 1]} {source} rw\n")
    return "".join(lines).encode()


def _mount_table(cover: Cover, data: bytes) -> bytes:
    rows = [line.split(" ") for line in _text(data).splitlines()]
    kept = [row for row in rows if len(row) > 2 and (row[0].startswith("/dev/") or row[2] in _WITHOUT_DISKS)]
    return "".join(
        ["rootfs / rootfs rw 0 0\n", *(f"{cover.path(row[0])} /mount {row[2]} rw 0 0\n" for row in kept)]
    ).encode()


def _swaps(cover: Cover, data: bytes) -> bytes:
    head, *lines = _text(data).splitlines() or [""]
    return "\n".join([head, *(cover.path(re.split(r"[ \t]", line)[0]) for line in lines)]).encode()


def _dmi_record(_: Cover, data: bytes) -> bytes:
    return "\n".join(line for line in _text(data).splitlines() if line.startswith("E:MEMORY_ARRAY_EC_TYPE=")).encode()


def _name(cover: Cover, data: bytes) -> bytes:
    return cover.path(_text(data).strip()).encode()


def _usb_name(cover: Cover, data: bytes) -> bytes:
    """Without words that may be this one device's: many digits, or nothing but hexadecimal."""
    words = _text(data).split()
    plain = [word for word in words if not _MAC.search(word) and not any(name in word for name in cover.names)]
    return " ".join(word for word in plain if not _ONES_OWN.search(word)).encode()


def _framebuffer(_: Cover, data: bytes) -> bytes:
    return b"frame buffer" if b"frame buffer" in data else b""


def _keep(_: Cover, data: bytes) -> bytes:
    return data


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode(errors="replace")


_Rule = Callable[[Cover, bytes], bytes]
_RULES: tuple[tuple[str, _Rule], ...] = (
    (r"proc/cpuinfo", _cpuinfo),
    (r"proc/sys/kernel/arch", _keep),
    (r"proc/meminfo|sys/devices/system/node/node\d+/meminfo", _keep),
    (r"proc/cmdline", _command_line),
    (r"proc/version", _version),
    (r"proc/interrupts", _interrupts),
    (r"proc/(?:self|\d+)/mountinfo", _mounts),
    (r"proc/(?:(?:self|\d+)/)?mounts", _mount_table),
    (r"proc/swaps", _swaps),
    (r"etc/modprobe\.d/.*", _module_options),
    (re.escape(DMI_RECORD), _dmi_record),
    (re.escape(SMBIOS_TABLES), lambda _, data: only_memory(data)),
    (r"sys/devices/.*/config", lambda _, data: covered_config(data)),
    (r"sys/.*/dm/name", _name),
    (r"sys/.*/vtcon\d+/name", _framebuffer),
    (r"sys/devices/.*/(?:product|manufacturer)", _usb_name),
    (r"sys/.*/input\d+/name", lambda _cover, _data: b""),
)
