"""libvirt's and QEMU's error messages, as sentences that a person can act on. Pure.

Their error codes are coarse (one code for a missing CPU model and for a dead socket), so that the words have to tell.
The patterns were measured with libvirt 9.0 and QEMU 7.2; what is not known here is passed on as it is.
"""

import re
from collections.abc import Sequence

WORDS_MAX = 1000  # of libvirt's, before they are understood
SENTENCE_MAX = 240  # fits a line of the wire

_KIND = re.compile(
    r"^(internal error|operation failed|unsupported configuration|invalid argument|Network not found): ?"
)
_QEMU_SAYS = re.compile(r"^.*?qemu-(?:system-\w+|kvm): (?:-\w+ \{.*?\}: )?")

TARGET_AWAY = "a volume's host can't be reached for iSCSI"

# The first that is found counts; {0} and {1} are the pattern's groups.
_START_HINTS = tuple(
    (re.compile(pattern), hint)
    for pattern, hint in (
        (r"Cannot access storage file '(.+?)'.*: (.+)$", "the volume at {0} can't be opened: {1}"),
        (
            r"Could not open '(.+?)': Permission denied",
            "QEMU's user may not open the volume at {0}: let it read and write the image and enter the folders above",
        ),
        (r'Failed to get "|Failed to lock', "a volume is in use by another process on this host, such as another VM"),
        (
            r"iSCSI.*[Aa]uth(?:entic|oriz)ation failure",
            "a volume's host does not take this host's word any more: the volume may have another holder by now",
        ),
        (
            r"iSCSI: Failed to connect|iscsi.*(?:No route|timed out|refused)",
            TARGET_AWAY,
        ),
        (
            r"Unknown protocol 'iscsi'|[Uu]nknown driver 'iscsi'|module.*iscsi",
            "this host's QEMU can't use volumes of other hosts: install qemu-block-extra",
        ),
        (r"Image is not in (\w+) format", "a volume's meta.json says {0}, but its image is no such thing"),
        (r"no network with matching name '(.+?)'", "libvirt has no network '{0}' on this host"),
        (r"network '(.+?)' is not active", "the network '{0}' of this host is not active: virsh net-start {0}"),
        (
            r"missing features: (.+)$",
            "guests on this host do not get the CPU flags {0}: something has changed since it made the offer",
        ),
        (
            r"hugetlbfs|[Hh]uge pages|preallocat",
            "this host's huge pages are used by something else, or libvirt sees none: mount | grep hugetlbfs",
        ),
        (r"[Cc]annot (?:allocate|set up guest) memory", "this host has not enough free memory for it now"),
        (
            r"doesn't support passthrough",
            "this host can't give PCI devices to guests: enable the IOMMU (VT-d, AMD-Vi) in its firmware and kernel",
        ),
        (
            r"group (\d+) is not viable",
            "a PCI device can't be given away: the host still uses others of IOMMU group {0}",
        ),
        (r"Did not find USB device (\S+)", "the USB device {0} is not plugged into this host any more"),
        (r"USB device (\S+) (?:is )?in use", "the USB device {0} is in use by another domain"),
        (r"PCI device (\S+) is in use", "the PCI device {0} is in use by another domain"),
        (r"Device (\S+) not found: could not access", "the PCI device {0} is gone from this host"),
        (
            r"Cannot open log file: '(.+?)': Device or resource busy",
            "the console's log {0} is held by another domain on this host",
        ),
        (r"Unable to open file: (.+?): (.+)$", "the console's log {0} can't be written: {1}"),
        (r"virtlogd-sock", "virtlogd does not answer on this host: systemctl start virtlogd.socket"),
        (
            r"any firmware|to find .*efi|firmware .*not found|No suitable firmware",
            "this host has no such UEFI firmware for guests: install ovmf (edk2-ovmf on Red Hat)",
        ),
        (
            r"swtpm|TPM emulator",
            "this host can't give the VM a TPM: install swtpm-tools, or read /var/log/swtpm/libvirt/qemu",
        ),
        (
            r"[Ff]ailed to initialize kvm|KVM kernel module|kvm\.c:|is not supported by .*virt.?type.*kvm",
            "KVM does not run guests on this host: accelerator = tcg in atomd's configuration emulates them",
        ),
        (r"No emulator found for arch '(.+?)'", "this host has no QEMU for {0} guests"),
    )
)


_PLUG_HINTS = (
    (
        re.compile(r"No more available PCI slots"),
        "this VM has no free slot for a disk: it was started before VMs got spare ones, or has filled them",
    ),
)


def plain(message: str) -> str:
    """On one line, without libvirt's word for the kind of error."""
    return _KIND.sub("", " ".join(message.split()))[:WORDS_MAX]


def explain_start(words: str) -> str:
    """Why a domain did not start and, where we know it, what to do."""
    return _explained(words, _START_HINTS, "libvirt did not start it")


def explain_plug(words: str) -> str:
    """Why a running domain did not take a disk."""
    return _explained(words, (*_PLUG_HINTS, *_START_HINTS), "libvirt did not attach it")


def _explained(words: str, hints: Sequence[tuple[re.Pattern[str], str]], otherwise: str) -> str:
    for pattern, hint in hints:
        found = pattern.search(words)
        if found:
            return hint.format(*found.groups())[:SENTENCE_MAX]
    return f"{otherwise}: {_QEMU_SAYS.sub('QEMU says: ', words)}"[:SENTENCE_MAX]
