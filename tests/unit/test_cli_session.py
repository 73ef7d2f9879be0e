"""A session looks after its identity: it renews it, and makes up for what the realm has signed meanwhile."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from matcher.cli import afterwards, folders
from matcher.cli.failures import Exit, Failure
from matcher.cli.session import LEARN_S, Session, session
from matcher.net.client import Said
from matcher.net.https import Door
from matcher.trust.identity import Identity, load_identity
from matcher.trust.realm import EVERYTHING, next_anchor
from matcher.wire.messages import Answer, Query, Reason, Refused, Role
from matcher.wire.realm import Grant, RealmStatus, Verb
from tests.fakes.hosts import Host, Link, keyboard


@pytest.fixture
def link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Link]:
    """ada is at the keyboard; h0, which issues, and h1 are on her link."""
    afterwards._left.clear()
    with keyboard(tmp_path, monkeypatch, "h1") as link:
        yield link


def hear_of_all() -> None:
    """A first command, after which the hosts are known."""
    with session() as mine:
        assert len(mine.query().answers) == 2


def status(mine: Session, door: Door) -> RealmStatus:
    return mine.ask(door, lambda connection: connection.ask("GET", "/v1/realm", RealmStatus))


def mine_now() -> Identity:
    return load_identity(folders.identity_folder())


def rotate_tag_key(link: Link) -> None:
    """Long ago, so that the older one is over: who only knows that is not heard."""
    issuer, long_ago_s = link.realm.issuer, time.time() - 9999
    link["h0"].learn(*(issuer.new_tag_key(os.urandom(32), number=number, wall_s=long_ago_s) for number in (2, 3)))


def make_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Identity, "is_due", lambda *_: True)


def test_nothing_is_left_to_do_while_leaf_and_knowledge_are_young(link: Link) -> None:
    hear_of_all()
    afterwards.run()
    assert link["h0"].asked == link["h1"].asked == []


def test_a_leaf_that_is_due_is_renewed_once_the_command_is_done(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    before = mine_now()
    make_due(monkeypatch)
    hear_of_all()
    assert link.asked("POST /v1/realm/renewals") == [], "the command's own work comes first"
    afterwards.run()
    after = mine_now()
    assert after.certificate != before.certificate
    assert after.principal == before.principal


def test_a_renewal_that_fails_is_nobodys_failure_and_not_tried_with_every_command(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_due(monkeypatch)
    busy = Refused("unavailable", (Reason("realm", "a leaf", "not now", ""),))
    link["h0"].answers["POST /v1/realm/renewals"] = busy
    for _ in range(3):
        hear_of_all()
        afterwards.run()
    assert link["h0"].asked.count("POST /v1/realm/renewals") == 1


def test_what_the_realm_has_signed_is_asked_for_once_a_day(link: Link) -> None:
    bundle = folders.identity_folder() / "realm.bundle"
    os.utime(bundle, (time.time() - LEARN_S - 60,) * 2)
    link.realm.add("eve")
    link["h0"].learn(link.realm.issuer.revoke("user", "eve", "gone", wall_s=time.time()))
    for _ in range(2):
        hear_of_all()
        afterwards.run()
    assert len(link.asked("GET /v1/realm/bundle")) == 1
    assert [host.asked.count("GET /v1/realm/bundle") for host in link.hosts if host.asked] == [1]
    assert not mine_now().verifier.is_member("user", link.realm["eve"].principal.id)


def test_a_failure_afterwards_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    done: list[int] = []
    afterwards.leave(fail)
    afterwards.leave(lambda: done.append(1))
    afterwards.run()
    assert done == [1]
    assert capsys.readouterr() == ("", "")


def supersede(link: Link, grant: Grant) -> None:
    link["h0"].learn(link.realm.issuer.change("ada", grant, wall_s=time.time()))


def test_with_a_superseded_leaf_nobody_answers_until_it_is_renewed(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    hear_of_all()
    narrow = Grant(verbs=(Verb.PLEDGE,), slots=2)
    supersede(link, narrow)
    assert not link["h1"].hears(mine_now())
    with session() as mine:
        assert len(mine.query().answers) == 2
    assert mine_now().principal.grant == narrow


def test_a_superseded_leaf_at_a_door_is_renewed_and_the_question_asked_once_more(link: Link) -> None:
    with session() as mine:
        mine.query()
        supersede(link, EVERYTHING)
        assert status(mine, link["h1"].door).host == "h1"
    assert link["h1"].asked.count("GET /v1/realm") == 2
    assert link.asked("POST /v1/realm/renewals")[0] == "h0"


def test_who_was_away_while_the_tag_key_changed_is_heard_again(link: Link) -> None:
    hear_of_all()
    rotate_tag_key(link)
    assert not link["h0"].hears(mine_now())
    with session() as mine:
        assert len(mine.query().answers) == 2
    assert mine_now().realm.number == 3


def test_the_new_tag_key_is_learned_also_where_a_host_that_answers_first_has_heard_of_the_revocation_alone(
    link: Link,
) -> None:
    issuer, now_s = link.realm.issuer, time.time()
    revoked = issuer.revoke("host", "h1", "", wall_s=now_s)
    link["h1"].identity.learn([revoked], now_s)
    link["h0"].identity.learn([revoked, issuer.new_tag_key(os.urandom(32), number=2, wall_s=now_s)], now_s)
    link.hosts.reverse()
    with session() as mine:
        assert [said.message.host for said in mine.query().answers] == ["h0"]
    assert mine_now().key_number == 2


def test_a_removed_host_that_alone_understands_an_old_tag_key_is_not_taken_for_the_realm(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Storage alone, which has no door to be asked at."""
    hear_of_all()
    h1, answer = link["h1"], Host.answer

    def of_storage(host: Host, query: Query) -> Said:
        said = answer(host, query)
        assert isinstance(said.message, Answer)
        storage = replace(said.message, role=Role.STORAGE, front_door_port=0)
        return replace(said, message=storage) if host is h1 else said

    monkeypatch.setattr(Host, "answer", of_storage)
    h1.away = True
    link["h0"].learn(link.realm.issuer.revoke("host", "h1", "", wall_s=time.time()))
    rotate_tag_key(link)
    h1.away = False
    assert h1.hears(mine_now())
    assert not link["h0"].hears(mine_now())
    with session() as mine:
        assert [said.message.host for said in mine.query().answers] == ["h0"]


def test_nobody_is_asked_by_https_where_nobody_is_known(link: Link) -> None:
    rotate_tag_key(link)
    with session() as mine:
        assert mine.query(patience_s=0.05).answers == ()
    assert link["h0"].asked == link["h1"].asked == []


def test_a_revoked_person_is_told_so_and_not_that_nobody_is_in_reach(link: Link) -> None:
    hear_of_all()
    link["h0"].learn(link.realm.issuer.revoke("user", "ada", "", wall_s=time.time()))
    with pytest.raises(Failure) as failed, session() as mine:
        mine.query()
    assert failed.value.exit_code == Exit.DENIED
    assert "your certificate was revoked" in failed.value.message
    assert "electros login TOKEN" in failed.value.helps


def test_a_revoked_person_is_told_so_at_a_door_as_well(link: Link) -> None:
    with session() as mine:
        mine.query()
        link["h0"].learn(link.realm.issuer.revoke("user", "ada", "", wall_s=time.time()))
        with pytest.raises(Failure) as failed:
            status(mine, link["h1"].door)
    assert (failed.value.exit_code, failed.value.code) == (Exit.DENIED, "revoked")


def test_who_has_a_certificate_of_a_dropped_issuer_is_told_so_and_not_that_nobody_is_in_reach(link: Link) -> None:
    hear_of_all()
    root, bundle, first = link.realm.root, link["h0"].identity.bundle, link.realm.issuer.entry
    assert first is not None
    link["h0"].learn(next_anchor(root, bundle, wall_s=time.time(), add=link["h1"].issuer_key.public_key()))
    link["h0"].learn(next_anchor(root, link["h0"].identity.bundle, wall_s=time.time(), drop=first.key_id))
    with pytest.raises(Failure) as failed, session() as mine:
        mine.query()
    assert failed.value.exit_code == Exit.DENIED
    assert "certificate" in failed.value.message


def test_hosts_that_are_just_silent_cost_one_look_each_and_no_more(link: Link) -> None:
    hear_of_all()
    link.silent = {"h0", "h1"}
    with session() as mine:
        for _ in range(2):
            assert mine.query(patience_s=0.05).answers == ()
    assert [host.asked.count("GET /v1/realm/bundle") for host in link.hosts] == [1, 1]


def test_an_expired_identity_says_what_helps(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    late_s = time.time() + 91 * 86_400
    monkeypatch.setattr("matcher.trust.identity.time.time", lambda: late_s)
    with pytest.raises(Failure) as failed, session():
        pass
    assert failed.value.exit_code == Exit.DENIED
    assert "expired on" in failed.value.message
    assert "electros login TOKEN" in failed.value.message
