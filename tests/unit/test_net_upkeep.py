"""Keeping a membership alive: which daemon does the work, what the other hears, when a host is too old to take more."""

import json
import os
import time
from pathlib import Path

import pytest

from matcher.net import multicast
from matcher.net.audit import Audit
from matcher.net.caller import Caller
from matcher.net.desk import Desk
from matcher.net.upkeep import NEW_KEY_WITHIN_S, SAVE_AGAIN_S, STALE_AFTER_S, Upkeep, stale
from matcher.trust.certificates import Scope
from matcher.trust.identity import load_identity, load_key
from matcher.trust.issuing import ENDING_S, make_issuer_key, open_issuer
from matcher.trust.root import next_anchor
from matcher.trust.spreading import Peer
from matcher.trust.tag_keys import OVERLAP_S
from matcher.trust.tokens import read_token
from matcher.wire.framing import frame
from matcher.wire.messages import Refused
from matcher.wire.realm import ChangeGrant, Done, Grant, Invited, InviteHost, News, Revoke
from specs.ids import HostId
from tests.fakes.door import open_door
from tests.fakes.realms import FOUNDER, Realm, crash_at, make_realm


@pytest.fixture
def realm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Realm:
    monkeypatch.setattr(multicast, "tell", lambda *_: 0)  # nothing of a test goes to the machine's links
    return make_realm(tmp_path, "h1", "ann", "bob", "carl")


def upkeep_of(realm: Realm, name: str, *, port: int) -> Upkeep:
    """atomd's has port 7766."""
    return Upkeep(load_identity(realm.folder / name), port=port, is_first=port == 7766)


def desk_of(realm: Realm, tmp_path: Path) -> Desk:
    upkeep = upkeep_of(realm, FOUNDER, port=7766)
    return Desk(upkeep, issuer_folder=realm.folder / "issuer", port=7766, audit=Audit(tmp_path / "audit", FOUNDER))


def admin(realm: Realm) -> Caller:
    return Caller(realm["ann"].principal, "10.0.0.9")


def test_atomd_does_the_work_and_storaged_where_there_is_no_atomd(realm: Realm) -> None:
    atomd, storaged = upkeep_of(realm, "h1", port=7766), upkeep_of(realm, "h1", port=0)
    assert storaged._is_mine()
    assert atomd._is_mine()
    assert not storaged._is_mine()
    assert atomd._present is not None
    os.close(atomd._present)  # it ends
    assert storaged._is_mine()


def test_who_leaves_the_work_to_the_other_sleeps(realm: Realm) -> None:
    atomd, storaged = upkeep_of(realm, "h1", port=7766), upkeep_of(realm, "h1", port=0)
    assert atomd._is_mine()
    storaged._work()
    assert storaged._until_due_s() >= 1.0


def test_a_revocation_told_by_ones_own_host_counts_at_once(realm: Realm) -> None:
    storaged = upkeep_of(realm, "h1", port=0)
    told = realm.issuer.revoke("user", "ann", "", wall_s=time.time())
    me = storaged.identity.principal
    storaged.hears_news(News("h1", 0, bytes(32), 1, 7766, frame([told.data])), me, "10.0.0.1")
    assert not storaged.identity.verifier.is_member("user", realm["ann"].principal.id)


async def test_an_issuer_stays_a_member_when_the_one_that_let_it_in_is_dropped(realm: Realm, tmp_path: Path) -> None:
    upkeep = upkeep_of(realm, "h1", port=7766)
    mine, folder = upkeep.identity, tmp_path / "second"
    make_issuer_key(folder)
    upkeep.issuer = open_issuer(folder, mine)
    assert upkeep.issuer is not None
    key, first = load_key(folder).public_key(), realm.issuer.entry
    assert first is not None
    mine.learn([next_anchor(realm.root, mine.bundle, wall_s=time.time(), add=key)], time.time())
    assert not upkeep._is_orphan()
    mine.learn([next_anchor(realm.root, mine.bundle, wall_s=time.time(), drop=first.key_id)], time.time())
    assert upkeep._is_orphan()
    await upkeep._renew_leaf()
    assert not upkeep._is_orphan()
    assert mine.verifier.principal(mine.certificate, time.time())[0].name == "h1"
    assert load_identity(mine.folder).certificate == mine.certificate


def test_the_end_of_an_issuer_is_told_once_in_its_hosts_log(realm: Realm, caplog: pytest.LogCaptureFixture) -> None:
    upkeep = upkeep_of(realm, FOUNDER, port=7766)
    upkeep.issuer = open_issuer(realm.folder / "issuer", upkeep.identity)
    assert upkeep.issuer is not None
    assert upkeep.issuer.entry is not None
    ends_s = upkeep.issuer.entry.ends_s
    upkeep._warn(ends_s - ENDING_S - 60)
    assert "issuer ends" not in caplog.text
    for left_s in (ENDING_S - 60, ENDING_S - 120):
        upkeep._warn(ends_s - left_s)
    assert caplog.text.count("issuer ends in 90.0 days") == 1


def test_a_host_that_heard_no_issuer_for_a_week_takes_nothing_new(realm: Realm) -> None:
    host, now_s = realm[FOUNDER], time.time()
    assert stale(host, now_s) is None
    assert stale(host, now_s + STALE_AFTER_S - 3600) is None
    said = stale(host, now_s + STALE_AFTER_S + 3600)
    assert said is not None
    assert "7 days" in said


def test_a_removed_host_takes_nothing_new(realm: Realm) -> None:
    told = realm.issuer.revoke("host", "h1", "", wall_s=time.time())
    realm["h1"].learn([told], time.time())
    assert stale(realm["h1"], time.time()) == "it was removed from its realm"


async def test_what_is_revoked_is_on_the_disk_when_the_desk_has_answered(realm: Realm, tmp_path: Path) -> None:
    desk = desk_of(realm, tmp_path)
    said = await desk.revoke(Revoke("user", "ann", "left"), admin(realm))
    assert isinstance(said, Done)
    again = load_identity(realm.folder / FOUNDER)
    assert not again.verifier.is_member("user", realm["ann"].principal.id)
    assert "realm.revoke" in (tmp_path / "audit").read_text()


async def test_a_host_that_is_removed_takes_the_tag_key_with_it(realm: Realm, tmp_path: Path) -> None:
    desk = desk_of(realm, tmp_path)
    before = desk.status().key_number
    assert isinstance(await desk.revoke(Revoke("host", "h1"), admin(realm)), Done)
    assert desk.status().key_number == before + 1


async def test_documents_leave_a_line_in_the_audit_where_something_of_them_was_new(
    realm: Realm, tmp_path: Path
) -> None:
    desk = desk_of(realm, tmp_path)
    told = realm.issuer.revoke("user", "ann", "", wall_s=time.time()).data
    for documents in (desk._identity.bundle.to_bytes(), b"", frame([b"x"])):
        assert await desk.offer(documents, admin(realm)) == Done("nothing of it was new")
    assert not (tmp_path / "audit").exists()
    assert await desk.offer(frame([told]), admin(realm)) == Done("known now")
    assert await desk.offer(frame([told]), admin(realm)) == Done("nothing of it was new")
    assert (tmp_path / "audit").read_text().count("realm.documents") == 1


async def test_a_user_who_is_revoked_takes_the_tag_key_with_them(realm: Realm, tmp_path: Path) -> None:
    desk = desk_of(realm, tmp_path)
    assert isinstance(await desk.revoke(Revoke("user", "bob"), admin(realm)), Done)
    assert desk.status().key_number == 2
    assert load_identity(realm.folder / FOUNDER).key_number == 2


async def test_of_many_users_who_are_revoked_no_key_is_replaced_before_the_last_one_is_over(
    realm: Realm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = desk_of(realm, tmp_path)
    upkeep, wall_s = desk._upkeep, time.time()
    clock = [1000.0]
    monkeypatch.setattr("matcher.net.upkeep.now_s", lambda: clock[0])

    def works_for(seconds: float, wall_s: float) -> int:
        upkeep.identity.tick(wall_s)
        for _ in range(int(seconds)):
            clock[0] += 1
            upkeep._replace_key(wall_s)
        return upkeep.identity.key_number

    for name in ("bob", "carl"):
        assert isinstance(await desk.revoke(Revoke("user", name), admin(realm)), Done)
    assert works_for(NEW_KEY_WITHIN_S + 1, wall_s + 1) == 2, "who knows the first key alone is still understood"
    assert works_for(NEW_KEY_WITHIN_S + 1, wall_s + OVERLAP_S + 1) == 3, "carl knew the second"
    assert works_for(NEW_KEY_WITHIN_S + 1, wall_s + 3 * OVERLAP_S) == 3, "nobody was revoked since"
    assert isinstance(await desk.revoke(Revoke("host", "h1"), admin(realm)), Done)
    assert upkeep.identity.key_number == 4, "a host's is replaced at once"


async def test_an_issuer_that_makes_no_keys_revokes_users_all_the_same_and_another_replaces_the_key(
    realm: Realm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = desk_of(realm, tmp_path)
    assert desk._issuer is not None
    with monkeypatch.context() as patch:
        patch.setattr(type(desk._issuer), "scopes", frozenset({Scope.USERS}))
        assert isinstance(await desk.revoke(Revoke("user", "bob"), admin(realm)), Done)
        desk._upkeep._replace_key(time.time())
    assert desk.status().key_number == 1
    monkeypatch.setattr(desk._upkeep._random, "uniform", lambda *_: 0.0)
    desk._upkeep._replace_key(time.time())
    assert desk.status().key_number == 2


async def test_a_host_can_not_remove_itself(realm: Realm, tmp_path: Path) -> None:
    said = await desk_of(realm, tmp_path).revoke(Revoke("host", FOUNDER), admin(realm))
    assert isinstance(said, Refused)
    assert said.code == "this-host"


async def test_a_name_of_a_member_is_promised_to_nobody_else(realm: Realm, tmp_path: Path) -> None:
    desk = desk_of(realm, tmp_path)
    assert not desk.is_joining()
    assert isinstance(await desk.invite_host(InviteHost("h7"), admin(realm)), Invited)
    assert desk.is_joining()
    said = await desk.invite_host(InviteHost("h1"), admin(realm))
    assert isinstance(said, Refused)
    assert said.code == "name-taken"


async def test_who_has_lost_a_token_asks_again_and_the_lost_one_is_good_for_nothing(
    realm: Realm, tmp_path: Path
) -> None:
    desk = desk_of(realm, tmp_path)
    first, second = [await desk.invite_host(InviteHost("h7"), admin(realm)) for _ in range(2)]
    assert isinstance(first, Invited)
    assert isinstance(second, Invited)
    assert list(desk._tokens._pending) == [read_token(second.token).token_id]
    assert f"instead of token {read_token(first.token).token_id}" in (tmp_path / "audit").read_text()


async def test_who_issues_nothing_says_so(realm: Realm, tmp_path: Path) -> None:
    upkeep = upkeep_of(realm, "h1", port=7766)
    desk = Desk(upkeep, issuer_folder=tmp_path / "none", port=7766, audit=Audit(tmp_path / "audit", "h1"))
    said = await desk.invite_host(InviteHost("h7"), admin(realm))
    assert isinstance(said, Refused)
    assert said.code == "not-an-issuer"
    assert not desk.status().issues_here
    await desk.change_grant(ChangeGrant("ada", Grant()), admin(realm))
    await desk.revoke(Revoke("user", "ada", ""), admin(realm))
    noted = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    assert [line["what"] for line in noted] == ["realm.invite", "realm.grant", "realm.revoke"]
    assert {line["outcome"] for line in noted} == {"refused: not-an-issuer"}


async def test_the_root_alone_makes_an_issuer_of_a_key(realm: Realm, tmp_path: Path) -> None:
    upkeep = upkeep_of(realm, "h1", port=7766)
    desk = Desk(upkeep, issuer_folder=tmp_path / "new", port=7766, audit=Audit(tmp_path / "audit", "h1"))
    first = await desk.make_issuer(admin(realm))
    assert not isinstance(first, Refused)
    assert not desk.status().issues_here, "until an anchor names it"
    assert (tmp_path / "new" / "key.pem").stat().st_mode & 0o777 == 0o600


def test_what_a_full_disk_did_not_take_is_saved_later(realm: Realm, monkeypatch: pytest.MonkeyPatch) -> None:
    upkeep, now_s = upkeep_of(realm, "h1", port=7766), [100.0]
    monkeypatch.setattr("matcher.net.upkeep.now_s", lambda: now_s[0])
    revocation = realm.issuer.revoke("user", "ann", "", wall_s=time.time())
    with crash_at(0), pytest.raises(OSError, match="Input/output error"):
        upkeep.publish([revocation])
    with crash_at(0):
        now_s[0] += SAVE_AGAIN_S
        upkeep._work()
    ann = realm["ann"].principal.id
    assert load_identity(realm.folder / "h1").verifier.is_member("user", ann)
    now_s[0] += SAVE_AGAIN_S
    upkeep._work()
    assert not load_identity(realm.folder / "h1").verifier.is_member("user", ann)
    assert upkeep._save_again_s == float("inf")


async def test_nobody_is_told_that_it_is_done_already_while_it_is_in_memory_alone(realm: Realm, tmp_path: Path) -> None:
    desk, ann = desk_of(realm, tmp_path), realm["ann"].principal.id
    for written in (1, 0):  # the first time, the issuer's own register
        with crash_at(written):
            said = await desk.revoke(Revoke("user", "ann", "left"), admin(realm))
        assert isinstance(said, Refused)
        assert said.code == "journal"
        assert load_identity(realm.folder / FOUNDER).verifier.is_member("user", ann)
    again = await desk.revoke(Revoke("user", "ann", "left"), admin(realm))
    assert isinstance(again, Refused)
    assert again.code == "revoked"
    assert not load_identity(realm.folder / FOUNDER).verifier.is_member("user", ann)


async def test_what_a_host_lacks_is_brought_to_its_front_door(realm: Realm) -> None:
    upkeep, founder = upkeep_of(realm, "h1", port=7766), realm[FOUNDER].principal
    revocation = realm.issuer.revoke("user", "ann", "", wall_s=time.time())
    async with open_door(realm) as door:
        peer = Peer(HostId(founder.id), FOUNDER, "127.0.0.1", door.port)
        assert realm[FOUNDER].verifier.is_member("user", realm["ann"].principal.id)
        await upkeep._give(peer, frame([revocation.data]))
        assert not realm[FOUNDER].verifier.is_member("user", realm["ann"].principal.id)
