"""Names that would like to be something else: XML, arguments, lines of a log, colours, paths. They are text."""

import json
import shutil
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.attacking import attack, attack_each, audit, pids
from tests.lab.vms import Vms, domains, electros, plainly

pytestmark = pytest.mark.lab

EVIL = [
    "</name><devices/><name>",
    '"><qemu:commandline xmlns:qemu="x">',
    "<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>&b;",
    "]]><![CDATA[",
    "web,id=x,readonly=off",
    "line one\nline two\r\n{}",
    "\x1b[2J\x1b]0;owned\x07\x9b31m",
    "\u202egnp.exe\u2066\u200f",
    "--help",
    "../../../etc/cron.d/x",
    "$(reboot)`reboot`;reboot",
    "%s%n{0}",
]
UNWANTED = {"\x1b", "\x07", "\x9b", "\u202e", "\u2066", "\r"}
NO_SUCH_FIELDS: list[dict[str, Any]] = [
    {"xml": "<devices/>"},
    {"qemu_args": ["-monitor", "tcp::4444"]},
    {"vm": {"machine": "pc,id=x"}},
    {"vm": {"devices": "<hostdev/>"}},
    {"name": "n" * 65},
    {"name": "nul\0"},
    {"vm_id": "../../../../../etc/passwd"},
    {"vm_id": "<x/>" + "a" * 28},
    {"host_id": "x" * 64},
    {"volumes": [{"vid": "../" + "a" * 29}]},
]


@pytest.fixture
def vms(lab: Any, tmp_path: Path) -> Iterator[Vms]:
    mine = Vms(lab, tmp_path)
    yield mine
    left = [vm["id"] for vm in electros(lab, "ps").document["vms"]]
    if left:
        electros(lab, "rm", "--force", *left)


def elements(lab: Any, domain: str) -> Counter[str]:
    """How often each element stands in what libvirt has of a domain; parsing would fail where it is broken."""
    tree = ElementTree.fromstring(lab.virsh("h1", "dumpxml", domain))
    return Counter(element.tag for element in tree.iter() if element.tag != "title")


def test_a_name_is_text_wherever_it_comes_to_stand(lab: Any, vms: Vms) -> None:
    """In libvirt's XML, in lists on a terminal, in the audit; whoever wrote it, and whatever `electros` would say."""
    before = pids(lab)
    attack(lab, host="h1", confirm={"name": "plain"}, check="running")
    (plain,) = domains(lab, "h1")
    honest = elements(lab, plain)
    electros(lab, "rm", "--force", "plain")
    for name in EVIL:
        said = attack(lab, host="h1", confirm={"name": name[:64], "specfile": json.dumps({"info": {"name": name}})})
        assert said["answer"]["event"] in ("running", "refused"), (name, said)
        if said["answer"]["event"] == "running":
            (domain,) = domains(lab, "h1")
            assert elements(lab, domain) == honest, name
            shown = plainly(lab, "ps").out + plainly(lab, "inspect", said["answer"]["id"]).out
            assert not UNWANTED & {*shown}, name
            assert electros(lab, "ps").document["vms"][0]["id"].replace("-", "") == said["answer"]["id"]
            electros(lab, "rm", "--force", said["answer"]["id"])
        assert domains(lab, "h1") == []
    assert pids(lab) == before
    lines = audit(lab, "h1")
    assert any("cron.d" in line["detail"] for line in lines), "else nothing was shown"


def test_what_is_no_field_or_no_value_of_one_is_no_confirm(lab: Any, vms: Vms) -> None:
    before = pids(lab)
    wishes = [{"host": "h1", "confirm": fields, "hold_ms": 200} for fields in NO_SUCH_FIELDS]
    for fields, said in zip(NO_SUCH_FIELDS, attack_each(lab, wishes), strict=True):
        assert (said["answer"]["event"], said["answer"].get("code")) == ("refused", "bad-request"), (fields, said)
    assert domains(lab, "h1") == []
    assert electros(lab, "ps").document["vms"] == []
    assert pids(lab) == before
    audit(lab, "h1")


def test_a_pledge_with_such_values_is_met_with_silence(lab: Any) -> None:
    asks = [{"flags": ["avx2,id=x"]}, {"flags": ["<x/>"]}, {"archs": ["X86_64,x"]}, {"xml": "<devices/>"}]
    for ask, said in zip(asks, attack_each(lab, [{"vm": ask} for ask in asks]), strict=True):
        assert (said["offers"], said["unfit"]) == ([], []), ask
    assert len(attack(lab, dry=True)["offers"]) == 2, "both hosts live on"


@pytest.mark.parametrize(
    "text", ["<!DOCTYPE x><spec/>", '{"slots":1,"ramsize":64,"xml":"<x/>"}', '{"slots":1,"ramsize":64,"qemu_args":[]}']
)
def test_a_specfile_has_no_field_for_xml_or_arguments(lab: Any, tmp_path: Path, text: str) -> None:
    file = tmp_path / "spec.json"
    file.write_text(text)
    assert electros(lab, "run", str(file), code=2).error["code"] == "malformed"


def test_a_volume_named_with_escapes_is_none_and_they_do_not_reach_a_terminal(lab: Any, vms: Vms) -> None:
    vid = "e" * 32
    folder = lab.folder("h1") / "srv" / "evil" / f"{vid}.elimg"
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps({"size": 0.125, "name": "\x1b[2J\u202eevil\x9b31m\n<x/>"}))
    with (folder / "data.img").open("wb") as image:
        image.truncate(128 << 20)
    try:
        lab.restart("h1", "storaged")
        said = plainly(lab, *vms.arguments("with-evil", volumes=[vid]), code=3)
        assert "must not hold control" in said.out + said.err
        assert not UNWANTED & {*(said.out + said.err)}
    finally:
        shutil.rmtree(folder.parent)
        lab.restart("h1", "storaged")
    assert domains(lab, "h1") == []
