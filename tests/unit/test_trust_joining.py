"""Who joins says nothing but to a host of the token's realm; who admits does it once, and for the right key."""

from pathlib import Path

import pytest

from matcher.trust.certificates import public_key_of
from matcher.trust.identity import load_identity
from matcher.trust.issuing import Issued
from matcher.trust.joining import JoinError, Joining, admit
from matcher.trust.principal import fingerprint
from matcher.trust.tokens import Pending, Token, Tokens
from matcher.wire.messages import Refused
from matcher.wire.realm import Admitted, Join, Welcome
from tests.fakes.realms import EVERYTHING, NOW_S, Crash, Papers, Realm, crash_at, make_realm


class Door:
    """A host with an issuer, and its tokens."""

    def __init__(self, realm: Realm) -> None:
        self.realm, self.tokens = realm, Tokens()
        self.founder = realm["h0"]
        self.wall_s = self.founder.starts_s + 400
        self.welcome = Welcome(self.founder.bundle.to_bytes())

    def invite(self, kind: str = "host", name: str = "") -> Token:
        token = self.tokens.issue(
            kind,  # type: ignore[arg-type]
            name=name,
            grant=EVERYTHING if kind == "user" else None,
            by="ann",
            root=fingerprint(public_key_of(self.realm.root.certificate)),
            addresses=("10.0.0.1",),
            port=1,
            random=len(self.tokens._pending).to_bytes(24, "little"),
            now_s=0.0,
        )
        assert token is not None
        return token

    def admit(self, join: Join, leaf: bytes | None = None) -> tuple[Admitted, Issued, Pending] | Refused:
        return admit(
            join,
            self.tokens,
            self.realm.issuer,
            self.founder,
            server_leaf=leaf or self.founder.certificate,
            addresses=("10.0.0.2",),
            now_s=1.0,
            wall_s=self.wall_s,
        )

    def admitted(self, join: Join) -> Admitted:
        answer = self.admit(join)
        assert not isinstance(answer, Refused)
        return answer[0]


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(make_realm(tmp_path, "ann", "h1"))


def refused(answer: tuple[Admitted, Issued, Pending] | Refused) -> str:
    assert isinstance(answer, Refused)
    return answer.code


@pytest.mark.parametrize(("kind", "name", "called"), [("host", "", "h9"), ("host", "h7", "h7"), ("user", "bob", "bob")])
def test_a_token_makes_a_member(door: Door, tmp_path: Path, kind: str, name: str, called: str) -> None:
    joining = Joining(door.invite(kind, name), "h9")
    join = joining.answer(door.welcome, door.founder.certificate, door.wall_s)
    joining.finish(door.admitted(join), tmp_path / "new")
    new = load_identity(tmp_path / "new")
    assert (new.principal.kind, new.principal.name) == (kind, called)
    assert new.realm.tag_key == door.founder.realm.tag_key
    assert door.founder.verifier.principal(new.certificate, door.wall_s)[0] == new.principal
    with pytest.raises(JoinError, match="it stays"):
        joining.finish(door.admitted(join), tmp_path / "new")


def test_nothing_is_said_to_another_realm(door: Door, tmp_path: Path) -> None:
    away = make_realm(tmp_path / "away", "h1")
    joining = Joining(door.invite(), "h9")
    for welcome, leaf in (
        (Welcome(away["h0"].bundle.to_bytes()), away["h0"].certificate),
        (Welcome(away["h0"].bundle.to_bytes()), door.founder.certificate),
        (door.welcome, away["h0"].certificate),
        (Welcome(b""), door.founder.certificate),
        (Welcome(door.welcome.bundle[:-1]), door.founder.certificate),
        (door.welcome, b""),
        (door.welcome, b"x" * 300),
    ):
        with pytest.raises(JoinError):
            joining.answer(welcome, leaf, door.wall_s)


def test_a_root_that_is_only_named_beside_the_right_one_proves_nothing(door: Door) -> None:
    """An anchor can carry anybody's root certificate; only one that this root has signed counts."""
    mine = Papers(realm_id=door.realm.root.realm_id)
    mine.roots[0] = type(mine.roots[0])(door.realm.root.certificate, mine.roots[0].key)
    mine.issuers = {}
    forged = mine.anchor(1)
    with pytest.raises(JoinError, match="hold together"):
        Joining(door.invite(), "h9").answer(Welcome(len(forged.data).to_bytes(4, "big") + forged.data), b"", NOW_S)


def test_nothing_is_said_to_a_user_nor_to_a_host_that_is_revoked_or_over(door: Door) -> None:
    joining = Joining(door.invite(), "h9")
    with pytest.raises(JoinError, match="but a user"):
        joining.answer(door.welcome, door.realm["ann"].certificate, door.wall_s)
    h1 = door.realm["h1"]
    with pytest.raises(JoinError, match=r"expired.*clocks"):
        joining.answer(door.welcome, h1.certificate, h1.expires_s + 1)
    door.founder.learn([door.realm.issuer.revoke("host", "h1", "", wall_s=door.wall_s)], door.wall_s)
    with pytest.raises(JoinError, match="revoked"):
        joining.answer(Welcome(door.founder.bundle.to_bytes()), h1.certificate, door.wall_s)


def test_a_proof_made_for_one_host_is_good_at_no_other(door: Door) -> None:
    """Whoever stands between shows a leaf of the realm, and passes on what it hears."""
    joining = Joining(door.invite(), "h9")
    join = joining.answer(door.welcome, door.realm["h1"].certificate, door.wall_s)
    assert refused(door.admit(join)) == "token-not-good"


def test_a_swapped_request_is_not_admitted(door: Door) -> None:
    token = door.invite()
    join = Joining(token, "h9").answer(door.welcome, door.founder.certificate, door.wall_s)
    other = Joining(token, "evil").answer(door.welcome, door.founder.certificate, door.wall_s)
    assert refused(door.admit(Join(join.token_id, other.request, join.proof))) == "token-not-good"
    assert refused(door.admit(Join("0" * 15 + "f", join.request, join.proof))) == "token-not-good"


def test_of_two_who_race_with_one_token_exactly_one_joins(door: Door) -> None:
    token = door.invite("user", "bob")
    joins = [Joining(token, "x").answer(door.welcome, door.founder.certificate, door.wall_s) for _ in range(2)]
    answers = [door.admit(join) for join in (*joins, *joins)]
    assert [isinstance(answer, Refused) for answer in answers] == [False, True, False, True]
    first, again = answers[0], answers[2]
    assert not isinstance(first, Refused)
    assert not isinstance(again, Refused)
    assert first[1].member.id == again[1].member.id
    assert len([member for member in door.realm.issuer.members(door.wall_s) if member.name == "bob"]) == 1


def test_a_name_that_is_taken_does_not_use_up_the_token(door: Door) -> None:
    token = door.invite()
    taken, free = Joining(token, "h1"), Joining(token, "h2")
    join = taken.answer(door.welcome, door.founder.certificate, door.wall_s)
    assert refused(door.admit(join)) == "name-taken"
    door.admitted(free.answer(door.welcome, door.founder.certificate, door.wall_s))


def test_a_full_disk_leaves_the_token_to_the_same_request(door: Door) -> None:
    token = door.invite("user", "bob")
    join = Joining(token, "x").answer(door.welcome, door.founder.certificate, door.wall_s)
    other = Joining(token, "x").answer(door.welcome, door.founder.certificate, door.wall_s)
    with crash_at(0), pytest.raises(Crash):
        door.admit(join)
    assert refused(door.admit(other)) == "token-not-good"
    door.admitted(join)


def test_what_is_given_must_be_what_was_asked_for(door: Door, tmp_path: Path) -> None:
    token = door.invite("user", "bob")
    joining = Joining(token, "x")
    good = door.admitted(joining.answer(door.welcome, door.founder.certificate, door.wall_s))
    h1 = door.realm["h1"]
    for bad in (
        Admitted(door.realm["ann"].certificate, good.keys),
        Admitted(h1.certificate, good.keys),
        Admitted(b"", good.keys),
        Admitted(Papers().leaf(), good.keys),
        Admitted(good.leaf, b""),
        Admitted(good.leaf, Papers().tag_key(1, bytes(32)).data),
    ):
        with pytest.raises(JoinError):
            joining.finish(bad, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_no_key_is_shown(door: Door) -> None:
    join = Joining(door.invite(), "h9").answer(door.welcome, door.founder.certificate, door.wall_s)
    admitted = door.admitted(join)
    assert repr(door.founder.realm.tag_key)[2:-1] not in repr(admitted)
