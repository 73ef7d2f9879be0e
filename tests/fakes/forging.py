"""Certificates that no builder would make: others' words under a signature that is right all the same."""

from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509 import Certificate, CertificateBuilder, Extension, ExtensionType

_V3 = bytes.fromhex("a003020102")  # the version, which is the first thing in a certificate (RFC 5280, 4.1)
_ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
_INTEGER, _BITS, _SEQUENCE = 0x02, 0x03, 0x30


def with_extensions(
    leaf: Certificate, signer: EllipticCurvePrivateKey, extensions: Sequence[Extension[ExtensionType]] = ()
) -> Certificate:
    """The same certificate with more in it, signed anew."""
    builder = CertificateBuilder(
        leaf.issuer,
        leaf.subject,
        leaf.public_key(),
        leaf.serial_number,
        leaf.not_valid_before_utc,
        leaf.not_valid_after_utc,
        [*leaf.extensions, *extensions],
    )
    return builder.sign(signer, SHA256())


def with_serial(leaf: Certificate, signer: EllipticCurvePrivateKey, serial: int) -> bytes:
    """The same certificate (DER) under another number, such as no library gives out."""
    body = _content(leaf.tbs_certificate_bytes)
    assert body.startswith(_V3 + bytes([_INTEGER]))
    rest = body[len(_V3) + 2 + body[len(_V3) + 1] :]
    number = serial.to_bytes(max(1, (serial.bit_length() + 8) // 8), "big", signed=True)
    signed = _der(_SEQUENCE, _V3 + _der(_INTEGER, number) + rest)
    signature = signer.sign(signed, ECDSA(SHA256()))
    return _der(_SEQUENCE, signed + _ECDSA_SHA256 + _der(_BITS, b"\0" + signature))


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _content(der: bytes) -> bytes:
    more = der[1] & 0x7F if der[1] & 0x80 else 0
    return der[2 + more :]
