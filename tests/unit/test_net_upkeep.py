"""Keeping a membership alive: which daemon does the work, what the other hears, when a host is too old to take more."""

import os
import time
from pathlib import Path

import pytest

from matcher.net import multicast
from matcher.net.audit import Audit
from matcher.net.caller import Caller
from matcher.net.desk import Desk
from matcher.net.upkeep import SAVE_AGAIN_S, STALE_AFTER_S, Upkeep, stale
from matcher.trust.identity import load_identity
from matcher.trust.spreading import Peer
from matcher.wire.framing import frame
from matcher.wire.messages import Refused
from matcher.wire.realm import Done, Invited, InviteHost, News, Revoke
from specs.ids import HostId
from tests.fakes.door import open_door
from tests.fakes.realms import FOUNDER, Realm, crash_at, make_realm


@pytest.fixture
def realm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Realm:
    monkeypatch.setattr(multicast, "tell", lambda *_: 0)  # nothing of a test goes to the machine's links
    return make_realm(tmp_path, "h1", "ann")


def upkeep_of(realm: Realm, name: str, *, port: int) -> Upkeep:
    return Upkeep(load_identity(realm.folder / name), port=port)


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


async def test_a_host_can_not_remove_itself(realm: Realm, tmp_path: Path) -> None:
    said = await desk_of(realm, tmp_path).revoke(Revoke("host", FOUNDER), admin(realm))
    assert isinstance(said, Refused)
    assert said.code == "this-host"


async def test_a_name_is_promised_to_one_token_at_a_time(realm: Realm, tmp_path: Path) -> None:
    desk = desk_of(realm, tmp_path)
    assert not desk.is_joining()
    assert isinstance(await desk.invite_host(InviteHost("h7"), admin(realm)), Invited)
    assert desk.is_joining()
    for taken in ("h7", "h1"):
        said = await desk.invite_host(InviteHost(taken), admin(realm))
        assert isinstance(said, Refused)
        assert said.code == "name-taken"


async def test_who_issues_nothing_says_so(realm: Realm, tmp_path: Path) -> None:
    upkeep = upkeep_of(realm, "h1", port=7766)
    desk = Desk(upkeep, issuer_folder=tmp_path / "none", port=7766, audit=Audit(tmp_path / "audit", "h1"))
    said = await desk.invite_host(InviteHost("h7"), admin(realm))
    assert isinstance(said, Refused)
    assert said.code == "not-an-issuer"
    assert not desk.status().issues_here


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
