"""An envelope means one thing: this payload, from this signer, as this kind, for this audience, in this realm."""

from hashlib import blake2s, sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, derive_private_key

from matcher.wire import envelope, messages, signature
from matcher.wire.codec import BadBytes
from matcher.wire.envelope import (
    HEADER,
    KIND_OF,
    MAGIC,
    MESSAGE_OF,
    REALM,
    UNSIGNED,
    Kind,
    RealmSecret,
    ReplayWindow,
    TooLong,
    host_audience,
    overhead_bytes,
    seal,
    unseal,
    user_audience,
    verify,
)
from matcher.wire.messages import Role
from specs.ids import HostId, RealmId, UserId

REALM_ID = RealmId("0123456789abcdef")
SECRET = RealmSecret(REALM_ID, bytes(range(32)))
KEY = derive_private_key(7, SECP256R1())
HOST = HostId("ab" * 32)


class Someone:
    """A signer whose certificate is any bytes: envelopes don't read it."""

    def __init__(self, certificate: bytes = b"C" * 380, key: EllipticCurvePrivateKey = KEY) -> None:
        self.certificate = certificate
        self._key = key

    def sign(self, data: bytes) -> bytes:
        return signature.sign(self._key, data)


ME = Someone()


def sealed(kind: Kind = Kind.PLEDGE, payload: bytes = b"payload", audience: bytes = REALM, pad_bytes: int = 0) -> bytes:
    signer = None if kind in UNSIGNED else ME
    return seal(kind, payload, realm=SECRET, signer=signer, audience=audience, pad_bytes=pad_bytes)


def retagged(data: bytes) -> bytes:
    """What a member of the realm could send: any bytes, under a right tag."""
    tag = blake2s(data[:14] + data[22:], digest_size=8, key=SECRET.tag_key).digest()
    return data[:14] + tag + data[22:]


def refused(data: bytes, realm: RealmSecret = SECRET) -> str:
    with pytest.raises(BadBytes) as caught:
        unseal(data, realm=realm)
    return caught.value.reason


def holds(data: bytes, audience: bytes = REALM, realm_id: RealmId = REALM_ID) -> bool:
    return verify(unseal(data, realm=SECRET), KEY.public_key(), realm_id=realm_id, audience=audience)


def test_what_is_sealed_comes_out_and_verifies() -> None:
    for kind in set(Kind) - UNSIGNED:
        out = unseal(sealed(kind), realm=SECRET)
        assert (out.kind, out.certificate, out.payload) == (kind, ME.certificate, b"payload")
        assert holds(sealed(kind))


def test_sealing_is_deterministic() -> None:
    assert sealed() == sealed()


def test_the_layout_is_the_documented_one() -> None:
    data = sealed(pad_bytes=600)
    assert data[:6] == MAGIC + bytes([1, Kind.PLEDGE])
    assert data[6:14].hex() == REALM_ID
    assert data[22:30] == bytes.fromhex("017c 0040 00000007")
    assert data[30:410] == ME.certificate
    assert data[474:481] == b"payload"
    assert data[481:] == bytes(600 - 481)


def test_every_message_that_travels_has_one_kind_and_numbers_never_change() -> None:
    assert {kind.name: kind.value for kind in Kind} == {
        "PLEDGE": 1,
        "VM_OFFER": 2,
        "VOLUME_OFFER": 3,
        "UNFIT": 4,
        "REVEAL": 5,
        "QUERY": 6,
        "ANSWER": 7,
        "CLOCK": 8,
        "CONFIRM": 9,
        "ABANDON": 10,
        "NEWS": 11,
        "CONFIRM_VOLUME": 12,
        "ALIVE": 20,
        "CLAIM": 21,
        "PING": 22,
        "ACK": 23,
        "ASK": 24,
        "NACK": 25,
        "SUMMARY": 26,
        "LISTING": 27,
        "WANT": 28,
        "TIDINGS": 29,
    }
    assert set(MESSAGE_OF) == set(Kind)
    assert len(KIND_OF) == len(Kind)
    assert KIND_OF[messages.Confirm] is Kind.CONFIRM


def test_another_audience_realm_kind_or_certificate_does_not_verify() -> None:
    data = sealed(audience=host_audience(HOST, Role.COMPUTE))
    assert holds(data, host_audience(HOST, Role.COMPUTE))
    assert not holds(data, host_audience(HOST, Role.STORAGE))
    assert not holds(data, user_audience(UserId(HOST)))
    assert not holds(data, REALM)
    assert not holds(data, host_audience(HOST, Role.COMPUTE), RealmId("f123456789abcdef"))
    assert not holds(retagged(data[:5] + bytes([Kind.QUERY]) + data[6:]), host_audience(HOST, Role.COMPUTE))
    assert not holds(retagged(data[:40] + b"X" + data[41:]), host_audience(HOST, Role.COMPUTE))


def test_no_bytes_move_between_audience_and_payload() -> None:
    """Without its length, an audience that ends in the certificate's hash could be read as a shorter one."""
    middle = sha256(ME.certificate).digest()
    one = unseal(seal(Kind.PLEDGE, middle + b"x", realm=SECRET, signer=ME, audience=b"a"), realm=SECRET)
    other = envelope.Sealed(one.kind, one.certificate, one.signature, b"x")
    assert not verify(other, KEY.public_key(), realm_id=REALM_ID, audience=b"a" + middle)


def test_any_flipped_bit_is_noticed() -> None:
    data = sealed(pad_bytes=600)
    for at in range(len(data)):
        assert refused(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]) in {"magic", "version", "realm", "tag"}


def test_an_outsider_is_refused_before_anything_is_parsed() -> None:
    assert refused(b"") == "length"
    assert refused(bytes(HEADER.size - 1)) == "length"
    assert refused(bytes(1201)) == "length"
    assert refused(bytes(1200)) == "magic"
    assert refused(MAGIC + b"\x02" + sealed()[5:]) == "version"
    assert refused(sealed(), RealmSecret(RealmId("0" * 16), SECRET.tag_key)) == "realm"
    assert refused(sealed(), RealmSecret(REALM_ID, bytes(32))) == "tag"
    assert refused(sealed() + b"\0") == "tag"


def test_a_member_cannot_send_a_malformed_envelope() -> None:
    data = sealed()
    assert refused(retagged(data[:5] + b"\x63" + data[6:])) == "kind"
    assert refused(retagged(data[:22] + b"\0\0" + data[24:])) == "certificate length"
    assert refused(retagged(data[:22] + b"\x08\x01" + data[24:])) == "certificate length"
    assert refused(retagged(data[:24] + b"\0\0" + data[26:])) == "signature length"
    assert refused(retagged(data[:24] + b"\0\x3f" + data[26:])) == "signature length"
    assert refused(retagged(data[:26] + b"\xff" * 4 + data[30:])) == "payload length"
    assert refused(retagged(data[:-1])) == "payload length"
    assert refused(retagged(data + b"\0\0\1")) == "padding"


def test_only_reveals_go_unsigned_and_they_always_do() -> None:
    out = unseal(sealed(Kind.REVEAL), realm=SECRET)
    assert (out.certificate, out.signature, out.payload) == (b"", b"", b"payload")
    assert not verify(out, KEY.public_key(), realm_id=REALM_ID, audience=REALM)
    unsigned = sealed(Kind.REVEAL)
    for kind in set(Kind) - UNSIGNED:
        assert refused(retagged(unsigned[:5] + bytes([kind]) + unsigned[6:])) == "signature length"
    signed = sealed()
    assert refused(retagged(signed[:5] + bytes([Kind.REVEAL]) + signed[6:])) == "signature length"
    with pytest.raises(AssertionError, match="must be signed"):
        seal(Kind.PLEDGE, b"", realm=SECRET, signer=None, audience=REALM)
    with pytest.raises(AssertionError, match="must not be signed"):
        seal(Kind.REVEAL, b"", realm=SECRET, signer=ME, audience=REALM)


def test_a_padded_pledge_is_exactly_as_long_as_asked() -> None:
    for size in (0, 1, 700, 726):
        assert len(sealed(payload=b"\0" * size, pad_bytes=1200)) == 1200
    assert unseal(sealed(payload=b"a\0\0", pad_bytes=1200), realm=SECRET).payload == b"a\0\0"


def test_too_long_says_how_long_and_a_larger_limit_can_be_given() -> None:
    assert overhead_bytes(ME) == 474
    assert overhead_bytes(None) == 30
    with pytest.raises(TooLong, match=r"pledge is 1201 bytes.*727.*at most 1200") as caught:
        sealed(payload=bytes(727))
    assert (caught.value.size, caught.value.max_bytes, caught.value.payload) == (1201, 1200, 727)
    big = seal(Kind.CONFIRM, bytes(100_000), realm=SECRET, signer=ME, audience=REALM, max_bytes=131_072)
    assert refused(big) == "length"
    assert unseal(big, realm=SECRET, max_bytes=131_072).payload == bytes(100_000)


def test_the_realms_key_is_not_shown() -> None:
    assert "tag_key" not in repr(SECRET)


def test_a_second_copy_is_not_fresh_until_the_window_has_passed() -> None:
    window = ReplayWindow(keep_s=60.0)
    assert not window.seen(b"a", 0.0)
    assert window.fresh(b"a", 0.0)
    assert window.seen(b"a", 60.0)
    assert not window.fresh(b"a", 60.0)
    assert window.fresh(b"b", 60.0)
    assert window.fresh(b"a", 60.1)
    assert len(window) == 2


def test_the_default_window_outlives_every_fresh_message() -> None:
    window = ReplayWindow()
    window.fresh(b"a", 0.0)
    assert not window.fresh(b"a", 60.0)


def test_a_full_window_refuses_the_new_and_keeps_the_old() -> None:
    window = ReplayWindow(keep_s=60.0, keys_max=2)
    assert window.fresh(b"a", 0.0)
    assert window.fresh(b"b", 1.0)
    assert not window.fresh(b"c", 2.0)
    assert window.seen(b"a", 3.0)
    assert len(window) == 2
    assert window.fresh(b"c", 60.5)
