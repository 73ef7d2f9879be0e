"""A disk that is copied for a VM goes again where nobody waits for the VM any more."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from matcher.cli import disks
from matcher.cli.failures import Exit, Failure
from matcher.cli.session import session
from matcher.wire.codec import to_json
from matcher.wire.messages import ImageFormat, Reason, Refused, Role
from matcher.wire.realm import Done
from matcher.wire.volumes import VolumeProgress, VolumeView, VolumeViews
from specs.ids import VmId
from tests.fakes.hosts import Host, Link, keyboard

IMAGE, COPY, VM = "a" * 32, "d" * 32, VmId("e" * 32)
CANCEL, REMOVE = f"DELETE /v1/volumes/{COPY}/job", f"DELETE /v1/volumes/{COPY}"
DONE = Done("it is not copied: all is as it was before")
TOO_LATE = Refused("too-late", (Reason("volume", "to end it", "it was copied meanwhile", ""),))
AWAY = Refused("unavailable", (Reason("volume", "to end it", "its journal is full", ""),))


def view(vid: str, name: str, **more: Any) -> VolumeView:
    known = {"owner": None, "host": "h1", "host_id": "1" * 64, "pool": "/srv/atomos", "state": "free"} | more
    traits = {"bootable": True, "private": False, "shareable": False, "readonly": True}
    return VolumeView(vid=vid, name=name, size_mib=1152, format=ImageFormat.RAW, **traits, **known)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """One that has an image, and goes on with copies of it when its user presses Ctrl-C."""
    link: Link
    with keyboard(tmp_path, monkeypatch, "h1") as link:
        link.hosts.append(Host(link, link.realm["h1"], role=Role.STORAGE))
        link.hosts[-1].answers["GET /v1/volumes"] = VolumeViews((view(IMAGE, "debian"),))

        def interrupted(*_: Any, **more: Any) -> VolumeView:
            assert more["vid"] == COPY
            raise Failure(Exit.INTERRUPTED, "interrupted; h1 goes on with it", helps="electros volume cancel")

        monkeypatch.setattr(disks, "new_id", lambda _: COPY)
        monkeypatch.setattr(disks, "copy_of", interrupted)
        yield link.hosts[-1]


def run() -> Failure:
    with (
        session() as mine,
        pytest.raises(Failure) as failure,
        disks.brought(mine, VM, "web", (), "debian", None, None),
    ):
        raise AssertionError("there is no disk")
    assert failure.value.exit_code is Exit.INTERRUPTED
    return failure.value


def test_ctrl_c_while_a_disk_is_copied_ends_the_copy(host: Host) -> None:
    host.answers[CANCEL] = DONE
    assert run().message == "interrupted while h1 copied debian; nothing is left of the copy"
    assert REMOVE not in host.asked


def test_one_that_was_copied_meanwhile_is_removed(host: Host) -> None:
    host.answers[CANCEL] = TOO_LATE
    gone = VolumeProgress("done", volume=view(COPY, "web"))
    host.answers[REMOVE] = to_json(gone).encode() + b"\n"  # type: ignore[assignment]
    assert "nothing is left of the copy" in run().message
    assert host.asked[-1] == REMOVE


def test_where_the_host_can_not_end_it_its_person_is_told_how(host: Host) -> None:
    host.answers[CANCEL] = AWAY
    failure = run()
    assert (failure.message, failure.helps) == ("interrupted; h1 goes on with it", "electros volume cancel")
