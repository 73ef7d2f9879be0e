"""`electros realm invite, status, hosts, remove, issuer`: what an admin asks of the hosts that issue."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from matcher.cli import folders, issuing, roster
from matcher.cli.failures import Exit, Failure
from matcher.cli.issuers import Standing
from matcher.cli.issuing import YOUNG_S
from matcher.cli.session import Heard
from matcher.trust.bundle import IssuerEntry
from matcher.trust.certificates import ISSUER_DAYS, public_key_of
from matcher.trust.identity import load_identity
from matcher.trust.issuing import ENDING_S, Issuer
from matcher.trust.root import next_anchor
from matcher.trust.tokens import read_token
from matcher.wire.messages import Reason, Refused, Role
from matcher.wire.realm import Grant, Invited, Verb
from tests.fakes.hosts import Link, keyboard


@pytest.fixture
def link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Link]:
    with keyboard(tmp_path, monkeypatch, "h1", "h2") as link:
        yield link


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def status_now(capsys: pytest.CaptureFixture[str]) -> Any:
    roster.status(output="json")
    return printed(capsys)["realm"]


@pytest.mark.parametrize("output", ["table", "name"])
def test_a_token_stands_alone_on_stdout_and_the_hint_on_stderr(
    link: Link, capsys: pytest.CaptureFixture[str], output: Any
) -> None:
    roster.invite("h9", output=output)
    said = capsys.readouterr()
    assert read_token(said.out).kind == "host"
    assert said.out.count("\n") == 1
    assert "sudo atomd join TOKEN" in said.err
    assert "15 min" in said.err
    assert read_token(said.out).text() not in said.err, "it is a secret, and stderr ends in logs"


def test_a_program_gets_the_token_as_a_document(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    roster.invite(output="json")
    document = printed(capsys)
    assert read_token(document.pop("token")).kind == "host"
    assert document == {"kind": "host", "name": None, "expires_in_s": 900}


def test_the_host_that_issues_is_found_by_asking(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    roster.invite("h9")
    assert link.asked("POST /v1/realm/hosts") == ["h0"]


def test_where_multicast_does_not_reach_the_hosts_of_before_are_asked(
    link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    roster.status()
    link.silent = {"h0", "h1", "h2"}
    roster.invite("h9", output="name")
    assert "atomos1-" in capsys.readouterr().out


def test_without_an_issuer_in_reach_that_is_what_is_said(link: Link) -> None:
    link["h0"].away = True
    with pytest.raises(Failure) as failed:
        roster.invite("h9")
    assert failed.value.exit_code == Exit.UNREACHABLE
    assert "no host in reach issues" in failed.value.message


def test_an_issuer_that_says_not_mine_is_not_the_last_word(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    """h1 issues as well, and says that it may not."""
    issuing.add("h1", folder=link.realm.root.folder)
    link["h0"].answers["POST /v1/realm/hosts"] = Refused(
        "out-of-scope", (Reason("realm", "a token", "the issuer on this host may not do that", ""),)
    )
    link["h1"].issuer = link.realm.issuer
    roster.invite("h9", output="name")
    assert link.asked("POST /v1/realm/hosts") == ["h0", "h1"]


def test_another_no_is_the_last_word(link: Link) -> None:
    link["h0"].answers["POST /v1/realm/hosts"] = Refused("too-many", (Reason("tokens", "one", "64 wait already", ""),))
    with pytest.raises(Failure, match="64 wait already") as failed:
        roster.invite("h9")
    assert failed.value.code == "too-many"


def test_what_is_no_token_of_this_realm_is_not_passed_on(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("rm -rf /", "\x1b[2J"):
        link["h0"].answers["POST /v1/realm/hosts"] = Invited(text, 900)
        with pytest.raises(Failure, match="something else than a token"):
            roster.invite("h9")
    roster_token = link["h0"]._token(link.realm["ada"].principal, "user", "eve", Grant())
    link["h0"].answers["POST /v1/realm/hosts"] = roster_token
    with pytest.raises(Failure, match="another token"):
        roster.invite("h9")
    assert capsys.readouterr().out == ""


def test_who_is_no_admin_is_told_so(link: Link, tmp_path: Path) -> None:
    bob = link.realm.add("bob", Grant(verbs=(Verb.PLEDGE, Verb.RUN)))
    folders.identity_folder().rename(tmp_path / "ada")
    bob.folder.rename(folders.identity_folder())
    with pytest.raises(Failure, match="not granted") as failed:
        roster.invite("h9")
    assert failed.value.exit_code == Exit.DENIED


def test_a_name_that_can_not_be_one_is_told_before_anybody_is_asked(link: Link) -> None:
    with pytest.raises(Failure) as failed:
        roster.invite("../h9")
    assert failed.value.exit_code == Exit.USAGE
    assert link["h0"].asked == []


# ---- status


def test_status_tells_what_each_host_knows(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    now = status_now(capsys)
    assert (now["name"], now["epoch"], now["rotating"], now["key_number"]) == ("home", 1, False, 1)
    assert [(host["host"], host["issues"]) for host in now["hosts"]] == [("h0", True), ("h1", False), ("h2", False)]


def test_one_issuer_is_a_warning_with_the_command_that_helps(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    (warning,) = status_now(capsys)["warnings"]
    assert "if h0 dies" in warning
    assert "electros realm issuer add h1" in warning
    roster.status()
    assert f"warning: {warning}" in capsys.readouterr().out


def test_hosts_that_lag_behind_are_named(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    link["h2"].away = True
    issuing.add("h1", folder=link.realm.root.folder)
    link["h0"].learn(link.realm.issuer.revoke("host", "h1", "", wall_s=time.time()))
    link["h2"].away = False
    capsys.readouterr()
    said = " / ".join(status_now(capsys)["warnings"])
    assert "h2 is at epoch 1, others are at 2" in said
    assert "different revocations" in said


def test_where_hosts_differ_each_is_named_with_what_it_says(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    link["h2"].away = True
    link["h0"].learn(link.realm.issuer.revoke("host", "h1", "", wall_s=time.time()))
    link["h2"].away = False
    assert any("different revocations (h0 1, h2 0)" in warning for warning in status_now(capsys)["warnings"])


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ({"epoch": 9, "issuers": ("ee" * 8,), "name": "mine"}, "h1 speaks of epoch 9, and 1 is the newest"),
        ({"issuers": ("ee" * 8,)}, "h1 tells of issuers that the root has not signed so"),
        ({"roots": ("e" * 64,)}, "h1 tells of roots that the root has not signed so"),
        ({"realm_id": "e" * 16}, "h1 speaks of another realm"),
        ({"issues_here": True, "issuer_here": "ee" * 8}, "h1 says that it issues, and the root has not named its key"),
        ({"key_number": 7}, "different tag keys (h0 1, h1 7, h2 1)"),
    ],
)
def test_no_host_is_believed_what_the_root_has_not_signed(
    link: Link, capsys: pytest.CaptureFixture[str], lie: dict[str, Any], said: str
) -> None:
    true = status_now(capsys)
    status = link["h1"]._get_realm(link.realm["ada"].principal, b"")
    link["h1"].answers["GET /v1/realm"] = replace(status, **lie)
    now = status_now(capsys)
    assert any(said in warning for warning in now["warnings"])
    signed = ("id", "name", "epoch", "issuers", "issuers_until", "roots", "rotating", "key_number")
    assert [now[key] for key in signed] == [true[key] for key in signed]


def test_a_host_with_storage_alone_is_asked_as_well(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    link["h2"].role = Role.STORAGE
    assert [host["host"] for host in status_now(capsys)["hosts"]] == ["h0", "h1", "h2"]


def test_a_host_that_has_not_heard_an_issuer_for_a_day_is_named(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    status = link["h1"]._get_realm(link.realm["ada"].principal, b"")
    for fresh_s, said in ((3 * 86_400, "h1 has not heard for 3 d"), (-1, "h1 never heard")):
        link["h1"].answers["GET /v1/realm"] = replace(status, fresh_s=fresh_s)
        assert any(said in warning for warning in status_now(capsys)["warnings"])


def test_a_host_that_can_not_be_asked_is_a_warning_and_not_the_end(
    link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    link["h2"].close()
    now = status_now(capsys)
    assert [host["host"] for host in now["hosts"]] == ["h0", "h1"]
    assert now["unanswered"][0]["host"] == "h2"


def test_escapes_from_a_host_do_not_reach_the_terminal(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    status = link["h1"]._get_realm(link.realm["ada"].principal, b"")
    link["h1"].answers["GET /v1/realm"] = replace(status, host="h1\x1b[2J\u202e", epoch=7)
    roster.status()
    said = capsys.readouterr()
    assert not {"\x1b", "\u202e"} & {*said.out, *said.err}


# ---- hosts and remove


def test_hosts_are_members_joined_with_who_answers(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    link["h2"].away = True
    roster.hosts(output="json")
    hosts = {host["name"]: host for host in printed(capsys)["hosts"]}
    assert set(hosts) == {"h0", "h1", "h2"}
    assert hosts["h0"]["issues"] is True
    assert (hosts["h1"]["address"], hosts["h2"]["address"]) == ("127.0.0.1", None)
    assert all(host["state"] == "member" and host["until"].endswith("Z") for host in hosts.values())


def test_a_removed_host_is_revoked_for_all(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    link["h2"].vms = 3
    roster.remove("h2", yes=True, why="sold")
    assert "h2 has 3 VMs" in capsys.readouterr().err
    assert not link["h1"].identity.verifier.is_member("host", link["h2"].id)
    roster.hosts(output="json")
    assert "h2" not in [host["name"] for host in printed(capsys)["hosts"]]
    roster.hosts(all_=True, output="json")
    assert {h["name"]: h["state"] for h in printed(capsys)["hosts"]}["h2"] == "revoked"
    with pytest.raises(Failure, match="revoked already"):
        roster.remove("h2", yes=True)


def test_a_script_is_not_asked(link: Link) -> None:
    """There is no terminal here."""
    roster.remove("h2")
    assert len(link.asked("POST /v1/realm/revocations")) == 1


@pytest.mark.parametrize(("typed", "is_done"), [("y\n", True), ("yes\n", True), ("\n", False), ("n\n", False)])
def test_a_person_at_a_terminal_is_asked(
    link: Link, monkeypatch: pytest.MonkeyPatch, typed: str, is_done: bool
) -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal(typed))
    monkeypatch.setattr("sys.stderr", Terminal())
    if is_done:
        roster.remove("h2")
    else:
        with pytest.raises(Failure, match="nothing was done"):
            roster.remove("h2")
    assert link["h0"].identity.verifier.is_member("host", link["h2"].id) is not is_done


def test_removing_the_issuer_tells_what_stays(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    roster.remove("h0", yes=True)
    assert "electros realm issuer remove h0; nobody else in reach" in capsys.readouterr().err


def test_a_host_that_nobody_knows_is_not_found(link: Link) -> None:
    with pytest.raises(Failure) as failed:
        roster.remove("h7", yes=True)
    assert failed.value.exit_code == Exit.NOT_FOUND


# ---- issuers


def test_an_issuer_is_added_on_a_host_that_keeps_its_key_and_again_changes_nothing(
    link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        issuing.add("h1", folder=link.realm.root.folder, output="json")
        assert printed(capsys)["issuer"] == {"host": "h1", "issues": True, "epoch": 2, "hosts": ["h0", "h1", "h2"]}
        assert all(len(host.identity.bundle.issuers) == 2 for host in link.hosts)
    assert link["h1"].is_issuer()


def test_an_issuer_is_removed_by_its_host_or_its_id(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    folder = link.realm.root.folder
    issuing.add("h1", folder=folder)
    issuing.remove("h1", folder=folder, yes=True)
    assert len(link["h2"].identity.bundle.issuers) == 1
    issuing.add("h2", folder=folder)
    first = link.realm.issuer.entry
    assert first is not None
    (known,) = {entry.key_id.hex() for entry in link["h0"].identity.bundle.issuers} - {first.key_id.hex()}
    issuing.remove(known, folder=folder, yes=True)
    assert not link["h2"].is_issuer()


def second_issuer(link: Link, tmp_path: Path) -> None:
    """On h1, able to do all that the first one does."""
    issuing.add("h1", folder=link.realm.root.folder)
    link["h1"].issuer = Issuer(tmp_path, link["h1"].issuer_key, link["h1"].identity.verifier)


def test_who_is_out_with_an_issuer_is_told_before_and_not_oneself_nor_another_issuer(
    link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    link.realm.add("bob")
    second_issuer(link, tmp_path)
    asked: list[str] = []

    def no(question: str, *, yes: bool) -> None:
        asked.append(question)
        raise Failure(Exit.FAILED, "nothing was done")

    with monkeypatch.context() as patch:
        patch.setattr("matcher.cli.issuing.confirm", no)
        with pytest.raises(Failure, match="nothing was done"):
            issuing.remove("h0", folder=link.realm.root.folder)
    assert "join or log in again: host h0, host h2, user bob\n" in capsys.readouterr().err
    assert "3 members out of the realm" in asked[0]
    assert link["h2"].identity.bundle.anchor.epoch == 2, "nobody was told anything yet"
    issuing.remove("h0", folder=link.realm.root.folder, yes=True)
    assert {host.identity.bundle.anchor.epoch for host in link.hosts} == {3}, "also those that are out now"
    me = load_identity(folders.identity_folder())
    assert me.bundle.anchor.epoch == 3
    assert link["h1"].identity.verifier.principal(me.certificate, time.time())[0].name == "ada"


def test_nobody_drops_the_issuer_of_their_own_certificate_where_no_other_renews_it(link: Link) -> None:
    issuing.add("h1", folder=link.realm.root.folder)
    with pytest.raises(Failure, match="you would be out yourself"):
        issuing.remove("h0", folder=link.realm.root.folder, yes=True)
    assert link["h0"].identity.bundle.anchor.epoch == 2


def test_an_issuer_that_can_not_be_asked_is_said_to_be_so(
    link: Link, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second_issuer(link, tmp_path)
    link["h1"].answers["GET /v1/realm/members"] = Refused("fault", ())
    issuing.remove("h1", folder=link.realm.root.folder, yes=True)
    assert "h1 can't be asked whom it has let in" in capsys.readouterr().err


def certified_ago(link: Link, ago_s: float) -> IssuerEntry:
    """The first issuer, as if the root had certified it then."""
    before = link.realm.issuer.entry
    assert before is not None
    key, wall_s = public_key_of(before.certificate), time.time() - ago_s
    link["h0"].learn(next_anchor(link.realm.root, link["h0"].identity.bundle, wall_s=wall_s, add=key))
    (now,) = link["h0"].identity.bundle.issuers
    return now


def test_an_issuer_that_is_added_again_later_is_renewed_and_its_members_stay(
    link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = link.realm.root.folder
    for ago_s, said in ((YOUNG_S - 86_400, "that was handed out again"), (YOUNG_S + 60, "was renewed")):
        before = certified_ago(link, ago_s)
        issuing.add("h0", folder=folder)
        assert said in capsys.readouterr().err
    (now,) = link["h1"].identity.bundle.issuers
    assert (now.key_id, now.scopes) == (before.key_id, before.scopes)
    assert now.ends_s > before.ends_s + YOUNG_S
    link["h1"].identity.verifier.principal(link.realm["h2"].certificate, time.time())


@pytest.mark.parametrize(
    ("left_s", "said"), [(ENDING_S + 60, ""), (ENDING_S - 60, "ends on"), (60, "ends on"), (-60, "ended on")]
)
def test_an_issuer_whose_certificate_ends_is_a_warning_from_ninety_days_before(
    link: Link, left_s: float, said: str
) -> None:
    certified_ago(link, ISSUER_DAYS * 86_400 - left_s)
    bundle = link["h0"].identity.bundle
    status = replace(link["h0"]._get_realm(link.realm["ada"].principal, b""), issues_here=True)
    warnings = roster._ending(Standing(((link["h0"].door, status),), (), Heard((), (), ())), status)
    assert len(bundle.issuers) == 1
    assert [f"the issuer on h0 {said}" in warning for warning in warnings] == [True] * (said != "")
    assert all(warning.endswith("electros realm issuer add h0") for warning in warnings)


def test_the_only_issuer_stays(link: Link) -> None:
    assert link.realm.issuer.entry is not None
    with pytest.raises(Failure, match="the only issuer"):
        issuing.remove(link.realm.issuer.entry.key_id.hex(), folder=link.realm.root.folder, yes=True)
