"""All members come to make tags with one key, and the one before is good for a while and no longer."""

from matcher.trust.certificates import Scope
from matcher.trust.documents import Signed, write_document
from matcher.trust.tag_keys import OVERLAP_S, TagKeys, read_tag_keys
from matcher.wire.envelope import TAG_KEY_BYTES
from matcher.wire.framing import frame
from matcher.wire.realm import TagKey
from tests.fakes.realms import NOW_S, Papers, new_key

HOME = Papers("i0", "i1")


def key(letter: str) -> bytes:
    return letter.encode() * TAG_KEY_BYTES


def keys(*documents: Signed[TagKey]) -> TagKeys:
    found = read_tag_keys(frame(each.data for each in documents), HOME.bundle)
    assert found is not None
    return found


FIRST, SECOND = HOME.tag_key(1, key("a")), HOME.tag_key(2, key("b"), at_s=NOW_S + 100)


def test_the_higher_number_counts_and_the_one_before_is_accepted_for_a_while() -> None:
    both = keys(FIRST).merged([SECOND], HOME.bundle)
    secret = both.secret(HOME.realm_id, NOW_S + 101)
    assert (secret.tag_key, secret.number, secret.older) == (key("b"), 2, (key("a"),))
    assert both.secret(HOME.realm_id, NOW_S + 100 + OVERLAP_S).older == (key("a"),)
    assert both.secret(HOME.realm_id, NOW_S + 101 + OVERLAP_S).older == ()
    assert both.merged([FIRST], HOME.bundle) is both


def test_a_new_key_of_a_time_to_come_does_not_keep_the_old_one_good() -> None:
    ahead = keys(FIRST).merged([HOME.tag_key(2, key("b"), at_s=NOW_S + 10 * 365 * 86_400)], HOME.bundle)
    secret = ahead.secret(HOME.realm_id, NOW_S)
    assert (secret.tag_key, secret.older) == (key("b"), ())


def test_two_keys_of_one_number_come_to_be_one_everywhere_and_the_other_is_understood() -> None:
    one, other = HOME.tag_key(2, key("b"), by="i0"), HOME.tag_key(2, key("c"), by="i1")
    for documents in ((FIRST, one, other), (other, one, FIRST), (one, FIRST, other), (other, other, one, FIRST)):
        merged = keys(documents[0])
        for document in documents[1:]:
            merged = merged.merged([document], HOME.bundle)
        secret = merged.secret(HOME.realm_id, NOW_S)
        assert (secret.tag_key, secret.number, set(secret.older)) == (key("c"), 2, {key("a"), key("b")})


def test_keys_of_long_ago_are_let_go() -> None:
    third = HOME.tag_key(3, key("c"))
    assert keys(FIRST, SECOND, third).documents == (third, SECOND)
    assert keys(FIRST, third).documents == (third,)


def test_only_an_issuer_in_scope_makes_keys_of_this_realm() -> None:
    small = Papers("i0", "i1")
    small.scopes = {"i0": [Scope.USERS, Scope.ADMINS]}
    bundle = small.bundle.add(small.anchor(2))
    good = small.tag_key(1, key("a"), by="i1")
    mine = read_tag_keys(good.data and frame([good.data]), bundle)
    assert mine is not None
    for bad in (
        small.tag_key(2, key("b"), by="i0"),
        small.tag_key(2, b"short", by="i1"),
        HOME.tag_key(2, key("b")),
        write_document(TagKey(small.realm_id, 2, key("b"), 7), new_key()),
        write_document(TagKey(small.realm_id, 2, key("b"), 7), small.roots[0].key),
        write_document(TagKey(small.realm_id, 2, key("b"), 7), small.issuers["i1"], new_key()),
    ):
        assert mine.merged([bad], bundle) is mine
        assert read_tag_keys(frame([bad.data]), bundle) is None


def test_what_is_on_ones_own_disk_was_judged_but_must_be_a_key() -> None:
    gone = HOME.bundle.add(HOME.anchor(2, issuers=["i1"]))
    assert read_tag_keys(frame([FIRST.data]), gone) is None
    own = read_tag_keys(frame([FIRST.data]), gone, own=True)
    assert own is not None
    assert own.documents == (FIRST,)
    for bad in (b"", b"x", frame([HOME.tag_key(1, b"short").data]), frame([Papers().tag_key(1, key("a")).data])):
        assert read_tag_keys(bad, gone, own=True) is None


def test_a_key_is_outdated_once_somebody_was_revoked_who_may_know_it() -> None:
    def is_outdated(*, at_s: float, now_s: float = NOW_S + 500, before_s: int = 0) -> bool:
        bundle = HOME.bundle.add(HOME.revocation("a" * 64, before_s=before_s, at_s=at_s))
        return keys(FIRST, SECOND).are_outdated(bundle, now_s)

    assert not keys(FIRST, SECOND).are_outdated(HOME.bundle, NOW_S + 500)
    assert not is_outdated(at_s=NOW_S + 99)
    assert not is_outdated(at_s=NOW_S + 100), "they were made together"
    assert is_outdated(at_s=NOW_S + 101)
    assert not is_outdated(at_s=NOW_S + 101, before_s=int(NOW_S)), "another grant: still a member"
    assert not is_outdated(at_s=NOW_S + 501), "by a clock that is ahead: not yet"
    assert is_outdated(at_s=NOW_S + 501, now_s=NOW_S + 501)


def test_no_key_is_shown() -> None:
    shown = repr(keys(FIRST)) + repr(keys(FIRST).secret(HOME.realm_id, NOW_S))
    assert "aaaa" not in shown


def test_a_key_whose_issuer_was_dropped_yields_to_one_of_an_issuer_of_today() -> None:
    """Nobody who has not heard of it yet will ever take it."""
    one, other = HOME.tag_key(2, key("b"), by="i0"), HOME.tag_key(5, key("c"), by="i1")
    gone = HOME.bundle.add(HOME.anchor(2, issuers=["i0"]))
    alone = keys(one).merged([other], HOME.bundle)
    assert alone.secret(HOME.realm_id, NOW_S).tag_key == key("c")
    stood_in = HOME.tag_key(4, key("d"), by="i0")
    yielding = alone.merged([stood_in], gone)
    assert yielding.secret(HOME.realm_id, NOW_S).tag_key == key("d")
    assert read_tag_keys(yielding.to_bytes(), gone, own=True) == yielding
    again = HOME.bundle.add(HOME.anchor(3))
    assert yielding.merged([], again).secret(HOME.realm_id, NOW_S).tag_key == key("c")


def test_until_such_a_key_is_signed_anew_it_is_understood_and_todays_is_told_with() -> None:
    one, other = HOME.tag_key(1, key("a"), by="i0"), HOME.tag_key(2, key("b"), by="i1")
    gone = HOME.bundle.add(HOME.anchor(2, issuers=["i0"]))
    waiting = keys(one, other).merged([], gone)
    assert waiting.orphan(gone) == other
    secret = waiting.secret(HOME.realm_id, NOW_S + 10 * OVERLAP_S)
    assert secret.tag_key == secret.older[-1] == key("a")
    assert key("b") in secret.older
    anew = HOME.tag_key(2, key("b"), by="i0", at_s=NOW_S + 10 * OVERLAP_S)
    done = waiting.merged([anew], gone)
    assert done.orphan(gone) is None
    secret = done.secret(HOME.realm_id, NOW_S + 10 * OVERLAP_S)
    assert (secret.tag_key, secret.older) == (key("b"), (key("a"),))
