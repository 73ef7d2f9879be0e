"""ECDSA P-256 signatures over SHA-256, as 64 bytes: r then s, each 32 bytes, big-endian.

Fixed and not DER, so that an envelope's size is known before it is signed (padding and packing count on it) and one
signature has one spelling: s is always the lower of its two values, any other is refused, so that nobody can turn a
signature into a second valid one. Signing is deterministic (RFC 6979): no bad random number can give a key away.
"""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

SIGNATURE_BYTES = 64
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256's group, SEC 2
_SIGN = ECDSA(SHA256(), deterministic_signing=True)
_VERIFY = ECDSA(SHA256())


def sign(key: EllipticCurvePrivateKey, data: bytes) -> bytes:
    """The 64 bytes that `verify` accepts; the same key and data always give the same."""
    r, s = decode_dss_signature(key.sign(data, _SIGN))
    return r.to_bytes(32, "big") + min(s, _ORDER - s).to_bytes(32, "big")


def verify(key: EllipticCurvePublicKey, signature: bytes, data: bytes) -> bool:
    if len(signature) != SIGNATURE_BYTES:
        return False
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if s > _ORDER // 2:
        return False
    try:
        key.verify(encode_dss_signature(r, s), data, _VERIFY)
    except InvalidSignature:
        return False
    return True
