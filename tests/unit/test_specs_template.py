"""Templates, and the example files that people start from."""

import json
import re
from pathlib import Path

import pytest

from specs.problems import SpecError
from specs.specfile import Misc, PciNeed, Specfile, parse_specfile
from specs.template import TEMPLATES, load_template, parse_template
from specs.volumespec import is_volumespec, parse_volumespec

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "packaging" / "examples"


def example(name: str) -> bytes:
    return (EXAMPLES / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "slots", "ramsize_mib"), [("Helium", 1, 512), ("Neon", 2, 2048), ("Argon", 4, 4096), ("Kripton", 8, 8192)]
)
def test_the_templates_of_the_tech_pack_are_there_and_their_files_say_the_same(
    name: str, slots: int, ramsize_mib: int
) -> None:
    template = load_template(name)
    assert (template.slots, template.ramsize_mib) == (slots, ramsize_mib)
    assert template.info is not None
    assert template.info.name == name
    assert parse_template(example(f"{name.lower()}.json")) == template


def test_helium_is_the_one_of_the_tech_pack() -> None:
    helium = load_template("helium")
    assert (helium.overprovision, helium.allow_smt, helium.archs, helium.req_ecc) == (4, False, ("X86_64",), False)
    assert json.loads(example("helium.json")) == {
        "info": {"name": "Helium", "description": "Smallest virtual machine template for light tasks"},
        "cpu": {"slots": 1, "overprovision": 4, "allowSMT": False, "archs": ["X86_64"], "flags": []},
        "ram": {"ramsize": 512, "reqECC": False},
    }


def test_the_flat_example_loads() -> None:
    linux = Specfile(slots=2, allow_smt=True, ramsize_mib=2048, misc=Misc(os_family="linux"))
    assert parse_specfile(example("linux.json")) == linux


def test_the_pci_example_loads_with_its_comments() -> None:
    assert b"/* That means Quadro A4000 HDMI audio device*/" in example("gpu.json5")
    assert parse_specfile(example("gpu.json5")).pci == (
        PciNeed(vendor="10de", model="24b0", quantity=1),
        PciNeed(vendor="10de", model="228b", quantity=1),
    )


def test_the_example_with_secure_boot_and_a_tpm_loads() -> None:
    misc = parse_specfile(example("secure.json")).misc
    assert (misc.firmware, misc.tpm) == ("uefi-secure", True)


def test_the_volumes_example_loads() -> None:
    assert parse_volumespec(example("volumes.json")) == ("4f3c2d1e0b9a48f7a6d5c4b3a2918070",)


def test_every_example_is_proven_here() -> None:
    known = {f"{name}.json" for name in TEMPLATES} | {"linux.json", "gpu.json5", "secure.json", "volumes.json"}
    assert {path.name for path in EXAMPLES.iterdir()} == known


def test_the_snippets_of_the_tech_pack_load_as_they_are_printed_there() -> None:
    found = sorted((ROOT.parent / "shared" / "seeds").glob("001_*.txt"))
    if not found:
        pytest.skip("the tech pack is not beside this repository")
    text = found[0].read_text()
    flat, template = (re.search(rf'^{{\n +"{key}".*?^}}', text, re.M | re.S) for key in ("slots", "info"))
    pci, volumes = re.search(r'^"pci": \[.*?^    \]', text, re.M | re.S), re.search(r"^\[\n.*?^\]", text, re.M | re.S)
    assert flat is not None
    assert template is not None
    assert pci is not None
    assert volumes is not None
    assert parse_specfile(flat[0]) == parse_specfile(example("linux.json"))
    assert parse_template(template[0]) == load_template("helium")
    assert parse_specfile(f'{{"slots": 4, "allowSMT": true, "ramsize": 8192, {pci[0]}}}') == parse_specfile(
        example("gpu.json5")
    )
    assert pci[0] in example("gpu.json5").decode()
    with pytest.raises(SpecError) as caught:  # its vids have 33 digits
        parse_volumespec(volumes[0])
    assert [problem.path for problem in caught.value.problems] == ["0.vid", "1.vid", "2.vid"]
    assert all("has 33 hex digits" in problem.problem for problem in caught.value.problems)


def test_the_documents_in_the_manual_load() -> None:
    manual = (ROOT / "docs" / "specfile.md").read_text()
    documents = re.findall(r"^```json5?\n(.*?)^```", manual, re.M | re.S)
    assert len(documents) == 4
    for document in documents:
        (parse_volumespec if is_volumespec(document) else parse_specfile)(document)


def test_an_unknown_template_is_answered_with_the_nearest() -> None:
    with pytest.raises(SpecError, match="did you mean kripton"):
        load_template("Krypton")


def test_a_template_needs_a_name() -> None:
    with pytest.raises(SpecError, match="a template needs a name"):
        parse_template('{"slots": 1, "ramsize": 512, "info": {"description": "x"}}')
