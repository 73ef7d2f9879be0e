"""`electros` keeps its word to scripts and to people: forms, streams, exit codes, terminals."""

import contextlib
import json
import os
import pty
import select
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.vms import HELIUM, TINY, Vms, electros, plainly

pytestmark = pytest.mark.lab

OFFER_KEYS = {"host", "score", "threads", "numa", "pci", "volumes", "expires_in_s"}
VM_KEYS = {"id", "generation", "name", "host", "state", "domain", "accelerator", "addresses"}
ESCAPE = "\x1b["


@pytest.fixture
def vms(lab: Any, tmp_path: Path) -> Iterator[Vms]:
    mine = Vms(lab, tmp_path)
    yield mine
    mine.remove_all()


def typed(lab: Any, *words: str, environment: dict[str, str] | None = None, columns: int = 100) -> tuple[int, str]:
    """As a person at a terminal types it: exit code, and what the terminal shows."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update({"ATOMOS_LAB": lab.name, "TERM": "xterm-256color", "COLUMNS": str(columns)})
        os.environ.update(environment or {})
        command = str(Path(__file__).resolve().parents[2] / "packaging" / "lab")
        os.execv(command, [command, "exec", "client", "--", *words])
    shown = bytearray()
    with contextlib.suppress(OSError):  # EIO: the other side is closed
        while select.select([terminal], [], [], 60)[0]:
            data = os.read(terminal, 65536)
            if not data:
                break
            shown += data
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), shown.decode(errors="replace")


# ---- forms


def test_every_form_of_every_listing_has_the_same_data(lab: Any, vms: Vms) -> None:
    vms.run("formed")
    spec = vms.specfile({"slots": 3, "ramsize": 64})
    for words, names in (
        (("hosts",), ["h1", "h2", "h3"]),
        (("ps",), ["formed"]),
        (("inspect", "formed"), ["formed"]),
        (("pledge", HELIUM), None),
        (("pledge", spec), []),
        (("spec", "validate", spec), [spec]),
        (("spec", "schema"), ["specfile"]),
        (("start", "formed"), ["formed"]),
    ):
        as_json = json.loads(plainly(lab, *words, "-o", "json").out)
        as_yaml = yaml.safe_load(plainly(lab, *words, "-o", "yaml").out)
        assert as_json.keys() == as_yaml.keys(), words
        listed = plainly(lab, *words, "--output", "name").out.splitlines()
        assert sorted(listed) == sorted(names) if names is not None else len(listed) == 3
        assert plainly(lab, *words).out.strip(), words


def test_what_changes_something_tells_it_in_every_form(lab: Any, vms: Vms) -> None:
    assert plainly(lab, *vms.arguments("changed"), "-o", "name").out == "changed\n"
    assert yaml.safe_load(plainly(lab, "reboot", "changed", "-o", "yaml").out)["vm"]["name"] == "changed"
    assert plainly(lab, "stop", "--force", "changed", "-o", "name").out == "changed\n"
    assert electros(lab, "start", "changed").document["vm"].keys() >= VM_KEYS
    assert plainly(lab, "rm", "-f", "changed", "-o", "name").out == "changed\n"


def test_pledge_tells_offers_and_refusals_in_the_documented_shape_and_holds_nothing(lab: Any, vms: Vms) -> None:
    document = electros(lab, "pledge", vms.specfile()).document
    assert set(document) == {"pledge_id", "offers", "refusals"}
    assert {offer["host"] for offer in document["offers"]} == {"h1", "h2", "h3"}
    for offer in document["offers"]:
        assert set(offer) >= OFFER_KEYS
        assert 0 <= offer["score"] <= 1
    whole = {"slots": 2, "ramsize": 64}
    assert len(electros(lab, "pledge", vms.specfile(whole)).document["offers"]) == 3, "nothing was held"
    refusals = electros(lab, "pledge", vms.specfile({"slots": 3, "ramsize": 64})).document["refusals"]
    assert {"resource", "asked", "has", "hint"} <= set(refusals[0]["reasons"][0])


def test_hosts_tells_what_is_there_and_what_is_free(lab: Any) -> None:
    for host in electros(lab, "hosts").document["hosts"]:
        assert host["roles"] == ["compute", "storage"]
        assert host["state"] == "alive"
        assert 0 < host["slots"]["free"] <= host["slots"]["total"]
        assert 0 < host["ram_mib"]["free"] <= host["ram_mib"]["total"]
        assert len(host["id"]) == 64
        assert 0 < host["disk_gb"]["free"] <= host["disk_gb"]["total"]


# ---- streams and exit codes


def test_an_error_is_one_json_document_on_stderr_and_nothing_on_stdout(lab: Any, vms: Vms) -> None:
    for words, code, name in (
        (("inspect", "nobody"), 4, "not-found"),
        (("console", "nobody"), 4, "not-found"),
        (("fly",), 2, "usage"),
        (("hosts", "--flyy"), 2, "usage"),
        (("run",), 2, "usage"),
        (("run", "/no/such/file"), 2, "usage"),
        (("run", "/etc"), 2, "usage"),
        (("stop",), 2, "usage"),
        (("run", vms.specfile({"slots": 64, "ramsize": 64})), 3, "no-host-fits"),
    ):
        error = electros(lab, *words, code=code).error
        assert error["code"] == name, words
        assert error["message"], words
        told = plainly(lab, *words, code=code)
        assert told.out == ""
        assert told.err.startswith("electros: "), words
        assert "Traceback" not in told.err


def test_waiting_in_vain_for_an_address_is_a_timeout_and_the_vm_stays(lab: Any, vms: Vms) -> None:
    error = electros(lab, *vms.arguments("mute"), "--wait", "address", "--timeout", "1", code=7).error
    assert error["code"] == "timeout"
    assert "mute" in error["message"]
    assert vms.ps()["mute"]["state"] == "running"


def test_committed_is_enough_for_those_who_say_so(lab: Any, until: Callable[..., Any], vms: Vms) -> None:
    assert vms.run("early", None, "--wait", "committed")["state"] in ("committed", "running")
    until(lambda: vms.ps()["early"]["state"] == "running")


def test_one_name_that_is_wrong_does_not_keep_the_others_from_ending(lab: Any, vms: Vms) -> None:
    vms.run("one")
    vms.run("two")
    ended = plainly(lab, "rm", "--force", "nobody", "one", "nothing", "two", code=4)
    assert "nobody" in ended.err
    assert "nothing" in ended.err
    assert vms.ps() == {}


def test_progress_is_for_terminals_alone(lab: Any, vms: Vms) -> None:
    ended = plainly(lab, *vms.arguments("quiet"))
    assert ended.err == ""
    assert ESCAPE not in ended.out
    code, shown = typed(lab, "electros", *vms.arguments("watched"))
    assert code == 0
    assert "asking the hosts" in shown
    assert "watched" in shown.splitlines()[-1]


def test_no_color_is_heeded_on_a_terminal(lab: Any) -> None:
    code, shown = typed(lab, "electros", "hosts", environment={"NO_COLOR": "1"})
    assert code == 0
    assert ESCAPE not in shown
    _, shown = typed(lab, "electros", "hosts")
    assert ESCAPE in shown


def test_a_table_on_a_narrow_terminal_still_says_everything(lab: Any) -> None:
    _, shown = typed(lab, "sh", "-c", "stty cols 60; electros hosts")
    for word in ("h1", "h2", "h3", "tcg" if "tcg" in plainly(lab, "hosts").out else "kvm"):
        assert word in shown


def test_a_reader_that_goes_away_is_no_error(lab: Any, vms: Vms) -> None:
    for words in ("electros hosts -o json", "electros ps", "electros --help", "electros spec schema"):
        done = lab.exec("client", "sh", "-c", f"{words} | true; {words} | head -n 1 > /dev/null")
        assert done.stderr == "", words


def test_a_full_disk_behind_the_output_is_an_error(lab: Any) -> None:
    done = lab.exec("client", "sh", "-c", "electros hosts -o json > /dev/full", check=False)
    assert done.returncode == 1
    assert "could not be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_standard_input_is_a_file_called_minus(lab: Any, vms: Vms) -> None:
    spec = vms.specfile({"slots": 1, "ramsize": 64})
    done = lab.exec("client", "sh", "-c", f"electros pledge - -o name < {spec}")
    assert len(done.stdout.splitlines()) == 3
    wrong = lab.exec("client", "sh", "-c", "echo nonsense | electros pledge -", check=False)
    assert wrong.returncode == 2


def test_files_that_are_none_are_told_in_a_sentence(lab: Any, tmp_path: Path) -> None:
    junk, long, pipe = tmp_path / "junk", tmp_path / "long", tmp_path / "empty"
    junk.write_bytes(bytes(range(256)) * 16)
    long.write_text("[" + "1," * 2_000_000 + "1]")
    pipe.write_bytes(b"")
    for file in (str(junk), str(long), str(pipe), "/dev/null", str(tmp_path)):
        for words in (("pledge", file), ("run", HELIUM, "--volumes", file), ("spec", "validate", file)):
            ended = plainly(lab, *words, code=2)
            assert file in ended.err
            assert "Traceback" not in ended.err
            assert ESCAPE not in ended.err


# ---- help


def test_help_tells_what_every_command_does(lab: Any) -> None:
    overview = plainly(lab, "--help").out
    assert "7 timeout" in overview
    for command in ("hosts", "pledge", "run", "ps", "inspect", "console", "stop", "start", "reboot", "rm", "spec"):
        assert command in overview
        ended = plainly(lab, command, "--help")
        assert ended.err == ""
        assert len(ended.out.splitlines()) > 5
        if command != "spec":
            assert "--output" in ended.out, command


# ---- choosing


def test_edits_on_the_way_change_the_specfile(lab: Any, vms: Vms) -> None:
    vm = vms.run("edited", HELIUM, "--set", "cpu.slots=2", "--set", "ram.ramsize=128")
    seen = electros(lab, "inspect", vm["id"]).document["vm"]
    assert (seen["vcpus"], seen["ram_mib"]) == (2, 128)
    assert seen["specfile"]["cpu"]["slots"] == 2
    error = electros(lab, "pledge", HELIUM, "--set", "cpu.slotz=2", code=2).error
    assert "cpu.slotz" in str(error["problems"])


def test_a_ranking_of_ones_own_decides_and_a_wrong_one_is_a_sentence(lab: Any, vms: Vms) -> None:
    for host in ("h3", "h2"):
        assert vms.run(f"at-{host}", None, "--rank", f"host == '{host}'")["host"] == host
    for rank in ("host", "__import__('os')", "score +", "1 / ", "(" * 200, "nosuch"):
        error = electros(lab, "pledge", HELIUM, "--rank", rank, code=2).error
        assert "--rank" in error["message"]


def test_which_of_several_alternatives_a_vm_got_is_told(lab: Any, vms: Vms) -> None:
    either = TINY | {"pci": {"any_of": [[{"vendor": "10de", "model": "24b0"}], []]}}
    done = plainly(lab, *vms.arguments("either", either))
    assert "alternative 2 of 2, on h" in done.err
    assert done.err.count("no device") == 1


def test_pack_fills_a_host_and_spread_takes_the_emptiest(lab: Any, vms: Vms) -> None:
    vms.run("seed", host="h2")
    assert vms.run("packed")["host"] == "h2"
    vms.run("one", host="h1")
    assert vms.run("spread", None, "--policy", "spread")["host"] == "h3"


def test_start_prefers_the_host_where_it_was(lab: Any, vms: Vms) -> None:
    vms.run("homing", host="h3")
    vms.run("magnet", host="h1")
    electros(lab, "stop", "--force", "homing")
    assert electros(lab, "start", "homing").document["vm"]["host"] == "h3"


def test_start_goes_elsewhere_where_its_host_is_full_and_leaves_no_name_behind(lab: Any, vms: Vms) -> None:
    first = vms.run("moving", host="h3")
    electros(lab, "stop", "--force", "moving")
    vms.run("squatter", {"slots": 2, "ramsize": 64}, host="h3")
    moved = electros(lab, "start", "moving").document["vm"]
    assert moved["host"] in ("h1", "h2")
    assert (moved["id"], moved["generation"]) == (first["id"], 2)
    assert [vm["name"] for vm in electros(lab, "ps").document["vms"]].count("moving") == 1


def test_version_is_told(lab: Any) -> None:
    assert plainly(lab, "--version").out.strip()[0].isdigit()
