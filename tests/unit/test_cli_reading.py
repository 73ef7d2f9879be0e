"""A specfile that names a device is read with this machine's list of names."""

import json
from pathlib import Path

import pytest

from matcher.cli import reading
from matcher.cli.failures import Failure
from matcher.cli.reading import read_specfile

LISTED = "10de  NVIDIA Corporation\n\t24b0  GA104GL [RTX A4000]\n"


@pytest.fixture
def asking(tmp_path: Path) -> str:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"slots": 1, "ramsize": 512, "pci": [{"name": "RTX A4000"}]}))
    return str(path)


def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "pci.ids").write_text(text)
    monkeypatch.setattr(reading, "IDS_FOLDERS", (str(tmp_path / "none"), str(tmp_path)))


def test_a_name_is_told_as_ids_on_stderr(
    asking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed(tmp_path, monkeypatch, LISTED)
    spec = read_specfile(asking)
    assert (spec.pci[0].vendor, spec.pci[0].model, spec.pci[0].name) == ("10de", "24b0", "")
    out, err = capsys.readouterr()
    assert (out, err) == ("", 'pci.0: "RTX A4000" is 10de:24b0 (GA104GL [RTX A4000], NVIDIA Corporation)\n')


def test_a_name_that_nobody_knows_is_a_mistake_of_the_specfile(
    asking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed(tmp_path, monkeypatch, LISTED.replace("A4000", "A2000"))
    with pytest.raises(Failure, match="is no specfile yet: one problem"):
        read_specfile(asking)


def test_a_machine_without_names_says_so(asking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "IDS_FOLDERS", (str(tmp_path / "none"),))
    with pytest.raises(Failure, match=r"this machine has no pci\.ids") as caught:
        read_specfile(asking)
    assert "apt install pci.ids" in caught.value.helps


def test_a_usb_device_is_looked_up_in_a_list_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed(tmp_path, monkeypatch, LISTED)
    document = {"slots": 1, "ramsize": 512, "pci": [{"name": "RTX A4000"}], "usb": [{"name": "DataTraveler 3.0"}]}
    (tmp_path / "spec.json").write_text(json.dumps(document))
    with pytest.raises(Failure, match=r"this machine has no usb\.ids") as caught:
        read_specfile(str(tmp_path / "spec.json"))
    assert caught.value.helps == "apt install usb.ids; or write vendor and model, as `lsusb` shows them"
    (tmp_path / "usb.ids").write_text("0951  Kingston Technology\n\t1666  DataTraveler 3.0\n")
    spec = read_specfile(str(tmp_path / "spec.json"))
    assert [(need.vendor, need.model, need.name) for need in spec.usb] == [("0951", "1666", "")]
    assert spec.pci[0].vendor == "10de"
    assert 'usb.0: "DataTraveler 3.0" is 0951:1666' in capsys.readouterr().err
