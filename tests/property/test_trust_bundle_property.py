"""Bundles of many members, merged in any order and as often as it happens, come to be one and only grow (I11); nobody
without a key of the realm's root or issuers changes them."""

from hashlib import sha256

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from matcher.trust.bundle import Bundle, read_bundle
from matcher.trust.certificates import Untrusted
from matcher.trust.documents import Paper, Signed, read_document, write_document
from matcher.trust.tag_keys import TagKeys, read_tag_keys
from matcher.trust.verifier import Verifier
from matcher.wire.codec import BadBytes
from matcher.wire.framing import frame, unframe
from matcher.wire.messages import Message
from matcher.wire.realm import Anchor
from tests.fakes.realms import NOW_S, Papers, new_key

MEMBERS = 4
IDS = [f"{number:064x}" for number in range(5)]


class Spreading(RuleBasedStateMachine):
    """A root and two issuers say things; members hear some of it, from each other, again and again."""

    @initialize()
    def begin(self) -> None:
        self.papers = Papers("i0", "i1")
        self.newest = self.papers.bundle  # as the root and the issuers' own hosts have it
        self.members = [self.papers.bundle] * MEMBERS
        self.said: list[Signed[Message]] = list(self.papers.bundle.documents())
        self.reach: list[dict[tuple[str, str], float]] = [{}] * MEMBERS

    def publish(self, document: Signed[Message]) -> None:
        self.newest = self.newest.add(document)
        self.said.append(document)

    @rule(member_id=st.sampled_from(IDS), by=st.sampled_from(["i0", "i1"]), before_s=st.sampled_from([0, 5, 9]))
    def revoke(self, member_id: str, by: str, before_s: int) -> None:
        if by in self.issuers():
            self.publish(self.papers.revocation(member_id, by=by, before_s=before_s))

    @rule(issuers=st.sampled_from([["i0"], ["i1"], ["i0", "i1"]]))
    def change_issuers(self, issuers: list[str]) -> None:
        roots = self.papers.roots[-len(self.newest.roots) :]
        self.publish(self.papers.anchor(self.newest.anchor.epoch + 1, roots, issuers))

    @rule()
    def rotate(self) -> None:
        issuers = self.issuers()
        if len(self.newest.roots) == 1:
            self.papers.roots.append(self.papers.new_root())
            roots = self.papers.roots[-2:]
        else:
            roots = self.papers.roots[-1:]
        self.publish(self.papers.anchor(self.newest.anchor.epoch + 1, roots, issuers))

    @rule(who=st.integers(0, MEMBERS - 1), what=st.lists(st.integers(0, 99), max_size=6))
    def hear_some(self, who: int, what: list[int]) -> None:
        self.grow(who, [self.said[each % len(self.said)] for each in what])

    @rule(who=st.integers(0, MEMBERS - 1), whom=st.integers(0, MEMBERS - 1))
    def ask(self, who: int, whom: int) -> None:
        self.grow(who, list(self.members[whom].documents()))

    @rule(who=st.integers(0, MEMBERS - 1))
    def restart(self, who: int) -> None:
        before = self.members[who]
        after = read_bundle(before.to_bytes(), before.roots[-1], own=True)
        assert after.documents() == before.documents()
        self.members[who] = after

    @rule()
    def all_hear_of_all(self) -> None:
        """As anti-entropy does after a partition; what an issuer of before said in vain is said again by others."""
        for who in range(MEMBERS):
            self.grow(who, list(self.newest.documents()))
        assert {(each.digest, each.anchors) for each in self.members} == {(self.newest.digest, self.newest.anchors)}

    @invariant()
    def the_realm_is_one(self) -> None:
        for bundle in self.members:
            assert bundle.anchor.epoch <= self.newest.anchor.epoch
            assert {*bundle.revocations} <= {*map(digest_of, self.said)}

    def grow(self, who: int, documents: list[Signed[Message]]) -> None:
        before = self.members[who]
        after = before.merged(documents)
        assert after.anchor.epoch >= before.anchor.epoch
        assert before.revocations.keys() <= after.revocations.keys()
        assert after.merged(documents) is after
        verifier = Verifier(after)
        reach = {("user", each): verifier.revoked_before_s("user", each) for each in IDS}
        assert all(reach[member] >= far for member, far in self.reach[who].items())
        self.reach[who] = reach
        self.members[who] = after

    def issuers(self) -> list[str]:
        known = {entry.key_id for entry in self.newest.issuers}
        return [name for name in ("i0", "i1") if self.papers.key_id(name) in known]


def digest_of(document: Signed[Message]) -> bytes:
    return sha256(document.data).digest()


TestSpreading = Spreading.TestCase
TestSpreading.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)

HOME = Papers("i0", "i1")
NEXT = HOME.new_root()
EVIL = new_key()
KNOWN = HOME.bundle.merged([HOME.revocation(IDS[0]), HOME.heartbeat(NOW_S, 1)])
KEYS = read_tag_keys(frame([HOME.tag_key(1, b"a" * 32).data]), KNOWN)
TRUE: list[Signed[Message]] = [
    HOME.anchor(2),
    HOME.anchor(3, [HOME.roots[0], NEXT]),
    HOME.revocation(IDS[1], before_s=7),
    HOME.revocation(IDS[2], kind="host"),
    HOME.heartbeat(NOW_S + 9, 1),
    HOME.tag_key(2, b"b" * 32),
]
SIGNERS = [EVIL, NEXT.key, Papers().roots[0].key, Papers().issuers["i0"]]


def changes(data: bytes) -> bool:
    """Whether what `data` is would change anything for a member."""
    try:
        document = read_document(data)
    except BadBytes:
        return False
    assert isinstance(KEYS, TagKeys)
    return KNOWN.merged([document], NOW_S) is not KNOWN or KEYS.merged([document], KNOWN) is not KEYS


def test_what_the_realm_says_does_change_something() -> None:
    assert all(changes(each.data) for each in TRUE)


@given(st.sampled_from(TRUE), st.data())
@settings(deadline=None, max_examples=400)
def test_no_flipped_bits_of_a_true_document_change_anything(true: Signed[Message], data: st.DataObject) -> None:
    changed = bytearray(true.data)
    for at in data.draw(st.sets(st.integers(0, len(changed) * 8 - 1), min_size=1, max_size=3)):
        changed[at // 8] ^= 1 << at % 8
    assert not changes(bytes(changed))


@given(st.sampled_from(TRUE), st.sampled_from(TRUE), st.sampled_from(list(Paper)), st.booleans())
@settings(deadline=None)
def test_no_swapped_payload_kind_or_signature_changes_anything(
    one: Signed[Message], other: Signed[Message], paper: Paper, is_both: bool
) -> None:
    first, payload, *signatures = unframe(one.data)
    _, _, *others = unframe(other.data)
    mixed = frame([bytes([paper]), payload, *(signatures if is_both else []), *others])
    assert mixed == one.data or not changes(mixed) or [bytes([paper]), *others] == [first, *signatures]


@given(
    st.sampled_from(TRUE),
    st.lists(st.sampled_from(SIGNERS), min_size=1, max_size=4),
    st.lists(st.binary(min_size=72, max_size=72), max_size=2),
    st.booleans(),
)
@settings(deadline=None)
def test_nobody_elses_signature_changes_anything(
    true: Signed[Message], signers: list[object], junk: list[bytes], is_kept: bool
) -> None:
    forged = write_document(true.says, *signers)  # type: ignore[arg-type]
    paper, payload, *mine = unframe(forged.data)
    _, _, *theirs = unframe(true.data)
    kept = theirs if is_kept else []
    assert not changes(frame([paper, payload, *kept, *mine, *junk][:6]))
    posing = frame([paper, payload, *(old[:8] + new[8:] for old, new in zip(theirs, mine, strict=False))])
    assert not changes(posing)


@given(st.integers(2, 2**31 - 1), st.booleans(), st.booleans())
@settings(deadline=None)
def test_no_anchor_of_ones_own_changes_anything(epoch: int, names_the_root: bool, is_posing: bool) -> None:
    """With any epoch, with the true root beside one's own, under its realm's id."""
    posing = Papers(realm_id=HOME.realm_id if is_posing else None)
    roots = [*([HOME.roots[0]] if names_the_root else []), posing.roots[0]]
    assert not changes(posing.anchor(epoch, roots, by=[posing.roots[0]]).data)
    assert not changes(posing.anchor(epoch, roots, by=[posing.roots[0]] * len(roots)).data)


@given(st.binary(max_size=300) | st.just(KNOWN.to_bytes()), st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_bytes_come_a_bundle_is_read_or_untrusted(data: bytes, draw: st.DataObject) -> None:
    changed = bytearray(data)
    for at in draw.draw(st.sets(st.integers(0, max(0, len(data) * 8 - 1)), max_size=4)) if data else ():
        changed[at // 8] ^= 1 << at % 8
    for own in (False, True):
        try:
            bundle = read_bundle(bytes(changed), HOME.roots[0].certificate, own=own)
        except Untrusted:
            continue
        assert isinstance(bundle, Bundle)
        assert isinstance(bundle.anchors[0].says, Anchor)
        assert own or {*bundle.revocations} <= {*KNOWN.revocations}
    assert read_tag_keys(bytes(changed), KNOWN) is None
