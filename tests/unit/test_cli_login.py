"""`electros login` and `context`: a token becomes an identity, never in the place of another that is good."""

import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from matcher.cli import context, folders
from matcher.cli.app import _anywhere
from matcher.cli.failures import Exit, Failure
from matcher.cli.login import login
from matcher.trust.identity import load_identity, write_identity
from matcher.trust.requests import make_request
from matcher.wire.realm import Grant, Verb
from tests.fakes.hosts import Link, empty_home, on_link
from tests.fakes.realms import make_realm

GRANT = Grant(verbs=(Verb.PLEDGE, Verb.RUN), slots=4)


@pytest.fixture
def link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Link]:
    """Nobody has logged in here yet."""
    empty_home(tmp_path, monkeypatch)
    monkeypatch.setenv("USER", "somebody")
    with on_link(make_realm(tmp_path / "realm", "ada"), "h0") as link:
        yield link


def token(link: Link, name: str = "bob", kind: str = "user") -> str:
    ada = link.realm["ada"].principal
    return link["h0"]._token(ada, kind, name, GRANT if kind == "user" else None).token


def test_a_token_becomes_an_identity_that_its_owner_alone_can_read(
    link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    login(token(link))
    said = capsys.readouterr()
    assert "bob" in said.out
    assert "home" in said.out
    folder = folders.identity_folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    me = load_identity(folder).principal
    assert (me.kind, me.name, me.grant) == ("user", "bob", GRANT)
    assert [path.name for path in folders.config_folder().iterdir()] == ["default"], "nothing is left beside it"


def test_a_program_is_told_the_same(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    login(token(link), output="json")
    said = json.loads(capsys.readouterr().out)["identity"]
    assert (said["name"], said["realm"]["name"], said["context"]) == ("bob", "home", "default")


def test_an_identity_that_is_good_stays(link: Link) -> None:
    login(token(link))
    before = load_identity(folders.identity_folder()).principal
    second = token(link, "eve")
    with pytest.raises(Failure, match="context default is taken: you are bob in realm home") as failed:
        login(second)
    assert "--context NAME" in failed.value.helps
    assert load_identity(folders.identity_folder()).principal == before
    assert link["h0"].tokens.count(time.monotonic()) == 1, "the token is still good"


def test_two_realms_live_in_two_contexts(
    link: Link, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    login(token(link))
    monkeypatch.setenv("ATOMOS_CONTEXT", "work")
    login(token(link, "eve"))
    assert "electros context use work" in capsys.readouterr().err
    monkeypatch.delenv("ATOMOS_CONTEXT")
    assert load_identity(folders.identity_folder()).principal.name == "bob"
    context.use("work")
    assert load_identity(folders.identity_folder()).principal.name == "eve"
    context.ls(output="json")
    shown = {each["name"]: each for each in json.loads(capsys.readouterr().out)["contexts"]}
    assert [(each["user"], each["current"]) for each in shown.values()] == [("bob", False), ("eve", True)]
    monkeypatch.setenv("ATOMOS_CONTEXT", "default")
    assert folders.context() == "default"


def test_what_was_there_is_put_aside_where_that_was_said(link: Link) -> None:
    login(token(link))
    login(token(link, "eve"), replace=True)
    assert load_identity(folders.identity_folder()).principal.name == "eve"
    (aside,) = folders.config_folder().glob(".default.*")
    assert load_identity(aside).principal.name == "bob"


def test_an_identity_that_has_expired_or_is_revoked_is_not_in_the_way(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bob's ended yesterday; eve's was revoked, and she has heard of it."""
    issuer, config = link.realm.issuer, folders.config_folder()
    ada, key = link.realm["ada"], generate_private_key(SECP256R1())
    issued = issuer.admit("user", "bob", make_request(key, "bob"), GRANT, wall_s=time.time() - 91 * 86_400)
    write_identity(config / "default", key, issued.leaf, ada.bundle, ada.tag_key_documents())
    login(token(link, "bob2"))
    assert load_identity(config / "default").principal.name == "bob2"
    eve = link.realm.add("eve")
    eve.learn([issuer.revoke("user", "eve", "", wall_s=time.time())], time.time())
    eve.save()
    eve.folder.rename(config / "work")
    monkeypatch.setenv("ATOMOS_CONTEXT", "work")
    login(token(link, "eve2"))
    assert load_identity(config / "work").principal.name == "eve2"


def test_an_identity_that_is_damaged_is_not_overwritten_without_a_word(link: Link) -> None:
    login(token(link))
    (folders.identity_folder() / "key.pem").write_text("")
    with pytest.raises(Failure, match="holds no private key") as failed:
        login(token(link, "eve"))
    assert "--replace" in failed.value.helps


def test_what_a_login_that_broke_off_has_left_is_not_in_the_way(link: Link) -> None:
    folders.identity_folder().mkdir()
    (folders.identity_folder() / "key.pem").write_text("half")
    login(token(link))
    assert load_identity(folders.identity_folder()).principal.name == "bob"


def test_a_hosts_token_makes_nobody_a_user(link: Link) -> None:
    with pytest.raises(Failure, match="this token is for a host") as failed:
        login(token(link, "h9", "host"))
    assert failed.value.exit_code == Exit.USAGE
    assert "sudo atomd join TOKEN" in failed.value.helps


@pytest.mark.parametrize("text", ["", "bob", "atomos1-AAAA", "atomos1-\x1b[2J"])
def test_what_is_no_token_is_told_so(link: Link, text: str) -> None:
    with pytest.raises(Failure) as failed:
        login(text)
    assert failed.value.exit_code == Exit.USAGE
    assert "token" in failed.value.message


def test_a_token_is_good_once(link: Link) -> None:
    text = token(link)
    login(text)
    with pytest.raises(Failure) as failed:
        login(text, replace=True)
    assert failed.value.exit_code == Exit.DENIED
    assert load_identity(folders.identity_folder()).principal.name == "bob", "the one that was there is there"
    assert [path.name for path in folders.config_folder().iterdir()] == ["default"]


# ---- contexts


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "x" * 80, "a b", "ä"])
def test_a_context_is_a_name_and_no_path(name: str) -> None:
    with pytest.raises(Failure):
        folders.checked(name)


def test_the_environment_can_not_lead_out_of_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOMOS_CONTEXT", "../../etc")
    for folder in (folders.identity_folder, folders.state_folder, folders.cache_folder):
        with pytest.raises(Failure):
            folder()


def test_a_context_that_is_not_there_can_not_be_used(link: Link) -> None:
    with pytest.raises(Failure) as failed:
        context.use("work")
    assert failed.value.exit_code == Exit.NOT_FOUND
    assert folders.chosen() == "default"


@pytest.mark.parametrize("content", ["../x", "", "\x00", "a b"])
def test_a_choice_that_makes_no_sense_is_none(link: Link, content: str) -> None:
    (folders.config_folder() / folders.CHOSEN).write_text(content)
    assert folders.chosen() == "default"


@pytest.mark.parametrize(
    ("words", "left", "chosen"),
    [
        (["--context", "work", "ps"], ["ps"], "work"),
        (["ps", "--context=work", "-o", "json"], ["ps", "-o", "json"], "work"),
        (["ps"], ["ps"], ""),
        (["run", "--", "--context", "x"], ["run", "--", "--context", "x"], ""),
    ],
)
def test_a_context_can_be_said_anywhere(
    monkeypatch: pytest.MonkeyPatch, words: list[str], left: list[str], chosen: str
) -> None:
    monkeypatch.setenv("ATOMOS_CONTEXT", "")
    assert _anywhere(words) == left
    assert os.environ["ATOMOS_CONTEXT"] == chosen


@pytest.mark.parametrize("words", [["ps", "--context"], ["--context="], ["--context", "-o"]])
def test_a_context_without_a_name_is_a_mistake(words: list[Any]) -> None:
    with pytest.raises(Failure):
        _anywhere(words)
