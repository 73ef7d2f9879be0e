"""What guests can boot by and seal with, as libvirt's domain capabilities say it (form of libvirt 9.0, Debian 12)."""

from typing import Any

import pytest
from lxml import etree

from atomd.hypervisor.machine import firmwares_of, has_tpm
from matcher.wire.messages import Firmware

BIOS, UEFI, SECURE = Firmware.BIOS, Firmware.UEFI, Firmware.UEFI_SECURE


def known(*, efi: bool = True, secure: tuple[str, ...] = ("yes", "no"), tpm: str = "") -> Any:
    firmware = "<value>efi</value>" if efi else ""
    values = "".join(f"<value>{value}</value>" for value in secure)
    return etree.fromstring(f"""<domainCapabilities>
      <os supported='yes'><enum name='firmware'>{firmware}</enum>
        <loader supported='yes'><value>/usr/share/OVMF/OVMF_CODE_4M.fd</value>
          <enum name='type'><value>rom</value><value>pflash</value></enum>
          <enum name='readonly'><value>yes</value><value>no</value></enum>
          <enum name='secure'>{values}</enum></loader></os>
      <devices>{tpm}</devices></domainCapabilities>""")


def tpm(supported: str = "yes", models: str = "emulator", versions: str = "2.0") -> str:
    enums = "".join(
        f"<enum name='{name}'>{''.join(f'<value>{value}</value>' for value in values.split())}</enum>"
        for name, values in (("model", "tpm-tis tpm-crb"), ("backendModel", models), ("backendVersion", versions))
    )
    return f"<tpm supported='{supported}'>{enums}</tpm>"


def test_the_firmwares_are_those_that_libvirt_knows_files_of() -> None:
    assert firmwares_of(known(), "x86_64") == {BIOS, UEFI, SECURE}
    assert firmwares_of(known(secure=("no",)), "x86_64") == {BIOS, UEFI}
    assert firmwares_of(known(efi=False, secure=("no",)), "x86_64") == {BIOS}
    assert firmwares_of(known(efi=False), "x86_64") == {BIOS}, "a loader without its descriptor is never chosen"


def test_on_64_bit_arm_the_default_is_uefi_and_nothing_boots_without() -> None:
    assert firmwares_of(known(secure=("no",)), "aarch64") == {BIOS, UEFI}
    assert firmwares_of(known(efi=False, secure=("no",)), "aarch64") == frozenset()


def test_machines_without_uefi_boot_by_what_they_have() -> None:
    assert firmwares_of(known(), "s390x") == {BIOS}


@pytest.mark.parametrize(
    ("said", "has"),
    [
        (tpm(models="passthrough emulator external", versions="1.2 2.0"), True),
        (tpm(models="passthrough external"), False),  # no swtpm: the host's own would be one guest's alone
        (tpm(versions="1.2"), False),
        (tpm(supported="no"), False),
        ("", False),
    ],
)
def test_a_tpm_is_an_emulator_of_version_2(said: str, has: bool) -> None:
    assert has_tpm(known(tpm=said)) is has
