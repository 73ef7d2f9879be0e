"""Whatever a user writes, the domain stays what the host decided."""

import dataclasses
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from atomd.hypervisor.domain_xml import (
    NAMESPACE,
    DomainSpec,
    Tag,
    domain_xml,
    enforced_flags,
    mac_address,
    read_tag,
    safe_title,
)
from atomd.hypervisor.domains import StartFailed
from matcher.wire.messages import Accelerator, Arch, Firmware, ImageFormat
from matcher.wire.volumes import AttachedVolume
from specs.ids import UserId, VmId

HEX = "0123456789abcdef"
ids = st.text(HEX, min_size=32, max_size=32)
any_text = st.text(st.characters(), max_size=200)  # surrogates and controls too
paths = st.text(max_size=60).filter(str.isprintable).map("/".__add__)
volumes = st.builds(
    AttachedVolume,
    vid=ids,
    path=paths,
    format=st.sampled_from(ImageFormat),
    readonly=st.booleans(),
    shareable=st.booleans(),
    bootable=st.booleans(),
)


@st.composite
def specs(draw: st.DrawFn) -> DomainSpec:
    threads_per_core = draw(st.integers(1, 4))
    vcpus = threads_per_core * draw(st.integers(1, 8))
    threads = draw(st.lists(st.integers(0, 255), min_size=vcpus, max_size=vcpus, unique=True))
    return DomainSpec(
        vm_id=VmId(draw(ids)),
        generation=draw(st.integers(1, 2**31 - 1)),
        title=draw(any_text),
        user_id=UserId(draw(st.text(HEX, min_size=64, max_size=64))),
        accelerator=draw(st.sampled_from(Accelerator)),
        arch=draw(st.sampled_from(Arch)),
        vcpus=vcpus,
        threads=tuple(threads),
        exclusive=draw(st.booleans()),
        threads_per_core=threads_per_core,
        ram_mib=draw(st.integers(1, 2**26)),
        console_log="/var/lib/atomos/console.log",
        numa=draw(st.integers(-1, 8)),
        volumes=tuple(draw(st.lists(volumes, max_size=6))),
        flags=tuple(draw(st.lists(any_text | st.sampled_from(["avx2", "x86-64-v4", "sse4_1"]), max_size=5))),
        firmware=draw(st.sampled_from(Firmware)),
        tpm=draw(st.booleans()),
        emulator_threads=draw(st.none() | st.lists(st.integers(0, 255), max_size=4, unique=True).map(tuple)),
        qemu_agent=draw(st.booleans()),
    )


def shape(xml: str) -> str:
    """The document without its title and the flags' names."""
    domain = etree.fromstring(xml)
    for element in (*domain.iterfind("title"), *domain.iterfind("cpu/feature")):
        element.getparent().remove(element)
    domain.find("cpu").attrib.pop("check")
    return etree.tostring(domain, method="c14n").decode()


@given(specs())
def test_labels_and_flags_change_nothing_but_the_title_and_the_required_features(spec: DomainSpec) -> None:
    innocent = dataclasses.replace(spec, title="web", flags=())
    shown = safe_title(spec.title)
    with_title = etree.fromstring(domain_xml(spec))
    assert (with_title.findtext("title") or "") == shown
    if not shown:  # then the line of the title is missing as well, and with it its indentation
        innocent = dataclasses.replace(innocent, title="")
    assert shape(domain_xml(spec)).split() == shape(domain_xml(innocent)).split()


@given(any_text)
def test_a_title_is_one_printable_line_that_xml_can_carry(label: str) -> None:
    title = safe_title(label)
    assert title == safe_title(title), "made harmless once is enough"
    assert len(title.splitlines()) <= 1
    assert len(title) <= 64
    assert not {unicodedata.category(character) for character in title} & {"Cc", "Cs", "Zl", "Zp"}
    element = etree.Element("title")
    element.text = title
    assert etree.fromstring(etree.tostring(element, encoding="unicode")).text == (title or None)


@given(specs())
def test_the_tag_comes_back_as_it_was_written(spec: DomainSpec) -> None:
    element = etree.fromstring(domain_xml(spec)).find(f"metadata/{{{NAMESPACE}}}vm")
    written = etree.tostring(element, encoding="unicode")
    assert read_tag(written) == Tag(spec.vm_id, spec.generation, spec.user_id)


@given(specs())
def test_no_thread_outside_the_claim_carries_a_vcpu(spec: DomainSpec) -> None:
    domain = etree.fromstring(domain_xml(spec))
    sets = [domain.find("vcpu").get("cpuset"), *(pin.get("cpuset") for pin in domain.iterfind("cputune/vcpupin"))]
    assert {int(thread) for text in sets for thread in text.split(",")} == set(spec.threads)
    assert len(sets) == 1 + (spec.vcpus if spec.exclusive else 0)


@given(specs())
def test_every_volume_is_one_disk_or_folder_and_only_a_bootable_one_boots(spec: DomainSpec) -> None:
    domain = etree.fromstring(domain_xml(spec))
    disks, folders = list(domain.iterfind("devices/disk")), list(domain.iterfind("devices/filesystem"))
    sources = [d.find("source").get("file") for d in disks] + [f.find("source").get("dir") for f in folders]
    assert sorted(sources) == sorted(volume.path for volume in spec.volumes)
    boots = [int(disk.find("boot").get("order")) for disk in disks if disk.find("boot") is not None]
    assert boots == list(range(1, 1 + sum(v.bootable for v in spec.volumes if v.format is not ImageFormat.FOLDER)))
    assert len({disk.find("target").get("dev") for disk in disks}) == len(disks)
    for disk in disks:
        assert disk.find("driver").get("type") in {"raw", "qcow2"}
        assert disk.find("backingStore") is not None


@given(st.lists(any_text, max_size=10))
def test_only_flags_of_the_table_ever_reach_libvirt(flags: list[str]) -> None:
    known = set(enforced_flags(("x86-64-v4", "avx512_fp16", "svm", "vmx")))
    for flag in enforced_flags(tuple(flags)):
        assert flag.isascii()
        assert " " not in flag
        assert flag in known or flag.replace("-", "").replace("_", "").replace(".", "").isalnum()


@given(ids, ids)
def test_mac_addresses_are_unicast_local_and_seldom_alike(one: str, other: str) -> None:
    assert (mac_address(VmId(one)) == mac_address(VmId(other))) == (one == other)
    octets = [int(octet, 16) for octet in mac_address(VmId(one)).split(":")]
    assert len(octets) == 6
    assert octets[0] & 0b11 == 0b10
    assert octets[0] != 0xFE, "libvirt keeps it for itself"


@given(st.text(max_size=100) | st.binary(max_size=60).map(lambda data: data.decode("latin-1")))
def test_reading_a_tag_never_raises(text: str) -> None:
    tag = read_tag(text)
    assert tag.generation is None or tag.generation >= 0


@pytest.mark.parametrize("bad", ["\x00", "\x1b", "\ufffe"])
def test_a_path_that_xml_can_not_carry_is_refused_not_mangled(bad: str) -> None:
    volume = AttachedVolume("ab" * 16, f"/pool/{bad}", ImageFormat.RAW, False, False, True)
    spec = DomainSpec(
        vm_id=VmId("5a" * 16),
        generation=1,
        title="",
        user_id=UserId("a1" * 32),
        accelerator=Accelerator.TCG,
        arch=Arch.X86_64,
        vcpus=1,
        threads=(0,),
        exclusive=True,
        threads_per_core=1,
        ram_mib=64,
        console_log="/log",
        volumes=(volume,),
    )
    with pytest.raises(StartFailed, match="rename it"):
        domain_xml(spec)
