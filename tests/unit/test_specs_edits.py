"""`--set`: edits to a document in whichever form it has."""

import json
from typing import Any

import pytest

from specs.problems import SpecError
from specs.specfile import PciNeed, Specfile, parse_specfile

FLAT: dict[str, Any] = {"slots": 2, "ramsize": 2048, "pci": [{"vendor": "10de", "model": "24b0", "quantity": 2}]}
NESTED: dict[str, Any] = {"cpu": {"slots": 2}, "ram": {"ramsize": 2048}, "pci": FLAT["pci"]}
BOTH = pytest.mark.parametrize("document", [FLAT, NESTED], ids=["flat", "nested"])


def edited(document: dict[str, Any], *edits: str) -> Specfile:
    return parse_specfile(json.dumps(document), edits=edits)


def refusals(document: dict[str, Any], *edits: str) -> list[tuple[str, str, str]]:
    with pytest.raises(SpecError) as caught:
        edited(document, *edits)
    return [(problem.path, problem.problem, problem.hint) for problem in caught.value.problems]


@BOTH
@pytest.mark.parametrize("path", ["ramsize", "ram.ramsize"])
def test_an_edit_finds_its_field_in_either_form(document: dict[str, Any], path: str) -> None:
    assert edited(document, f"{path}=4096").ramsize_mib == 4096


@BOTH
def test_an_edit_adds_what_the_document_leaves_out(document: dict[str, Any]) -> None:
    edits = ("cpu.allowSMT=true", "reqECC=true", "misc.firmware=uefi", "info.name=web", "flags.0=AVX2", "flags.1=aes")
    spec = edited(document, *edits)
    assert (spec.allow_smt, spec.req_ecc, spec.misc.firmware, spec.flags) == (True, True, "uefi", ("aes", "avx2"))
    assert spec.info is not None
    assert spec.info.name == "web"


@BOTH
def test_lists_are_edited_by_entry_grown_by_one_or_replaced(document: dict[str, Any]) -> None:
    assert edited(document, "pci.0.quantity=1").pci[0].quantity == 1
    grown = edited(document, "pci.1.vendor=8086", "pci.1.model=1572")
    assert grown.pci[1] == PciNeed(vendor="8086", model="1572", quantity=1)
    assert edited(document, "pci=[]").pci == ()
    assert edited(document, "pci.1.class=0302").pci[1] == PciNeed.model_validate({"class": "0302"})
    assert edited(document, "pci=[{vendor: '8086', model: '1572'}]".replace("'", '"').replace("vendor", '"vendor"')
                  .replace("model", '"model"')).pci == (PciNeed(vendor="8086", model="1572"),)  # fmt: skip
    assert edited(document, 'cpu.archs=["ARM_8"]').archs == ("ARM_8",)


@BOTH
def test_entries_are_taken_out_by_what_they_say(document: dict[str, Any]) -> None:
    flags = 'flags=["AVX512F", "aes", "avx2"]'
    assert edited(document, flags, "cpu.flags-=avx512f, AES").flags == ("avx2",)
    assert edited(document, flags, "flags-=aes").flags == ("avx2", "avx512f")
    assert edited(document, 'pci.1={"vendor": "0x8086", "model": "1572"}', "pci-=8086:1572").pci == edited(document).pci
    assert edited(document, "pci-=10DE:24B0").pci == ()
    others = (
        'pci=[{"class": "gpu"}, {"class": "0x0207"}, {"vendor": "10de", "model": "24b0", "mdev_type": "nvidia-63"}]'
    )
    assert [need.mdev_type for need in edited(document, others, "pci-=gpu,0207").pci] == ["nvidia-63"]
    assert [need.device_class for need in edited(document, others, "pci-=03,nvidia-63").pci] == ["0207"]
    assert edited(document, 'usb=[{"name": "YubiKey 5"}]', "usb-=yubikey 5").usb == ()


@pytest.mark.parametrize("model", ["24e0", "1234", "0001", "1e99", '"24b1"', "0x24b1"])
def test_where_a_field_takes_text_digits_stay_text(model: str) -> None:
    assert edited(FLAT, f"pci.0.model={model}").pci[0].model == model.strip('"').removeprefix("0x").zfill(4)


def test_the_last_of_two_edits_holds_and_a_value_may_hold_an_equals_sign() -> None:
    assert edited(FLAT, "slots=3", "cpu.slots=4").slots == 4
    spec = edited(FLAT, "info.name=a=b")
    assert spec.info is not None
    assert spec.info.name == "a=b"


def test_an_edit_can_mend_what_is_missing_or_wrong() -> None:
    assert edited({"slots": 0}, "slots=1", "ramsize=512").slots == 1
    assert edited({}, "slots=1", "ramsize=512") == edited({"slots": 1, "ramsize": 512})


def test_the_document_is_judged_after_the_edits_and_told_in_its_own_form() -> None:
    assert refusals(NESTED, "slots=0")[0][:2] == ("cpu.slots", "is 0; the least is 1")
    assert refusals(FLAT, "cpu.slots=many")[0][:2] == ("slots", 'is "many", not a whole number')
    assert refusals(FLAT, "pci.0.quantity=1e999")[0][0] == "pci.0.quantity"


@pytest.mark.parametrize(
    ("edit", "problem", "hint"),
    [
        ("slots", "is not of the form path=value", "for example"),
        ("=3", "is not of the form path=value", "for example"),
        ("", "is not of the form path=value", "for example"),
        ("cores=3", "cores is not a field of a specfile", "did you mean cpu.slots?"),
        ("ram.size=3", "ram.size is not a field of a specfile", "did you mean ram.ramsize?"),
        ("ram.slots=3", "ram.slots is not a field of a specfile", "did you mean cpu.slots?"),
        ("usb.0.count=3", "usb.count is not a field of a specfile", "did you mean usb.0.quantity?"),
        ("pci.0.count=3", "pci.count is not a field of a specfile", "did you mean pci.0.quantity?"),
        ("zzz.y=3", "zzz is not a field of a specfile", "for example"),
        ("cpu=3", "cpu is a group of fields", "cpu.slots"),
        ("misc={}", "misc is a group of fields", "misc.firmware"),
        ("misc.firmware.x=3", "misc is a group of fields", "misc.firmware"),
        ("slots.0=3", 'there is nothing named "0" inside slots', "for example"),
        ("pci.0.vendor.x=3", 'there is nothing named "x" inside pci', "for example"),
        ("pci.first.vendor=3", '"first" is not the number of an entry', "count from 0"),
        ("pci.-1.vendor=3", '"-1" is not the number of an entry', "count from 0"),
        ("pci.2.quantity=3", "there is no entry 2: pci has 1", "count from 0"),
        ("archs.1=ARM_8", "there is no entry 1: archs has none", "count from 0"),
        ("pci.99999999999999999999.vendor=1", '"99999999999999999999" is not the number', "count from 0"),
        ("slots=null", "null is not a value", ""),
        ('info.name="\\ud800"', "holds half of a character", ""),
        ("flags=" + "[" * 20, None, ""),
        ("flags=" + "[" * 20 + "]" * 20, "nested deeper than 16", ""),
        ('pci=[{"vendor": "10de", "vendor": "10de"}]', "is written 2 times", "keep one"),
        ("slots-=3", "slots is no list", "flags-=avx512f"),
        ("pci.0-=1", "0 is no list", "flags-=avx512f"),
        ("flags-=avx2", '"avx2" is not among them', "there is none"),
        ("pci-=10de:ffff", '"10de:ffff" is not among them', "there is: "),
    ],
)
def test_an_edit_that_cant_be_made_is_told(edit: str, problem: str | None, hint: str) -> None:
    told = refusals(FLAT, edit)
    assert len(told) == 1
    if problem:
        assert told[0][0].startswith(f"--set {edit[:20]}")
        assert problem in told[0][1]
        assert hint in told[0][2]


def test_an_edit_that_cant_be_made_leaves_the_document_as_it_is() -> None:
    assert [path for path, _, _ in refusals({"slots": 1, "ramsize": 512}, "archs.1=ARM_8", "flags.3=aes")] == [
        "--set archs.1=ARM_8",
        "--set flags.3=aes",
    ]


def test_an_edit_below_something_of_another_kind_is_told_beside_it() -> None:
    told = refusals({"cpu": 3, "ram": {"ramsize": 512}, "pci": {}}, "slots=4", "pci.0.quantity=1")
    assert [(path, problem) for path, problem, _ in told if path.startswith("--set")] == [
        ("--set pci.0.quantity=1", "can't be set: pci is an object, not a list"),
        ("--set slots=4", "can't be set: cpu is 3, not an object"),
    ]


def test_edits_have_a_limit() -> None:
    assert edited(FLAT, *["slots=1"] * 256).slots == 1
    assert refusals(FLAT, *["slots=1"] * 10_000) == [("--set", "is given more than 256 times", "")]


def test_usb_devices_are_edited_as_others_are() -> None:
    grown = edited(FLAT, "usb.0.vendor=1050", "usb.0.model=0407", "usb.0.quantity=2")
    assert [(need.vendor, need.model, need.quantity) for need in grown.usb] == [("1050", "0407", 2)]
    assert edited(FLAT, 'usb=[{"vendor": "1050", "model": "0407"}]', "usb-=1050:0407").usb == ()
