"""A bundle takes what the realm's own have signed, from anybody, in any order, and nothing else; it only grows."""

from itertools import permutations

import pytest

from matcher.trust import bundle as module
from matcher.trust.bundle import AHEAD_S, LINKS_MAX, Bundle, begin_bundle, read_bundle, roots_in
from matcher.trust.certificates import Scope, Untrusted, to_der
from matcher.trust.documents import Signed, key_id, read_document, write_document
from matcher.wire.framing import frame, unframe
from matcher.wire.messages import Message
from matcher.wire.realm import Anchor, Heartbeat, Revocation
from tests.fakes.realms import NOW_S, Papers, new_key

ANN, BOB, H1 = "a" * 64, "b" * 64, "1" * 64


@pytest.fixture
def home() -> Papers:
    return Papers("i0", "i1")


def refused(bundle: Bundle, document: Signed[Message]) -> str:
    with pytest.raises(Untrusted) as caught:
        bundle.add(document)
    assert bundle.merged([document]) is bundle
    return caught.value.reason


def with_signatures(signed: Signed[Message], *signatures: bytes) -> Signed[Message]:
    paper, payload, *mine = unframe(signed.data)
    return read_document(frame([paper, payload, *mine, *signatures]))


# ---- anchors


def test_a_bundle_begins_with_what_the_known_root_has_signed(home: Papers) -> None:
    assert home.bundle.anchor.epoch == 1
    assert [entry.scopes for entry in home.bundle.issuers] == [frozenset(Scope)] * 2
    for pinned in (Papers().roots[0].certificate, home.bundle.issuers[0].certificate):
        with pytest.raises(Untrusted):
            begin_bundle(home.first, pinned)


def test_the_higher_epoch_counts_and_an_older_one_changes_nothing(home: Papers) -> None:
    second, third = home.anchor(2, issuers=["i0"]), home.anchor(3)
    newest = home.bundle.add(third)
    assert newest.add(second) is newest
    assert newest.add(home.first) is newest
    assert newest.anchors == (third,)  # one root: no link is needed


def test_two_anchors_of_one_epoch_come_to_be_the_same_everywhere(home: Papers) -> None:
    one, other = home.anchor(2, issuers=["i0"]), home.anchor(2, issuers=["i1"])
    first = home.bundle.add(one).add(other)
    second = home.bundle.add(other).add(one)
    assert first.anchors == second.anchors
    assert first.digest == second.digest
    assert first.anchor.epoch == 2


def test_a_foreign_or_unsigned_anchor_is_refused(home: Papers) -> None:
    away, stranger = Papers(), home.new_root()
    assert "another realm" in refused(home.bundle, away.anchor(2))
    assert "others than its roots" in refused(home.bundle, home.anchor(2, by=[stranger]))
    assert "others than its roots" in refused(home.bundle, home.anchor(2, [home.roots[0], stranger], by=[stranger]))
    assert "no root of this realm" in refused(home.bundle, home.anchor(2, [stranger]))
    assert "others than its roots" in refused(home.bundle, home.anchor(2, by=[*home.roots, stranger]))
    posing = Papers(realm_id=home.realm_id)
    assert "no root of this realm" in refused(home.bundle, posing.anchor(9))
    by_issuer = write_document(home.anchor(2).says, home.issuers["i0"])
    assert "others than its roots" in refused(home.bundle, by_issuer)


def test_an_anchor_has_one_form_that_nobody_can_vary(home: Papers) -> None:
    """Else each variant would be another anchor, to be told to all, and clear what verifiers remember."""
    new = home.new_root()
    both = home.anchor(2, [home.roots[0], new])
    paper, payload, old_signed, new_signed = unframe(both.data)
    home.bundle.add(both)
    for signatures in (
        [old_signed],
        [new_signed],
        [new_signed, old_signed],
        [old_signed, new_signed, new_signed],
        [old_signed, new_signed, bytes(72)],
        [old_signed, new_signed[:8] + bytes(64)],
    ):
        varied = read_document(frame([paper, payload, *signatures]))
        assert "roots have signed" in refused(home.bundle, varied)


def test_the_certificates_in_an_anchor_must_hold_together(home: Papers) -> None:
    root, other = home.roots[0], Papers()
    good, issuer = to_der(root.certificate), to_der(home.certificate("i0"))
    foreign = to_der(other.bundle.issuers[0].certificate)
    for roots, issuers in (
        (frame([good]), frame([foreign])),
        (frame([good]), frame([good])),
        (frame([good]), frame([issuer])[:-1]),
        (frame([good]) + b"\0", frame([issuer])),
        (frame([good, good]), frame([issuer])),
        (frame([]), frame([issuer])),
        (frame([issuer]), frame([issuer])),
        (frame([good]), frame([issuer[:-1]])),
        (frame([good]), frame([issuer] * 17)),
    ):
        says = Anchor(home.realm_id, "home", 2, roots, issuers)
        refused(home.bundle, write_document(says, *[root.key] * len(list(unframe(roots)))))


# ---- from root to root


def rotated(home: Papers, times: int) -> tuple[list[Signed[Anchor]], list[Bundle]]:
    """Every anchor of so many rotations, and the bundle after each, as who was always there has it."""
    anchors, bundles = [home.first], [home.bundle]
    for _ in range(times):
        old, new = home.roots[-1], home.new_root()
        home.roots.append(new)
        for roots in ([old, new], [new]):
            anchors.append(home.anchor(len(anchors) + 1, roots))
            bundles.append(bundles[-1].add(anchors[-1]))
    return anchors, bundles


def test_who_slept_through_several_rotations_follows_by_the_links(home: Papers) -> None:
    anchors, bundles = rotated(home, 3)
    newest = bundles[-1]
    assert [each.says.epoch for each in newest.anchors] == [2, 4, 6, 7]
    for asleep in bundles:
        assert asleep.merged(newest.documents()).anchors == newest.anchors
        assert asleep.merged(reversed(newest.documents())).digest == newest.digest
    for root in home.roots:
        assert read_bundle(newest.to_bytes(), root.certificate).anchor == newest.anchor
    assert "no root of this realm" in refused(bundles[0], anchors[-1])  # without the links it can't be known


def test_links_are_not_lost_by_who_knows_only_the_newest_root(home: Papers) -> None:
    _, bundles = rotated(home, 2)
    young = read_bundle(bundles[-1].to_bytes(), home.roots[-1].certificate)
    assert young.anchors == bundles[-1].anchors
    without = begin_bundle(bundles[-1].anchors[-1], home.roots[-1].certificate)
    assert without.merged(bundles[-1].documents()).anchors == bundles[-1].anchors


def test_a_root_of_long_ago_makes_neither_anchors_nor_links(home: Papers) -> None:
    """Stolen from an old backup, say."""
    _, bundles = rotated(home, 2)
    newest, old, evil = bundles[-1], home.roots[0], home.new_root()
    assert "no root of this realm" in refused(newest, home.anchor(99, [old]))
    assert "no root of this realm" in refused(newest, home.anchor(99, [old, evil]))
    for epoch in (3, 4):
        assert "nothing here follows" in refused(newest, home.anchor(epoch, [old, evil]))
    grown = newest.merged(home.anchor(epoch, [old, evil]) for epoch in (1, 2, 3))
    assert {*newest.anchors} <= {*grown.anchors}  # an invented past, from before the last of that root, misleads nobody
    assert home.bundle.merged(grown.documents()).anchors[-1] == newest.anchors[-1]


def test_the_number_of_links_is_limited_and_never_the_end_of_the_realm(home: Papers) -> None:
    _, bundles = rotated(home, LINKS_MAX + 3)
    assert len(bundles[-1].anchors) == LINKS_MAX + 1
    assert bundles[-1].anchor.epoch == 2 * (LINKS_MAX + 3) + 1
    again = bundles[-1].merged(bundles[3].documents())
    assert again is bundles[-1]


# ---- revocations


def test_an_issuer_in_scope_revokes_and_nobody_else() -> None:
    home = Papers("i0", "i1")
    home.scopes = {"i0": [Scope.HOSTS], "i1": [Scope.USERS]}
    bundle = home.bundle.add(home.anchor(2))
    for kind, by, fine in (("host", "i0", True), ("host", "i1", False), ("user", "i0", False), ("user", "i1", True)):
        document = home.revocation(ANN, kind=kind, by=by)  # type: ignore[arg-type]
        if fine:
            assert len(bundle.add(document).revocations) == 1
        else:
            assert "no issuer in scope" in refused(bundle, document)
    says = home.revocation(ANN).says
    for key in (new_key(), home.roots[0].key, Papers().issuers["i0"]):
        assert "no issuer in scope" in refused(bundle, write_document(says, key))
    assert "another realm" in refused(bundle, Papers().revocation(ANN))


def test_a_revocation_can_not_be_multiplied_by_who_passes_it_on(home: Papers) -> None:
    """Each form would take one of the places, and count for the freshness of whichever issuer it names."""
    once = home.revocation(ANN)
    bundle = home.bundle.add(once)
    junk = key_id(home.issuers["i1"].public_key()) + bytes(64)
    for signatures in ([junk], [bytes(72)], [b"".join(once.signatures[0])]):
        assert "no issuer in scope" in refused(bundle, with_signatures(once, *signatures))
    assert bundle.revocations_by(key_id(home.issuers["i1"].public_key())) == []
    assert bundle.merged([once] * 3) is bundle


def test_there_is_always_room_to_revoke_a_member_however_often_grants_change(
    home: Papers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REVOCATIONS_MAX", 5)
    monkeypatch.setattr(module, "SUPERSEDED_MAX", 3)
    bundle = home.bundle.merged(home.revocation(ANN, before_s=each) for each in range(1, 9))
    assert len(bundle.revocations) == 3
    bundle = bundle.add(home.revocation(ANN)).add(home.revocation(BOB))
    assert len(bundle.revocations) == 5
    assert "too many" in refused(bundle, home.revocation(H1, kind="host"))


def test_a_revocation_is_short(home: Papers) -> None:
    assert "too long" in refused(home.bundle, home.revocation(ANN, why="\U0001f600" * 120))
    home.bundle.add(home.revocation(ANN, why="x" * 120))


def test_revocations_of_a_dropped_issuer_stay_in_force_and_keep_nobody_asking(home: Papers) -> None:
    second = home.anchor(2, issuers=["i0"])
    early = home.bundle.add(home.revocation(ANN, by="i1")).add(second)
    late = home.bundle.add(second)
    assert len(early.revocations) == len(early.orphans) == 1
    assert "no issuer in scope" in refused(late, home.revocation(ANN, by="i1"))
    assert early.digest == late.digest  # what the other can't take up is no difference between them
    own = read_bundle(early.to_bytes(), home.roots[0].certificate, own=True)
    assert own.revocations == early.revocations
    assert late.united(early).revocations == early.revocations
    again = home.revocation(ANN, by="i0")
    assert early.add(again).digest == late.add(again).digest != late.digest


# ---- freshness


def test_a_member_is_as_fresh_as_the_issuer_whose_revocations_are_all_here(home: Papers) -> None:
    bundle = home.bundle.add(home.heartbeat(NOW_S))
    assert home.bundle.heard_s() is None
    assert bundle.heard_s() == NOW_S
    first, second = home.revocation(ANN), home.revocation(BOB)
    bundle = bundle.add(home.heartbeat(NOW_S + 600, 2)).add(first)
    assert bundle.heard_s() is None
    assert bundle.add(home.revocation(BOB, by="i1")).heard_s() is None  # another's does not count
    assert bundle.add(second).heard_s() == NOW_S + 600
    assert bundle.add(home.heartbeat(NOW_S - 5, by="i1")).heard_s() == NOW_S - 5


def test_an_older_heartbeat_changes_nothing_and_a_dropped_issuers_counts_no_more(home: Papers) -> None:
    bundle = home.bundle.add(home.heartbeat(NOW_S)).add(home.heartbeat(NOW_S + 9, by="i1"))
    assert bundle.add(home.heartbeat(NOW_S - 1)) is bundle
    assert bundle.heard_s() == NOW_S + 9
    dropped = bundle.add(home.anchor(2, issuers=["i0"]))
    assert dropped.heard_s() == NOW_S
    assert "no issuer" in refused(dropped, home.heartbeat(NOW_S + 99, by="i1"))
    for bad in (write_document(home.heartbeat(NOW_S).says, home.roots[0].key), Papers().heartbeat(NOW_S + 99)):
        refused(bundle, bad)
    assert "no issuer" in refused(bundle, with_signatures(home.heartbeat(NOW_S + 99), bytes(72)))


def test_a_heartbeat_from_the_future_neither_counts_nor_bars_the_way(home: Papers) -> None:
    future = home.heartbeat(NOW_S + AHEAD_S + 1)
    assert home.bundle.merged([future], NOW_S) is home.bundle
    with pytest.raises(Untrusted, match="future"):
        home.bundle.add(future, NOW_S)
    fooled = home.bundle.add(future)  # by a clock of ours that was wrong, at the time
    assert fooled.heard_s(NOW_S) is None
    assert fooled.add(home.heartbeat(NOW_S), NOW_S).heard_s(NOW_S) == NOW_S
    assert home.bundle.add(home.heartbeat(NOW_S + 3600), NOW_S).heard_s(NOW_S) == NOW_S + 3600


# ---- whole bundles


def test_a_bundle_is_read_as_it_was_written(home: Papers) -> None:
    documents = [home.revocation(ANN), home.revocation(H1, kind="host", by="i1"), home.heartbeat(NOW_S, 1)]
    bundle = home.bundle.merged(documents)
    for own in (False, True):
        again = read_bundle(bundle.to_bytes(), home.roots[0].certificate, own=own)
        assert again.documents() == bundle.documents()
        assert again.digest == bundle.digest
    assert roots_in(bundle.to_bytes()) == [home.roots[0].certificate]


def test_a_bundle_that_was_cut_short_is_told(home: Papers) -> None:
    """Half a bundle looks like a whole one with fewer revocations."""
    data = home.bundle.add(home.revocation(ANN)).to_bytes()
    for own in (False, True):
        for cut in (1, 80, 200):
            with pytest.raises(Untrusted, match="cut short"):
                read_bundle(data[:-cut], home.roots[0].certificate, own=own)
    with pytest.raises(Untrusted, match="not signed"):
        read_bundle(b"", home.roots[0].certificate)
    with pytest.raises(Untrusted, match="not signed"):
        read_bundle(data, Papers().roots[0].certificate)


def test_a_bundle_has_a_largest_size_that_the_largest_keeps(home: Papers) -> None:
    with pytest.raises(Untrusted, match="too long"):
        read_bundle(bytes(module.BUNDLE_MAX_BYTES + 1), home.roots[0].certificate)
    largest = module.REVOCATIONS_MAX * (module.REVOCATION_MAX_BYTES + 4) + (LINKS_MAX + 1) * 96 * 1024 + 16 * 512
    assert largest <= module.BUNDLE_MAX_BYTES


def test_what_arrives_in_one_piece_arrives_in_any_order(home: Papers) -> None:
    old, new = home.roots[0], home.new_root()
    home.roots.append(new)
    home.issuers["i2"] = new_key()
    documents = [
        home.anchor(2, [old, new]),
        home.anchor(3, [new], issuers=["i0", "i2"]),
        home.revocation(ANN, by="i2"),
        home.heartbeat(NOW_S, 1, by="i2"),
    ]
    found = {(b.digest, b.heard_s(), b.anchors) for p in permutations(documents) if (b := home.bundle.merged(p))}
    assert len(found) == 1


def test_adding_costs_in_proportion_to_what_comes(monkeypatch: pytest.MonkeyPatch, home: Papers) -> None:
    """Neither certificates are judged anew for each document, nor is what is there copied for each."""
    asked: list[object] = []
    real = module.check_issuer
    monkeypatch.setattr(module, "check_issuer", lambda *both: asked.append(both) or real(*both))
    documents = [home.revocation(f"{number:064x}") for number in range(300)]
    bundle = home.bundle.merged(documents)
    assert len(bundle.revocations) == 300
    assert asked == []
    bundle.add(home.heartbeat(NOW_S, 300)).heard_s()
    assert asked == []


def test_an_unknown_kind_of_document_is_not_a_bundles(home: Papers) -> None:
    assert "another kind" in refused(home.bundle, home.tag_key(1, bytes(32)))


def test_a_revocation_says_what_it_says(home: Papers) -> None:
    signed = home.revocation(ANN, before_s=7)
    assert signed.says == Revocation(home.realm_id, "user", ANN, 7, int(NOW_S * 1000), "")
    assert home.heartbeat(NOW_S).says == Heartbeat(home.realm_id, int(NOW_S * 1000), 0)
