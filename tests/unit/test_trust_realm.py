"""A realm is made once and whole; its root is replaced and carried away without ever being in danger of being lost."""

import os
import time
from pathlib import Path

import pytest

from matcher.trust import files, root
from matcher.trust.bundle import Bundle
from matcher.trust.certificates import ALL_SCOPES, Scope
from matcher.trust.documents import key_id
from matcher.trust.identity import load_identity
from matcher.trust.issuing import IssueError, open_issuer
from matcher.trust.realm import (
    EVERYTHING,
    RealmError,
    Root,
    create_root,
    export_root,
    finish_rotation,
    found,
    import_root,
    last_anchor,
    make_member,
    next_anchor,
    open_root,
    rotate_root,
)
from tests.fakes.realms import Crash, Realm, crash_at, make_realm, new_key

WORDS = "correct horse battery"


@pytest.fixture
def home(tmp_path: Path) -> Realm:
    return make_realm(tmp_path, "ann", "h1")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(root, "EXPORT_ROUNDS", 1000)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def create(top: Path, name: str = "home", host: str = "h0", user: str = "ann") -> None:
    """As `electros realm create` does it."""
    made = create_root(top / "root", name)
    identity = found(made, host=host, identity=top / "identity", issuer=top / "issuer")
    issuer = open_issuer(top / "issuer", identity)
    assert issuer is not None
    make_member(identity, issuer, "user", user, top / "ann", grant=EVERYTHING)


# ---- creating


def test_a_root_is_private_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = create_root(tmp_path / "a" / "realm", "home")
    finally:
        os.umask(before)
    folder = tmp_path / "a" / "realm"
    assert len(made.realm_id) == 16
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["realm"]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert set(content(folder)) == {"root.key.pem", "root.pem", "realm.json"}
    assert repr(made).count("key") == 0
    opened = open_root(folder)
    assert (opened.realm_id, opened.name, opened.certificate) == (made.realm_id, "home", made.certificate)


def test_an_existing_realm_stays_and_doing_it_again_is_fine(tmp_path: Path) -> None:
    made = create_root(tmp_path / "realm", "home")
    before = content(tmp_path / "realm")
    assert create_root(tmp_path / "realm", "home").realm_id == made.realm_id
    with pytest.raises(RealmError, match="already, and it stays"):
        create_root(tmp_path / "realm", "other")
    assert content(tmp_path / "realm") == before
    (tmp_path / "realm" / "root.pem").write_text("x")
    with pytest.raises(RealmError, match="already, and it stays"):
        create_root(tmp_path / "realm", "home")


def test_a_folder_with_anything_in_it_is_not_taken_and_an_empty_one_is(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    for folder in (tmp_path, tmp_path / "x"):
        with pytest.raises(RealmError, match="not an empty folder"):
            create_root(folder, "home")
    with pytest.raises(RealmError, match="can't be written"):
        create_root(tmp_path / "x" / "realm", "home")
    (tmp_path / "realm").mkdir()
    create_root(tmp_path / "realm", "home")
    assert (tmp_path / "realm").stat().st_mode & 0o777 == 0o700


def test_a_full_disk_leaves_no_realm_and_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RealmError, match="No space left"):
        create_root(tmp_path / "realm", "home")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "../x"])
def test_bad_names_are_refused_before_anything_is_written(tmp_path: Path, home: Realm, name: str) -> None:
    with pytest.raises(RealmError, match="can't be a name"):
        create_root(tmp_path / "other", name)
    with pytest.raises(RealmError, match="can't be a name"):
        found(home.root, host=name, identity=tmp_path / "other", issuer=tmp_path / "other")
    with pytest.raises(RealmError, match="can't be a name"):
        make_member(home["h0"], home.issuer, "host", name, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("writes", range(26))
def test_creating_that_stopped_at_any_write_goes_on(tmp_path: Path, writes: int) -> None:
    with crash_at(writes) as written:
        try:
            create(tmp_path)
            assert len(written) <= writes
        except (RealmError, Crash):
            assert len(written) == writes
    create(tmp_path)
    create(tmp_path)
    host, ann = load_identity(tmp_path / "identity"), load_identity(tmp_path / "ann")
    assert host.verifier.principal(ann.certificate, time.time())[0].name == "ann"
    assert ann.verifier.principal(host.certificate, time.time())[0].name == "h0"
    assert host.bundle.anchor.epoch == 1
    assert host.bundle.heard_s() is not None
    issuer = open_issuer(tmp_path / "issuer", host)
    assert issuer is not None
    assert sorted(member.name for member in issuer.members(time.time())) == ["ann", "h0"]


def test_the_crash_test_reaches_the_end(tmp_path: Path) -> None:
    with crash_at(999) as written:
        create(tmp_path)
    assert 20 <= len(written) <= 26


def test_a_realm_has_one_first_host(tmp_path: Path, home: Realm) -> None:
    with pytest.raises(RealmError, match=r"not this one. Here: atomd join TOKEN"):
        found(home.root, host="h9", identity=tmp_path / "x", issuer=tmp_path / "y")
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "y").exists()


def test_nothing_of_another_realm_is_touched(tmp_path: Path, home: Realm) -> None:
    other = create_root(tmp_path / "other", "other")
    before = content(tmp_path / "issuer"), content(tmp_path / "h0")
    with pytest.raises(RealmError, match=r"belongs to a realm already, as host h0 of home.*rm -rf"):
        found(other, host="h0", identity=tmp_path / "h0", issuer=tmp_path / "issuer")
    with pytest.raises(RealmError, match=r"another realm's issuer.*rm -f \S+/issuer/key.pem"):
        found(other, host="h0", identity=tmp_path / "new", issuer=tmp_path / "issuer")
    with pytest.raises(RealmError, match="as host h0"):
        found(home.root, host="h5", identity=tmp_path / "h0", issuer=tmp_path / "issuer")
    with pytest.raises(RealmError, match="and it stays"):
        make_member(home["h0"], home.issuer, "user", "ann", tmp_path / "h1", grant=EVERYTHING)
    assert (content(tmp_path / "issuer"), content(tmp_path / "h0")) == before


def test_a_key_that_is_not_understood_stays(tmp_path: Path, home: Realm) -> None:
    (tmp_path / "h9").mkdir()
    (tmp_path / "h9" / "key.pem").write_text("something dear")
    (tmp_path / "h9" / "key.pem").chmod(0o600)
    with pytest.raises(RealmError, match="no private key"):
        make_member(home["h0"], home.issuer, "host", "h9", tmp_path / "h9")
    assert (tmp_path / "h9" / "key.pem").read_text() == "something dear"


def test_a_folder_with_other_files_can_hold_an_identity(tmp_path: Path, home: Realm) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "atomd.toml").write_text("x")
    make_member(home["h0"], home.issuer, "host", "h9", tmp_path / "etc")
    assert load_identity(tmp_path / "etc").principal.name == "h9"
    assert (tmp_path / "etc" / "atomd.toml").read_text() == "x"
    with pytest.raises(IssueError):
        make_member(home["h0"], home.issuer, "host", "h9", tmp_path / "more")


# ---- a root's folder


def test_a_missing_or_damaged_root_is_a_sentence(tmp_path: Path, home: Realm) -> None:
    def refused(folder: Path) -> str:
        with pytest.raises(RealmError) as caught:
            open_root(folder)
        return str(caught.value)

    folder = tmp_path / "root"
    assert "electros realm create" in refused(tmp_path / "none")
    good = content(folder)
    for name in ("realm.json", "root.pem", "root.key.pem"):
        for bad in (b"{}", b"", b"\xff", b'{"realm_id": "x", "name": "home"}', b"[]"):
            files.write(folder / name, bad)
            assert "damaged" in refused(folder)
        files.write(folder / name, good[name])
    (folder / "root.key.pem").chmod(0o640)
    assert "chmod 600" in refused(folder)
    files.write(folder / "root.key.pem", files.key_pem(new_key()))
    assert "not the key of root.pem" in refused(folder)
    (folder / "root.key.pem").unlink()
    assert "import-root" in refused(folder)
    for bad in (b"", b"x", good["anchor"][:-1], good["anchor"][:-1] + b"x"):
        files.write(folder / "anchor", bad)
        with pytest.raises(RealmError, match="anchor is damaged"):
            last_anchor(home.root)


def test_a_root_leaves_encrypted_and_comes_back(tmp_path: Path, home: Realm) -> None:
    folder, out = home.root.folder, tmp_path / "exported"
    for bad, match in (("short", "too short"), ("x" * 11, "too short")):
        with pytest.raises(RealmError, match=match):
            export_root(home.root, out, bad)
    export_root(home.root, out, WORDS)
    assert out.stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE KEY" not in out.read_bytes()
    assert not (folder / "root.key.pem").exists()
    with pytest.raises(RealmError, match="exported"):
        open_root(folder)
    with pytest.raises(RealmError, match="and it stays"):
        create_root(folder, "home")
    with pytest.raises(RealmError, match="and stays"):
        export_root(home.root, out, WORDS)
    for wrong in ("wrong horse battery", "", "\udcff" * 12):
        with pytest.raises(RealmError, match="does not open"):
            import_root(folder, out, wrong)
    away = create_root(tmp_path / "away", "away")
    with pytest.raises(RealmError, match="is not that of"):
        import_root(away.folder, out, WORDS)
    with pytest.raises(RealmError, match="no realm's root"):
        import_root(tmp_path / "none", out, WORDS)
    import_root(folder, out, WORDS)
    assert open_root(folder).key.private_numbers() == home.root.key.private_numbers()
    assert (folder / "root.key.pem").stat().st_mode & 0o777 == 0o600


def test_a_root_key_stays_where_its_copy_can_not_be_read_back(
    tmp_path: Path, home: Realm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(root, "_decrypt", lambda *_: (new_key(), None))
    with pytest.raises(RealmError, match="can't be read back"):
        export_root(home.root, tmp_path / "out", WORDS)
    open_root(home.root.folder)


# ---- issuers


def test_issuers_come_and_go_by_the_roots_word(home: Realm) -> None:
    key, wall_s, bundle = new_key(), time.time(), home["h0"].bundle
    two = bundle.add(next_anchor(home.root, bundle, wall_s=wall_s, add=key.public_key(), scopes=[Scope.USERS]))
    assert [entry.scopes for entry in two.issuers] == [ALL_SCOPES, frozenset([Scope.USERS])]
    wider = two.add(next_anchor(home.root, two, wall_s=wall_s, add=key.public_key()))
    assert [entry.scopes for entry in wider.issuers] == [ALL_SCOPES, ALL_SCOPES]
    one = wider.add(next_anchor(home.root, wider, wall_s=wall_s, drop=wider.issuers[0].key_id))
    assert [entry.key_id for entry in one.issuers] == [key_id(key.public_key())]
    assert one.anchor.epoch == 4
    with pytest.raises(RealmError, match="No issuer"):
        next_anchor(home.root, one, wall_s=wall_s, drop=b"x" * 8)


def test_no_epoch_is_used_twice_though_nobody_heard_of_the_first(home: Realm) -> None:
    """Whoever made it was interrupted before telling anybody."""
    bundle, wall_s, mine = home["h0"].bundle, time.time(), home["h0"].bundle.issuers[0].key_id
    both = bundle.add(next_anchor(home.root, bundle, wall_s=wall_s, add=new_key().public_key()))
    lost = next_anchor(home.root, both, wall_s=wall_s, drop=mine)
    assert next_anchor(home.root, both, wall_s=wall_s, drop=mine) == lost
    after = next_anchor(home.root, both, wall_s=wall_s, add=new_key().public_key())
    assert after.says.epoch == lost.says.epoch + 1
    assert mine not in [entry.key_id for entry in both.add(after).issuers]  # what was dropped is not back


def test_another_realms_root_says_nothing_here(tmp_path: Path, home: Realm) -> None:
    away = make_realm(tmp_path / "away")
    for do in (
        lambda: next_anchor(away.root, home["h0"].bundle, wall_s=1.0),
        lambda: rotate_root(away.root, home["h0"].bundle),
        lambda: finish_rotation(away.root, home["h0"].bundle),
    ):
        with pytest.raises(RealmError, match="another realm's"):
            do()


# ---- rotation


def keys_in(folder: Path) -> set[bytes]:
    return {files.read(folder / name) for name in ("root.key.pem", "next.key.pem") if (folder / name).exists()}


def test_a_new_root_takes_over_and_nobody_has_to_join_again(tmp_path: Path, home: Realm) -> None:
    h0, ann, wall_s = home["h0"], home["ann"], time.time()
    old = home.root
    rotating, begun = rotate_root(old, h0.bundle)
    assert open_root(old.folder).certificate == old.certificate  # the old one still signs
    assert files.key_pem(old.key) in keys_in(old.folder)
    h0.learn([begun], wall_s)
    with pytest.raises(RealmError, match="under way already"):
        rotate_root(rotating, h0.bundle)
    with pytest.raises(RealmError, match="under way"):
        export_root(rotating, tmp_path / "out", WORDS)
    h0.learn([next_anchor(rotating, h0.bundle, wall_s=wall_s, add=new_key().public_key())], wall_s)
    assert len(h0.bundle.issuers) == len(h0.bundle.roots) == 2
    finished = finish_rotation(rotating, h0.bundle)
    h0.learn([finished], wall_s)
    new = open_root(old.folder)
    assert new.certificate != old.certificate
    assert h0.bundle.roots == (new.certificate,)
    assert new.coming is None
    assert new.realm_id == old.realm_id
    assert set(content(old.folder)) == {"anchor", "realm.json", "root.key.pem", "root.pem"}
    ann.learn(h0.bundle.documents(), wall_s)  # who slept through all of it
    for identity in (h0, ann):
        identity.save()
        assert load_identity(identity.folder).bundle.anchor == finished.says
    with pytest.raises(RealmError, match="No rotation"):
        finish_rotation(new, h0.bundle)
    h0.learn([rotate_root(new, h0.bundle)[1]], wall_s)  # and another one


def test_the_old_root_does_not_go_before_the_realm_knows_the_new_one(home: Realm) -> None:
    rotating, _ = rotate_root(home.root, home["h0"].bundle)
    with pytest.raises(RealmError, match="has not heard"):
        finish_rotation(rotating, home["h0"].bundle)
    with pytest.raises(RealmError, match="No rotation"):
        finish_rotation(home.root, home["h0"].bundle)
    assert files.key_pem(home.root.key) in keys_in(home.root.folder)


def follows(folder: Path, bundle: Bundle) -> Root:
    """The root as it is found after a crash, which must be one that the realm would hear."""
    found_again = open_root(folder)
    assert found_again.certificate in bundle.roots
    return found_again


@pytest.mark.parametrize("writes", range(4))
def test_a_rotation_that_stopped_at_any_write_goes_on(home: Realm, writes: int) -> None:
    bundle, folder = home["h0"].bundle, home.root.folder
    with crash_at(writes):
        try:
            rotate_root(home.root, bundle)
        except RealmError:
            assert writes < 3
    rotating, begun = rotate_root(follows(folder, bundle), bundle)
    assert rotate_root(follows(folder, bundle), bundle)[1] == begun  # the same, until it is known
    between = bundle.add(begun)
    after = between.add(finish_rotation(rotating, between))
    assert follows(folder, after).coming is None


@pytest.mark.parametrize("writes", range(5))
def test_the_end_of_a_rotation_that_stopped_at_any_write_goes_on(
    home: Realm, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = home.root.folder
    rotating, begun = rotate_root(home.root, home["h0"].bundle)
    between = home["h0"].bundle.add(begun)
    unlink, unlinked = Path.unlink, []

    def stops(path: Path, missing_ok: bool = False) -> None:
        if writes == 4 and path.name == "next.pem":
            raise Crash(5, "Input/output error")
        unlinked.append(path.name)
        unlink(path, missing_ok)

    with monkeypatch.context() as patched, crash_at(writes if writes < 3 else 99):
        patched.setattr(Path, "unlink", stops)
        if writes == 3:
            patched.setattr(files, "sync_folder", lambda _: None)
        try:
            finish_rotation(rotating, between)
        except (RealmError, Crash):
            assert writes != 3
    found_again = follows(folder, between)
    finished = finish_rotation(found_again, between)
    after = between.add(finished)
    assert after.roots == (follows(folder, after).certificate,)
    assert finish_rotation(follows(folder, after), between) == finished  # the same, until it is known
    assert set(content(folder)) == {"anchor", "realm.json", "root.key.pem", "root.pem"}


# ---- files


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    files.write(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write(path, b"new")
    assert content(tmp_path) == {"x": b"old"}
