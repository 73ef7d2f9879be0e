"""What a daemon tells its service manager when it has started."""

import gc
import socket
from pathlib import Path

import pytest

from matcher.net.starting import say_ready


def test_a_daemon_that_is_ready_says_so_with_a_line_for_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        say_ready("disks reach other hosts by tgtd")
        gc.unfreeze()  # what a daemon keeps for good is not to stay in a run of tests
        assert manager.recv(200).decode().splitlines() == ["READY=1", "STATUS=disks reach other hosts by tgtd"]
