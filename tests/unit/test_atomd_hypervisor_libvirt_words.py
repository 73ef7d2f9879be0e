"""libvirt's messages, as measured with libvirt 9.0 and QEMU 7.2, become sentences."""

import pytest

from atomd.hypervisor.libvirt_words import SENTENCE_MAX, explain_start, plain

QEMU = "internal error: process exited while connecting to monitor: 2026-11-20T11:56:06.386312Z qemu-system-x86_64: "
FILE = '-blockdev {"driver":"file","filename":"/pool/x.img","auto-read-only":true,"cache":{"direct":false}}: '


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (
            "Cannot access storage file '/pool/x.img' (as uid:64055, gid:108): Permission denied",
            "the volume at /pool/x.img can't be opened: Permission denied",
        ),
        (
            f"{QEMU}{FILE}Could not open '/x': Permission denied",
            "QEMU's user may not open the volume at /x: let it read and write the image and enter the folders above",
        ),
        (
            f'{QEMU}{FILE}Failed to get "write" lock\nIs another process using the image [/pool/x.img]?',
            "a volume is in use by another process on this host, such as another VM",
        ),
        (
            f"{QEMU}cannot set up guest memory 'pc.ram': Cannot allocate memory",
            "this host has not enough free memory for it now",
        ),
        (
            "operation failed: guest CPU doesn't match specification: missing features: avx512f,avx2",
            "guests on this host do not get the CPU flags avx512f,avx2: something has changed since it made the offer",
        ),
        (
            "Requested operation is not valid: network 'default' is not active",
            "the network 'default' of this host is not active: virsh net-start default",
        ),
        (
            f"{QEMU}../../target/i386/kvm/kvm.c:3183: kvm_buf_set_msrs: Assertion failed.",
            "KVM does not run guests on this host: accelerator = tcg in atomd's configuration emulates them",
        ),
        ("unsupported configuration: No emulator found for arch 'aarch64'", "this host has no QEMU for aarch64 guests"),
        (
            f"{QEMU}{FILE}'file' driver requires '/pool' to be a regular file",
            "libvirt did not start it: QEMU says: 'file' driver requires '/pool' to be a regular file",
        ),
        (
            f"{QEMU}-blockdev {{}}: iSCSI: Failed to connect to LUN : Failed to log in: Authentication failure(513)",
            "a volume's host does not take this host's word any more: the volume may have another holder by now",
        ),
        (
            f"{QEMU}-blockdev {{}}: iSCSI: Failed to connect to LUN : Failed to connect to 10.0.0.2",
            "a volume's host can't be reached for iSCSI",
        ),
        (
            f"{QEMU}-blockdev {{}}: Unknown driver 'iscsi'",
            "this host's QEMU can't use volumes of other hosts: install qemu-block-extra",
        ),
        (
            "internal error: Did not find USB device 1050:0407 bus:3 device:17",
            "the USB device 1050:0407 is not plugged into this host any more",
        ),
        ("USB device 003:017 is in use by driver QEMU, domain x", "the USB device 003:017 is in use by another domain"),
        ("something\nnew", "libvirt did not start it: something new"),
    ],
)
def test_a_failed_start_is_explained(message: str, sentence: str) -> None:
    assert explain_start(plain(message)) == sentence


def test_a_sentence_fits_the_wire_whatever_libvirt_says() -> None:
    assert len(explain_start(plain("x" * 10_000))) <= SENTENCE_MAX
    assert len(explain_start(plain("Cannot access storage file '" + "x" * 900 + "': no"))) <= SENTENCE_MAX
