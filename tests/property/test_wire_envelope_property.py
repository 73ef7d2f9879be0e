"""No bytes, from outside the realm or inside it, make `unseal` raise anything but `BadBytes`, or `verify` say yes."""

from hashlib import blake2s

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from matcher.wire import signature
from matcher.wire.codec import BadBytes
from matcher.wire.envelope import UNSIGNED, Kind, RealmSecret, ReplayWindow, Sealed, seal, unseal, verify
from specs.ids import RealmId

SECRET = RealmSecret(RealmId("0123456789abcdef"), bytes(range(32)))
KEY = derive_private_key(7, SECP256R1())


class Someone:
    certificate = b"C" * 100

    def sign(self, data: bytes) -> bytes:
        return signature.sign(KEY, data)


def retagged(data: bytes) -> bytes:
    return data[:14] + blake2s(data[:14] + data[22:], digest_size=8, key=SECRET.tag_key).digest() + data[22:]


def judge(data: bytes) -> Sealed | None:
    try:
        return unseal(data, realm=SECRET)
    except BadBytes:
        return None


def signed(sealed: Sealed, audience: bytes) -> bool:
    return verify(sealed, KEY.public_key(), realm_id=SECRET.realm_id, audience=audience)


@given(st.sampled_from(sorted(set(Kind) - UNSIGNED)), st.binary(max_size=900), st.binary(max_size=80))
def test_whatever_is_sealed_comes_out(kind: Kind, payload: bytes, audience: bytes) -> None:
    for pad_bytes in (0, 1200):
        data = seal(kind, payload, realm=SECRET, signer=Someone(), audience=audience, pad_bytes=pad_bytes)
        out = unseal(data, realm=SECRET)
        assert (out.kind, out.payload) == (kind, payload)
        assert signed(out, audience)
        assert not signed(out, audience + b"x")


@given(st.binary(max_size=300))
def test_no_bytes_from_outside_pass(data: bytes) -> None:
    assert judge(data) is None
    assert judge(b"aTmO\x01\x01" + bytes.fromhex(SECRET.realm_id) + data) is None


@given(st.data())
def test_what_a_member_changes_in_anothers_envelope_is_bad_or_not_signed(data: st.DataObject) -> None:
    good = seal(Kind.PLEDGE, b"payload", realm=SECRET, signer=Someone(), audience=b"a", pad_bytes=250)
    changed = bytearray(good)
    at = data.draw(st.sampled_from([*range(22, 30), *range(len(good))]))
    changed[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    sealed = judge(retagged(bytes(changed)))
    if sealed is not None and sealed != unseal(good, realm=SECRET):
        assert not signed(sealed, b"a")


class ReplayRules(RuleBasedStateMachine):
    """Within the window no key is fresh twice, whatever else is heard; and memory has its limit."""

    def __init__(self) -> None:
        super().__init__()
        self.window = ReplayWindow(keep_s=60.0, keys_max=4)
        self.now_s = 0.0
        self.fresh_s: dict[bytes, float] = {}

    @rule(step_s=st.floats(0, 100))
    def wait(self, step_s: float) -> None:
        self.now_s += step_s

    @rule(key=st.binary(min_size=1, max_size=1))
    def hear(self, key: bytes) -> None:
        if self.window.fresh(key, self.now_s):
            assert self.now_s - self.fresh_s.get(key, -1e9) > 60.0
            self.fresh_s[key] = self.now_s
        else:
            live = [heard for heard in self.fresh_s.values() if self.now_s - heard <= 60.0]
            assert self.window.seen(key, self.now_s) or len(live) == 4

    @invariant()
    def bounded(self) -> None:
        assert len(self.window) <= 4


TestReplayRules = ReplayRules.TestCase
