"""A leaf is judged by today's anchor, revocations and time; what is remembered never stands in for these."""

import pytest

from matcher.trust import verifier as module
from matcher.trust.certificates import BACKDATE_S, Scope, Untrusted, is_signed_by
from matcher.trust.principal import fingerprint
from matcher.trust.verifier import REVOKED, Verifier
from matcher.wire.realm import Grant, Verb
from tests.fakes.realms import NOW_S, Papers, new_key


@pytest.fixture
def home() -> Papers:
    return Papers("i0", "i1")


def refused(verifier: Verifier, leaf: bytes, wall_s: float = NOW_S) -> str:
    with pytest.raises(Untrusted) as caught:
        verifier.principal(leaf, wall_s)
    return caught.value.reason


def test_a_revoked_member_is_untrusted_at_once_though_its_leaf_is_remembered(home: Papers) -> None:
    verifier, key = Verifier(home.bundle), new_key()
    leaf, member = home.leaf(key=key), fingerprint(key.public_key())
    verifier.principal(leaf, NOW_S)
    assert verifier.is_known(leaf)
    assert not verifier.is_known_revoked(leaf)
    verifier.learn(verifier.bundle.add(home.revocation(member)))
    assert refused(verifier, leaf) == REVOKED
    assert verifier.is_known_revoked(leaf)
    assert not verifier.is_member("user", member)
    assert verifier.is_member("host", member)  # kinds are told apart
    assert refused(verifier, home.leaf(key=key, wall_s=NOW_S + 999), NOW_S + 999) == REVOKED


def test_certified_gives_nobody_trust(home: Papers) -> None:
    """Whatever was asked of it before: `principal` judges revocation and time each time."""
    verifier, key = Verifier(home.bundle), new_key()
    leaf = home.leaf(key=key)
    verifier.certified(leaf)
    assert "not valid yet" in refused(verifier, leaf, NOW_S - BACKDATE_S - 1)
    assert "expired" in refused(verifier, leaf, NOW_S + 31 * 86_400)
    verifier.learn(verifier.bundle.add(home.revocation(fingerprint(key.public_key()))))
    verifier.certified(leaf)
    assert refused(verifier, leaf) == REVOKED
    with pytest.raises(Untrusted, match=REVOKED):
        verifier.renewing(leaf, NOW_S)


def test_an_older_leaf_is_superseded_and_a_newer_one_is_not(home: Papers) -> None:
    verifier, key = Verifier(home.bundle), new_key()
    member = fingerprint(key.public_key())
    old, new = home.leaf(key=key), home.leaf(key=key, wall_s=NOW_S + 10)
    starts_s = int(NOW_S + 10 - BACKDATE_S)
    verifier.learn(verifier.bundle.add(home.revocation(member, before_s=starts_s)))
    assert refused(verifier, old) == REVOKED
    verifier.principal(new, NOW_S + 10)
    assert verifier.is_member("user", member)
    assert verifier.revoked_before_s("user", member) == starts_s
    assert verifier.renewing(old, NOW_S).principal.id == member
    with pytest.raises(Untrusted, match="expired"):
        verifier.renewing(old, NOW_S + 31 * 86_400)
    verifier.learn(verifier.bundle.add(home.revocation(member, before_s=starts_s - 5)))  # the furthest counts
    assert verifier.revoked_before_s("user", member) == starts_s
    verifier.learn(verifier.bundle.add(home.revocation(member)))
    assert refused(verifier, new, NOW_S + 10) == REVOKED


def test_what_is_remembered_does_not_outlive_the_anchor(home: Papers) -> None:
    verifier = Verifier(home.bundle)
    leaf, other = home.leaf(by="i1"), home.leaf(by="i0")
    verifier.principal(leaf, NOW_S)
    verifier.learn(verifier.bundle.add(home.anchor(2, issuers=["i0"])))
    assert not verifier.is_known(leaf)
    assert "no issuer" in refused(verifier, leaf)
    verifier.principal(other, NOW_S)


def test_an_issuer_makes_what_is_in_its_scope_alone() -> None:
    home = Papers("i0", "i1", "i2")
    home.scopes = {"i0": [Scope.HOSTS], "i1": [Scope.USERS], "i2": [Scope.USERS, Scope.ADMINS]}
    verifier = Verifier(home.bundle.add(home.anchor(2)))
    user, admin = Grant((Verb.RUN,)), Grant((Verb.ADMIN,))
    allowed = {
        (by, name): home.leaf(kind, "x", by=by, grant=grant)  # type: ignore[arg-type]
        for by in home.issuers
        for name, kind, grant in (("host", "host", user), ("user", "user", user), ("admin", "user", admin))
    }
    fine = {("i0", "host"), ("i1", "user"), ("i2", "user"), ("i2", "admin")}
    for (by, name), leaf in allowed.items():
        if (by, name) in fine:
            verifier.principal(leaf, NOW_S)
        else:
            assert "may not make such" in refused(verifier, leaf)


def test_a_strangers_leaf_costs_one_signature_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    home = Papers(*(f"i{number}" for number in range(16)))
    verifier, asked = Verifier(home.bundle), []
    monkeypatch.setattr(module, "is_signed_by", lambda *both: asked.append(both) or is_signed_by(*both))
    refused(verifier, Papers().leaf())
    assert len(asked) == 0
    verifier.principal(home.leaf(by="i15"), NOW_S)
    assert len(asked) == 1


def test_what_is_remembered_is_bounded_and_never_a_failure(monkeypatch: pytest.MonkeyPatch, home: Papers) -> None:
    monkeypatch.setattr(module, "CACHE_MAX", 3)
    verifier, foreign = Verifier(home.bundle), Papers().leaf()
    for number in range(5):
        verifier.principal(home.leaf(name=f"u{number}"), NOW_S)
        refused(verifier, foreign)
    assert len(verifier._certified) == 3
    assert not verifier.is_known(foreign)
