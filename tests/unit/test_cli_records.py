import json
from dataclasses import replace
from pathlib import Path

import pytest

from matcher.cli import records
from matcher.cli.failures import Failure
from matcher.scheduler.pledging import Errand
from matcher.wire.messages import ImageFormat, VmVolume
from specs.ids import Vid, VmId
from tests.fakes.door import VM as SEEN

VM = VmId("a" * 32)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("ATOMOS_CONTEXT", raising=False)
    return tmp_path / "atomos" / "default" / "vms"


def test_nothing_is_known_of_a_vm_that_was_not_run_from_here() -> None:
    assert records.last_generation(VM) == 0


def test_a_generation_that_was_tried_is_remembered_whatever_became_of_it() -> None:
    records.keep(Errand(VM, 3, None, name="web"))
    assert records.last_generation(VM) == 3


def test_a_garbled_record_counts_as_none(home: Path) -> None:
    records.keep(Errand(VM, 3, None))
    (home / f"{VM}.json").write_text("{")
    assert records.last_generation(VM) == 0


def test_a_record_is_its_owners_alone_and_tells_where_the_vm_went(home: Path) -> None:
    records.keep(Errand(VM, 1, None, name="web", specfile="{}"), "h2", "f" * 64)
    path = home / f"{VM}.json"
    assert path.stat().st_mode & 0o077 == 0
    assert json.loads(path.read_text())["host"] == "h2"


def test_two_terminals_do_not_start_one_vm_at_once() -> None:
    with records.alone(VM), pytest.raises(Failure, match="another terminal"), records.alone(VM):
        pass
    with records.alone(VM):
        pass


def test_what_is_forgotten_is_gone() -> None:
    records.keep(Errand(VM, 2, None))
    with records.alone(VM):
        pass
    records.forget(VM)
    assert records.last_generation(VM) == 0


def test_what_a_vm_has_got_and_given_back_since_is_what_it_is_run_with_again(home: Path) -> None:
    disk, cd, old = Vid("1" * 32), Vid("2" * 32), Vid("3" * 32)
    records.keep(Errand(VM, 2, None, (old,), name="web", specfile="{}", readonly=frozenset({old})))
    volumes = (VmVolume(disk, ImageFormat.RAW, False, True), VmVolume(cd, ImageFormat.RAW, True, False, cdrom=True))
    records.revise(replace(SEEN, id=VM, generation=2, volumes=volumes))
    kept = records.named("web")
    assert kept is not None
    assert (kept.volumes, kept.readonly, kept.cdroms) == ((disk, cd), {cd}, {cd})
    records.revise(replace(SEEN, id=VM, generation=1, volumes=()))
    assert records.named("web") == kept, "an older life says nothing"
    records.revise(replace(SEEN, id="b" * 32, generation=1, volumes=()))
    assert records.last_generation(VmId("b" * 32)) == 0, "nor one that was run from elsewhere"
