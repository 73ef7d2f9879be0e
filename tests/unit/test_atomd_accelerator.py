"""Which accelerator is chosen, and what a person is told, for every way in which KVM can disappoint."""

import shutil
import subprocess
from pathlib import Path

import pytest

from atomd import accelerator
from atomd.accelerator import BOOT_SECTOR, WORKS, NoAccelerator, Qemu, detect, find_qemu, guest_flags
from matcher.wire.messages import Accelerator
from tests.fakes import tiny_guest

FAKE = """#!/bin/sh
# A QEMU that counts how often it is run, answers QMP, and boots as the test says.
echo "$*" >> {folder}/runs
case "$*" in
  *"-machine none"*"-accel kvm"*) {opens} ;;
  *q35*"-accel kvm"*) {kvm} ;;
  *q35*"-accel tcg"*) {tcg} ;;
esac
while read line; do
  case "$line" in
    *expansion*) echo '{{"return": {{"model": {{"props": {{"avx2": true, "sse4.1": true, "sse3": true, "xd": true,
      "kvm-pv-eoi": true, "x-migrate": true, "la57": false, "level": 13}}}}}}}}' | tr -d '\\n'; echo ;;
    *) echo '{{"return": {{}}}}' ;;
  esac
done
"""


class FakeQemu:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kvm_device = folder / "kvm"
        self.kvm_device.touch()

    def acts(self, *, opens: str = "", kvm: str = "exit 33", tcg: str = "exit 33") -> Qemu:
        script = self.folder / "qemu-fake"
        script.write_text(FAKE.format(folder=self.folder, opens=opens or ":", kvm=kvm, tcg=tcg))
        script.chmod(0o755)
        return Qemu(str(script), "9.9 (fake)", None)

    def boots(self) -> int:
        runs = self.folder / "runs"
        return sum("q35" in line for line in runs.read_text().splitlines()) if runs.exists() else 0


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeQemu:
    monkeypatch.setattr(accelerator, "_is_x86", lambda: True)
    monkeypatch.setattr(accelerator, "TEST_S", 0.1)
    monkeypatch.setattr(accelerator, "SECOND_TEST_S", 0.2)
    return FakeQemu(tmp_path)


async def found(fake: FakeQemu, qemu: Qemu, preference: accelerator.Preference = "auto") -> accelerator.Detected:
    return await detect(preference, state_dir=fake.folder, kvm=fake.kvm_device, qemu=qemu)


async def test_kvm_that_runs_a_guest_is_taken(fake: FakeQemu) -> None:
    detected = await found(fake, fake.acts())
    assert (detected.accelerator, detected.why) == (Accelerator.KVM, "KVM runs guests (tried with one)")
    assert detected.guest_flags == {"avx2", "sse4_1", "pni"}


@pytest.mark.parametrize(
    ("kvm", "why"),
    [
        ("exec sleep 9", "KVM opens on this host but does not run guests (a test guest hung for 0.2 s)"),
        (
            "echo 'qemu: failed to set MSR 0x10a' >&2; kill -ABRT $$",
            "KVM opens on this host but does not run guests (QEMU ended with SIGABRT: qemu: failed to set MSR 0x10a)",
        ),
        (
            "echo broken >&2; exit 1",
            "KVM opens on this host but does not run guests (QEMU ended with exit code 1: broken)",
        ),
    ],
)
async def test_kvm_that_opens_but_runs_no_guest_is_told_from_one_that_does(fake: FakeQemu, kvm: str, why: str) -> None:
    detected = await found(fake, fake.acts(kvm=kvm))
    assert detected.accelerator is Accelerator.TCG
    assert detected.why == f"{why}; guests are emulated by TCG, and slow"


async def test_a_missing_device_is_named(fake: FakeQemu) -> None:
    fake.kvm_device.unlink()
    detected = await found(fake, fake.acts())
    assert detected.accelerator is Accelerator.TCG
    assert "is virtualization enabled in the firmware" in detected.why


async def test_a_device_that_qemus_user_may_not_open_is_told_with_its_remedy(fake: FakeQemu) -> None:
    denied = "echo 'Could not access KVM kernel module: Permission denied' >&2; exit 1"
    detected = await found(fake, fake.acts(opens=denied))
    assert detected.accelerator is Accelerator.TCG
    assert "make it group kvm, mode 0660" in detected.why


async def test_insisting_on_kvm_where_it_does_not_work_is_refused_with_the_reason(fake: FakeQemu) -> None:
    with pytest.raises(NoAccelerator, match=r"^the configuration says kvm, but KVM opens on this host but .*broken\)$"):
        await found(fake, fake.acts(kvm="echo broken >&2; exit 1"), "kvm")


async def test_a_host_told_to_emulate_never_tries_kvm(fake: FakeQemu) -> None:
    assert (await found(fake, fake.acts(), "tcg")).accelerator is Accelerator.TCG
    assert fake.boots() == 0


async def test_a_qemu_that_runs_nothing_is_told_from_a_broken_kvm(fake: FakeQemu) -> None:
    with pytest.raises(NoAccelerator, match="can't run even a test guest: no BIOS"):
        await found(fake, fake.acts(kvm="exit 1", tcg="echo no BIOS >&2; exit 1"))


async def test_a_qemu_without_the_test_device_is_trusted(fake: FakeQemu) -> None:
    words = "echo \"'isa-debug-exit' is not a valid device model name\" >&2; exit 1"
    detected = await found(fake, fake.acts(kvm=words))
    assert detected.accelerator is Accelerator.KVM
    assert "was not tried" in detected.why


async def test_the_answer_is_remembered_until_something_that_it_depends_on_changes(fake: FakeQemu) -> None:
    first = await found(fake, fake.acts(kvm="exit 1"))
    boots = fake.boots()
    assert await found(fake, fake.acts()) == first
    assert fake.boots() == boots, "not tried again"
    newer = Qemu(fake.acts().binary, "10.0", None)
    assert (await found(fake, newer)).accelerator is Accelerator.KVM
    await found(fake, fake.acts(kvm="exit 1"))
    fake.kvm_device.chmod(0o600)  # mended by a sysadmin
    assert (await found(fake, fake.acts())).accelerator is Accelerator.KVM


@pytest.mark.parametrize("garbage", ["", "{}", "[]", '{"key": 1}', "\x00"])
async def test_a_garbled_memory_counts_as_none(fake: FakeQemu, garbage: str) -> None:
    (fake.folder / accelerator.REMEMBERED).write_text(garbage)
    assert (await found(fake, fake.acts())).accelerator is Accelerator.KVM


async def test_a_folder_that_can_not_be_written_costs_a_try_and_no_more(fake: FakeQemu) -> None:
    detected = await detect("auto", state_dir=fake.folder / "none", kvm=fake.kvm_device, qemu=fake.acts())
    assert detected.accelerator is Accelerator.KVM


# ---- with the real QEMU, where there is one

needs_qemu = pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="QEMU for x86-64 is not installed")
needs_binutils = pytest.mark.skipif(
    not (shutil.which("as") and shutil.which("ld")), reason="binutils are not installed"
)


@needs_qemu
async def test_the_test_guest_runs_where_qemu_emulates_it() -> None:
    assert (await accelerator._boot(await find_qemu(), "tcg", "max", 20)).code == WORKS


@needs_qemu
async def test_qemu_tells_the_flags_of_its_guests() -> None:
    flags = await guest_flags(await find_qemu(), Accelerator.TCG)
    assert flags is not None
    assert {"sse4_2", "pni", "cx16", "lm", "syscall", "aes"} <= flags
    assert not flags & {"check", "kvm", "xd", "tcg_cpuid", "sse3"}


def assembled(source: Path, folder: Path, bits: str, start: str) -> bytes:
    target, linker = {"32": ("--32", "elf_i386"), "64": ("--64", "elf_x86_64")}[bits]
    subprocess.run(["as", target, "-o", folder / "x.o", source], check=True)
    layout = ["-m", linker, "-Ttext=0x7c00", "-e", start, "--oformat", "binary"]
    subprocess.run(["ld", *layout, "-o", folder / "x.bin", folder / "x.o"], check=True)
    return (folder / "x.bin").read_bytes()


@needs_binutils
def test_the_boot_sector_is_its_source_assembled(tmp_path: Path) -> None:
    source = Path(accelerator.__file__).with_name("kvm_selftest.S")
    assert assembled(source, tmp_path, "64", "start") == BOOT_SECTOR


@needs_binutils
def test_the_tiny_guest_is_its_source_assembled(tmp_path: Path) -> None:
    source = tmp_path / "tiny.S"
    source.write_text(tiny_guest.SOURCE)
    assert assembled(source, tmp_path, "32", "_start") == tiny_guest.BOOT_SECTOR
