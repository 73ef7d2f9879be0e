"""A host's key for credentials is made once, and read by nobody else."""

import os
from pathlib import Path

import pytest

from storaged.export.key import KeyUnusable, load_key


def test_a_key_is_made_once_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "export.key"
    key = load_key(path)
    assert len(key) == 32
    assert load_key(path) == key != load_key(tmp_path / "other.key")
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path)) == ["export.key", "other.key"]


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "export.key"
    load_key(path)
    path.chmod(0o640)
    with pytest.raises(KeyUnusable, match="others may read"):
        load_key(path)


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_damaged_key_is_refused_and_not_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "export.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyUnusable, match="damaged"):
        load_key(path)
    assert path.read_bytes() == content


def test_a_link_is_no_key(tmp_path: Path) -> None:
    load_key(tmp_path / "real")
    (tmp_path / "export.key").symlink_to(tmp_path / "real")
    with pytest.raises(OSError, match=r"export\.key"):
        load_key(tmp_path / "export.key")
