"""Certificate requests (PKCS#10): a key, the name that it wishes for, and the proof that whoever asks has the key."""

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from matcher.trust.certificates import Untrusted, public_key_of


def make_request(key: EllipticCurvePrivateKey, name: str) -> bytes:
    """DER."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, SHA256()).public_bytes(Encoding.DER)


def read_request(der: bytes) -> tuple[EllipticCurvePublicKey, str]:
    """The key and the name wished for. Whatever else a request asks for is not looked at. Raises `Untrusted`."""
    try:
        request = x509.load_der_x509_csr(der)
        names = [attribute.value for attribute in request.subject]
        key = public_key_of(request)  # first, as a signature by an RSA key of any size could keep us busy
        is_signed = request.is_signature_valid
    except Untrusted:
        raise
    except Exception as error:  # ValueError, UnsupportedAlgorithm, TypeError: the library names no common base
        raise Untrusted("its request can't be read") from error
    if not is_signed or len(names) != 1 or not isinstance(names[0], str):
        raise Untrusted("its request is not signed with its own key")
    return key, names[0]
