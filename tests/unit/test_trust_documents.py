"""A signed document says one thing, in one form, under one realm; whoever passes it on can't make another of it."""

import pytest

from matcher.trust.documents import SIGNATURES_MAX, Paper, key_id, read_document, read_documents, whole, write_document
from matcher.wire.codec import BadBytes
from matcher.wire.framing import frame, unframe
from matcher.wire.realm import Heartbeat, TagKey
from matcher.wire.signature import sign
from tests.fakes.realms import NOW_S, Papers, new_key

HOME = Papers()
KEY = new_key()
BEAT = write_document(Heartbeat("0" * 16, 7, 0), KEY)


def test_what_was_written_is_read() -> None:
    for signed in (HOME.first, HOME.revocation("a" * 64), HOME.heartbeat(NOW_S), HOME.tag_key(1, bytes(32))):
        again = read_document(signed.data)
        assert again == signed
        assert (again.says, again.payload, again.signatures) == (signed.says, signed.payload, signed.signatures)


def test_a_signature_is_its_signers_alone() -> None:
    other = new_key()
    assert BEAT.signed_by(KEY.public_key())
    assert not BEAT.signed_by(other.public_key())
    both = write_document(BEAT.says, KEY, other)
    assert both.signed_by(KEY.public_key())
    assert both.signed_by(other.public_key())


def test_a_signature_counts_for_one_kind_of_document() -> None:
    paper, payload, signature = unframe(BEAT.data)
    assert paper == bytes([Paper.HEARTBEAT])
    for other in Paper:
        swapped = frame([bytes([other]), payload, signature])
        if other is Paper.HEARTBEAT:
            continue
        with pytest.raises(BadBytes):
            read_document(swapped)
    for signs in (b"", *(bytes([other]) for other in Paper if other is not Paper.HEARTBEAT)):
        made = key_id(KEY.public_key()) + sign(KEY, b"atomos/document/1\0" + signs + payload)
        assert not read_document(frame([paper, payload, made])).signed_by(KEY.public_key())
    made = key_id(KEY.public_key()) + sign(KEY, b"atomos/document/1\0" + paper + payload)
    assert read_document(frame([paper, payload, made])).signed_by(KEY.public_key())


def test_any_flipped_bit_is_told_by_form_or_by_signature() -> None:
    for at in range(len(BEAT.data) * 8):
        changed = bytearray(BEAT.data)
        changed[at // 8] ^= 1 << at % 8
        try:
            read = read_document(bytes(changed))
        except BadBytes:
            continue
        assert not read.signed_by(KEY.public_key())


def test_what_is_cut_or_longer_is_no_document() -> None:
    for cut in range(len(BEAT.data)):
        with pytest.raises(BadBytes):
            read_document(BEAT.data[:cut])
    for tail in (b"\0", b"\0\0\0\0", b"\0\0\0\1x", bytes(76)):
        with pytest.raises(BadBytes):
            read_document(BEAT.data + tail)


def test_the_number_of_signatures_is_limited() -> None:
    keys = [new_key() for _ in range(SIGNATURES_MAX + 1)]
    read_document(write_document(BEAT.says, *keys[:-1]).data)
    for bad in (write_document(BEAT.says), write_document(BEAT.says, *keys)):
        with pytest.raises(BadBytes):
            read_document(bad.data)


def test_one_bad_document_does_not_silence_the_others() -> None:
    framed = frame([b"x", BEAT.data, b"", HOME.first.data])
    assert [each.data for each in read_documents(framed)] == [BEAT.data, HOME.first.data]
    assert [each.data for each in read_documents(framed[:-1])] == [BEAT.data]


def test_what_must_be_whole_is_told_where_it_was_cut() -> None:
    framed = frame([b"a", b"", b"ccc"])
    assert whole(framed) == [b"a", b"", b"ccc"]
    for cut in range(1, len(framed)):
        if cut not in (5, 9):  # the ends of whole parts
            with pytest.raises(BadBytes):
                whole(framed[:cut])


def test_no_secret_is_shown() -> None:
    secret = b"\x17secret\x18"
    signed = write_document(TagKey("0" * 16, 1, secret, 7), KEY)
    assert "secret" not in repr(signed)
    assert "secret" not in repr(signed.says)


def test_a_key_id_is_the_start_of_the_keys_fingerprint() -> None:
    assert len(key_id(KEY.public_key())) == 8
    assert key_id(KEY.public_key()) == BEAT.signatures[0][0]
