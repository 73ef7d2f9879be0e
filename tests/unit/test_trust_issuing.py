"""An issuer makes whom it may, once; takes back for ever; and gives what was granted last, and never more."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from matcher.trust import issuing
from matcher.trust.certificates import BACKDATE_S, Scope, Untrusted
from matcher.trust.identity import Identity, IdentityError
from matcher.trust.issuing import FORGET_S, Issued, IssueError, Issuer, open_issuer
from matcher.trust.principal import fingerprint
from matcher.trust.requests import make_request
from matcher.trust.tag_keys import read_tag_keys
from matcher.trust.verifier import Verifier
from matcher.wire.envelope import TAG_KEY_BYTES
from matcher.wire.framing import frame
from matcher.wire.realm import Grant, Heartbeat, PciLimit, Revocation, TagKey, Verb
from tests.fakes.realms import NOW_S, Crash, Papers, crash_at, make_realm, new_key

WIDE, SMALL = Grant((Verb.PLEDGE, Verb.RUN), slots=64), Grant((Verb.PLEDGE,), slots=1)


class Desks:
    """Two issuers of one realm, on hosts that know the same."""

    def __init__(self, folder: Path) -> None:
        self.papers = Papers("i0", "i1")
        self.verifier = Verifier(self.papers.bundle)
        self.folders = [folder / "i0", folder / "i1"]
        for each in self.folders:
            each.mkdir()
        self.one, self.other = self.open(0), self.open(1)

    def open(self, number: int) -> Issuer:
        return Issuer(self.folders[number], self.papers.issuers[f"i{number}"], self.verifier)

    def learn(self, *documents) -> None:  # type: ignore[no-untyped-def]
        self.verifier.learn(self.verifier.bundle.merged(documents))

    def grant_in(self, issued: Issued, wall_s: float = NOW_S) -> Grant:
        return self.verifier.principal(issued.leaf, wall_s)[0].grant


@pytest.fixture
def desks(tmp_path: Path) -> Desks:
    return Desks(tmp_path)


def code(do: Callable[[], object]) -> str:
    with pytest.raises(IssueError) as caught:
        do()
    assert len(caught.value.said) <= 120
    return caught.value.code


def test_a_member_is_admitted_and_remembered(desks: Desks) -> None:
    key = new_key()
    issued = desks.one.admit("user", "ann", make_request(key, "whoever"), WIDE, wall_s=NOW_S)
    principal, _ = desks.verifier.principal(issued.leaf, NOW_S)
    assert (principal.name, principal.id, principal.grant) == ("ann", fingerprint(key.public_key()), WIDE)
    assert desks.open(0).members(NOW_S) == (issued.member,)
    assert desks.one.find("user", "ann", NOW_S) == desks.one.find("user", principal.id, NOW_S) == issued.member
    assert desks.one.find("host", "ann", NOW_S) is None
    assert (desks.folders[0] / "members.json").stat().st_mode & 0o777 == 0o600


def test_a_name_is_one_members_and_free_again_when_that_has_ended(desks: Desks) -> None:
    first = desks.one.admit("user", "ann", make_request(new_key(), "x"), WIDE, wall_s=NOW_S, days=1)
    again = make_request(new_key(), "x")
    assert code(lambda: desks.one.admit("user", "ann", again, WIDE, wall_s=NOW_S)) == "name-taken"
    desks.one.admit("host", "ann", make_request(new_key(), "x"), None, wall_s=NOW_S)
    later_s = first.member.ends_s + 1
    assert not desks.one.is_taken("user", "ann", later_s)
    desks.one.admit("user", "ann", again, WIDE, wall_s=later_s)
    desks.learn(desks.one.revoke("user", "ann", "", wall_s=later_s))
    desks.one.admit("user", "ann", make_request(new_key(), "x"), WIDE, wall_s=later_s)


def test_one_key_is_one_member(desks: Desks) -> None:
    request = make_request(new_key(), "h1")
    first = desks.one.admit("host", "", request, None, wall_s=NOW_S)
    assert first.member.name == "h1"
    assert desks.one.admit("host", "", request, None, wall_s=NOW_S + 5).member.id == first.member.id
    assert code(lambda: desks.one.admit("host", "h2", request, None, wall_s=NOW_S)) == "key-taken"
    assert code(lambda: desks.one.admit("user", "h1", request, WIDE, wall_s=NOW_S)) == "key-taken"
    mine = make_request(new_key(), "x")
    desks.one.admit("user", "ann", mine, SMALL, wall_s=NOW_S)
    assert code(lambda: desks.one.admit("user", "ann", mine, WIDE, wall_s=NOW_S)) == "key-taken"
    bare = make_request(new_key(), "x")
    for _ in range(2):
        desks.one.admit("user", "bob", bare, None, wall_s=NOW_S)


@pytest.mark.parametrize("request_der", [b"", b"\x30\x00", bytes(4096)])
def test_a_bad_request_or_name_is_refused(desks: Desks, request_der: bytes) -> None:
    assert code(lambda: desks.one.admit("user", "ann", request_der, WIDE, wall_s=NOW_S)) == "bad-request"
    assert (
        code(lambda: desks.one.admit("host", "", make_request(new_key(), "a b"), None, wall_s=NOW_S)) == "bad-request"
    )
    odd = Grant(pci=(PciLimit("*", "24b0", 1),))
    assert code(lambda: desks.one.admit("user", "a", make_request(new_key(), "a"), odd, wall_s=NOW_S)) == "bad-request"
    assert code(lambda: desks.one.check("user", odd)) == "bad-request"
    assert desks.one.members(NOW_S) == ()


def test_what_has_ended_is_not_issued(desks: Desks) -> None:
    past = Grant(until_s=int(NOW_S))
    assert code(lambda: desks.one.admit("user", "a", make_request(new_key(), "a"), past, wall_s=NOW_S)) == "expired"
    end_s = desks.verifier.bundle.issuers[0].certificate.not_valid_after_utc.timestamp()
    assert code(lambda: desks.one.admit("host", "h", make_request(new_key(), "h"), None, wall_s=end_s)) == "expired"


def test_an_issuer_does_what_its_scope_says_and_nothing_after_it_was_dropped(desks: Desks) -> None:
    papers = desks.papers
    papers.scopes = {"i0": [Scope.USERS], "i1": [Scope.HOSTS]}
    desks.learn(papers.anchor(2))
    admin = Grant((Verb.ADMIN,))
    request = make_request(new_key(), "x")
    assert code(lambda: desks.one.admit("host", "x", request, None, wall_s=NOW_S)) == "out-of-scope"
    assert code(lambda: desks.one.admit("user", "x", request, admin, wall_s=NOW_S)) == "out-of-scope"
    assert code(lambda: desks.one.new_tag_key(bytes(32), number=2, wall_s=NOW_S)) == "out-of-scope"
    assert code(lambda: desks.one.revoke("host", "a" * 64, "", wall_s=NOW_S)) == "out-of-scope"
    desks.one.admit("user", "x", request, WIDE, wall_s=NOW_S)
    assert code(lambda: desks.one.change("x", admin, wall_s=NOW_S)) == "out-of-scope"
    desks.learn(papers.anchor(3, issuers=["i1"]))
    assert code(lambda: desks.one.check("user", WIDE)) == "out-of-scope"
    assert desks.one.entry is desks.one.heartbeat(NOW_S) is None
    assert desks.one.scopes == frozenset()


def test_a_renewal_keeps_name_and_grant(desks: Desks) -> None:
    request = make_request(new_key(), "x")
    first = desks.one.admit("user", "ann", request, WIDE, wall_s=NOW_S)
    for desk in (desks.one, desks.other):  # any issuer does it: the leaf says what it has to know
        again = desk.renew(first.leaf, request, wall_s=NOW_S + 60)
        assert desks.grant_in(again, NOW_S + 60) == WIDE
        assert again.member.ends_s == first.member.ends_s + 60
    assert desks.one.members(NOW_S)[0].since_s == int(NOW_S)
    stranger = make_request(new_key(), "x")
    assert code(lambda: desks.one.renew(first.leaf, stranger, wall_s=NOW_S)) == "bad-request"
    late_s = first.member.ends_s + 1
    assert code(lambda: desks.one.renew(first.leaf, request, wall_s=late_s)) == "denied"
    assert code(lambda: desks.one.renew(Papers().leaf(), request, wall_s=NOW_S)) == "denied"


def test_another_grant_ends_the_leaves_of_before_even_of_the_same_second(desks: Desks) -> None:
    request = make_request(new_key(), "x")
    leaf = desks.one.admit("user", "ann", request, WIDE, wall_s=NOW_S)
    for grant in (SMALL, WIDE, SMALL):
        desks.learn(desks.one.change("ann", grant, wall_s=NOW_S))
        with pytest.raises(Untrusted, match="revoked"):
            desks.grant_in(leaf)
        leaf = desks.one.renew(leaf.leaf, request, wall_s=NOW_S)
        assert desks.grant_in(leaf) == grant
    assert desks.open(0).members(NOW_S)[0].grant == SMALL


def test_an_issuer_that_has_not_heard_of_the_newest_grant_does_not_give_an_older_one_back(desks: Desks) -> None:
    request = make_request(new_key(), "x")
    old = desks.one.admit("user", "ann", request, WIDE, wall_s=NOW_S)
    desks.other.renew(old.leaf, request, wall_s=NOW_S + 30)  # so that the other has written down the wide one
    desks.learn(desks.one.change("ann", SMALL, wall_s=NOW_S + 60))
    assert code(lambda: desks.other.renew(old.leaf, request, wall_s=NOW_S + 61)) == "not-here"
    fresh = Issuer(desks.folders[1], desks.papers.issuers["i1"], desks.verifier)
    assert code(lambda: fresh.renew(old.leaf, request, wall_s=NOW_S + 61)) == "not-here"
    new = desks.one.renew(old.leaf, request, wall_s=NOW_S + 61)
    assert desks.grant_in(desks.other.renew(new.leaf, request, wall_s=NOW_S + 99), NOW_S + 99) == SMALL
    desks.learn(desks.other.change("ann", WIDE, wall_s=NOW_S + 200))  # and the other way round
    assert code(lambda: desks.one.renew(new.leaf, request, wall_s=NOW_S + 201)) == "not-here"


def test_who_was_revoked_is_gone_for_ever(desks: Desks) -> None:
    request = make_request(new_key(), "x")
    issued = desks.one.admit("user", "ann", request, WIDE, wall_s=NOW_S)
    desks.learn(desks.one.revoke("user", "ann", "left", wall_s=NOW_S))
    for desk in (desks.one, desks.other):
        assert code(lambda desk=desk: desk.renew(issued.leaf, request, wall_s=NOW_S)) == "revoked"  # type: ignore[misc]
        assert code(lambda desk=desk: desk.admit("user", "bob", request, WIDE, wall_s=NOW_S)) == "revoked"  # type: ignore[misc]
        assert code(lambda desk=desk: desk.admit("host", "hb", request, None, wall_s=NOW_S)) == "revoked"  # type: ignore[misc]
    assert code(lambda: desks.one.revoke("user", "ann", "", wall_s=NOW_S)) == "revoked"
    assert code(lambda: desks.one.change("ann", SMALL, wall_s=NOW_S)) == "revoked"
    assert code(lambda: desks.one.revoke("user", "nobody", "", wall_s=NOW_S)) == "not-found"
    assert desks.one.members(NOW_S)[0].state == "revoked"


def test_a_revocation_that_nobody_could_hear_of_is_made_again(desks: Desks) -> None:
    """The power went after it was written down, before it was told."""
    desks.one.admit("user", "ann", make_request(new_key(), "x"), WIDE, wall_s=NOW_S)
    desks.one.revoke("user", "ann", "left", wall_s=NOW_S)
    desks.learn(desks.open(0).revoke("user", "ann", "left", wall_s=NOW_S + 9))
    assert not desks.verifier.is_member("user", desks.one.members(NOW_S)[0].id)


def test_a_member_that_another_issuer_made_is_revoked_by_its_id(desks: Desks) -> None:
    issued = desks.one.admit("host", "h1", make_request(new_key(), "x"), None, wall_s=NOW_S)
    assert code(lambda: desks.other.revoke("host", "h1", "", wall_s=NOW_S)) == "not-found"
    desks.learn(desks.other.revoke("host", issued.member.id, "", wall_s=NOW_S))
    assert desks.one.members(NOW_S)[0].state == "revoked"
    assert code(lambda: desks.other.revoke("host", issued.member.id, "", wall_s=NOW_S)) == "revoked"


def test_a_reason_can_be_anything_and_the_revocation_is_taken_everywhere(desks: Desks) -> None:
    for number, why in enumerate(("\U0001f600" * 200, "a\0b\x1b[2J\u202e", "\ud800", "x" * 500)):
        signed = desks.one.revoke("user", f"{number:064x}", why, wall_s=NOW_S)
        desks.learn(signed)
        assert all(letter.isprintable() for letter in signed.says.why)
    assert len(desks.verifier.bundle.revocations) == 4


def test_what_the_realm_can_not_take_is_not_promised(desks: Desks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matcher.trust.bundle.REVOCATIONS_MAX", 0)
    assert code(lambda: desks.one.revoke("user", "a" * 64, "", wall_s=NOW_S)) == "too-many"


def test_what_a_dropped_issuer_revoked_is_revoked_again_by_another(desks: Desks) -> None:
    papers = desks.papers
    ann, bob, eve = "a" * 64, "b" * 64, "e" * 64
    desks.learn(
        papers.revocation(ann, by="i1", before_s=5),
        papers.revocation(ann, by="i1"),
        papers.revocation(bob, by="i1", before_s=5),
        papers.revocation(bob, by="i0", before_s=9),
        papers.revocation(eve, by="i1", kind="host"),
        papers.revocation(eve, by="i0", kind="user"),
    )
    assert desks.one.revoke_again(NOW_S) == []
    papers.scopes = {"i0": [Scope.HOSTS, Scope.USERS]}
    second = papers.anchor(2, issuers=["i0"])
    desks.learn(second)
    again = desks.one.revoke_again(NOW_S)
    assert {(each.says.kind, each.says.id, each.says.before_s) for each in again} == {
        ("user", ann, 0),
        ("host", eve, 0),
    }
    desks.learn(*again)
    assert desks.one.revoke_again(NOW_S) == []
    assert desks.other.revoke_again(NOW_S) == []
    late = Verifier(papers.bundle.merged([second, *again]))
    assert not late.is_member("user", ann)
    papers.scopes = {"i0": [Scope.USERS]}
    desks.learn(papers.anchor(3, issuers=["i0"]))
    assert desks.one.revoke_again(NOW_S) == []  # hosts are not its to revoke


def test_a_heartbeat_counts_what_the_issuer_has_revoked(desks: Desks) -> None:
    desks.learn(
        desks.one.revoke("user", "a" * 64, "", wall_s=NOW_S), desks.other.revoke("user", "b" * 64, "", wall_s=1.0)
    )
    beat = desks.one.heartbeat(NOW_S)
    assert beat is not None
    assert beat.says.revocations == 1
    desks.learn(beat)
    assert desks.verifier.bundle.heard_s() == NOW_S


def test_nothing_is_known_that_could_not_be_written_down(desks: Desks) -> None:
    request = make_request(new_key(), "x")
    with crash_at(0), pytest.raises(Crash):
        desks.one.admit("user", "ann", request, WIDE, wall_s=NOW_S)
    assert desks.one.members(NOW_S) == ()
    desks.one.admit("user", "ann", request, WIDE, wall_s=NOW_S)
    with crash_at(0), pytest.raises(Crash):
        desks.one.revoke("user", "ann", "", wall_s=NOW_S)
    assert desks.one.members(NOW_S)[0].state == "member"


def test_who_ended_long_ago_is_forgotten_and_the_number_is_limited(
    desks: Desks, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = desks.one.admit("user", "ann", make_request(new_key(), "x"), WIDE, wall_s=NOW_S, days=1).member
    later_s = ann.ends_s + FORGET_S
    desks.one.admit("user", "bob", make_request(new_key(), "x"), WIDE, wall_s=later_s - 1)
    assert [member.name for member in desks.one.members(later_s)] == ["ann", "bob"]
    assert desks.one.members(later_s)[0].state == "expired"
    desks.one.admit("user", "eve", make_request(new_key(), "x"), WIDE, wall_s=later_s)
    assert [member.name for member in desks.one.members(later_s)] == ["bob", "eve"]
    monkeypatch.setattr(issuing, "MEMBERS_MAX", 2)
    assert code(lambda: desks.one.admit("host", "h", make_request(new_key(), "h"), None, wall_s=later_s)) == "too-many"


def test_a_hosts_leaf_names_no_more_addresses_than_fit(desks: Desks) -> None:
    addresses = [f"10.0.0.{number}" for number in range(99)]
    issued = desks.one.admit("host", "h", make_request(new_key(), "h"), None, wall_s=NOW_S, addresses=addresses)
    names = x509.load_der_x509_certificate(issued.leaf).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert len(names.value.get_values_for_type(x509.IPAddress)) == issuing.ADDRESSES_MAX
    assert desks.verifier.certified(issued.leaf).issued_s == NOW_S - BACKDATE_S


def opened(folder: Path, identity: Identity) -> str:
    with pytest.raises(IdentityError) as caught:
        open_issuer(folder, identity)
    return str(caught.value)


def test_a_damaged_issuer_is_a_sentence(tmp_path: Path) -> None:
    realm = make_realm(tmp_path)
    folder, founder = tmp_path / "issuer", realm["h0"]
    assert open_issuer(tmp_path / "none", founder) is None
    assert open_issuer(tmp_path / "issuer" / "key.pem", founder) is None
    good = (folder / "members.json").read_bytes()
    for bad in (b"", b"{}", b"\xff", good[:-9], b'{"records": [{}]}', good.replace(b'"h0"', b'"h 0"')):
        (folder / "members.json").write_bytes(bad)
        assert "members.json is damaged" in opened(folder, founder)
    (folder / "members.json").unlink()
    (folder / "members.json").mkdir()
    assert "can't be read" in opened(folder, founder)
    (folder / "members.json").rmdir()
    (folder / "key.pem").chmod(0o644)
    assert "chmod 600" in opened(folder, founder)
    (folder / "key.pem").chmod(0o600)
    (folder / "key.pem").write_text("x")
    assert "no private key" in opened(folder, founder)


def test_what_a_dropped_issuer_has_said_is_said_again_at_once_and_once(desks: Desks) -> None:
    papers, key = desks.papers, b"k" * TAG_KEY_BYTES
    tag_keys = read_tag_keys(frame([papers.tag_key(7, key, by="i1").data]), papers.bundle)
    assert tag_keys is not None
    desks.learn(papers.revocation("a" * 64, by="i1"))
    assert [type(each.says) for each in desks.one.due(tag_keys, 10.0, NOW_S)] == [Heartbeat]
    assert desks.one.due(tag_keys, 11.0, NOW_S) == []
    desks.learn(papers.anchor(2, issuers=["i0"]))
    again = desks.one.due(tag_keys, 12.0, NOW_S + 2)
    assert [type(each.says) for each in again] == [Revocation, TagKey]
    bundle = desks.verifier.bundle
    stood_in = tag_keys.merged(again, bundle)
    assert stood_in.secret(papers.realm_id, NOW_S).tag_key == key
    assert stood_in.orphan(bundle) is None
    desks.learn(*again)
    assert desks.one.due(stood_in, 13.0, NOW_S + 3) == []


def test_an_issuer_that_is_named_again_shows_at_once_that_it_lives(desks: Desks) -> None:
    papers = desks.papers
    tag_keys = read_tag_keys(frame([papers.tag_key(1, b"k" * TAG_KEY_BYTES, by="i0").data]), papers.bundle)
    assert tag_keys is not None
    desks.learn(papers.anchor(2, issuers=["i0"]))
    assert desks.other.due(tag_keys, 10.0, NOW_S) == []
    desks.learn(papers.anchor(3))
    assert [type(each.says) for each in desks.other.due(tag_keys, 11.0, NOW_S)] == [Heartbeat]
