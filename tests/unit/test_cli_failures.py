"""What goes wrong is one sentence, what each host said, and the command that helps; for programs the same as JSON."""

from matcher.cli.failures import CODES, Exit, Failure
from matcher.scheduler.outcomes import HostReasons, Nearest
from matcher.wire.messages import Reason
from specs.ids import HostId, dashed

SLOTS = Reason("slots", "4 whole cores", "2 in all, 2 free", "at most 2", "cpu.slots=2")
RAM = Reason("ram", "64 GiB", "8 GiB free", "")
H1, H2 = HostId("a" * 64), HostId("b" * 64)
NOBODY = Failure(
    Exit.NO_HOST_FITS,
    'no host fits "big.json"',
    hosts=[HostReasons(H1, "h1", (SLOTS, RAM)), HostReasons(H2, "long-name", (SLOTS,))],
    nearest=[Nearest(H2, "long-name", ("cpu.slots=2",)), Nearest(H1, "h1", ("cpu.slots=2", "ram.ramsize=8192"))],
)


def test_the_exit_codes_are_what_the_help_promises() -> None:
    assert [code.value for code in Exit] == [0, 1, 2, 3, 4, 5, 6, 7, 130]
    assert set(CODES) == set(Exit) - {Exit.OK}
    assert len(set(CODES.values())) == len(CODES)


def test_every_host_has_its_lines_with_what_was_asked_and_what_is_there() -> None:
    lines = NOBODY.text().splitlines()
    assert lines[0] == 'electros: no host fits "big.json"'
    assert lines[1] == "  h1         slots: asked 4 whole cores; 2 in all, 2 free (at most 2)"
    assert lines[1].index("slots") == lines[3].index("slots"), "in columns"
    assert "ram: asked 64 GiB; 8 GiB free" in lines[2]


def test_what_a_volume_was_asked_for_is_not_repeated_and_its_uuid_can_be_copied() -> None:
    busy = Reason(f"volume {'c' * 32}", "to attach it", "your VM web has it", "electros rm web")
    lines = Failure(Exit.NO_HOST_FITS, "no", hosts=[HostReasons(H1, "h1", (busy,))]).text().splitlines()
    assert lines[1] == f"  h1  volume {dashed('c' * 32)}: your VM web has it (electros rm web)"


def test_the_nearest_host_comes_with_the_arguments_that_make_it_fit() -> None:
    line = NOBODY.text().splitlines()[-1]
    assert "long-name" in line
    assert "--set cpu.slots=2" in line


def test_a_host_cannot_write_lines_of_its_own() -> None:
    bad = "x\r\nelectros: all is well\x1b[2J\u2028y"
    said = Failure(
        Exit.FAILED,
        f"h1 says no: {bad}",
        hosts=[HostReasons(H1, bad, (Reason(bad, bad, bad, bad),))],
        nearest=[Nearest(H1, bad, (bad,))],
        problems=[{"path": bad, "problem": bad, "hint": bad}],
        helps=bad,
    )
    lines = said.text().split("\n")
    assert len(lines) == 6
    assert all(line.isprintable() for line in lines)


def test_a_program_gets_the_same_as_json() -> None:
    error = NOBODY.document()["error"]
    assert isinstance(error, dict)
    assert error["code"] == "no-host-fits"
    assert [refusal["host"] for refusal in error["refusals"]] == ["h1", "long-name"]
    assert error["refusals"][0]["reasons"][0] == {
        "resource": "slots",
        "asked": "4 whole cores",
        "has": "2 in all, 2 free",
        "hint": "at most 2",
        "set": "cpu.slots=2",
    }
    assert error["nearest"][0] == {"host": "long-name", "set": ["cpu.slots=2"]}


def test_what_is_not_there_is_left_out() -> None:
    assert Failure(Exit.FAILED, "broken").document() == {"error": {"code": "failed", "message": "broken"}}
    assert Failure(Exit.FAILED, "broken", helps="mend it").text() == "electros: broken\n  mend it"
