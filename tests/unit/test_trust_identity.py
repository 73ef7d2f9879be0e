"""An identity loads whole or says in a sentence what to do; TLS lets in its realm's members and nobody else."""

import json
import shutil
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from matcher.trust.certificates import LEAF_DAYS, Untrusted, make_leaf, to_pem
from matcher.trust.identity import (
    Identity,
    IdentityError,
    client_tls,
    load_identity,
    peer_principal,
    pem_to_der,
    server_tls,
)
from matcher.trust.realm import _open, create_realm, issue
from matcher.wire.envelope import REALM, Kind, seal, unseal, verify


@pytest.fixture(scope="module")
def realms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two realms, "home" with h1, h2 and ann, and "away" with h1 and bob."""
    top = tmp_path_factory.mktemp("realms")
    for name, members in (("home", ("h1", "h2", "ann")), ("away", ("h1", "bob"))):
        create_realm(top / name, "home")
        for member in members:
            issue(top / name, "host" if member.startswith("h") else "user", member, top / f"{name}-{member}")
    return top


@pytest.fixture
def mine(realms: Path, tmp_path: Path) -> Path:
    """A copy of ann's identity, to be damaged."""
    return Path(shutil.copytree(realms / "home-ann", tmp_path / "ann"))


def refused(folder: Path) -> str:
    with pytest.raises(IdentityError) as caught:
        load_identity(folder)
    return str(caught.value)


def test_what_one_member_seals_another_verifies(realms: Path) -> None:
    ann, h1 = load_identity(realms / "home-ann"), load_identity(realms / "home-h1")
    data = seal(Kind.PLEDGE, b"x" * 600, realm=ann.realm, signer=ann, audience=REALM, pad_bytes=1200)
    sealed = unseal(data, realm=h1.realm)
    principal, key = h1.verifier.principal(sealed.certificate, time.time())
    assert (principal.kind, principal.name) == ("user", "ann")
    assert verify(sealed, key, realm_id=h1.realm.realm_id, audience=REALM)


def test_it_knows_its_realm(realms: Path) -> None:
    ann = load_identity(realms / "home-ann")
    assert ann.realm_name == "home"
    assert ann.realm.realm_id == ann.verifier.realm_id
    assert abs(ann.expires_s - time.time() - LEAF_DAYS["user"] * 86_400) < 600


def test_no_secret_is_shown(realms: Path) -> None:
    ann = load_identity(realms / "home-ann")
    assert "key" not in repr(ann).lower()


def test_a_key_that_others_can_read_is_refused_with_the_command_that_helps(mine: Path) -> None:
    for mode in (0o640, 0o604, 0o620, 0o644):
        (mine / "key.pem").chmod(mode)
        assert refused(mine).endswith(f"Run: chmod 600 {mine / 'key.pem'}")
    (mine / "key.pem").chmod(0o400)
    load_identity(mine)


@pytest.mark.parametrize("name", ["key.pem", "leaf.pem", "issuers.pem", "root.pem", "realm.json"])
def test_a_missing_or_damaged_file_is_named(mine: Path, name: str) -> None:
    (mine / name).write_bytes(b"{}")
    assert name in refused(mine)
    (mine / name).write_bytes(b"\xff\xfe")
    assert name in refused(mine)
    (mine / name).unlink()
    assert f"{name} is missing" in refused(mine)
    assert f"electros realm issue host|user NAME --out {mine}" in refused(mine)


def test_no_folder_at_all_says_how_to_get_one(tmp_path: Path) -> None:
    assert "electros realm issue" in refused(tmp_path / "none")


def test_the_key_must_be_the_leafs(realms: Path, mine: Path) -> None:
    shutil.copy(realms / "home-h1" / "key.pem", mine / "key.pem")
    assert "not the key of leaf.pem" in refused(mine)


def test_the_key_must_be_on_p256(mine: Path) -> None:
    other = ec.generate_private_key(ec.SECP384R1())
    (mine / "key.pem").write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert "not a P-256 key" in refused(mine)


def test_parts_of_another_realm_are_noticed(realms: Path, mine: Path) -> None:
    for name in ("root.pem", "issuers.pem", "leaf.pem", "realm.json"):
        before = (mine / name).read_bytes()
        shutil.copy(realms / "away-bob" / name, mine / name)
        assert refused(mine)
        (mine / name).write_bytes(before)
    load_identity(mine)


@pytest.mark.parametrize("tag_key", ["", "AAAA", "!", None, 7])
def test_a_damaged_tag_key_is_noticed(mine: Path, tag_key: object) -> None:
    realm = json.loads((mine / "realm.json").read_text())
    (mine / "realm.json").write_text(json.dumps({**realm, "tag_key": tag_key}))
    assert "realm.json is damaged" in refused(mine)


def expire(realms: Path, folder: Path, kind: str, name: str) -> None:
    """Put a leaf into `folder` that ended a day ago, for the key that is there."""
    _, _, issuer, issuer_key = _open(realms / "home")
    public_key = load_identity(folder).key.public_key()
    then_s = time.time() - 31 * 86_400
    leaf = make_leaf(public_key, kind, name, issuer, issuer_key, wall_s=then_s, days=30)  # type: ignore[arg-type]
    (folder / "leaf.pem").write_bytes(to_pem(leaf))


def test_an_expired_leaf_says_whose_and_since_when(realms: Path, mine: Path) -> None:
    identity = load_identity(mine)
    with pytest.raises(IdentityError, match=r"user ann .* expired on \d{4}-\d\d-\d\d .* issue user ann --out"):
        load_identity(mine, wall_s=identity.expires_s + 1)
    assert load_identity(mine, wall_s=identity.expires_s).principal.name == "ann"


def test_a_leaf_of_tomorrow_is_refused(mine: Path) -> None:
    with pytest.raises(IdentityError, match="not valid yet"):
        load_identity(mine, wall_s=time.time() - 86_400)


def shake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    """A handshake over a socketpair, and a byte each way: a client learns of a refusal at its first read."""
    ours, theirs = socket.socketpair()
    with ExitStack() as cleanup, ThreadPoolExecutor(1) as pool:
        accepted = cleanup.enter_context(server.wrap_socket(ours, server_side=True, do_handshake_on_connect=False))
        connected = cleanup.enter_context(client.wrap_socket(theirs, do_handshake_on_connect=False))
        for end in (accepted, connected):
            end.settimeout(5)
        served = pool.submit(serve, accepted)
        try:
            connected.do_handshake()
            connected.sendall(b"x")
            if connected.recv(1) != b"x":
                raise ConnectionError("the server hung up")
        finally:
            refusal = served.exception(10)
        assert refusal is None
        cleanup.pop_all()
        return accepted, connected


def serve(accepted: ssl.SSLSocket) -> None:
    try:
        accepted.do_handshake()
        accepted.sendall(accepted.recv(1))
    except OSError:
        accepted.close()
        raise


def tls(folder: Path) -> Identity:
    return load_identity(folder, allow_expired=True)


def test_a_handshake_tells_both_who_the_other_is(realms: Path) -> None:
    h1, ann = load_identity(realms / "home-h1"), load_identity(realms / "home-ann")
    server, client = shake(server_tls(h1), client_tls(ann))
    with server, client:
        assert client.version() == "TLSv1.3"
        assert peer_principal(client, ann.verifier, time.time())[0] == h1.principal
        assert peer_principal(server, h1.verifier, time.time())[0] == ann.principal
        assert client.session is None or not client.session.has_ticket


def test_hosts_talk_to_hosts(realms: Path) -> None:
    h1, h2 = load_identity(realms / "home-h1"), load_identity(realms / "home-h2")
    server, client = shake(server_tls(h1), client_tls(h2))
    with server, client:
        assert peer_principal(server, h1.verifier, time.time())[0] == h2.principal


def test_a_foreign_realm_is_shut_out_on_either_side(realms: Path) -> None:
    for server, client in (("home-h1", "away-bob"), ("away-h1", "home-ann")):
        with pytest.raises(OSError, match=r"(?i)certificate|hung up|reset|EOF|pipe"):
            shake(server_tls(tls(realms / server)), client_tls(tls(realms / client)))


def test_a_client_without_a_certificate_is_shut_out(realms: Path) -> None:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(realms / "home-h1" / "root.pem")
    client.load_verify_locations(realms / "home-h1" / "issuers.pem")
    with pytest.raises(OSError, match=r"(?i)certificate|hung up|reset|EOF|pipe"):
        shake(server_tls(tls(realms / "home-h1")), client)


def test_a_user_cannot_pose_as_a_host(realms: Path) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)purpose"):
        shake(server_tls(tls(realms / "home-ann")), client_tls(tls(realms / "home-h2")))


def test_tls_1_2_is_not_spoken(realms: Path) -> None:
    old = client_tls(tls(realms / "home-ann"))
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(OSError, match=r"(?i)version|hung up|reset|EOF"):
        shake(server_tls(tls(realms / "home-h1")), old)


def test_an_expired_leaf_is_shut_out_on_either_side(realms: Path, mine: Path, tmp_path: Path) -> None:
    host = Path(shutil.copytree(realms / "home-h1", tmp_path / "h1"))
    expire(realms, host, "host", "h1")
    expire(realms, mine, "user", "ann")
    with pytest.raises(OSError, match=r"(?i)expired|hung up|reset|EOF"):
        shake(server_tls(tls(realms / "home-h1")), client_tls(tls(mine)))
    with pytest.raises(OSError, match=r"(?i)expired"):
        shake(server_tls(tls(host)), client_tls(tls(realms / "home-ann")))


def test_a_peer_is_known_by_pem_and_der_too(realms: Path) -> None:
    ann = load_identity(realms / "home-ann")
    pem = (realms / "home-ann" / "leaf.pem").read_text()
    assert pem_to_der(pem) == ann.certificate
    assert peer_principal(ann.certificate, ann.verifier, time.time())[0] == ann.principal
    for bad in ("", "x", "\ud800", pem[:100]):
        with pytest.raises(Untrusted, match="can't be read"):
            pem_to_der(bad)
    with pytest.raises(Untrusted, match="no certificate"):
        peer_principal(b"", ann.verifier, time.time())
