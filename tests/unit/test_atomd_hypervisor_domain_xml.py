"""Domain XML: what each part of the spec becomes, and what never appears."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from atomd.hypervisor.cells import Cell
from atomd.hypervisor.disk_xml import Disks, domain_secrets, one_disk_xml, secret_usage, secret_xml
from atomd.hypervisor.domain_xml import (
    DomainSpec,
    Tag,
    domain_xml,
    enforced_flags,
    mac_address,
    read_tag,
    safe_title,
    state_xml,
    vm_id_of,
)
from atomd.inventory.addresses import mdev_uuid
from atomd.inventory.facts import Pages, UsbDevice
from atomd.volumes.answers import HOT_MAX
from matcher.wire.messages import Accelerator, Address, Arch, Firmware, ImageFormat
from matcher.wire.volumes import AttachedVolume, ChapSecret, IscsiTarget
from specs.ids import UserId, VmId

LIBVIRTS_OWN = etree.RelaxNG(etree.parse("/usr/share/libvirt/schemas/domain.rng"))
VM_ID = VmId("5a" * 16)
SPEC = DomainSpec(
    vm_id=VM_ID,
    generation=3,
    title="web",
    user_id=UserId("a1" * 32),
    accelerator=Accelerator.KVM,
    arch=Arch.X86_64,
    vcpus=4,
    threads=(2, 50, 3, 51),
    exclusive=True,
    threads_per_core=2,
    ram_mib=2048,
    console_log="/var/lib/atomos/console.log",
)


def volume(letter: str, **changes: Any) -> AttachedVolume:
    plain = AttachedVolume(letter * 32, f"/pool/{letter}.img", ImageFormat.RAW, False, False, False)
    return dataclasses.replace(plain, **changes)


def built(**changes: Any) -> Any:
    return etree.fromstring(domain_xml(dataclasses.replace(SPEC, **changes)))


def test_exclusive_vcpus_are_pinned_one_to_one_in_the_offers_order() -> None:
    domain = built(emulator_threads=(0, 1))
    pins = {int(pin.get("vcpu")): pin.get("cpuset") for pin in domain.iterfind("cputune/vcpupin")}
    assert pins == {0: "2", 1: "50", 2: "3", 3: "51"}
    assert domain.find("cputune/emulatorpin").get("cpuset") == "0,1"


def test_shared_vcpus_float_over_exactly_the_claims_threads() -> None:
    domain = built(exclusive=False)
    assert domain.find("vcpu").get("cpuset") == "2,3,50,51"
    assert domain.find("cputune/vcpupin") is None


def test_qemus_own_threads_stay_with_the_vcpus_where_no_other_place_is_given() -> None:
    assert built().find("cputune/emulatorpin").get("cpuset") == "2,3,50,51"


def test_the_guest_sees_the_cores_that_it_was_promised() -> None:
    assert dict(built().find("cpu/topology").attrib) == {"sockets": "1", "dies": "1", "cores": "2", "threads": "2"}


def required(**changes: Any) -> list[str]:
    return [feature.get("name") for feature in built(**changes).iterfind("cpu/feature[@policy='require']")]


def test_a_guest_on_amds_cpus_is_told_which_threads_make_a_core_where_cores_have_several() -> None:
    assert required(topoext=True) == ["topoext"]
    assert required(topoext=True, flags=("sse2", "topoext")) == ["sse2", "topoext"]
    assert required(topoext=True, threads_per_core=1) == required() == []
    assert required(topoext=True, accelerator=Accelerator.TCG) == [], "QEMU's emulation knows no such flag"


CELLS = (Cell(0, 0, 2, 1500), Cell(3, 2, 2, 500), Cell(2, 4, 0, 48))


def test_the_guest_sees_its_cells_each_with_its_memory_near_and_in_sockets_of_its_own() -> None:
    domain = built(cells=CELLS)
    assert [dict(cell.attrib) for cell in domain.iterfind("cpu/numa/cell")] == [
        {"id": "0", "memory": "1500", "unit": "MiB", "cpus": "0-1"},
        {"id": "1", "memory": "500", "unit": "MiB", "cpus": "2-3"},
        {"id": "2", "memory": "48", "unit": "MiB"},
    ]
    assert [(m.get("cellid"), m.get("nodeset")) for m in domain.iterfind("numatune/memnode")] == [
        ("0", "0"),
        ("1", "3"),
        ("2", "2"),
    ]
    assert dict(domain.find("cpu/topology").attrib) == {"sockets": "2", "dies": "1", "cores": "1", "threads": "2"}


def test_vcpus_that_float_and_machines_where_it_was_not_tried_get_no_cells() -> None:
    for changes in ({"exclusive": False}, {"arch": Arch.S390X}, {"arch": Arch.ARM_8}):
        domain = built(cells=CELLS, **changes)
        assert domain.find("cpu/numa") is domain.find("numatune") is None
        assert domain.find("cpu/topology").get("sockets") == "1"


def test_kvm_passes_the_hosts_cpu_and_tcg_gives_all_that_it_can() -> None:
    assert (built().get("type"), built().find("cpu").get("mode")) == ("kvm", "host-passthrough")
    emulated = built(accelerator=Accelerator.TCG)
    assert (emulated.get("type"), emulated.find("cpu").get("mode")) == ("qemu", "maximum")


def test_required_flags_are_held_against_the_running_guest() -> None:
    cpu = built(flags=("avx2", "sse4_1", "constant_tsc")).find("cpu")
    assert cpu.get("check") == "full"
    assert [(f.get("policy"), f.get("name")) for f in cpu.iterfind("feature")] == [
        ("require", "avx2"),
        ("require", "sse4.1"),
    ]
    assert built().find("cpu").get("check") == "none"


def test_a_level_is_all_of_its_flags_and_kernel_names_become_libvirts() -> None:
    assert {"avx2", "bmi1", "pni", "sse4.2", "lm"} <= set(enforced_flags(("x86-64-v3",)))
    assert enforced_flags(("pclmulqdq", "sha_ni", "avx512_vbmi2", "avx512_vpopcntdq", "tsc_deadline_timer")) == (
        "avx512-vpopcntdq",
        "avx512vbmi2",
        "pclmuldq",
        "sha-ni",
        "tsc-deadline",
    )


def test_flags_of_other_architectures_are_left_to_the_offer() -> None:
    assert built(arch=Arch.ARM_8, flags=("sve", "aes")).find("cpu/feature") is None


def test_bootable_volumes_come_first_and_boot_in_order() -> None:
    domain = built(volumes=(volume("a"), volume("b", bootable=True), volume("c"), volume("d", bootable=True)))
    disks = [
        (disk.find("target").get("dev"), disk.find("source").get("file"), disk.find("boot"))
        for disk in domain.iterfind("devices/disk")
    ]
    assert [(dev, file) for dev, file, _ in disks] == [
        ("vda", "/pool/b.img"),
        ("vdb", "/pool/d.img"),
        ("vdc", "/pool/a.img"),
        ("vdd", "/pool/c.img"),
    ]
    assert [boot is not None and boot.get("order") for *_, boot in disks] == ["1", "2", False, False]


def test_formats_are_stated_and_the_chain_ends_at_the_image() -> None:
    (disk,) = built(volumes=(volume("a", format=ImageFormat.QCOW2),)).iterfind("devices/disk")
    assert disk.find("driver").get("type") == "qcow2"
    assert len(disk.find("backingStore")) == 0


TARGET = IscsiTarget(Address("10.0.0.2", 3261), "iqn.2026-01.atomos:h2:v1", 3, "iqn.2026-01.atomos:h1", "v1e7")


def test_a_target_is_opened_by_qemu_as_the_initiator_that_the_server_expects() -> None:
    (disk,) = built(volumes=(volume("a", path="", iscsi=TARGET, bootable=True),)).iterfind("devices/disk")
    source = disk.find("source")
    assert (disk.get("type"), disk.get("device")) == ("network", "disk")
    assert dict(source.attrib) == {"protocol": "iscsi", "name": "iqn.2026-01.atomos:h2:v1/3"}
    assert dict(source.find("host").attrib) == {"name": "10.0.0.2", "port": "3261"}
    assert source.find("initiator/iqn").get("name") == "iqn.2026-01.atomos:h1"
    assert source.find("auth").get("username") == "v1e7"
    assert dict(source.find("auth/secret").attrib) == {"type": "iscsi", "usage": secret_usage(VM_ID, "a" * 32)}
    assert (disk.find("serial").text, disk.find("boot").get("order")) == ("a" * 20, "1")


def test_a_target_is_flushed_at_its_server_and_pauses_the_guest_on_an_error() -> None:
    away, here = built(volumes=(volume("a", path="", iscsi=TARGET), volume("b"))).iterfind("devices/disk")
    assert away.find("driver").get("cache") == "none"
    assert away.find("driver").get("type") == "raw"
    assert here.find("driver").get("cache") == "writeback"
    for disk in (away, here):
        assert disk.find("driver").get("error_policy") == disk.find("driver").get("rerror_policy") == "stop"


def test_a_target_is_read_only_or_shareable_as_a_file_is() -> None:
    domain = built(
        volumes=(
            volume("a", path="", iscsi=TARGET, readonly=True),
            volume("b", path="", iscsi=TARGET, shareable=True),
        )
    )
    readonly, shareable = domain.iterfind("devices/disk")
    assert readonly.find("readonly") is not None
    assert readonly.find("driver").get("discard") is None
    assert shareable.find("shareable") is not None


def test_a_secret_is_never_in_xml_and_is_kept_in_memory_alone() -> None:
    (secret,) = domain_secrets(VM_ID, [ChapSecret("a" * 32, "top secret")])
    assert (secret.usage, secret.value) == (secret_usage(VM_ID, "a" * 32), "top secret")
    assert "top secret" not in repr(secret)
    kept = etree.fromstring(secret_xml(secret.usage))
    assert (kept.get("ephemeral"), kept.get("private")) == ("yes", "yes")
    assert kept.find("usage").get("type") == "iscsi"
    assert kept.findtext("usage/target") == secret.usage
    assert kept.findtext("uuid") == etree.fromstring(secret_xml(secret.usage)).findtext("uuid"), "taken over, not added"
    assert kept.findtext("uuid") != etree.fromstring(secret_xml(secret_usage(VM_ID, "b" * 32))).findtext("uuid")


def test_read_only_and_shareable_are_said() -> None:
    domain = built(volumes=(volume("a", readonly=True), volume("b", shareable=True), volume("c")))
    readonly, shareable, plain = domain.iterfind("devices/disk")
    assert readonly.find("readonly") is not None
    assert readonly.find("driver").get("discard") is None
    assert shareable.find("shareable") is not None
    assert (plain.find("readonly"), plain.find("shareable")) == (None, None)


def test_sixty_four_volumes_have_sixty_four_names() -> None:
    domain = built(volumes=tuple(volume(f"{n:02x}") for n in range(64)))
    names = [disk.find("target").get("dev") for disk in domain.iterfind("devices/disk")]
    assert [names[0], *names[25:28]] == ["vda", "vdz", "vdaa", "vdab"]
    assert len(set(names)) == 64


def test_usb_devices_are_said_by_kind_and_by_number_and_have_a_controller() -> None:
    token = UsbDevice("3-1.4", "1050", "0407", "000000", "", 3, 17, None, None, True, None)
    domain = built(usb=(token,))
    (hostdev,) = domain.iterfind("devices/hostdev")
    assert hostdev.attrib == {"mode": "subsystem", "type": "usb", "managed": "yes"}
    said = {each.tag: dict(each.attrib) for each in hostdev.iterfind("source/*")}
    assert said == {
        "vendor": {"id": "0x1050"},
        "product": {"id": "0x0407"},
        "address": {"bus": "3", "device": "17"},
    }
    assert [each.get("model") for each in domain.iterfind("devices/controller[@type='usb']")] == ["qemu-xhci"]
    assert [each.get("model") for each in built().iterfind("devices/controller[@type='usb']")] == ["none"]


def test_pci_addresses_are_taken_apart_and_managed() -> None:
    (hostdev,) = built(pci=("0001:3b:00.1",)).iterfind("devices/hostdev")
    assert hostdev.get("managed") == "yes"
    assert dict(hostdev.find("source/address").attrib) == {
        "domain": "0x0001",
        "bus": "0x3b",
        "slot": "0x00",
        "function": "0x1",
    }


def test_a_mediated_device_is_named_by_the_uuid_that_it_is_made_with() -> None:
    (hostdev,) = built(pci=("0000:3b:00.0/3",)).iterfind("devices/hostdev")
    assert dict(hostdev.attrib) == {"mode": "subsystem", "type": "mdev", "model": "vfio-pci"}
    assert dict(hostdev.find("source/address").attrib) == {"uuid": mdev_uuid("0000:3b:00.0/3")}


def test_memory_prefers_its_node_only_where_there_is_one() -> None:
    assert built(numa=1).find("numatune/memory").attrib == {"mode": "preferred", "nodeset": "1"}
    assert built(numa=-1).find("numatune") is None


def test_huge_pages_are_of_their_size_and_their_node_wherever_the_threads_are() -> None:
    domain = built(numa=-1, pages=Pages(2, 1024 * 1024, 4))
    assert domain.find("memoryBacking/hugepages/page").attrib == {"size": "1048576", "unit": "KiB"}
    assert domain.find("numatune/memory").attrib == {"mode": "preferred", "nodeset": "2"}
    assert built(numa=1).find("memoryBacking/hugepages") is None


def test_uefi_is_asked_for_where_the_architecture_has_it() -> None:
    assert built(firmware=Firmware.UEFI).find("os").get("firmware") == "efi"
    assert built().find("os").get("firmware") is None
    assert built(arch=Arch.ARM_8).find("os").get("firmware") == "efi", "ARM has no other firmware"
    assert built(arch=Arch.S390X, firmware=Firmware.UEFI).find("os").get("firmware") is None


def features(os: Any) -> dict[str, str]:
    return {each.get("name"): each.get("enabled") for each in os.iterfind("firmware/feature")}


def test_secure_boot_has_keys_and_keeps_its_variables_from_the_guests_kernel() -> None:
    secure = built(firmware=Firmware.UEFI_SECURE)
    assert features(secure.find("os")) == {"secure-boot": "yes", "enrolled-keys": "yes"}
    assert secure.find("features/smm").get("state") == "on"
    plain = built(firmware=Firmware.UEFI)
    assert features(plain.find("os")) == {"enrolled-keys": "no"}, "an unsigned system boots"
    assert plain.find("features/smm") is None


def test_uefi_boots_from_no_network() -> None:
    switches = {each.get("name"): each.text for each in built(firmware=Firmware.UEFI).iterfind("sysinfo/entry")}
    assert switches == {f"opt/org.tianocore/IPv{version}Support": "no" for version in (4, 6)}
    assert built().find("sysinfo") is None


def test_a_tpm_is_an_emulated_one_whose_state_outlives_the_transient_domain() -> None:
    backend = built(tpm=True).find("devices/tpm/backend")
    assert dict(backend.attrib) == {"type": "emulator", "version": "2.0", "persistent_state": "yes"}
    assert built().find("devices/tpm") is None


@pytest.mark.parametrize("firmware", Firmware)
@pytest.mark.parametrize("tpm", [False, True])
@pytest.mark.parametrize("arch", [Arch.X86_64, Arch.ARM_8, Arch.PPC_64])
def test_what_erases_a_vms_state_speaks_of_the_same_firmware_and_of_nothing_else(
    arch: Arch, firmware: Firmware, tpm: bool
) -> None:
    xml = state_xml(VM_ID, arch, firmware, tpm=tpm)
    state, domain = etree.fromstring(xml), built(arch=arch, firmware=firmware, tpm=tpm)
    for place in ("name", "uuid", "os/type", "os/firmware", "features/smm", "devices/tpm"):
        assert [etree.tostring(each, method="c14n", exclusive=True).split() for each in state.iterfind(place)] == [
            etree.tostring(each, method="c14n", exclusive=True).split() for each in domain.iterfind(place)
        ]
    assert state.find("os").get("firmware") == domain.find("os").get("firmware")
    assert [each.tag for each in state.find("devices")] == ["tpm"] * tpm
    for written in (xml, domain_xml(dataclasses.replace(SPEC, arch=arch, firmware=firmware, tpm=tpm))):
        LIBVIRTS_OWN.assertValid(etree.fromstring(written))


@pytest.mark.parametrize("arch", Arch)
def test_every_architecture_has_a_machine(arch: Arch) -> None:
    domain = built(arch=arch)
    assert domain.find("os/type").get("machine")
    assert (domain.find("features/acpi") is not None) == (arch in {Arch.X86_32, Arch.X86_64, Arch.ARM_8})


def test_the_agents_channel_is_there_when_asked_for() -> None:
    assert built(qemu_agent=True).find("devices/channel/target").get("name") == "org.qemu.guest_agent.0"
    assert built().find("devices/channel") is None


def test_nothing_listens_on_the_network() -> None:
    domain = built()
    assert domain.find("devices/graphics") is None
    assert domain.find("devices/serial").get("type") == "pty"
    assert domain.find("devices/serial/log").get("file") == SPEC.console_log


@pytest.mark.parametrize(
    ("label", "title"),
    [
        ("web", "web"),
        ("</title><devices/>", "</title><devices/>"),
        ("a\nb\tc\r\n", "a b c"),
        ("evil\u202etxt.exe", "evil\ufffdtxt.exe"),
        ("\x1b[31mred\x00", "\ufffd[31mred\ufffd"),
        ("--all,=", "--all,="),
        ("שלום", "שלום"),
        ("\ud800lone", "\ufffdlone"),
        ("👩‍💻", "👩‍💻"),
    ],
)
def test_labels_are_made_harmless_and_stay_readable(label: str, title: str) -> None:
    assert safe_title(label) == title


def test_an_empty_label_leaves_no_title() -> None:
    assert built(title="\n").find("title") is None


def test_a_mac_address_is_stable_local_and_its_vms_own() -> None:
    assert mac_address(VM_ID) == mac_address(VM_ID) != mac_address(VmId("5b" * 16))
    first = int(mac_address(VM_ID)[:2], 16)
    assert first & 0b10, "locally administered"
    assert not first & 0b01, "unicast"


def test_a_tag_that_somebody_garbled_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    nothing = Tag(None, None, None)
    assert read_tag("") == read_tag("<not xml") == read_tag("<x/>") == nothing
    half = '<vm xmlns="urn:atomos:domain:1"><id>no</id><generation>2</generation><user>Z</user></vm>'
    assert read_tag(half) == Tag(None, 2, None)
    (tmp_path / "seven").write_text("7")
    entity = f'<!DOCTYPE v [<!ENTITY e SYSTEM "{tmp_path}/seven">]><vm><generation>&e;</generation></vm>'
    assert read_tag(entity) == nothing, "no file of the host is read"


def test_the_vm_is_read_back_from_its_xml() -> None:
    assert vm_id_of(domain_xml(SPEC)) == VM_ID


@pytest.mark.parametrize(
    "wrong",
    [{"vcpus": 0, "threads": (1,)}, {"threads": (1, 1, 2, 3)}, {"threads": (1, 2)}, {"threads_per_core": 3}],
)
def test_a_spec_that_contradicts_itself_is_a_bug(wrong: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        dataclasses.replace(SPEC, **wrong)


# ---- CDs, and disks that come later


def test_a_cd_is_in_a_drive_and_booted_after_every_bootable_disk() -> None:
    cd, disk = volume("a", cdrom=True, readonly=True), volume("b", bootable=True)
    first, second = built(volumes=(cd, disk)).iterfind("devices/disk")
    assert (first.get("device"), first.find("target").get("dev"), first.find("boot").get("order")) == (
        "disk",
        "vda",
        "1",
    )
    assert (second.get("device"), second.find("target").get("bus")) == ("cdrom", "sata")
    assert (second.find("boot").get("order"), second.find("readonly") is not None) == ("2", True)
    (alone,) = built(volumes=(cd,)).iterfind("devices/disk")
    assert alone.find("boot").get("order") == "1"
    arm = built(arch=Arch.ARM_8, volumes=(cd,))
    assert arm.find("devices/disk/target").get("bus") == "scsi"
    assert arm.find("devices/controller[@type='scsi']").get("model") == "virtio-scsi"


def test_an_express_machine_has_free_ports_for_disks_that_come_later() -> None:
    ports = "devices/controller[@model='pcie-root-port']"
    few, many = built(), built(volumes=(volume("a"), volume("b"), volume("c", cdrom=True)), qemu_agent=True)
    assert len(few.findall(ports)) == 2 + HOT_MAX
    assert len(many.findall(ports)) == 2 + 1 + 2 + HOT_MAX, "a CD is on another bus"
    assert built(arch=Arch.S390X).find(ports) is None


def test_one_disk_more_has_a_name_that_is_free_and_is_found_again_by_its_serial() -> None:
    domain = domain_xml(dataclasses.replace(SPEC, volumes=(volume("a"), volume("c", cdrom=True, readonly=True))))
    disks = Disks(domain)
    assert disks.names == {"vda", "sda"}
    assert (disks.has("a" * 32), disks.has("b" * 32)) == (True, False)
    disk = etree.fromstring(one_disk_xml(volume("b", bootable=True), VM_ID, disks.names))
    assert (disk.find("target").get("dev"), disk.find("boot"), disk.find("serial").text) == ("vdb", None, "b" * 20)
    assert disks.without_disc("a" * 32) is None
    empty = etree.fromstring(disks.without_disc("c" * 32) or "")
    assert (empty.find("source"), empty.find("target").get("dev")) == (None, "sda")
    ejected = domain.replace('file="/pool/c.img"', 'index="2"')
    assert not Disks(ejected).has("c" * 32), "libvirt leaves a source that names nothing"


@pytest.mark.parametrize("xml", ["", "<domain>", "<domain><devices><disk/></devices></domain>"])
def test_a_domain_that_can_not_be_read_has_no_disk_of_ours(xml: str) -> None:
    assert not Disks(xml).has("a" * 32)


# ---- folders


def test_a_folder_is_no_disk_and_its_virtiofsd_may_read_the_guests_memory() -> None:
    folder = volume("b", path="/run/atomos/shares/b", format=ImageFormat.FOLDER, shareable=True)
    domain = built(volumes=(folder, volume("a")))
    assert len(domain.findall("devices/disk")) == 1
    (shared,) = domain.iterfind("devices/filesystem")
    assert (shared.find("source").get("dir"), shared.find("target").get("dir")) == (folder.path, folder.vid)
    assert shared.find("driver").get("type") == "virtiofs"
    assert domain.find("memoryBacking/source").get("type") == "memfd"
    assert domain.find("memoryBacking/access").get("mode") == "shared"


def test_memory_is_the_guests_alone_where_there_is_no_folder() -> None:
    domain = built(volumes=(volume("a"),))
    assert (domain.find("memoryBacking/source"), domain.find("memoryBacking/access")) == (None, None)
