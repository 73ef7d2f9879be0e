"""What `inspect` tells of a VM."""

from dataclasses import replace

from matcher.cli.views import vm_detail
from matcher.wire.messages import ImageFormat, VmVolume
from tests.fakes.door import VM

A, B, C = "a" * 32, "b" * 32, "c" * 32
H2 = "2" * 64


def test_each_volume_says_which_host_it_comes_from() -> None:
    volumes = (
        VmVolume(A, ImageFormat.RAW, False, True, VM.host_id),
        VmVolume(B, ImageFormat.RAW, True, False, H2),
        VmVolume(C, ImageFormat.QCOW2, False, False),  # from an atomd that does not say
    )
    assert vm_detail(replace(VM, volumes=volumes))["volumes"] == [
        {"vid": A, "format": "raw", "readonly": False, "bootable": True, "from": "here"},
        {"vid": B, "format": "raw", "readonly": True, "bootable": False, "from": H2},
        {"vid": C, "format": "qcow2", "readonly": False, "bootable": False, "from": "here"},
    ]
