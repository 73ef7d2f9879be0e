"""A device's name becomes its ids where it means one device, and a sentence where it does not."""

import json

import pytest

from specs.pci_names import needs_names, resolved
from specs.problems import SpecError
from specs.specfile import Specfile, parse_specfile

LISTED = """# a comment
0001  SafeNet (wrong ID)
10de  NVIDIA Corporation
	228b  GA104 High Definition Audio Controller
	24b0  GA104GL [RTX A4000]
		1028 14ad  RTX A4000
	24b1  GA104GL [RTX A4000H]
	24b7  GA104GLM [RTX A4000 Mobile]
	2503  GA106 [GeForce RTX 3060]
	2504  GA106 [GeForce RTX 3060 Lite Hash Rate]
	2544  GA106 [GeForce RTX 3060]
8086  Intel Corporation
	1572  Ethernet Controller X710 for 10GbE SFP+
	1574  Ethernet Controller X710 Emulation
	a780  Raptor Lake-S GT1 [UHD Graphics 770 / 730]
C 03  Display controller
	00  VGA compatible controller
24b0  RTX A4000
"""


def asking(*names: str) -> Specfile:
    return parse_specfile(json.dumps({"slots": 1, "ramsize": 512, "pci": [{"name": name} for name in names]}))


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("RTX A4000", ("10de", "24b0")),
        ("rtx  a4000", ("10de", "24b0")),
        ("GA104GL [RTX A4000]", ("10de", "24b0")),
        ("A4000 Mobile", ("10de", "24b7")),
        ("UHD Graphics 770", ("8086", "a780")),
        ("Intel X710 SFP+", ("8086", "1572")),
    ],
)
def test_a_name_that_means_one_device_is_its_ids(name: str, ids: tuple[str, str]) -> None:
    spec, told = resolved(asking(name), {"pci": LISTED})
    assert (spec.pci[0].vendor, spec.pci[0].model) == ids
    assert f"is {ids[0]}:{ids[1]} (" in told[0]
    assert not needs_names(spec)


def test_the_rest_of_the_specfile_stays_and_what_is_found_is_told() -> None:
    text = '{"slots": 3, "ramsize": 512, "pci": [{"class": "nic"}, {"name": "RTX A4000", "quantity": 2}]}'
    spec, told = resolved(parse_specfile(text), {"pci": LISTED})
    ids = '{"slots": 3, "ramsize": 512, "pci": [{"class": "02"}, {"vendor": "10de", "model": "24b0", "quantity": 2}]}'
    assert spec == parse_specfile(ids)
    assert told == ('pci.1: "RTX A4000" is 10de:24b0 (GA104GL [RTX A4000], NVIDIA Corporation)',)


def test_names_of_no_device_and_of_several_are_told_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        resolved(asking("RTX 9090", "GeForce RTX 3060", "NVIDIA"), {"pci": LISTED})
    none, several, many = caught.value.problems
    assert (none.path, none.problem) == ("pci.0.name", 'is "RTX 9090", which this machine\'s pci.ids does not know')
    assert several.problem == 'is "GeForce RTX 3060", which may be any of 2'
    assert "10de:2503 (GA106 [GeForce RTX 3060], NVIDIA Corporation); 10de:2544" in several.hint
    assert many.hint.endswith("; and 2 more")


def test_two_names_of_one_device_are_a_device_twice() -> None:
    with pytest.raises(SpecError, match=r"pci\.1: is 10de:24b0 again"):
        resolved(asking("RTX A4000", "GA104GL RTX A4000"), {"pci": LISTED})


@pytest.mark.parametrize("listed", ["", "\x00\xff", "\t24b0  A card of no maker\n"])
def test_a_list_that_is_none_knows_nothing(listed: str) -> None:
    with pytest.raises(SpecError, match="does not know"):
        resolved(asking("RTX A4000"), {"pci": listed})
