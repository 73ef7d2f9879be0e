"""Certificates of a lab's realm as a thief of its issuer could make them, and how to see that none of them counted."""

import base64
import json
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.x509 import Certificate

from atomd.config import ATOMCTL_SOCKET
from matcher.net import local
from matcher.trust import files
from matcher.trust.bundle import Bundle
from matcher.trust.certificates import Scope, make_leaf, to_der
from matcher.trust.documents import key_id
from matcher.trust.identity import Identity, load_identity, load_key
from matcher.trust.principal import PrincipalKind
from matcher.trust.realm import EVERYTHING
from matcher.trust.root import next_anchor, open_root
from matcher.wire.backdoor import AskStatus, HostStatus
from matcher.wire.framing import frame
from matcher.wire.realm import Grant
from tests.attacks.attacking import ROOT
from tests.attacks.conftest import HOSTS, nothing_changes
from tests.fakes.realms import new_key
from tests.lab.conftest import Lab

ADDRESSES = {"h1": "10.98.0.1", "h2": "10.98.0.2"}
IMPOSTOR = str(ROOT / "tests" / "attacks" / "impostor.py")


class Forge:
    """`member`: the folder of an honest admin, whose tag key every impostor has."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self._folder = lab, folder
        self.member = str(lab.folder("client") / "config/atomos/default")
        self.key = load_key(lab.folder("h1") / "lib/issuer")
        self.issuer = self.certificate_of(self.key)

    @property
    def bundle(self) -> Bundle:
        return self.host("h1").bundle

    def host(self, name: str) -> Identity:
        return load_identity(Path(self.host_folder(name)))

    def host_folder(self, name: str) -> str:
        return str(self.lab.folder(name) / "lib/identity")

    def certificate_of(self, key: EllipticCurvePrivateKey) -> Certificate:
        mine = key_id(key.public_key())
        return next(entry.certificate for entry in self.bundle.issuers if entry.key_id == mine)

    def leaf(
        self,
        key: EllipticCurvePrivateKey,
        name: str = "mallory",
        kind: PrincipalKind = "user",
        *,
        grant: Grant = EVERYTHING,
        since_s: float = 0.0,
        issuer: Certificate | None = None,
        by: EllipticCurvePrivateKey | None = None,
    ) -> Certificate:
        """For a day; `since_s` is counted from now."""
        return make_leaf(
            key.public_key(),
            kind,
            name,
            issuer or self.issuer,
            by or self.key,
            wall_s=time.time() + since_s,
            days=1,
            grant=grant if kind == "user" else None,
        )

    def folder(self, key: EllipticCurvePrivateKey, leaf: bytes | Certificate) -> str:
        """A folder to show it from."""
        der = leaf if isinstance(leaf, bytes) else to_der(leaf)
        made = self._folder / f"{key_id(key.public_key()).hex()}-{len(list(self._folder.iterdir()))}"
        files.make_folder(made)
        files.write(made / "key.pem", files.key_pem(key))
        files.write(made / "leaf.pem", ssl.DER_cert_to_PEM_cert(der).encode())
        for shared in ("root.pem", "realm.bundle", "realm.keys"):
            files.write(made / shared, files.read(Path(self.host_folder("h1")) / shared))
        return str(made)

    def made(self, name: str = "mallory", kind: PrincipalKind = "user", **more: Any) -> str:
        """The same for a new key."""
        key = new_key()
        return self.folder(key, self.leaf(key, name, kind, **more))

    def made_by(self, make: Callable[["Forge", EllipticCurvePrivateKey], bytes | Certificate]) -> str:
        key = new_key()
        return self.folder(key, make(self, key))

    def new_issuer(self, *scopes: Scope) -> EllipticCurvePrivateKey:
        """Named by the realm's root, and known to all hosts when this returns."""
        key = new_key()
        root = open_root(Path("/var/lib/atomos-lab", self.lab.name, "realm"))
        anchor = next_anchor(root, self.bundle, wall_s=time.time(), add=key.public_key(), scopes=scopes)
        for said in self.ask(
            self.member, *[(host, "POST", "/v1/realm/documents", frame([anchor.data])) for host in HOSTS]
        ):
            assert said["status"] == 200, said
        return key

    # ---- in the lab

    def does(self, at: str = "client", **job: Any) -> Any:
        """What came of a job of `tests.attacks.impostor`; of several lines, the last."""
        said = self.lab.exec(at, *self.words(job), timeout_s=120).stdout
        return json.loads(said.splitlines()[-1])

    def words(self, job: dict[str, Any]) -> tuple[str, ...]:
        return ("env", f"PYTHONPATH={ROOT}", "python3", IMPOSTOR, json.dumps({"member": self.member, **job}))

    def ask(self, folder: str, *asks: tuple[str, str, str, bytes]) -> list[dict[str, Any]]:
        """Requests with the certificate in `folder`: host, method, path, body."""
        each = [[ADDRESSES[host], method, path, base64.b64encode(body).decode()] for host, method, path, body in asks]
        return list(self.does(do="ask", **{"as": folder}, asks=each))

    def get(self, folder: str, host: str, path: str) -> dict[str, Any]:
        return self.ask(folder, (host, "GET", path, b""))[0]


def members(lab: Lab) -> list[tuple[str, str, str]]:
    """All that the realm's issuer has made."""
    records = json.loads((lab.folder("h1") / "lib/issuer/members.json").read_text())["records"]
    return [tuple(record["member"][key] for key in ("kind", "id", "state")) for record in records]


def statuses(lab: Lab) -> dict[str, HostStatus]:
    """What each host's back door tells of it, asked from outside by way of its init's root."""
    inits = {host["name"]: host["pid"] for host in lab.status()["hosts"]}
    return {host: _status(Path(f"/proc/{inits[host]}/root{ATOMCTL_SOCKET}")) for host in HOSTS}


def _status(back_door: Path) -> HostStatus:
    said = trio.run(lambda: local.ask(back_door, AskStatus(), HostStatus, timeout_s=10))
    assert isinstance(said, HostStatus)
    return said


def holds(lab: Lab) -> int:
    return sum(status.holds for status in statuses(lab).values())


def counted(status: HostStatus) -> Counter[str]:
    """How often datagrams were dropped, by reason."""
    return Counter({each.name.removeprefix("datagrams: "): each.count for each in status.counters})


def realm_of(status: HostStatus) -> tuple[int, int, int]:
    return status.epoch, status.revocations, status.key_number


@dataclass
class Watched:
    """`dropped`: what each host has counted meanwhile, once that is over."""

    dropped: dict[str, Counter[str]] = field(default_factory=dict)


@contextmanager
def nobody_gets_in(lab: Lab) -> Iterator[Watched]:
    """Nothing changes at all: no VM, no hold, no member, not what the realm says; and the daemons are the same."""
    watched, before = Watched(), statuses(lab)
    known = [load_identity(lab.folder(host) / "lib/identity").bundle.digest for host in HOSTS]
    made = members(lab)
    with nothing_changes(lab):
        yield watched
    after = statuses(lab)
    assert sum(status.holds for status in after.values()) == 0
    assert members(lab) == made
    assert [load_identity(lab.folder(host) / "lib/identity").bundle.digest for host in HOSTS] == known
    assert [realm_of(status) for status in after.values()] == [realm_of(status) for status in before.values()]
    watched.dropped = {host: counted(after[host]) - counted(before[host]) for host in HOSTS}


def refusal(said: dict[str, Any]) -> tuple[int, str]:
    """Status and code of a typed no."""
    return said["status"], json.loads(said["said"]).get("code", "")
