"""Signatures are 64 bytes, deterministic, and each has one spelling."""

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key

from matcher.wire.signature import SIGNATURE_BYTES, sign, verify

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
# RFC 6979, A.2.5: P-256, SHA-256, message "sample"
KEY = derive_private_key(0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721, SECP256R1())
R = 0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716
S = 0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8


def test_the_signature_of_the_rfc_comes_out_with_the_lower_s() -> None:
    assert sign(KEY, b"sample") == R.to_bytes(32, "big") + (ORDER - S).to_bytes(32, "big")
    assert verify(KEY.public_key(), sign(KEY, b"sample"), b"sample")


def test_the_other_spelling_of_a_signature_is_refused() -> None:
    assert not verify(KEY.public_key(), R.to_bytes(32, "big") + S.to_bytes(32, "big"), b"sample")


def test_what_is_no_signature_is_refused_without_a_raise() -> None:
    good = sign(KEY, b"sample")
    for bad in (b"", bytes(SIGNATURE_BYTES), b"\xff" * 64, good[:-1], good + b"\0", bytes(32) + good[32:]):
        assert not verify(KEY.public_key(), bad, b"sample")
    assert not verify(KEY.public_key(), good, b"simple")


def test_a_signature_that_is_cut_where_it_holds_a_zero_is_refused() -> None:
    signed = ((data, sign(KEY, data)) for data in (b"%d" % number for number in range(10_000)))
    data, good = next((data, good) for data, good in signed if good[32] == 0)
    assert verify(KEY.public_key(), good, data)
    assert not verify(KEY.public_key(), good[:32] + good[33:], data)
