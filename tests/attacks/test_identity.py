"""Who shows a certificate that is not what it should be gets nothing for it, by datagram or at a front door."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.x509 import Certificate, Extension, ObjectIdentifier, UnrecognizedExtension

from matcher.net.door.routes import ROUTES, Who
from matcher.trust.certificates import Scope, make_issuer, make_root, to_der
from matcher.trust.documents import write_document
from matcher.trust.principal import realm_id_of
from matcher.trust.realm import EVERYTHING
from matcher.wire.framing import frame
from matcher.wire.realm import Anchor, Grant, Heartbeat, Revocation, TagKey, Verb
from tests.attacks.attacking import audit
from tests.attacks.conftest import HOSTS
from tests.attacks.forge import Forge, counted, nobody_gets_in, refusal
from tests.fakes.forging import with_extensions, with_serial
from tests.fakes.realms import new_key
from tests.lab.conftest import Lab
from tests.lab.vms import Vms, electros

pytestmark = pytest.mark.lab

DAY_S = 86_400.0
ODD = Extension(ObjectIdentifier("1.2.3.4"), True, UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x05\x00"))
NO_ADMIN = Grant(tuple(verb for verb in Verb if verb is not Verb.ADMIN))
Made = bytes | Certificate


@pytest.fixture(scope="module")
def forge(target: Lab, tmp_path_factory: pytest.TempPathFactory) -> Forge:
    return Forge(target, tmp_path_factory.mktemp("forged"))


@pytest.fixture(scope="module")
def before(forge: Forge) -> bytes:
    """What the realm was before it named one more issuer."""
    return forge.bundle.to_bytes()


@pytest.fixture(scope="module")
def users_only(forge: Forge, before: bytes) -> EllipticCurvePrivateKey:
    """The key of an issuer that may make users, and neither hosts nor admins."""
    return forge.new_issuer(Scope.USERS)


def self_made(forge: Forge, key: EllipticCurvePrivateKey) -> Made:
    """By an issuer of one's own, under a root of one's own, both by the names that the realm's have."""
    root_key, issuer_key = new_key(), new_key()
    root = make_root(root_key, forge.bundle.anchor.name, wall_s=forge.issuer.not_valid_before_utc.timestamp())
    realm_id = forge.host("h1").verifier.realm_id
    wall_s = root.not_valid_before_utc.timestamp() + 300
    issuer = make_issuer(issuer_key.public_key(), root, root_key, realm_id=realm_id, wall_s=wall_s)
    return forge.leaf(key, issuer=issuer, by=issuer_key)


@dataclass(frozen=True)
class Wrong:
    """A leaf that is wrong in one way; what TLS or the front door says of it, and what a datagram is counted as."""

    make: Callable[[Forge, EllipticCurvePrivateKey], Made]
    said: str
    counted: str


WRONG = {
    "expired": Wrong(lambda forge, key: forge.leaf(key, since_s=-2 * DAY_S), "CERTIFICATE_EXPIRED", "has expired"),
    "not yet valid": Wrong(lambda forge, key: forge.leaf(key, since_s=DAY_S), "BAD_CERTIFICATE", "not valid yet"),
    "unknown critical extension": Wrong(
        lambda forge, key: with_extensions(forge.leaf(key), forge.key, [ODD]), "CERTIFICATE", "critical extension"
    ),
    "serial number 0": Wrong(
        lambda forge, key: with_serial(forge.leaf(key), forge.key, 0), "serial number", "serial number"
    ),
    "serial number -1": Wrong(
        lambda forge, key: with_serial(forge.leaf(key), forge.key, -1), "serial number", "serial number"
    ),
    "larger grant by one's own key": Wrong(lambda forge, key: forge.leaf(key, by=key), "ALERT", "no issuer"),
    "larger grant by an issuer of one's own": Wrong(self_made, "UNKNOWN_CA", "no issuer"),
}


def tried(forge: Forge, folder: str) -> tuple[dict[str, Any], int, dict[str, set[str]]]:
    """What h1's door said, how many answers a pledge got, and what each host has counted."""
    before = {host: counted(forge.lab, host) for host in HOSTS}
    heard = forge.does(do="pledge", **{"as": folder})["heard"]
    after = {host: counted(forge.lab, host) for host in HOSTS}
    new = {host: {name for name, count in after[host].items() if count > before[host].get(name, 0)} for host in HOSTS}
    return forge.get(folder, "h1", "/v1/vms"), heard, new


def test_a_leaf_of_the_same_making_that_is_right_is_served(forge: Forge) -> None:
    """Else all the refusals below would prove nothing."""
    said, heard, new = tried(forge, forge.made())
    assert (said["status"], heard) == (200, len(HOSTS))
    assert all("datagrams: pledge" in new[host] for host in HOSTS)


@pytest.mark.parametrize("way", WRONG)
def test_a_leaf_that_is_wrong_in_one_way_is_good_for_nothing(forge: Forge, way: str) -> None:
    key, wrong = new_key(), WRONG[way]
    folder = forge.folder(key, wrong.make(forge, key))
    with nobody_gets_in(forge.lab):
        said, heard, new = tried(forge, folder)
        assert said["status"] in (0, 403)
        assert wrong.said in said["said"]
        assert heard == 0
        for host in HOSTS:
            assert any(wrong.counted in name for name in new[host]), new
