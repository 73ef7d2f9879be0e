"""Who shows a certificate that is not what it should be gets nothing for it, by datagram or at a front door."""

import base64
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.x509 import Certificate, Extension, ObjectIdentifier, UnrecognizedExtension

from matcher.net.door.routes import ROUTES, Route, Who
from matcher.trust.certificates import Scope, make_issuer, make_root, to_der
from matcher.trust.documents import write_document
from matcher.trust.identity import load_identity, load_key
from matcher.wire.framing import frame
from matcher.wire.realm import Anchor, Grant, Heartbeat, Revocation, TagKey, Verb
from tests.attacks.attacking import audit
from tests.attacks.conftest import HOSTS
from tests.attacks.forge import ADDRESSES, Forge, nobody_gets_in, refusal
from tests.attacks.impostor import FAKE_PORT
from tests.fakes.forging import with_extensions, with_serial
from tests.fakes.realms import new_key
from tests.lab.conftest import ROOT, Lab
from tests.lab.vms import Vms, electros, login_as

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
    "larger grant by one's own key": Wrong(
        lambda forge, key: with_extensions(forge.leaf(key), key), "DECRYPT_ERROR", "no issuer"
    ),
    "larger grant by an issuer of one's own": Wrong(self_made, "UNKNOWN_CA", "no issuer"),
}


@dataclass(frozen=True)
class Tried:
    """`outcomes` by the way in which a leaf is wrong: HTTP status (0: none came), what was said, answers heard."""

    outcomes: dict[str, dict[str, Any]]
    dropped: dict[str, Counter[str]]


@pytest.fixture(scope="module")
def tried(forge: Forge, users_only: EllipticCurvePrivateKey) -> Tried:
    """All of them, one by one."""
    by_users_only = {"by": users_only, "issuer": forge.certificate_of(users_only)}
    folders = {way: forge.made_by(wrong.make) for way, wrong in WRONG.items()}
    folders["host by an issuer of users"] = forge.made("h9", "host", **by_users_only)
    folders["admin by an issuer of users"] = forge.made("mallory", **by_users_only)
    with nobody_gets_in(forge.lab) as watched:
        outcomes = forge.does(do="tries", host=ADDRESSES["h1"], folders=folders)
    return Tried(outcomes, watched.dropped)


def test_a_leaf_of_the_same_making_that_is_right_is_served(forge: Forge, users_only: EllipticCurvePrivateKey) -> None:
    """Else all the refusals below would prove nothing."""
    folders = {
        "all": forge.made(),
        "users": forge.made(by=users_only, issuer=forge.certificate_of(users_only), grant=NO_ADMIN),
    }
    for said in forge.does(do="tries", host=ADDRESSES["h1"], folders=folders).values():
        assert (said["status"], said["heard"]) == (200, len(HOSTS))


SAID = {way: wrong.said for way, wrong in WRONG.items()} | {
    "host by an issuer of users": "may not make such",
    "admin by an issuer of users": "may not make such",
}


@pytest.mark.parametrize("way", SAID)
def test_a_leaf_that_is_wrong_in_one_way_is_good_for_nothing(tried: Tried, way: str) -> None:
    outcome = tried.outcomes[way]
    assert outcome["status"] in (0, 403)
    assert SAID[way] in outcome["said"]
    assert outcome["heard"] == 0


def test_what_came_with_a_wrong_leaf_is_counted_for_what_it_was(tried: Tried) -> None:
    wanted = Counter(wrong.counted for wrong in WRONG.values()) + Counter({"from an issuer that": 2})
    for host in HOSTS:
        for reason, count in wanted.items():
            assert sum(n for name, n in tried.dropped[host].items() if reason in name) == count, tried.dropped


# ---- one kind of member as the other


@pytest.fixture(scope="module")
def mallory(forge: Forge) -> str:
    """A user of the realm, who is no admin."""
    return forge.made(grant=NO_ADMIN)


def worthless(forge: Forge, folder: str, before: bytes) -> list[bytes]:
    """Documents that this member has signed, and others that nobody stands behind any more."""
    key, realm_id = load_key(Path(folder)), str(forge.host("h1").verifier.realm_id)
    admin = load_identity(Path(forge.member)).principal.id
    root = make_root(key, "home", wall_s=time.time())
    foreign = Anchor(realm_id, "home", 99, frame([to_der(root)]), frame([]))
    return [
        before,
        frame([write_document(Revocation(realm_id, "user", admin, 0, 0, "out"), key).data]),
        frame([write_document(Heartbeat(realm_id, int(time.time() * 1000), 0), key).data]),
        frame([write_document(TagKey(realm_id, 99, bytes(32), 0), key).data]),
        frame([write_document(foreign, key).data]),
    ]


@pytest.mark.parametrize("kind", ["user", "host"])
def test_who_brings_an_older_bundle_or_documents_of_their_own_changes_nothing(
    forge: Forge, users_only: EllipticCurvePrivateKey, before: bytes, mallory: str, kind: str
) -> None:
    bringer = mallory if kind == "user" else forge.host_folder("h2")
    asks = [(host, "POST", "/v1/realm/documents", body) for host in HOSTS for body in worthless(forge, bringer, before)]
    assert forge.bundle.anchor.epoch == 2
    with nobody_gets_in(forge.lab):
        for said in forge.ask(bringer, *asks):
            assert (said["status"], json.loads(said["said"])) == (200, {"said": "nothing of it was new"})
    assert forge.bundle.anchor.epoch == 2


def test_what_a_user_tells_as_news_is_not_heard(forge: Forge, before: bytes, mallory: str) -> None:
    revocation = base64.b64encode(worthless(forge, mallory, before)[1]).decode()
    with nobody_gets_in(forge.lab) as watched:
        forge.does(do="news", **{"as": mallory}, host="h9", fresh=revocation)
    for host in HOSTS:
        assert watched.dropped[host]["its certificate is not a host's"] >= 1
    assert forge.get(mallory, "h1", "/v1/whoami")["status"] == 200


def test_a_host_may_not_do_what_is_for_users(forge: Forge) -> None:
    """Neither by a pledge nor at any route."""
    h2 = forge.host_folder("h2")
    routes = [route for route in ROUTES if route.who is Who.USER and not route.websocket]
    with nobody_gets_in(forge.lab) as watched:
        tried = forge.does(do="tries", host=ADDRESSES["h1"], folders={"h2": h2})["h2"]
        said = forge.ask(h2, *[("h1", route.method, path_of(route), b"{}") for route in routes])
    assert tried["heard"] == 0
    assert all(watched.dropped[host]["its certificate is not a user's"] >= 1 for host in HOSTS)
    for route, each in zip(routes, said, strict=True):
        assert refusal(each) == (403, "denied"), route.name
        assert "host's" in each["said"]


def path_of(route: Route, vm_id: str = "0" * 32) -> str:
    return route.path.replace("{id}", vm_id).replace("{user}", "0" * 64)


def test_a_user_may_not_do_what_is_for_hosts(forge: Forge, mallory: str) -> None:
    routes = [route for route in ROUTES if route.who is Who.HOST]
    assert {route.name for route in routes} == {"attach", "detach", "relayed"}
    with nobody_gets_in(forge.lab):
        said = forge.ask(mallory, *[("h1", route.method, path_of(route), b"{}") for route in routes])
    assert [refusal(each) for each in said] == [(403, "denied")] * len(said)
    assert all("user's" in each["said"] for each in said)


# ---- a grant


def test_an_admins_verb_is_refused_to_who_lacks_it_and_audited(forge: Forge, mallory: str) -> None:
    """Every route that there is for admins."""
    routes = [route for route in ROUTES if route.verb is Verb.ADMIN]
    assert len(routes) >= 6
    mine = load_identity(Path(mallory)).principal
    with nobody_gets_in(forge.lab):
        said = forge.ask(mallory, *[(host, route.method, path_of(route), b"{}") for host in HOSTS for route in routes])
    assert [refusal(each) for each in said] == [(403, "denied")] * len(said)
    assert all("admin" in each["said"] for each in said)
    for host in HOSTS:
        lines = [line for line in audit(forge.lab, host) if line["who"] == f"user mallory {mine.id[:16]}"]
        assert {line["about"] for line in lines} >= {f"{route.method} {route.path}" for route in routes}
        assert {(line["what"], line["outcome"]) for line in lines} == {("denied", "refused: denied")}


def test_who_was_granted_no_verb_may_do_nothing_that_needs_one(forge: Forge) -> None:
    nothing = forge.made("nobody", grant=Grant())
    routes = [route for route in ROUTES if route.verb is not None and not route.websocket]
    with nobody_gets_in(forge.lab):
        heard = forge.does(do="tries", host=ADDRESSES["h1"], folders={"nobody": nothing})["nobody"]["heard"]
        said = forge.ask(nothing, *[("h1", route.method, path_of(route), b"{}") for route in routes])
    assert heard == len(HOSTS), "each says that the grant lacks it"
    assert [refusal(each) for each in said] == [(403, "denied")] * len(said)


def test_another_users_vm_is_as_little_there_as_one_that_nobody_has(forge: Forge, mallory: str, tmp_path: Path) -> None:
    """By every route that names one."""
    routes = [route for route in ROUTES if route.path.startswith("/v1/vms/{id}") and not route.websocket]
    assert {"vm", "stop", "remove", "reboot", "console_log"} <= {route.name for route in routes}
    vms = Vms(forge.lab, tmp_path)
    vm_id = vms.run("private", host="h1")["id"].replace("-", "")
    try:
        with nobody_gets_in(forge.lab):
            theirs, nobodys = (
                forge.ask(mallory, *[("h1", route.method, path_of(route, each), b"") for route in routes])
                for each in (vm_id, "0" * 32)
            )
            where = {"host": ADDRESSES["h1"], "path": f"/v1/vms/{vm_id}/console", "for_s": 0}
            console = forge.does(do="linger", **{"as": mallory}, **where)
        assert theirs == nobodys
        assert " 404 " in console["said"]
        assert [refusal(each) for each in theirs] == [(404, "not-found")] * len(routes)
        assert vms.ps()["private"]["state"] == "running"
    finally:
        vms.remove_all()


def test_another_users_private_volume_is_as_little_there_as_one_that_nobody_has(forge: Forge, mallory: str) -> None:
    """By every route that names one, whatever it asks."""
    bodies: dict[str, bytes] = {
        "change_volume": b'{"name":"mine"}',
        "clone_volume": b'{"vid":"%s","name":"mine","private":false}' % (b"5" * 32),
        "take_snapshot": b'{"name":"s"}',
        "drop_snapshot": b'{"name":"s"}',
        "roll_back": b'{"name":"s"}',
    }
    routes = [route for route in ROUTES if route.path.startswith("/v1/volumes/{id}")]
    assert {"volume", "remove_volume", "take_over", *bodies} <= {route.name for route in routes}
    words = ("volume", "create", "--size", "0.125", "--name", "hidden", "--private", "--host", "h1")
    vid = electros(forge.lab, *words).document["volume"]["vid"]
    try:
        with nobody_gets_in(forge.lab):
            theirs, nobodys = (
                forge.ask(
                    mallory,
                    *[("h1", route.method, path_of(route, each), bodies.get(route.name, b"")) for route in routes],
                )
                for each in (vid.replace("-", ""), "0" * 32)
            )
        assert theirs == nobodys
        assert [refusal(each) for each in theirs] == [(404, "not-found")] * len(routes)
        assert electros(forge.lab, "volume", "inspect", vid).document["volume"]["name"] == "hidden"
    finally:
        electros(forge.lab, "volume", "rm", "--yes", vid)


# ---- a host that is none


@dataclass(frozen=True)
class Victim:
    """`words` make a command theirs; `known`: the hosts that they have heard of."""

    words: list[str]
    known: Path


@pytest.fixture(scope="module")
def victim(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Victim:
    homes = tmp_path_factory.mktemp("homes")
    words = login_as(forge.lab, "victim", homes)
    return Victim(words, homes / "victim/cache/atomos/default/hosts.json")


@contextmanager
def pretending(forge: Forge, leaf: str, door: str) -> Iterator[dict[str, int]]:
    """Somebody on h2 who offers as h9 what no host has, with a front door of that key; what came to them, once it is
    over."""
    came: dict[str, int] = {}
    running = forge.lab.popen("h2", *forge.words({"do": "host", "as": leaf, "door": door, "for_s": 20}))
    assert running.stdout is not None
    assert json.loads(running.stdout.readline())["open"]
    try:
        yield came
    finally:
        running.terminate()
        came |= json.loads(running.communicate(timeout=30)[0].splitlines()[-1])


@pytest.mark.parametrize(
    ("leaf", "door", "asked", "confirmed"),
    [
        ("host", "the same", True, True),  # else the others would prove nothing
        ("host", "another host's", True, False),
        ("host", "a user's", True, False),
        ("user", "the same", False, False),
    ],
)
def test_a_client_confirms_to_none_but_the_host_whose_key_has_signed_the_offer(
    forge: Forge, victim: Victim, tmp_path: Path, leaf: str, door: str, asked: bool, confirmed: bool
) -> None:
    shown = forge.made("h9", "host") if leaf == "host" else forge.made("h9")
    key = {"the same": shown, "another host's": forge.host_folder("h2"), "a user's": forge.made("h9")}[door]
    spec = Vms(forge.lab, tmp_path).specfile({"slots": 3, "ramsize": 64})
    with nobody_gets_in(forge.lab), pretending(forge, shown, key) as came:
        ended = forge.lab.exec("client", *victim.words, "run", spec, check=False)
    assert ended.returncode != 0
    assert came["pledges"] >= 1
    assert (came["connections"] >= 1, came["bytes"] > 0) == (asked, confirmed), (came, ended.stderr)


def test_a_client_that_was_told_a_wrong_address_says_nothing_there(
    forge: Forge, victim: Victim, tmp_path: Path
) -> None:
    """What it remembers of hosts tells where to look, and never whom to trust."""
    vms, h9 = Vms(forge.lab, tmp_path), forge.made("h9", "host")
    forge.lab.exec("client", *victim.words, "hosts")
    entries = json.loads(victim.known.read_text())
    elsewhere = {"id": "f" * 64, "name": "h3", "address": ADDRESSES["h2"], "port": FAKE_PORT}
    wrong = {"h3": {**next(entry for entry in entries.values() if entry["role"] == "compute"), **elsewhere}}
    too_long = vms.volumespec(*[f"{number:032x}" for number in range(0xB0, 0xB0 + 16)])  # for a datagram
    with nobody_gets_in(forge.lab), pretending(forge, h9, h9) as came:
        victim.known.write_text(json.dumps(entries | wrong))
        ended = forge.lab.exec("client", *victim.words, "run", vms.specfile(), "--volumes", too_long, check=False)
    assert ended.returncode != 0
    assert came["connections"] >= 1
    assert came["bytes"] == 0


def test_what_mdns_says_makes_no_host_known(forge: Forge) -> None:
    """Hosts answer there, and heed nothing; a client does not listen, and hosts are found by signed answers alone."""
    lab = forge.lab
    assert lab.exec("client", "ss", "-Hlun", "sport", "=", ":5353").stdout == ""
    before = electros(lab, "hosts").document
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from matcher.net import multicast as m, discovery as d;"
        "told = d.Announced('ab' * 8, '0' * 16, d.Role.COMPUTE, 9);"
        "[m.ask(s, d.answer(told), l, d.PORT, groups=(d.GROUP_4, d.GROUP_6))"
        " for s in m.asking_sockets() for l in m.links() for _ in range(50)]"
    )
    lab.exec("client", str(ROOT / ".venv/bin/python"), "-c", code)
    after = electros(lab, "hosts").document
    assert [host["id"] for host in after["hosts"]] == [host["id"] for host in before["hosts"]]
