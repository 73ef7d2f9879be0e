"""`electros why`, as a person and a program read it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from matcher.cli import why as command
from matcher.cli.failures import Exit, Failure
from matcher.scheduler.outcomes import HostReasons, Surveyed
from matcher.wire.messages import Reason
from specs.ids import HostId

FLAGS = Reason("flags", "avx512f", "not on this CPU (AMD EPYC 7451 32-Core Processor)", "", "cpu.flags-=avx512f")
ECC = Reason("ecc", "ECC memory", "unknown: it does not say", "", "ram.reqECC=false", unknown=True)
CUT = Reason("more", "2 more", "no room", "")
BUSY = Reason("slots", "4", "0 free", "wait")


def told(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    reasons: Sequence[Sequence[Reason]],
    output: Any = "table",
    **options: Any,
) -> tuple[str, Failure]:
    """What is printed, and how it ends, where these are the reasons of h1, h2…"""
    spec = folder / "train.json"
    spec.write_text('{"slots": 4, "ramsize": 512, "flags": ["avx512f"], "reqECC": true}')
    unfits = tuple(HostReasons(HostId(f"{n}" * 64), f"h{n}", tuple(each)) for n, each in enumerate(reasons, 1))
    monkeypatch.setattr(command, "survey", lambda *_: ("a" * 32, Surveyed((), unfits, 3)))
    with pytest.raises(Failure) as caught:
        command.why(str(spec), output=output, **options)
    return capsys.readouterr().out, caught.value


def test_a_table_shows_what_decides_and_names_the_rest(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text, failure = told(capsys, monkeypatch, tmp_path, [[FLAGS], [FLAGS, ECC], [BUSY]], allow_emulation=True)
    lines = text.splitlines()
    assert lines[0].split() == ["HOST", "SLOTS", "FLAGS", "ECC"]
    assert lines[1].split("  ")[-1] == "has"
    assert "unknown: it does not say" in lines[2]
    assert lines[4:] == [
        "every host has: ram, arch",
        "without avx512f: 1 host (h1)",
        "without ECC, without avx512f: 2 hosts (h1, h2)",
    ]
    assert failure.exit_code is Exit.NO_HOST_FITS
    assert failure.helps.endswith("train.json --allow-emulation --set cpu.flags-=avx512f")


def test_a_script_gets_the_arguments_of_the_cheapest_change_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text, _ = told(capsys, monkeypatch, tmp_path, [[FLAGS, ECC], [ECC]], output="name")
    assert text.splitlines() == ["--set ram.reqECC=false", "--set ram.reqECC=false --set cpu.flags-=avx512f"]


def test_a_document_says_what_was_left_off(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text, _ = told(capsys, monkeypatch, tmp_path, [[FLAGS, CUT], [FLAGS]], output="json")
    document = json.loads(text)
    cut, whole = document["hosts"]
    assert (cut["left_off"], cut["asks"]["ram"]) == (True, {"state": "unknown"})
    assert (whole["left_off"], whole["asks"]["ram"]) == (False, {"state": "has"})
    assert whole["asks"]["flags"]["set"] == "cpu.flags-=avx512f"
    assert document["relaxations"] == [
        {"says": "without avx512f", "set": ["cpu.flags-=avx512f"], "allow_emulation": False, "hosts": ["h2"]}
    ]


def test_where_nothing_helps_that_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text, failure = told(capsys, monkeypatch, tmp_path, [[BUSY]])
    assert text.splitlines()[-1] == "no change of the specfile would make a host fit now"
    assert failure.helps == ""


def test_secure_boot_and_a_tpm_are_done_without_in_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secure = Reason("firmware", "uefi-secure", "bios, uefi", "", "misc.firmware=uefi")
    tpm = Reason("tpm", "TPM 2.0", "no TPM for guests", "", "misc.tpm=false")
    text, failure = told(capsys, monkeypatch, tmp_path, [[secure], [secure, tpm]], allow_emulation=True)
    assert text.splitlines()[-2:] == [
        "without secure boot: 1 host (h1)",
        "without secure boot, without a TPM: 2 hosts (h1, h2)",
    ]
    assert failure.helps.endswith("--allow-emulation --set misc.firmware=uefi")
