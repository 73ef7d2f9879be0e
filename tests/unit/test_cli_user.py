"""`electros user` and `whoami`: users are added, shown, changed and revoked; what they use is told by each host."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from matcher.cli import folders, user
from matcher.cli.failures import Exit, Failure
from matcher.cli.granting import DEFAULT, GrantOptions
from matcher.cli.whoami import whoami
from matcher.trust.grants import Narrowing
from matcher.trust.tokens import read_token
from matcher.wire.messages import Reason, Refused
from matcher.wire.realm import Grant, HostUse, PciLimit, Use, Verb
from tests.fakes.hosts import Link, keyboard


@pytest.fixture
def link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Link]:
    with keyboard(tmp_path, monkeypatch, "h1") as link:
        yield link


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_adding_a_user_prints_a_token_with_the_grant_behind_it(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    user.add("bob", grant=GrantOptions(slots="16", pci=("10de:*=1",), lease_max="12h"))
    said = capsys.readouterr()
    token = read_token(said.out)
    assert token.kind == "user"
    assert "electros login TOKEN" in said.err
    pending = link["h0"].tokens._pending[token.token_id]
    assert pending.name == "bob"
    assert pending.grant == Grant(DEFAULT.verbs, slots=16, pci=(PciLimit("10de", "*", 1),), lease_max_s=43_200)


def test_a_name_that_is_taken_is_refused_with_what_the_host_says(link: Link) -> None:
    with pytest.raises(Failure, match="there is a user ada") as failed:
        user.add("ada")
    assert failed.value.code == "name-taken"


def test_users_are_listed_with_their_limits(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    link.realm.add("bob", Grant(verbs=(Verb.RUN,), slots=2, until_s=4_000_000_000))
    user.ls(output="json")
    users = {each["name"]: each for each in printed(capsys)["users"]}
    assert users["bob"]["grant"]["slots"] == 2
    assert users["bob"]["state"] == "member"
    user.ls()
    assert "2 slots" in capsys.readouterr().out
    user.ls(output="name")
    assert capsys.readouterr().out.split() == ["ada", "bob"]


def test_a_user_is_shown_with_the_use_of_each_host_that_tells(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    bob = link.realm.add("bob", Grant(verbs=(Verb.RUN,), slots=4))
    link["h0"].uses[bob.principal.id] = Use(2, 512, 1)
    link["h1"].uses[bob.principal.id] = Use(1, 256, 1)
    user.show("bob", output="json")
    shown = printed(capsys)["user"]
    assert (shown["use"]["slots"], shown["use"]["ram_mib"], shown["use"]["vms"]) == (3, 768, 2)
    assert [host["host"] for host in shown["hosts"]] == ["h0", "h1"]
    assert shown["silent"] == []
    assert shown["since"].endswith("Z")


def test_a_host_that_does_not_tell_of_use_is_named(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    bob = link.realm.add("bob")
    no = Refused("not-found", (Reason("path", "x", "no such path", ""),))
    for host in link.hosts:
        host.answers[f"GET /v1/realm/uses/{bob.principal.id}"] = no
    user.show("bob", output="json")
    shown = printed(capsys)["user"]
    assert (shown["use"], shown["silent"]) == (None, ["h0", "h1"])


def test_a_host_that_is_away_is_there_with_what_the_others_heard_of_it(
    link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    bob = link.realm.add("bob")
    h0, h1 = link["h0"], link["h1"]
    h0.uses[bob.principal.id] = Use(2, 512, 1, 1280)
    h0.heard = [HostUse("h1", h1.id, 1, 256, 1), HostUse("h9", "9" * 64, 4, 64, 3)]
    user.show("bob", output="json")
    shown = printed(capsys)["user"]
    assert [each["host"] for each in shown["heard"]] == ["h9"], "h1 has told us itself, and knows better"
    assert (shown["use"]["slots"], shown["use"]["volumes_gb"]) == (6, None)
    h1.answers[f"GET /v1/realm/uses/{bob.principal.id}"] = Refused("fault", ())
    user.show("bob")
    said = capsys.readouterr()
    assert "1 VM, 1 slots, 256 MiB, volumes not known, as it told the others" in said.out
    assert "1.25 GB" in said.out
    assert "not told" not in said.err


def test_a_change_leaves_alone_what_it_does_not_name(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    bob = link.realm.add("bob", Grant(verbs=(Verb.RUN,), slots=2, vms=3, groups=("a",)))
    user.change("bob", grant=GrantOptions(slots="8", vms="unlimited"))
    assert "bob has another grant" in capsys.readouterr().err
    member = link.realm.issuer.find("user", "bob", time.time())
    assert member is not None
    assert member.grant == Grant(verbs=(Verb.RUN,), slots=8, groups=("a",))
    assert link["h1"].identity.verifier.is_member("user", bob.principal.id)


def test_a_change_of_nothing_is_no_change(link: Link) -> None:
    with pytest.raises(Failure, match="change what"):
        user.change("ada")
    assert link["h0"].asked == []


def test_a_revoked_user_is_out_everywhere(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    bob = link.realm.add("bob")
    user.revoke_user(bob.principal.id[:12], why="left", yes=True)
    assert not link["h1"].identity.verifier.is_member("user", bob.principal.id)
    user.ls(output="name")
    assert capsys.readouterr().out.split() == ["ada"]
    for again in (lambda: user.revoke_user("bob", yes=True), lambda: user.change("bob", grant=GrantOptions(slots="1"))):
        with pytest.raises(Failure, match="revoked already"):
            again()


def test_who_revokes_is_told_of_the_vms_that_go_on(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    bob = link.realm.add("bob")
    link["h1"].uses[bob.principal.id] = Use(2, 512, 3)
    user.revoke_user("bob", yes=True)
    assert "VMs of bob go on: 3 on h1; to end them, there: atomctl" in capsys.readouterr().err


def test_nobody_is_told_of_their_own_vms_when_they_revoke_themselves(
    link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    user.revoke_user("ada", yes=True)
    assert "is revoked" in capsys.readouterr().err


def test_of_two_with_one_name_the_one_that_is_a_member_is_meant(link: Link) -> None:
    first = link.realm.add("bob")
    user.revoke_user("bob", yes=True)
    link.realm.members.pop("bob")
    first.folder.rename(first.folder.with_name("old"))
    second = link.realm.add("bob")
    user.revoke_user("bob", yes=True)
    assert not link["h0"].identity.verifier.is_member("user", second.principal.id)


@pytest.mark.parametrize("name", ["carol", "a", ""])
def test_nobody_of_that_name_is_not_found(link: Link, name: str) -> None:
    with pytest.raises(Failure) as failed:
        user.show(name)
    assert failed.value.exit_code == Exit.NOT_FOUND


# ---- whoami


def test_i_am_told_who_i_am_what_i_may_and_what_i_use(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    me = link.realm["ada"].principal
    link["h0"].uses[me.id] = Use(2, 512, 1, 10 * 1024)
    link["h1"].narrowing = Narrowing(slots=4)
    whoami(output="json")
    said = printed(capsys)
    assert (said["name"], said["id"], said["realm"]["name"], said["context"]) == ("ada", me.id, "home", "default")
    assert said["grant"]["verbs"] == ["pledge", "run", "console", "admin"]
    assert said["use"] == {"slots": 2, "ram_mib": 512, "vms": 1, "volumes_gb": 10, "pci": [], "usb": []}
    assert [(host["host"], host["grant"]["slots"]) for host in said["hosts"]] == [("h0", None), ("h1", 4)]
    whoami()
    assert "slots: 4" in capsys.readouterr().out


def test_who_i_am_does_not_depend_on_a_host(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    for host in link.hosts:
        host.away = True
    whoami(output="json")
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert (document["name"], document["use"], document["hosts"]) == ("ada", None, [])
    assert "no host in reach" in said.err


def test_a_revoked_person_is_not_told_that_all_is_well(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    whoami()
    link["h0"].learn(link.realm.issuer.revoke("user", "ada", "", wall_s=time.time()))
    with pytest.raises(Failure) as failed:
        whoami()
    assert failed.value.exit_code == Exit.DENIED
    assert folders.identity_folder().exists()
