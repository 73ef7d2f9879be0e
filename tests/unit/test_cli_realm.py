"""`electros realm create, export-root, import-root, rotate`: safe to run twice, and the root key never lies about."""

import json
import os
import pwd
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from matcher.cli import folders
from matcher.cli import root as roots
from matcher.cli.failures import Exit, Failure
from matcher.cli.founding import create
from matcher.cli.person import Person, person
from matcher.trust import files
from matcher.trust.identity import load_identity
from matcher.trust.issuing import open_issuer
from matcher.trust.realm import open_root
from matcher.wire.messages import Reason, Refused
from matcher.wire.realm import Verb
from tests.fakes.hosts import Link, empty_home, keyboard
from tests.fakes.realms import make_realm

PASSPHRASE = "correct horse battery"


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


# ---- create


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    empty_home(tmp_path, monkeypatch)
    return tmp_path


def test_a_realm_has_a_first_host_and_a_first_admin(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create("home", host="h0", user="ada", state=home / "state")
    said = capsys.readouterr()
    for command in (
        "electros realm invite",
        "sudo atomd join TOKEN",
        "electros user add",
        "electros realm export-root",
    ):
        assert command in said.err
    host, ada = load_identity(home / "state" / "identity"), load_identity(folders.identity_folder())
    assert (host.principal.kind, host.principal.name) == ("host", "h0")
    assert ada.principal.grant.verbs == tuple(Verb)
    assert host.bundle.anchor.realm_id == ada.bundle.anchor.realm_id
    assert (home / "state" / "issuer" / "key.pem").exists()


def test_running_it_again_changes_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def everything() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}

    create("home", host="h0", user="ada", state=home / "state")
    before = everything()
    capsys.readouterr()
    create("home", host="h0", user="ada", state=home / "state", output="json")
    assert everything() == before
    assert printed(capsys)["realm"]["created"] is False


def test_what_a_run_that_broke_off_has_left_undone_is_done(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    for what in ("found", "write_identity"):
        with monkeypatch.context() as patched:
            patched.setattr(f"matcher.cli.founding.{what}", broken)
            with pytest.raises(Failure, match="No space left"):
                create("home", host="h0", user=f"ada-{what}", state=home / "state")
    root = open_root(folders.data_folder() / "realm")
    create("home", host="h0", user="ada", state=home / "state")
    assert load_identity(folders.identity_folder()).bundle.anchor.realm_id == root.realm_id


class Killed(BaseException):
    """As kill -9, for all that catches errors."""


@contextmanager
def killed(monkeypatch: pytest.MonkeyPatch, at: int, *, after: bool) -> Iterator[Callable[[], bool]]:
    """Die before (or `after`) the write of that number; whether it came to that."""
    writes, number = files.write, 0

    def write(path: Path, data: bytes) -> None:
        nonlocal number
        number += 1
        if number == at and not after:
            raise Killed
        writes(path, data)
        if number == at:
            raise Killed

    with monkeypatch.context() as patched, suppress(Killed):
        patched.setattr(files, "write", write)
        yield lambda: number >= at


@pytest.mark.parametrize("after", [False, True])
def test_wherever_a_run_was_killed_the_same_again_makes_one_realm_with_one_admin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    for at in count(1):
        home = tmp_path / str(at)
        empty_home(home, monkeypatch)
        with killed(monkeypatch, at, after=after) as was_killed:
            create("home", host="h0", user="ada", state=home / "state")
        create("home", host="h0", user="ada", state=home / "state")
        mine, host = load_identity(folders.identity_folder()), load_identity(home / "state" / "identity")
        root, issuer = open_root(folders.data_folder() / "realm"), open_issuer(home / "state" / "issuer", host)
        assert {mine.verifier.realm_id, host.verifier.realm_id} == {root.realm_id}
        assert issuer is not None
        made = [(each.kind, each.name, each.id) for each in issuer.members(time.time())]
        assert made == [("host", "h0", host.principal.id), ("user", "ada", mine.principal.id)]
        if not was_killed():
            break
    assert at > 10, "or this test has lost sight of the writes"


def test_who_was_killed_and_calls_themselves_otherwise_has_a_key_of_their_own(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patched, suppress(Killed):
        patched.setattr("matcher.cli.founding.write_identity", broken)
        create("home", host="h0", user="adda", state=home / "state")
    create("home", host="h0", user="ada", state=home / "state")
    assert load_identity(folders.identity_folder()).principal.name == "ada"


def test_a_host_of_another_realm_stays_there_and_no_root_is_left_behind(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create("home", host="h0", user="ada", state=home / "state")
    empty_home(home / "bob", monkeypatch)
    with pytest.raises(Failure, match="belongs to realm home already"):
        create("work", host="h0", user="bob", state=home / "state")
    assert not (folders.data_folder() / "realm").exists()


def test_another_name_is_another_realm_and_does_not_take_the_place_of_the_first(home: Path) -> None:
    create("home", host="h0", user="ada", state=home / "state")
    with pytest.raises(Failure, match="There is realm home"):
        create("work", host="h0", user="ada", state=home / "state")


def test_an_identity_in_another_realm_stays(home: Path) -> None:
    create("home", host="h0", user="ada", state=home / "one")
    with pytest.raises(Failure, match="your identity in realm home"):
        create("work", host="h0", user="ada", state=home / "two", folder=home / "root")


def test_a_name_that_can_not_be_one_is_told_before_anything_is_made(home: Path) -> None:
    for names in ({"name": "../x"}, {"name": "home", "host": "a b"}, {"name": "home", "user": "\u202ex"}):
        with pytest.raises(Failure) as failed:
            create(**{"state": home / "state", "host": "h0", "user": "ada"} | names)  # type: ignore[arg-type]
        assert failed.value.exit_code == Exit.USAGE
    assert not (home / "state").exists()


def test_without_root_it_says_how(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matcher.cli.founding.os.geteuid", lambda: 1000)
    monkeypatch.setattr("matcher.cli.founding.os.access", lambda *_: False)
    with pytest.raises(Failure) as failed:
        create("home", state=home / "state")
    assert failed.value.exit_code == Exit.DENIED
    assert "sudo electros realm create NAME" in failed.value.helps


# ---- whose


def pretend_root(monkeypatch: pytest.MonkeyPatch, caller: str, home: Path, uid: int) -> None:
    entry = pwd.struct_passwd((caller, "x", uid, uid, "", str(home), "/bin/sh"))
    for kind in ("CONFIG", "DATA"):
        monkeypatch.delenv(f"XDG_{kind}_HOME", raising=False)
    monkeypatch.setattr("matcher.cli.person.os.geteuid", lambda: 0)
    monkeypatch.setattr("matcher.cli.person.pwd.getpwnam", {caller: entry}.__getitem__)
    monkeypatch.setenv("SUDO_USER", caller)


def test_under_sudo_it_is_the_callers_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_root(monkeypatch, "ada", tmp_path, 1234)
    assert person() == Person(
        "ada", tmp_path / ".config" / "atomos", tmp_path / ".local" / "share" / "atomos", (1234, 1234)
    )


@pytest.mark.parametrize(("caller", "uid"), [("root", 0), ("nobody-known", 1), ("homeless", 1234)])
def test_without_a_caller_or_a_home_it_is_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caller: str, uid: int
) -> None:
    pretend_root(monkeypatch, caller, tmp_path / "none" if caller == "homeless" else tmp_path, uid)
    monkeypatch.setenv("SUDO_USER", caller if caller != "nobody-known" else "who")
    assert person().ids is None


def test_folders_that_are_named_are_the_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_root(monkeypatch, "ada", tmp_path, 1234)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "c"))
    assert person().config == tmp_path / "c" / "atomos"
    assert person().ids is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_what_is_written_for_a_person_is_theirs(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents:
        if not folder.stat().st_mode & 0o001:
            pytest.skip("others can't come here")
    with Person("ada", tmp_path, tmp_path, (65534, 65534)).acting():
        (tmp_path / "theirs").mkdir()
        with pytest.raises(PermissionError):
            Path("/etc/atomos-test").write_text("")
    assert (tmp_path / "theirs").stat().st_uid == 65534
    assert os.geteuid() == 0


# ---- the root


@pytest.fixture
def link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Link]:
    with keyboard(tmp_path, monkeypatch, "h1") as link:
        yield link


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.write_text(PASSPHRASE + "\n")
    return path


def test_the_root_key_leaves_and_comes_back(link: Link, tmp_path: Path, secret: Path) -> None:
    folder, out = link.realm.root.folder, tmp_path / "root.p12"
    roots.export_root(out, passphrase_file=secret, folder=folder)
    assert not (folder / "root.key.pem").exists()
    assert out.stat().st_mode & 0o077 == 0
    with pytest.raises(Failure, match="import-root"):
        roots.rotate(folder=folder)
    roots.import_root(out, passphrase_file=secret, folder=folder)
    assert open_root(folder).key.public_key() == link.realm.root.key.public_key()


def test_a_wrong_passphrase_brings_nothing_back(link: Link, tmp_path: Path, secret: Path) -> None:
    folder, out = link.realm.root.folder, tmp_path / "root.p12"
    roots.export_root(out, passphrase_file=secret, folder=folder)
    secret.write_text("another one than that")
    with pytest.raises(Failure, match="does not open with that passphrase"):
        roots.import_root(out, passphrase_file=secret, folder=folder)
    assert not (folder / "root.key.pem").exists()


def test_a_passphrase_is_asked_for_twice(link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = link.realm.root.folder, tmp_path / "root.p12"
    typed = iter([PASSPHRASE, PASSPHRASE + "x", PASSPHRASE, PASSPHRASE])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("matcher.cli.root.getpass.getpass", lambda *_: next(typed))
    with pytest.raises(Failure, match="two different passphrases"):
        roots.export_root(out, folder=folder)
    assert (folder / "root.key.pem").exists()
    roots.export_root(out, folder=folder)
    assert out.exists()


def test_a_passphrase_that_is_short_or_nowhere_is_a_mistake(link: Link, tmp_path: Path, secret: Path) -> None:
    secret.write_text("short\n" + PASSPHRASE)
    for file, said in ((secret, "too short"), (tmp_path / "none", "can't be read"), (None, "no terminal")):
        with pytest.raises(Failure, match=said) as failed:
            roots.export_root(tmp_path / "out", passphrase_file=file, folder=link.realm.root.folder)
        assert failed.value.exit_code == Exit.USAGE
    assert (link.realm.root.folder / "root.key.pem").exists()


def test_a_new_root_takes_over_and_everybody_follows(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    folder = link.realm.root.folder
    roots.rotate(folder=folder, output="json")
    assert printed(capsys)["rotation"] == {"epoch": 2, "rotating": True, "hosts": ["h0", "h1"], "missed": []}
    assert all(len(host.identity.bundle.roots) == 2 for host in link.hosts)
    roots.rotate(finish=True, folder=folder, output="json")
    assert printed(capsys)["rotation"]["epoch"] == 3
    (now,) = link["h1"].identity.bundle.roots
    assert now == open_root(folder).certificate != link.realm.root.certificate
    assert load_identity(folders.identity_folder()).bundle.roots == (now,)


def test_a_rotation_that_reached_nobody_is_handed_out_again(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    folder = link.realm.root.folder
    for finish in (False, True):
        for host in link.hosts:
            host.answers["POST /v1/realm/documents"] = Refused("unavailable", (Reason("disk", "", "full", ""),))
        with pytest.raises(Failure, match="no host has taken it"):
            roots.rotate(finish=finish, folder=folder)
        for host in link.hosts:
            host.answers.clear()
        roots.rotate(finish=finish, folder=folder)
        assert "handed out again" in capsys.readouterr().err
    assert all(host.identity.bundle.roots == (open_root(folder).certificate,) for host in link.hosts)


def test_no_rotation_is_ended_that_was_not_begun(link: Link) -> None:
    with pytest.raises(Failure, match="No rotation is under way"):
        roots.rotate(finish=True, folder=link.realm.root.folder)


def test_a_root_of_another_realm_or_of_before_signs_nothing(link: Link, tmp_path: Path) -> None:
    other = make_realm(tmp_path / "other", realm="other")
    with pytest.raises(Failure, match="you are in realm home"):
        roots.rotate(folder=other.root.folder)
    old = tmp_path / "old"
    shutil.copytree(link.realm.root.folder, old)
    roots.rotate(folder=link.realm.root.folder)
    roots.rotate(finish=True, folder=link.realm.root.folder)
    with pytest.raises(Failure, match="not one that counts today"):
        roots.rotate(folder=old)
