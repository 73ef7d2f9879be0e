"""A specfile in either form, and what is said about one that is wrong."""

import json
from typing import Any, get_args

import pytest

from specs.problems import SpecError
from specs.specfile import ARCHS, FIRMWARES, Info, Misc, PciNeed, Specfile, parse_specfile

FLAT = '{"slots": 2, "allowSMT": true, "ramsize": 2048, "misc": {"os_family": "linux"}}'
NESTED = '{"cpu": {"slots": 2, "allowSMT": true}, "ram": {"ramsize": 2048}, "misc": {"os_family": "linux"}}'
LEAST = {"slots": 1, "ramsize": 512}


def problems(document: Any, *edits: str) -> dict[str, str]:
    """path → "problem | hint"."""
    text = document if isinstance(document, str | bytes) else json.dumps(document)
    with pytest.raises(SpecError) as caught:
        parse_specfile(text, edits=edits)
    told = {problem.path: f"{problem.problem} | {problem.hint}" for problem in caught.value.problems}
    assert len(told) == len(caught.value.problems), "one problem for each path"
    return told


def parsed(*edits: str, **fields: Any) -> Specfile:
    return parse_specfile(json.dumps(LEAST | fields), edits=edits)


def test_the_flat_and_the_nested_form_mean_the_same() -> None:
    assert parse_specfile(FLAT) == parse_specfile(NESTED)
    assert parse_specfile(FLAT) == Specfile(slots=2, allow_smt=True, ramsize_mib=2048, misc=Misc(os_family="linux"))


def test_a_mixture_is_fine_as_long_as_nothing_is_said_twice() -> None:
    assert parse_specfile('{"slots": 1, "cpu": {"flags": ["aes"]}, "ram": {"ramsize": 512}}').flags == ("aes",)
    told = problems({"slots": 1, "ramsize": 512, "cpu": {"slots": 1}, "ram": {"ramsize": 1024}})
    assert told == {
        "cpu.slots": "says again what slots says (1) | keep one of the two",
        "ram.ramsize": "says again what ramsize says (512) | keep one of the two",
    }


def test_what_is_left_out_has_its_default() -> None:
    spec = parsed()
    assert (spec.allow_smt, spec.overprovision, spec.archs, spec.flags) == (False, 1, ("X86_64",), ())
    assert (spec.req_ecc, spec.pci, spec.misc, spec.info) == (False, (), Misc(), None)
    assert (spec.misc.firmware, spec.misc.qemu_agent) == ("bios", False)


def test_everything_can_be_said_in_both_forms() -> None:
    shared: dict[str, Any] = {
        "info": {"name": "Größe 💡", "description": "d"},
        "pci": [{"vendor": "10DE", "model": "0x24B0", "quantity": 2}, {"vendor": "8086", "model": "1572"}],
        "misc": {"os_family": "linux", "os_flavour": "debian", "qemu_agent": True, "firmware": "uefi"},
    }
    cpu = {
        "slots": 4,
        "overprovision": 4,
        "allowSMT": True,
        "archs": ["ARM_8", "X86_64", "ARM_8"],
        "flags": ["B", "a", "b"],
    }
    ram = {"ramsize": 1024, "reqECC": True}
    flat = parse_specfile(json.dumps({**shared, **cpu, **ram}))
    assert flat == parse_specfile(json.dumps({**shared, "cpu": cpu, "ram": ram}))
    assert flat.pci == (
        PciNeed(vendor="10de", model="24b0", quantity=2),
        PciNeed(vendor="8086", model="1572", quantity=1),
    )
    assert flat.archs == ("ARM_8", "X86_64")
    assert flat.flags == ("a", "b")
    assert parse_specfile(flat.canonical_json()) == flat


A4000, A2000 = {"vendor": "10de", "model": "24b0"}, {"vendor": "10de", "model": "2531"}


def test_devices_may_be_alternatives_in_order() -> None:
    spec = parsed(pci={"any_of": [[A4000], [A2000, {"class": "nic"}], []]})
    assert [[need.model for need in needs] for needs in spec.pci_alternatives] == [["24b0"], ["2531", ""], []]
    assert spec.pci == ()
    assert parse_specfile(spec.canonical_json()) == spec
    assert parsed(pci=[A4000]).pci_alternatives == (parsed(pci=[A4000]).pci,)
    edited = parsed("pci.any_of.1.0.quantity=2", pci={"any_of": [[A4000], [A2000]]})
    assert edited.pci_alternatives[1][0].quantity == 2


@pytest.mark.parametrize(
    ("pci", "path", "problem"),
    [
        ({"any_of": []}, "pci.any_of", "has 0 alternatives; the least is 2"),
        ({"any_of": [[A4000]]}, "pci.any_of", "has 1 alternatives; the least is 2"),
        ({"any_of": [[], [A4000]]}, "pci.any_of", "goes on after an empty alternative"),
        ({"any_of": [[A4000], [A4000]]}, "pci.any_of", "names one alternative twice"),
        ({"any_of": [[A4000], [{"vendor": "10de"}]]}, "pci.any_of.1.0.model", "is missing"),
        ({"any_of": [[A4000], [A2000 | {"quantity": 0}]]}, "pci.any_of.1.0.quantity", "is 0; the least is 1"),
        ({"any_of": [[A4000], [A2000 | {"count": 1}]]}, "pci.any_of.1.0.count", "is not a field of a specfile"),
        ({"any_of": {}}, "pci.any_of", "is an object, not a list"),
        ({"any_of": [[A4000]] * 9}, "pci.any_of", "has 9 entries; the most is 8"),
        ({"one_of": [[A4000], []]}, "pci", "is an object, not a list"),
    ],
)
def test_what_is_no_choice_is_told_where_it_stands(pci: Any, path: str, problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        parsed(pci=pci)
    assert [(each.path, each.problem) for each in caught.value.problems] == [(path, problem)]


def test_ram_in_huge_pages_is_a_multiple_of_them() -> None:
    assert parse_specfile('{"slots": 1, "ramsize": 2048, "hugepages": "1G"}').hugepages_kib == 1024 * 1024
    assert parse_specfile('{"slots": 1, "ramsize": 17, "hugepages": "64K"}').hugepages_kib == 64
    assert parse_specfile('{"slots": 1, "ramsize": 17, "hugepages": "none"}') == parsed(slots=1, ramsize=17)
    with pytest.raises(SpecError) as caught:
        parse_specfile('{"slots": 1, "ramsize": 1500, "hugepages": "1G"}')
    (problem,) = caught.value.problems
    assert (problem.path, problem.hint) == ("hugepages", "as in ramsize=2048")
    assert problem.problem == 'is "1G", and ramsize is no multiple of that'


def test_canonical_json_is_nested_in_one_order_with_the_defaults_written_out() -> None:
    assert parse_specfile('{ramsize: 512, slots: 1, info: {name: "x"}}').canonical_json() == (
        '{"info":{"name":"x"},"cpu":{"slots":1,"overprovision":1,"allowSMT":false,"archs":["X86_64"],"flags":[],"min_frequency":0},'
        '"ram":{"ramsize":512,"reqECC":false},"pci":[],"usb":[],"misc":{"qemu_agent":false,"firmware":"bios","tpm":false}}'
    )


def test_the_largest_specfile_has_a_canonical_text_that_can_be_read_again() -> None:
    spec = Specfile(
        info=Info(name="é" * 64, description="💡" * 1024),
        slots=4096,
        ramsize_mib=64 * 1024 * 1024,
        flags=tuple(f"{n:064}" for n in range(128)),
        pci=tuple(PciNeed(vendor="10de", model=f"{n:04x}", quantity=2) for n in range(32)),
    )
    assert parse_specfile(spec.canonical_json()) == spec
    assert len(spec.canonical_json()) < 65_536


def test_a_device_is_said_by_ids_by_class_or_by_name() -> None:
    written = [{"class": "gpu"}, {"vendor": "8086", "class": "0x0200"}, {"name": "RTX A4000", "quantity": 2}]
    spec = parse_specfile(json.dumps({"slots": 1, "ramsize": 512, "pci": written}))
    assert [(need.vendor, need.model, need.device_class, need.name) for need in spec.pci] == [
        ("", "", "03", ""),
        ("8086", "", "0200", ""),
        ("", "", "", "RTX A4000"),
    ]
    assert json.loads(spec.canonical_json())["pci"] == [
        {"class": "03", "quantity": 1},
        {"vendor": "8086", "class": "0200", "quantity": 1},
        {"name": "RTX A4000", "quantity": 2},
    ]


def test_a_type_of_mediated_devices_stands_alone_or_beside_its_card() -> None:
    card = {"vendor": "10de", "model": "1b38"}
    written = [{"mdev_type": "nvidia-63"}, {**card, "mdev_type": "nvidia-63"}, {"class": "gpu", "mdev_type": "mtty-1"}]
    spec = parsed(pci=[*written, card, {"name": "RTX A4000", "mdev_type": "nvidia-63"}])
    assert [need.mdev_type for need in spec.pci] == ["nvidia-63", "nvidia-63", "mtty-1", "", "nvidia-63"]
    assert parse_specfile(spec.canonical_json()) == spec


@pytest.mark.parametrize(
    ("fields", "path", "told"),
    [
        ({"slots": 0}, "slots", "is 0; the least is 1"),
        ({"slots": -3}, "slots", "is -3; the least is 1"),
        ({"slots": 10**9}, "slots", "is 1000000000; the most is 4,096"),
        ({"slots": 10**30}, "slots", "the most is 4,096"),
        ({"slots": True}, "slots", "is true, not a whole number"),
        ({"slots": 2.0}, "slots", "is 2.0, not a whole number | write 2"),
        ({"slots": 2.5}, "slots", "is 2.5, not a whole number"),
        ({"slots": "2"}, "slots", 'is "2", not a whole number | write 2 without the quotes'),
        ({"slots": [2]}, "slots", "is a list, not a whole number"),
        ({"slots": {}}, "slots", "is an object, not a whole number"),
        ({"slots": None}, "slots", "is null | leave it out"),
        ({"allowSMT": 1}, "allowSMT", "is 1, not true or false | write true"),
        ({"allowSMT": "false"}, "allowSMT", 'is "false", not true or false | write false without the quotes'),
        ({"reqECC": "maybe"}, "reqECC", 'is "maybe", not true or false'),
        ({"overprovision": 0}, "overprovision", "is 0; the least is 1"),
        ({"overprovision": 65}, "overprovision", "is 65; the most is 64"),
        ({"ramsize": 0}, "ramsize", "is 0; the least is 16 | ramsize is in MiB: 2048 is 2 GiB"),
        ({"ramsize": 4}, "ramsize", "is 4; the least is 16 | ramsize is in MiB: 2048 is 2 GiB"),
        ({"ramsize": -1}, "ramsize", "the least is 16"),
        ({"ramsize": 10**9}, "ramsize", "is 1000000000; the most is 67,108,864"),
        ({"ramsize": "2G"}, "ramsize", 'is "2G", not a whole number | ramsize is a plain number, in MiB: 2048'),
        ({"ram": 2048}, "ram", 'is 2048, not an object | write "ramsize": 2048, or "ram": {"ramsize": 2048}'),
        ({"cpu": 2}, "cpu", 'is 2, not an object | write "slots": 2, or "cpu": {"slots": 2}'),
        ({"archs": []}, "archs", "is empty"),
        ({"archs": "X86_64"}, "archs", 'is "X86_64", not a list | put it into a list: ["X86_64"]'),
        ({"archs": ["aarch64"]}, "archs.0", "did you mean ARM_8?"),
        ({"archs": ["X86_64", "x86_64"]}, "archs.1", "did you mean X86_64?"),
        ({"archs": ["VAX"]}, "archs.0", "known: X86_32, X86_64, ARM_7, ARM_8, PPC_64, S390X, RISCV_64"),
        ({"archs": [8]}, "archs.0", "is 8, not one of the known words"),
        ({"archs": ["X86_64"] * 33}, "archs", "has 33 entries; the most is 32"),
        ({"flags": {}}, "flags", "is an object, not a list"),
        ({"flags": "avx2"}, "flags", 'put it into a list: ["avx2"]'),
        ({"flags": ["avx 2"]}, "flags.0", 'is "avx 2", not the name of a CPU flag'),
        ({"flags": [""]}, "flags.0", "not the name of a CPU flag"),
        ({"flags": ["é"]}, "flags.0", "not the name of a CPU flag"),
        ({"flags": ["aes\n"]}, "flags.0", "not the name of a CPU flag"),
        ({"flags": ["aes", 1]}, "flags.1", "is 1, not text"),
        ({"flags": ["x86_64-v3"]}, "flags.0", "not a level | the levels are x86-64-v1, x86-64-v2"),
        ({"flags": ["x86-64-v5"]}, "flags.0", "not a level"),
        ({"flags": [f"f{n}" for n in range(129)]}, "flags", "has 129 entries; the most is 128"),
        ({"usb": {"vendor": "1050"}}, "usb", "is an object, not a list | put the object into a list"),
        ({"usb": [{"vendor": "1050"}]}, "usb.0.model", 'is missing | four hex digits in quotes, as in "0407"; `lsusb`'),
        ({"usb": [{"name": "YubiKey", "model": "0407"}]}, "usb.0", "says the device in two ways | a USB device"),
        ({"usb": [{"vendor": "1050", "model": "0407", "class": "03"}]}, "usb.0.class", "is not a field of a specfile"),
        ({"usb": [{"vendor": "1050", "model": 407}]}, "usb.0.model", "is 407, not text"),
        ({"usb": [{"vendor": "1050", "model": "0407", "quantity": 0}]}, "usb.0.quantity", "is 0; the least is 1"),
        ({"usb": [{"vendor": "1050", "model": "0407", "quantity": 16}]}, "usb.0.quantity", "the most is 15"),
        (
            {"usb": [{"vendor": "1050", "model": "0407"}, {"vendor": "0x1050", "model": "0407"}]},
            "usb.1",
            "is 1050:0407 again, as usb.0 is",
        ),
        ({"usb": [{"name": "A", "quantity": 8}, {"name": "B", "quantity": 8}]}, "usb", "asks for 16 devices; the most"),
        ({"pci": {"vendor": "10de", "model": "24b0"}}, "pci", "is an object, not a list | put the object into a list"),
        ({"pci": ["10de:24b0"]}, "pci.0", 'is "10de:24b0", not an object'),
        ({"pci": [{"vendor": "10de"}]}, "pci.0.model", "is missing | four hex digits in quotes"),
        ({"pci": [{"model": "24b0"}]}, "pci.0.vendor", "is missing | four hex digits in quotes"),
        ({"pci": [{"class": "gpu", "model": "24b0"}]}, "pci.0.vendor", "is missing"),
        ({"pci": [{"class": "gpus"}]}, "pci.0.class", 'is "gpus", not a class of PCI devices | did you mean gpu?'),
        ({"pci": [{"class": "03000"}]}, "pci.0.class", "or 2, 4 or 6 hex digits"),
        ({"pci": [{"class": 3}]}, "pci.0.class", 'is 3, not text | as in "gpu"'),
        ({"pci": [{"mdev_type": "a/b"}]}, "pci.0.mdev_type", "not a type of mediated devices | as the kernel names it"),
        ({"pci": [{"mdev_type": ""}]}, "pci.0.mdev_type", "not a type of mediated devices"),
        ({"pci": [{"mdev_type": 63}]}, "pci.0.mdev_type", 'is 63, not text | as in "nvidia-63"'),
        ({"pci": [{"vendor": "10de", "model": "1b38", "vgpu": "x"}]}, "pci.0.vgpu", "mdev_type"),
        ({"pci": [{"model": "1b38", "mdev_type": "x"}]}, "pci.0.vendor", "is missing"),
        ({"pci": [{"mdev_type": "x"}, {"mdev_type": "x"}]}, "pci", "names one kind of device twice"),
        ({"pci": [{"name": " "}]}, "pci.0.name", "is blank"),
        ({"pci": [{"name": "RTX A4000", "vendor": "10de"}]}, "pci.0", "says the device in two ways | a device is said"),
        ({"pci": [{"name": "A2"}, {"name": "a2"}]}, "pci", "names one kind of device twice | write one entry"),
        ({"pci": [{"class": "gpu"}, {"class": "03"}]}, "pci", "names one kind of device twice | write one entry"),
        ({"pci": [{"vendor": "10d", "model": "24b0"}]}, "pci.0.vendor", 'is "10d", not four hex digits'),
        ({"pci": [{"vendor": "10deg", "model": "24b0"}]}, "pci.0.vendor", "not four hex digits"),
        ({"pci": [{"vendor": "10de\n", "model": "24b0"}]}, "pci.0.vendor", "not four hex digits"),
        ({"pci": [{"vendor": "\uff110de", "model": "24b0"}]}, "pci.0.vendor", "not four hex digits"),
        ({"pci": [{"vendor": 4318, "model": "24b0"}]}, "pci.0.vendor", "is 4318, not text | four hex digits in quotes"),
        ({"pci": [{"vendor": "10de", "model": "24b0", "quantity": 0}]}, "pci.0.quantity", "is 0; the least is 1"),
        ({"pci": [{"vendor": "10de", "model": "24b0", "quantity": -1}]}, "pci.0.quantity", "is -1; the least is 1"),
        ({"pci": [{"vendor": "10de", "model": "24b0", "quantity": 10**9}]}, "pci.0.quantity", "the most is 64"),
        ({"pci": [{"vendor": "10de", "model": "24b0", "quantity": True}]}, "pci.0.quantity", "is true, not a whole"),
        ({"misc": []}, "misc", "is a list, not an object"),
        ({"misc": {"firmware": "efi"}}, "misc.firmware", "did you mean uefi?"),
        ({"misc": {"firmware": "secure-boot"}}, "misc.firmware", "did you mean uefi-secure?"),
        (
            {"misc": {"secure_boot": True}},
            "misc.secure_boot",
            "misc.firmware: bios, uefi, or uefi-secure for secure boot",
        ),
        ({"misc": {"vTPM": True}}, "misc.vTPM", "did you mean misc.tpm?"),
        ({"misc": {"tpm": "2.0"}}, "misc.tpm", "true: the guest gets a TPM 2.0 of its own"),
        ({"misc": {"tpm": 1}}, "misc.tpm", "write true"),
        ({"tpm": True}, "tpm", "did you mean misc.tpm?"),
        ({"misc": {"qemu_agent": "true"}}, "misc.qemu_agent", "write true without the quotes"),
        ({"misc": {"os_family": 3}}, "misc.os_family", "is 3, not text"),
        ({"info": "Helium"}, "info", 'is "Helium", not an object'),
        ({"info": {"name": ""}}, "info.name", "is blank"),
        ({"info": {"name": "n" * 65}}, "info.name", "is 65 letters long; the most is 64"),
        ({"info": {"description": "d" * 1025}}, "info.description", "the most is 1024"),
    ],
)
def test_a_wrong_value_is_told_with_its_path_and_a_cure(fields: dict[str, Any], path: str, told: str) -> None:
    found = problems(LEAST | fields)
    assert list(found) == [path]
    assert told in found[path]


@pytest.mark.parametrize(
    "character", ["\x00", "\n", "\t", "\x1b", "\x7f", "\x85", "\u2028", "\u202e", "\u2066", "\uffff"]
)
def test_text_that_xml_or_a_terminal_would_choke_on_is_refused(character: str) -> None:
    for field in ("name", "description"):
        told = problems({**LEAST, "info": {field: f"a{character}b"}})
        assert f"holds the control character U+{ord(character):04X}" in told[f"info.{field}"]
    assert "control character" in problems({**LEAST, "misc": {"os_family": character}})["misc.os_family"]


def test_markup_commas_and_dashes_in_text_are_nobodys_business_here() -> None:
    assert parsed(info={"name": "--a,b=</name><x>&amp;"}).info == Info(name="--a,b=</name><x>&amp;")


@pytest.mark.parametrize("level", ["x86-64-v2", "x86-64-v3", "X86-64-V4"])
def test_levels_are_flags(level: str) -> None:
    assert parsed(flags=[level]).flags == (level.lower(),)


def test_one_kind_of_device_named_twice_is_told_at_the_second_in_whatever_way_it_is_written() -> None:
    twice = [{"vendor": "10de", "model": "24b0"}, {"vendor": "0x10DE", "model": "24B0", "quantity": 0}]
    assert problems({**LEAST, "pci": twice}) == {
        "pci.1": "is 10de:24b0 again, as pci.0 is | write one entry with the sum as its quantity",
        "pci.1.quantity": "is 0; the least is 1 | how many of these devices; 1 or more",
    }


def test_a_specfile_made_by_code_is_held_to_the_same_rules() -> None:
    need = PciNeed(vendor="10DE", model="24b0")
    with pytest.raises(ValueError, match="names one kind of device twice"):
        Specfile(slots=1, ramsize_mib=512, pci=(need, need))
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Specfile(slots=0, ramsize_mib=512)


def test_devices_have_a_limit_in_all() -> None:
    many = [{"vendor": "10de", "model": f"{n:04x}", "quantity": 40} for n in range(2)]
    assert problems({**LEAST, "pci": many}) == {"pci": "asks for 80 devices; the most is 64 | "}
    kinds = [{"vendor": "10de", "model": f"{n:04x}"} for n in range(33)]
    assert "has 33 entries; the most is 32" in problems({**LEAST, "pci": kinds})["pci"]


@pytest.mark.parametrize(
    ("key", "flat", "nested"),
    [
        ("cpus", "slots", "cpu.slots"),
        ("vCPUs", "slots", "cpu.slots"),
        ("cores", "slots", "cpu.slots"),
        ("slot", "slots", "cpu.slots"),
        ("memory", "ramsize", "ram.ramsize"),
        ("mem", "ramsize", "ram.ramsize"),
        ("ram_size", "ramsize", "ram.ramsize"),
        ("ramsize_mib", "ramsize", "ram.ramsize"),
        ("ramSize", "ramsize", "ram.ramsize"),
        ("ramzise", "ramsize", "ram.ramsize"),
        ("smt", "allowSMT", "cpu.allowSMT"),
        ("allow_smt", "allowSMT", "cpu.allowSMT"),
        ("hyperthreading", "allowSMT", "cpu.allowSMT"),
        ("overcommit", "overprovision", "cpu.overprovision"),
        ("over_provision", "overprovision", "cpu.overprovision"),
        ("arch", "archs", "cpu.archs"),
        ("features", "flags", "cpu.flags"),
        ("ecc", "reqECC", "ram.reqECC"),
        ("reqecc", "reqECC", "ram.reqECC"),
        ("gpu", "pci", "pci"),
        ("PCI", "pci", "pci"),
        ("os_family", "misc.os_family", "misc.os_family"),
        ("uefi", "misc.firmware", "misc.firmware"),
        ("name", "info.name", "info.name"),
        ("description", "info.description", "info.description"),  # though "overprovision" is close
        ("osversion", "misc.os_flavour", "misc.os_flavour"),
        ("descripton", "info.description", "info.description"),
    ],
)
def test_an_unknown_field_is_answered_with_the_one_that_was_meant_in_the_form_of_the_document(
    key: str, flat: str, nested: str
) -> None:
    told = problems({**LEAST, key: 1})
    assert f"did you mean {flat}" in told[key]
    assert "cpu." not in told[key]
    assert "ram." not in told[key]
    told = problems({"cpu": {"slots": 1}, "ram": {"ramsize": 512}, key: 1})
    assert f"did you mean {nested}" in told[key]


@pytest.mark.parametrize(
    ("document", "path", "hint"),
    [
        ({"cpu": {"cores": 1}}, "cpu.cores", "did you mean cpu.slots"),
        ({"cpu": {"ramsize": 1}}, "cpu.ramsize", "did you mean ram.ramsize"),
        ({"ram": {"size": 1}}, "ram.size", "did you mean ram.ramsize, in MiB?"),
        ({"ram": {"ecc": True}}, "ram.ecc", "did you mean ram.reqECC"),
        ({"pci": [{"device": "24b0"}]}, "pci.0.device", "did you mean model?"),
        ({"pci": [{"count": 1}]}, "pci.0.count", "did you mean quantity?"),
        ({"pci": [{"zzz": 1}]}, "pci.0.zzz", "known here: vendor, model, class, name, mdev_type, quantity"),
        ({"misc": {"os": "linux"}}, "misc.os", "did you mean misc.os_family?"),
        ({"misc": {"slots": 1}}, "misc.slots", "did you mean cpu.slots"),
        ({"info": {"title": "x"}}, "info.title", "did you mean info.name?"),
        ({"volumes": []}, "volumes", "list them in a volumespec"),
        ({"network": {}}, "network", "one NIC by itself"),
        ({"host": "h1"}, "host", "names no host"),
        ({"xyzzy": 1}, "xyzzy", "known here: cpu, ram, slots"),
        ({"a.b": 1}, '"a.b"', "known here"),
        ({"": 1}, '""', "known here"),
        ({"k" * 60_000: 1}, "k" * 47 + "…", "known here"),
    ],
)
def test_unknown_fields_are_told_wherever_they_stand(document: dict[str, Any], path: str, hint: str) -> None:
    assert hint in problems(document)[path]


def test_what_is_missing_is_told_in_the_form_of_the_document() -> None:
    assert list(problems({})) == ["cpu.slots", "ram.ramsize"]
    assert list(problems({"slots": 1})) == ["ramsize"]
    assert list(problems({"cpu": {"slots": 1}})) == ["ram.ramsize"]
    assert list(problems({"cpu": {"slots": 1}, "ram": 512})) == ["ram"]


def test_all_problems_come_at_once() -> None:
    text = (
        '{"slots": 0, "slots": 1, cpus: 4, "ramsize": NaN, "archs": ["x", "y"], "pci": [{}], "misc": {"firmware": 1}}'
    )
    assert list(problems(text)) == [
        "archs.0", "archs.1", "cpus", "misc.firmware", "pci.0.model", "pci.0.vendor", "ramsize", "slots",
    ]  # fmt: skip


def test_other_documents_are_recognised() -> None:
    assert "this is a volumespec" in problems('[{"vid": "4f3c2d1e0b9a48f7a6d5c4b3a2918070"}]')[""]
    for text in ("[]", "1", '"slots"', "null", "true"):
        assert "not an object" in problems(text)[""] or "is null" in problems(text)[""]


def test_bytes_are_read_as_utf_8() -> None:
    assert parse_specfile(b'\xef\xbb\xbf{"slots": 1, "ramsize": 512}') == parsed()
    assert problems(b'{"slots": \xff}') == {"line 1": "is not UTF-8 text: byte 0xff | save it as UTF-8"}


def test_the_names_here_are_those_of_the_wire() -> None:
    messages = pytest.importorskip("matcher.wire.messages")
    assert tuple(messages.Arch) == ARCHS
    assert tuple(messages.Firmware) == FIRMWARES
    ram = next(bound.le for bound in get_args(messages.Mib) if hasattr(bound, "le"))
    assert parsed(ramsize=ram).ramsize_mib == ram


def test_a_specfile_is_frozen_and_can_be_compared_and_hashed() -> None:
    assert hash(parsed()) == hash(parsed())
    with pytest.raises(ValueError, match="frozen"):
        parsed().slots = 2


def test_usb_devices_are_said_by_ids_or_by_name() -> None:
    written = [{"vendor": "1050", "model": "0x0407", "quantity": 2}, {"name": "DataTraveler 3.0"}]
    spec = parse_specfile(json.dumps({"slots": 1, "ramsize": 512, "usb": written}))
    assert [(need.vendor, need.model, need.name, need.quantity) for need in spec.usb] == [
        ("1050", "0407", "", 2),
        ("", "", "DataTraveler 3.0", 1),
    ]
    assert parse_specfile(spec.canonical_json()) == spec
