"""An identity loads whole or says in a sentence what to do; what it learns is kept whatever happens in between; TLS
lets in its realm's members and nobody else."""

import shutil
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from matcher.trust import files
from matcher.trust.certificates import BACKDATE_S, LEAF_DAYS, Untrusted, make_leaf, to_der, to_pem
from matcher.trust.documents import Signed
from matcher.trust.identity import (
    Identity,
    IdentityError,
    NoIdentity,
    client_tls,
    load_identity,
    peer_principal,
    pem_to_der,
    server_tls,
)
from matcher.trust.realm import EVERYTHING, finish_rotation, next_anchor, rotate_root
from matcher.trust.requests import make_request
from matcher.wire.envelope import REALM, Kind, seal, unseal, verify
from matcher.wire.messages import Message
from matcher.wire.realm import Grant, Verb
from tests.fakes.realms import Crash, Realm, crash_at, make_realm, new_key

DAY_S = 86_400.0
SMALL = Grant((Verb.PLEDGE,))


@pytest.fixture(scope="module")
def realms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two realms, "home" with h1, h2 and ann, and "away" with h1 and bob. To be read alone."""
    top = tmp_path_factory.mktemp("realms")
    make_realm(top / "home", "h1", "h2", "ann")
    make_realm(top / "away", "h1", "bob")
    return top


@pytest.fixture
def mine(realms: Path, tmp_path: Path) -> Path:
    """A copy of ann's identity, to be damaged."""
    return Path(shutil.copytree(realms / "home" / "ann", tmp_path / "mine"))


@pytest.fixture
def home(tmp_path: Path) -> Realm:
    return make_realm(tmp_path / "home", "ann", "h1")


def refused(folder: Path, wall_s: float | None = None) -> str:
    with pytest.raises(IdentityError) as caught:
        load_identity(folder, wall_s=wall_s)
    return str(caught.value)


# ---- loading


def test_what_one_member_seals_another_verifies(realms: Path) -> None:
    ann, h1 = load_identity(realms / "home/ann"), load_identity(realms / "home/h1")
    data = seal(Kind.PLEDGE, b"x" * 600, realm=ann.realm, signer=ann, audience=REALM, pad_bytes=1200)
    sealed = unseal(data, realm=h1.realm)
    principal, key = h1.verifier.principal(sealed.certificate, time.time())
    assert (principal.kind, principal.name) == ("user", "ann")
    assert verify(sealed, key, realm_id=h1.realm.realm_id, audience=REALM)


def test_it_knows_itself_and_its_realm(realms: Path) -> None:
    ann = load_identity(realms / "home/ann")
    assert ann.realm_name == "home"
    assert ann.principal.grant == EVERYTHING
    assert ann.expires_s - ann.starts_s == LEAF_DAYS["user"] * DAY_S + BACKDATE_S
    assert not ann.is_revoked


def test_all_that_is_kept_is_private_and_nothing_of_it_is_shown(realms: Path) -> None:
    folder = realms / "home/ann"
    assert {path.name for path in folder.iterdir()} == {"key.pem", "leaf.pem", "root.pem", "realm.bundle", "realm.keys"}
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    ann = load_identity(folder)
    assert repr(ann.realm.tag_key) not in repr(ann) + repr(vars(ann))


def test_a_key_that_others_can_read_is_refused_with_the_command_that_helps(mine: Path) -> None:
    for mode in (0o640, 0o604, 0o620, 0o644):
        (mine / "key.pem").chmod(mode)
        assert refused(mine).endswith(f"Run: chmod 600 {mine / 'key.pem'}")
    (mine / "key.pem").chmod(0o400)
    load_identity(mine)


@pytest.mark.parametrize("name", ["key.pem", "leaf.pem", "realm.bundle", "root.pem", "realm.keys"])
def test_a_missing_or_damaged_file_is_named(mine: Path, name: str) -> None:
    path = mine / name
    good = path.read_bytes()
    for bad in (b"{}", b"\xff\xfe", b"", good[: len(good) // 2]):
        path.write_bytes(bad)
        assert name in refused(mine) or str(mine) in refused(mine)
    path.unlink()
    if name == "leaf.pem":
        with pytest.raises(NoIdentity, match=r"atomd join TOKEN.*electros login TOKEN"):
            load_identity(mine)
    else:
        assert f"{name} is missing" in refused(mine)
    path.mkdir()
    assert "can't be read" in refused(mine)


def test_a_file_that_is_far_too_long_is_not_read_by_half(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FILE_MAX_BYTES", (mine / "realm.bundle").stat().st_size - 1)
    assert "realm.bundle can't be read: File too large" in refused(mine)


def test_no_folder_at_all_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(NoIdentity, match="electros login"):
        load_identity(tmp_path / "none")


def test_the_key_must_be_the_leafs_and_on_p256(realms: Path, mine: Path) -> None:
    shutil.copy(realms / "home/h1/key.pem", mine / "key.pem")
    assert "not the key of leaf.pem" in refused(mine)
    files.write(mine / "key.pem", files.key_pem(ec.generate_private_key(ec.SECP384R1())))
    assert "not a P-256 key" in refused(mine)


def test_parts_of_another_realm_are_noticed(realms: Path, mine: Path) -> None:
    for name in ("root.pem", "realm.bundle", "leaf.pem", "realm.keys"):
        before = (mine / name).read_bytes()
        shutil.copy(realms / "away/bob" / name, mine / name)
        assert refused(mine)
        (mine / name).write_bytes(before)
    load_identity(mine)


def test_an_expired_leaf_says_whose_and_since_when_and_one_of_tomorrow_asks_for_the_clock(mine: Path) -> None:
    ann = load_identity(mine)
    said = refused(mine, ann.expires_s + 1)
    assert "user ann" in said
    assert "expired on 20" in said
    assert said.endswith("electros login TOKEN")
    assert load_identity(mine, wall_s=ann.expires_s + 1, allow_expired=True).principal.name == "ann"
    assert load_identity(mine, wall_s=ann.expires_s).principal.name == "ann"
    assert "clock" in refused(mine, time.time() - DAY_S)


# ---- learning


def test_what_is_learned_counts_at_once_and_is_there_after_a_restart(home: Realm) -> None:
    h1, ann, wall_s = home["h1"], home["ann"], time.time()
    revocation = home.issuer.revoke("user", "ann", "left", wall_s=wall_s)
    key = home.issuer.new_tag_key(b"k" * 32, number=2, wall_s=wall_s)
    assert h1.learn([revocation, key], wall_s)
    assert not h1.learn([revocation, key], wall_s)
    with pytest.raises(Untrusted, match="revoked"):
        h1.verifier.principal(ann.certificate, wall_s)
    assert (h1.realm.number, len(h1.realm.older)) == (2, 1)
    h1.save()
    again = load_identity(h1.folder)
    assert again.bundle.digest == h1.bundle.digest
    assert again.realm.tag_key == b"k" * 32
    ann.learn([revocation], wall_s)
    assert ann.is_revoked
    assert not ann.is_due(wall_s)


def test_a_tag_key_of_before_is_let_go_after_a_while(home: Realm) -> None:
    h1, wall_s = home["h1"], time.time()
    h1.learn([home.issuer.new_tag_key(b"k" * 32, number=2, wall_s=wall_s)], wall_s)
    assert h1.realm.older
    h1.tick(wall_s + 601)
    assert not h1.realm.older


def test_an_anchor_has_tls_set_up_anew_and_a_revocation_has_not(home: Realm) -> None:
    h1, wall_s = home["h1"], time.time()
    h1.learn([home.issuer.revoke("user", "ann", "", wall_s=wall_s)], wall_s)
    assert h1.version == 0
    h1.learn([next_anchor(home.root, h1.bundle, wall_s=wall_s)], wall_s)
    assert h1.version == 1


def test_two_processes_of_one_member_come_to_know_the_same(home: Realm) -> None:
    one, wall_s = home["h1"], time.time()
    other = load_identity(one.folder)
    first = home.issuer.revoke("user", "a" * 64, "", wall_s=wall_s)
    second = home.issuer.revoke("user", "b" * 64, "", wall_s=wall_s)
    key = home.issuer.new_tag_key(b"k" * 32, number=2, wall_s=wall_s)
    one.learn([first], wall_s)
    other.learn([second, key], wall_s)
    one.save()
    other.save()
    one.refresh()
    disk = load_identity(one.folder)
    for each in (one, other, disk):
        assert len(each.bundle.revocations) == 2
        assert each.realm.number == 2
    issued = home.issuer.renew(one.certificate, make_request(one.key, "h1"), wall_s=wall_s)
    one.adopt_leaf(issued.leaf)  # of the same second as the one before
    other.refresh()
    assert other.certificate == issued.leaf
    assert other.version == 1


def test_what_an_issuer_of_before_revoked_is_not_lost_between_two_processes(home: Realm) -> None:
    one, wall_s = home["h1"], time.time()
    other, key = load_identity(one.folder), new_key()
    revocation = home.issuer.revoke("user", "ann", "", wall_s=wall_s)
    both = next_anchor(home.root, one.bundle, wall_s=wall_s, add=key.public_key())
    one.learn([revocation, both], wall_s)
    one.learn([next_anchor(home.root, one.bundle, wall_s=wall_s, drop=one.bundle.issuers[0].key_id)], wall_s)
    assert len(one.bundle.orphans) == 1
    one.save()
    other.refresh()
    other.save()
    assert len(other.bundle.revocations) == 1


def test_a_damaged_disk_is_mended_by_what_is_known(home: Realm) -> None:
    h1, wall_s = home["h1"], time.time()
    h1.learn([home.issuer.revoke("user", "ann", "", wall_s=wall_s)], wall_s)
    (h1.folder / "realm.bundle").write_bytes(b"half")
    (h1.folder / "root.pem").unlink()
    h1.refresh()
    h1.save()
    assert len(load_identity(h1.folder).bundle.revocations) == 1


def rotate(realm: Realm, identity: Identity) -> list[Signed[Message]]:
    """A new root, that a member who was away hears of in one go, with a new issuer and a new key of tags."""
    wall_s = time.time()
    root, begun = rotate_root(realm.root, identity.bundle)
    between = identity.bundle.add(begun)
    finished = finish_rotation(root, between)
    key = realm.issuer.new_tag_key(b"k" * 32, number=2, wall_s=wall_s)
    return [begun, finished, key, realm.issuer.revoke("user", "ann", "", wall_s=wall_s)]


@pytest.mark.parametrize("writes", range(4))
def test_a_crash_between_any_two_writes_of_saving_leaves_an_identity(home: Realm, writes: int) -> None:
    h1 = home["h1"]
    documents = rotate(home, h1)
    h1.learn(documents, time.time())
    with crash_at(writes) as written, suppress(Crash):
        h1.save()
    assert len(written) == min(writes, 3)
    again = load_identity(h1.folder)
    again.learn(documents, time.time())
    again.save()
    whole = load_identity(h1.folder)
    assert whole.bundle.digest == h1.bundle.digest
    assert whole.bundle.anchor.epoch == 3
    assert whole.realm.number == 2


@pytest.mark.parametrize("writes", range(5))
def test_a_crash_between_any_two_writes_of_taking_a_leaf_leaves_an_identity(home: Realm, writes: int) -> None:
    """The leaf is by an issuer that only the newest anchor names."""
    h1, wall_s, key = home["h1"], time.time(), new_key()
    anchor = next_anchor(home.root, h1.bundle, wall_s=wall_s, add=key.public_key())
    h1.learn([anchor], wall_s)
    issuer = h1.bundle.issuers[-1].certificate
    leaf = to_der(make_leaf(h1.key.public_key(), "host", "h1", issuer, key, wall_s=wall_s, days=30))
    with crash_at(writes), suppress(Crash):
        h1.adopt_leaf(leaf)
    again = load_identity(h1.folder)
    assert again.certificate in (leaf, home["h1"].certificate)
    assert again.principal == h1.principal


# ---- its own leaf


def test_a_leaf_is_due_at_two_thirds_of_its_life_however_short(home: Realm) -> None:
    h1 = home["h1"]
    made_s = h1.starts_s + BACKDATE_S
    for life_s in (30.0, 3600.0, 30 * DAY_S):
        h1.expires_s = made_s + life_s
        assert not h1.is_due(made_s)
        assert not h1.is_due(made_s + life_s * 0.66)
        assert h1.is_due(made_s + life_s * 0.67)


def test_a_leaf_that_ends_with_its_grant_is_not_asked_for_again_and_again(home: Realm) -> None:
    ann = home.add("bob", replace(SMALL, until_s=int(time.time()) + 1000))
    assert not ann.is_due(ann.expires_s - 1)


def test_a_superseded_leaf_is_due_at_once_and_the_next_one_has_the_new_grant(home: Realm) -> None:
    ann, wall_s = home["ann"], time.time()
    change = home.issuer.change("ann", SMALL, wall_s=wall_s)
    home["h0"].learn([change], wall_s)
    assert not ann.is_due(wall_s)
    ann.learn([change], wall_s)
    assert ann.is_due(wall_s)
    ann.adopt_leaf(home.issuer.renew(ann.certificate, make_request(ann.key, "x"), wall_s=wall_s).leaf)
    assert ann.principal.grant == SMALL
    assert not ann.is_due(wall_s)
    assert load_identity(ann.folder).principal.grant == SMALL


def test_only_ones_own_newer_leaf_is_taken(home: Realm) -> None:
    ann, h1, wall_s = home["ann"], home["h1"], time.time()
    request = make_request(ann.key, "x")
    wide = ann.certificate
    newer = home.issuer.renew(wide, request, wall_s=wall_s + 9).leaf
    ann.adopt_leaf(newer)
    assert ann.version == 1
    for leaf, reason in ((wide, "older"), (h1.certificate, "somebody else's"), (b"", "can't be read")):
        with pytest.raises(Untrusted, match=reason):
            ann.adopt_leaf(leaf)
    change = home.issuer.change("ann", SMALL, wall_s=wall_s + 99)
    ann.learn([change], wall_s)
    with pytest.raises(Untrusted, match="revoked"):
        ann.adopt_leaf(newer)
    assert ann.certificate == load_identity(ann.folder, wall_s=wall_s + 99).certificate == newer


# ---- TLS


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


SHUT = r"(?i)certificate|hung up|reset|EOF|pipe"


def test_a_handshake_tells_both_who_the_other_is(realms: Path) -> None:
    h1, h2, ann = (load_identity(realms / "home" / name) for name in ("h1", "h2", "ann"))
    for client in (ann, h2):
        served, connected = shake(server_tls(h1), client_tls(client))
        with served, connected:
            assert connected.version() == "TLSv1.3"
            assert peer_principal(connected, ann.verifier, time.time())[0] == h1.principal
            assert peer_principal(served, h1.verifier, time.time())[0] == client.principal
            assert connected.session is None or not connected.session.has_ticket


def test_a_foreign_realm_is_shut_out_on_either_side(realms: Path) -> None:
    for server, client in (("home/h1", "away/bob"), ("away/h1", "home/ann")):
        with pytest.raises(OSError, match=SHUT):
            shake(server_tls(load_identity(realms / server)), client_tls(load_identity(realms / client)))


def test_a_client_without_a_certificate_is_shut_out_unless_it_may_join(realms: Path) -> None:
    h1 = load_identity(realms / "home/h1")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    for certificate in (*h1.bundle.roots, *(issuer.certificate for issuer in h1.bundle.issuers)):
        client.load_verify_locations(cadata=to_pem(certificate).decode())
    with pytest.raises(OSError, match=SHUT):
        shake(server_tls(h1), client)
    served, connected = shake(server_tls(h1, joining=True), client)
    with served, connected, pytest.raises(Untrusted, match="no certificate"):
        peer_principal(served, h1.verifier, time.time())


def test_a_user_cannot_pose_as_a_host(realms: Path) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)purpose"):
        shake(server_tls(load_identity(realms / "home/ann")), client_tls(load_identity(realms / "home/h2")))


def test_tls_1_2_is_not_spoken(realms: Path) -> None:
    old = client_tls(load_identity(realms / "home/ann"))
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(OSError, match=r"(?i)version|hung up|reset|EOF"):
        shake(server_tls(load_identity(realms / "home/h1")), old)


def test_who_knows_the_old_root_alone_still_talks_to_who_knows_both(home: Realm) -> None:
    h1, ann = home["h1"], home["ann"]
    root, begun = rotate_root(home.root, h1.bundle)
    h1.learn([begun], time.time())
    for server, client in ((h1, ann), (home["h0"], ann)):
        served, connected = shake(server_tls(server), client_tls(client))
        served.close()
        connected.close()
    finished = finish_rotation(root, h1.bundle)
    h1.learn([finished], time.time())
    served, connected = shake(server_tls(h1), client_tls(ann))
    with served, connected:
        assert peer_principal(connected, ann.verifier, time.time())[0].name == "h1"
        assert peer_principal(served, h1.verifier, time.time())[0].name == "ann"


def test_a_peer_is_known_by_pem_and_der_too(realms: Path) -> None:
    ann = load_identity(realms / "home/ann")
    pem = (realms / "home/ann/leaf.pem").read_text()
    assert pem_to_der(pem) == ann.certificate
    assert peer_principal(ann.certificate, ann.verifier, time.time())[0] == ann.principal
    for bad in ("", "x", "\ud800", pem[:100]):
        with pytest.raises(Untrusted, match="can't be read"):
            pem_to_der(bad)
    with pytest.raises(Untrusted, match="no certificate"):
        peer_principal(b"", ann.verifier, time.time())
