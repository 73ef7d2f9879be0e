"""Who speaks: a host or a user, known by the fingerprint of their key and shown by their name. Pure."""

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from matcher.trust.grants import NOTHING
from matcher.wire.realm import Grant, Verb
from specs.ids import RealmId

PrincipalKind = Literal["user", "host"]
NAME_MAX = 64  # X.509's limit for a common name
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class Principal:
    """`id` is the fingerprint of the key, 64 hex digits (a `HostId` or `UserId`); `name` is for people. `grant` is what
    the certificate says that a user may do; a host's says nothing of that."""

    kind: PrincipalKind
    id: str
    name: str
    grant: Grant = NOTHING

    def may(self, verb: Verb) -> bool:
        return verb in self.grant.verbs


def fingerprint(public_key: EllipticCurvePublicKey) -> str:
    """SHA-256 of the key (SubjectPublicKeyInfo, DER) as 64 hex digits."""
    return sha256(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def is_fingerprint(text: str) -> bool:
    return len(text) == 64 and all(digit in "0123456789abcdef" for digit in text)


def realm_id_of(root_key: EllipticCurvePublicKey) -> RealmId:
    return RealmId(fingerprint(root_key)[:16])


def name_problem(name: str) -> str | None:
    """A sentence where `name` can't name a host, a user or a realm; else `None`."""
    if _NAME.fullmatch(name) and name.strip("."):
        return None
    return f"{name[:NAME_MAX]!r} can't be a name: 1 to {NAME_MAX} letters, digits, dots, dashes and underscores are."
