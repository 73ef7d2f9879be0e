"""A realm is made once and whole; its members get what they need, and nobody's identity is overwritten."""

import os
from pathlib import Path

import pytest

from matcher.trust import files, realm
from matcher.trust.identity import IdentityError, load_identity
from matcher.trust.realm import RealmError, create_realm, issue


@pytest.fixture
def home(tmp_path: Path) -> Path:
    create_realm(tmp_path / "realm", "home")
    return tmp_path / "realm"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def modes(folder: Path) -> set[int]:
    return {path.stat().st_mode & 0o777 for path in folder.iterdir()}


def refused(*arguments: object) -> str:
    with pytest.raises(RealmError) as caught:
        issue(*arguments)  # type: ignore[arg-type]
    return str(caught.value)


def test_a_realm_is_private_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    realm_id = create_realm(tmp_path / "a" / "realm", "home")
    assert len(realm_id) == 16
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["realm"]
    folder = tmp_path / "a" / "realm"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert modes(folder) == {0o600}
    assert set(content(folder)) == {"root.key.pem", "root.pem", "issuer.key.pem", "issuer.pem", "realm.json"}


def test_permissions_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        create_realm(tmp_path / "realm", "home")
        issue(tmp_path / "realm", "host", "h1", tmp_path / "h1")
    finally:
        os.umask(before)
    for folder in (tmp_path / "realm", tmp_path / "h1"):
        assert folder.stat().st_mode & 0o777 == 0o700
        assert modes(folder) == {0o600}


def test_an_existing_realm_stays(home: Path) -> None:
    before = content(home)
    with pytest.raises(RealmError, match="already, and it stays"):
        create_realm(home, "other")
    assert content(home) == before


def test_a_folder_with_anything_in_it_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    for folder in (tmp_path, tmp_path / "x"):
        with pytest.raises(RealmError, match="not an empty folder"):
            create_realm(folder, "home")
    with pytest.raises(RealmError, match="can't be written"):
        create_realm(tmp_path / "x" / "realm", "home")


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "realm").mkdir()
    create_realm(tmp_path / "realm", "home")
    assert (tmp_path / "realm").stat().st_mode & 0o777 == 0o700


def test_a_full_disk_leaves_no_realm_and_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RealmError, match="No space left"):
        create_realm(tmp_path / "realm", "home")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "../x"])
def test_bad_names_are_refused_before_anything_is_written(tmp_path: Path, home: Path, name: str) -> None:
    with pytest.raises(RealmError, match="can't be a name"):
        create_realm(tmp_path / "other", name)
    assert "can't be a name" in refused(home, "host", name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("days", [0, -1, 3651])
def test_days_are_limited(tmp_path: Path, home: Path, days: int) -> None:
    assert "days can't be" in refused(home, "host", "h1", tmp_path / "out", days)


def test_a_member_gets_what_it_needs_and_no_key_of_the_realm(tmp_path: Path, home: Path) -> None:
    issue(home, "user", "ann", tmp_path / "ann")
    assert set(content(tmp_path / "ann")) == {"key.pem", "leaf.pem", "issuers.pem", "root.pem", "realm.json"}
    assert load_identity(tmp_path / "ann").principal.name == "ann"


def test_issuing_does_without_the_roots_key(tmp_path: Path, home: Path) -> None:
    (home / "root.key.pem").unlink()
    issue(home, "host", "h1", tmp_path / "h1")
    assert load_identity(tmp_path / "h1").principal.kind == "host"


def test_default_days_are_30_for_hosts_and_90_for_users(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1_900_000_000.0
    monkeypatch.setattr(realm.time, "time", lambda: now_s)
    for kind, days in (("host", 30), ("user", 90)):
        issue(home, kind, kind, tmp_path / kind)  # type: ignore[arg-type]
        assert load_identity(tmp_path / kind, wall_s=now_s).expires_s == now_s + days * 86_400


def test_the_same_member_keeps_its_key_and_gets_a_new_leaf(tmp_path: Path, home: Path) -> None:
    issue(home, "host", "h1", tmp_path / "h1", 1)
    first = load_identity(tmp_path / "h1")
    issue(home, "host", "h1", tmp_path / "h1", 30)
    second = load_identity(tmp_path / "h1")
    assert second.principal == first.principal
    assert second.expires_s > first.expires_s
    assert second.certificate != first.certificate


def test_an_expired_member_is_renewed(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    issue(home, "host", "h1", tmp_path / "h1", 1)
    before = load_identity(tmp_path / "h1").principal
    later_s = 60 * 86_400.0 + load_identity(tmp_path / "h1").expires_s
    monkeypatch.setattr(realm.time, "time", lambda: later_s)
    with pytest.raises(IdentityError, match="expired"):
        load_identity(tmp_path / "h1")
    issue(home, "host", "h1", tmp_path / "h1")
    assert load_identity(tmp_path / "h1").principal == before


def test_anothers_identity_stays(tmp_path: Path, home: Path) -> None:
    issue(home, "host", "h1", tmp_path / "h1")
    create_realm(tmp_path / "other", "home")
    before = content(tmp_path / "h1")
    assert "identity of host h1, and it stays" in refused(home, "host", "h2", tmp_path / "h1")
    assert "identity of host h1, and it stays" in refused(home, "user", "h1", tmp_path / "h1")
    assert "identity of host h1, and it stays" in refused(tmp_path / "other", "host", "h1", tmp_path / "h1")
    assert "the realm itself" in refused(home, "host", "h1", home)
    assert content(tmp_path / "h1") == before


def test_a_key_that_is_not_understood_stays(tmp_path: Path, home: Path) -> None:
    (tmp_path / "h1").mkdir()
    (tmp_path / "h1" / "key.pem").write_text("something dear")
    assert "without its certificate" in refused(home, "host", "h1", tmp_path / "h1")
    (tmp_path / "h1" / "leaf.pem").write_text("something else")
    assert "and it stays" in refused(home, "host", "h1", tmp_path / "h1")
    assert (tmp_path / "h1" / "key.pem").read_text() == "something dear"


def test_a_folder_with_other_files_can_hold_an_identity(tmp_path: Path, home: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "atomd.toml").write_text("x")
    issue(home, "host", "h1", tmp_path / "etc")
    assert load_identity(tmp_path / "etc").principal.name == "h1"
    assert (tmp_path / "etc" / "atomd.toml").read_text() == "x"


def test_a_missing_or_damaged_realm_is_a_sentence(tmp_path: Path, home: Path) -> None:
    assert "electros realm create" in refused(tmp_path / "none", "host", "h1", tmp_path / "h1")
    good = content(home)
    for name in ("realm.json", "root.pem", "issuer.pem", "issuer.key.pem"):
        (home / name).write_text("{}")
        assert "damaged" in refused(home, "host", "h1", tmp_path / "h1")
        (home / name).write_bytes(good[name])
    (home / "issuer.key.pem").write_bytes(good["root.key.pem"])
    assert "not the key of issuer.pem" in refused(home, "host", "h1", tmp_path / "h1")
    assert not (tmp_path / "h1").exists()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    files.write(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write(path, b"new")
    assert content(tmp_path) == {"x": b"old"}
