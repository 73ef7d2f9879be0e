"""`electros capacity`, as a person and a program read it."""

import json
from pathlib import Path
from typing import Any

import pytest

from matcher.cli import capacity as command
from matcher.cli.failures import Exit, Failure
from matcher.scheduler.choosing import Choice, Heard
from matcher.scheduler.outcomes import HostReasons, Surveyed
from matcher.wire.messages import Accelerator, Arch, Reason, VmOffer
from specs.ids import HostId

FLAGS = Reason("flags", "avx512f", "not on this CPU", "")


def offer(
    host: str, copies: int, runs_out: tuple[str, ...], *, at_least: bool = False, pretended: bool = False
) -> Choice:
    made = VmOffer(
        *("a" * 32, "b" * 32, host, 7766, 3, 0, 0.5, (0,), 1, 0, (), Arch.X86_64, Accelerator.KVM),
        pretended=pretended,
        copies=copies,
        copies_at_least=at_least,
        runs_out=runs_out,
    )
    return Choice(Heard(made, HostId(host.ljust(64, "0")), host), ())


def told(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    choices: tuple[Choice, ...],
    output: Any = "table",
) -> str:
    (folder / "s.json").write_text('{"slots": 1, "ramsize": 512}')
    unfits = (HostReasons(HostId("9" * 64), "h9", (FLAGS,)),)
    monkeypatch.setattr(command, "survey", lambda *_, **__: ("a" * 32, Surveyed(choices, unfits, 3)))
    command.capacity(str(folder / "s.json"), output=output)
    return capsys.readouterr().out


def test_each_host_and_the_sum_and_what_runs_out_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines = told(
        capsys, monkeypatch, tmp_path, (offer("h1", 2, ("slots",)), offer("h2", 5, ("ram", "slots")))
    ).splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["HOST", "FITS", "RUNS", "OUT", "FIRST"],
        ["h2", "5", "ram,", "slots"],
        ["h1", "2", "slots"],
        ["h9", "0", "flags"],
    ]
    assert lines[4:] == ["in all: 7"]


def test_where_counting_ended_before_the_room_did_it_says_or_more(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = told(capsys, monkeypatch, tmp_path, (offer("h1", 1024, (), at_least=True),))
    assert "1024 or more" in text
    assert "in all: 1024 or more" in text


def test_a_script_gets_the_sum_or_all_of_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    choices = (offer("h1", 2, ("slots",)), offer("h8", 9, (), pretended=True))
    assert told(capsys, monkeypatch, tmp_path, choices, "name").split() == ["2"]
    document = json.loads(told(capsys, monkeypatch, tmp_path, choices, "json"))
    assert (document["fits"], [host["host"] for host in document["hosts"]]) == (2, ["h1", "h9"]), (
        "a recording runs none"
    )


def test_where_none_fits_the_exit_code_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(Failure) as caught:
        told(capsys, monkeypatch, tmp_path, ())
    assert caught.value.exit_code is Exit.NO_HOST_FITS
    assert caught.value.helps.startswith("electros why")
