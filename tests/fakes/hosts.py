"""Hosts for the client's tests: real TLS, real certificates and a real issuer, with a dictionary for a daemon.

`Link` stands for the network: who is on it answers queries, if it would: by its tag keys and revocations. What one host
learns, the others learn at once, unless they are `away`.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from ssl import SSLError, SSLSocket
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from matcher.cli import folders
from matcher.net.client import Said
from matcher.net.https import Connection, Door
from matcher.net.interrupts import Interrupts
from matcher.trust.certificates import Untrusted, public_key_of
from matcher.trust.documents import Signed, read_documents
from matcher.trust.grants import Narrowing
from matcher.trust.identity import Identity, peer_principal, server_tls
from matcher.trust.issuing import IssueError, Issuer, entry_of
from matcher.trust.joining import ALPN, admit
from matcher.trust.principal import Principal, fingerprint
from matcher.trust.requests import make_request
from matcher.trust.tokens import ID_BYTES, SECRET_BYTES, TOKEN_S, Tokens
from matcher.wire.codec import decode, encode, from_json, to_json
from matcher.wire.framing import frame
from matcher.wire.messages import Answer, Message, Query, Reason, Refused, Role, VmViews
from matcher.wire.realm import (
    Admitted,
    ChangeGrant,
    Done,
    HostUse,
    Invited,
    InviteHost,
    InviteUser,
    Join,
    Members,
    RealmStatus,
    Renew,
    Revoke,
    Use,
    UserUses,
    Verb,
    Welcome,
    WhoAmI,
)
from specs.ids import HostId
from tests.fakes.realms import Realm, make_realm

STATUS = {"not-found": 404, "denied": 403}
FOR_ADMINS = ("hosts", "users", "grants", "revocations", "members", "uses", "issuers")


@dataclass
class Host:
    """One host. `asked` are the requests that it has had; `answers` are told in place of its own."""

    link: "Link"
    identity: Identity
    issuer: Issuer | None = None
    role: Role = Role.COMPUTE
    narrowing: Narrowing = field(default_factory=Narrowing)
    uses: dict[str, Use] = field(default_factory=dict)
    heard: list[HostUse] = field(default_factory=list)
    vms: int = 0
    away: bool = False
    asked: list[str] = field(default_factory=list)
    answers: dict[str, Message] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tokens = Tokens()
        self.issuer_key = generate_private_key(SECP256R1())
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def name(self) -> str:
        return self.identity.principal.name

    @property
    def id(self) -> HostId:
        return HostId(self.identity.principal.id)

    @property
    def door(self) -> Door:
        return Door(self.name, self.id, "127.0.0.1", self.port)

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def hears(self, user: Identity) -> bool:
        mine = self.identity.realm
        try:
            self.identity.verifier.principal(user.certificate, time.time())
        except Untrusted:
            return False
        return user.realm.tag_key in (mine.tag_key, *mine.older)

    def answer(self, query: Query) -> Said:
        said = Answer(
            query.query_id,
            self.name,
            self.role,
            self.port,
            1,
            "0.1",
            len(mine.vms) if isinstance(mine := self.answers.get("GET /v1/vms"), VmViews) else 0,
            "CPU",
            "X86_64",
            "kvm",
            4,
            4,
            9,
            9,
            self.vms,
            0,
            realm=self.identity.short_digest,
        )
        return Said(said, self.id, "127.0.0.1")

    def learn(self, *documents: Signed[Any]) -> None:
        """As the host itself would; the others on the link hear of it."""
        for host in self.link.hosts:
            if host is self or not host.away:
                host.identity.learn(documents, time.time())

    # ---- the door

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listening.accept()
            except OSError:
                return
            context = server_tls(self.identity, joining=self.tokens.is_open(time.monotonic()))
            context.set_alpn_protocols([ALPN])
            with suppress(SSLError, OSError), context.wrap_socket(plain, server_side=True) as tls:
                if tls.selected_alpn_protocol() == ALPN:
                    self._join(tls)
                else:
                    self._request(tls)

    def _join(self, tls: SSLSocket) -> None:
        tls.sendall(frame([encode(Welcome(self.identity.bundle.to_bytes()))]))
        lines = tls.makefile("rb")
        join = decode(Join, lines.read(int.from_bytes(lines.read(4), "big")), max_bytes=8192)
        admitted = admit(
            join,
            self.tokens,
            self._desk(),
            self.identity,
            server_leaf=self.identity.certificate,
            addresses=[],
            now_s=time.monotonic(),
            wall_s=time.time(),
        )
        tls.sendall(frame([encode(admitted if isinstance(admitted, Refused) else admitted[0])]))

    def _request(self, tls: SSLSocket) -> None:
        lines = tls.makefile("rb")
        method, path, _ = lines.readline().decode().split()
        length = 0
        while line := lines.readline().strip():
            name, _, value = line.decode().partition(":")
            length = int(value) if name.lower() == "content-length" else length
        body = lines.read(length)
        self.asked.append(f"{method} {path}")
        answer = self.answers.get(f"{method} {path}") or self._judged(tls, method, path, body)
        data = answer if isinstance(answer, bytes) else to_json(answer).encode()
        status = STATUS.get(answer.code, 409) if isinstance(answer, Refused) else 200
        tls.sendall(b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%s" % (status, len(data), data))

    def _judged(self, tls: SSLSocket, method: str, path: str, body: bytes) -> Message | bytes:
        leaf = tls.getpeercert(binary_form=True)
        assert leaf is not None
        try:
            who, _ = peer_principal(tls, self.identity.verifier, time.time())
        except Untrusted as error:
            if error.reason == "its certificate is from no issuer of this realm":
                return Refused("denied", (Reason("certificate", "a user of this realm", error.reason, ""),))
            who = self.identity.verifier.certified(leaf).principal
            is_superseded = path == "/v1/realm/renewals" and self.identity.verifier.is_member(who.kind, who.id)
            if not is_superseded:
                return Refused("denied", (Reason("certificate", "a user of this realm", error.reason, ""),))
        word, _, rest = path.removeprefix("/v1/").removeprefix("realm/").partition("/")
        route: Callable[..., Message | bytes] | None = getattr(self, f"_{method.lower()}_{word}", None)
        if route is None:
            return Refused("not-found", (Reason("path", path, "no such path", ""),))
        if word in ("hosts", "users", "grants", "revocations", "members", "uses", "issuers") and not who.may(
            Verb.ADMIN
        ):
            return Refused("denied", (Reason("verb", "admin", "not granted", ""),))
        try:
            return route(leaf if word == "renewals" else who, rest or body)
        except IssueError as error:
            return Refused(error.code, (Reason("realm", path, error.said, error.helps),))

    def _desk(self) -> Issuer:
        if self.issuer is None or self.issuer.entry is None:
            raise IssueError("not-an-issuer", f"{self.name} does not issue", "ask h0")
        return self.issuer

    def _get_whoami(self, who: Principal, _: bytes) -> WhoAmI:
        here, use = self.narrowing.narrowed(who.grant), self.uses.get(who.id, Use())
        return WhoAmI(who.name, who.id, self.identity.realm_name, self.name, 2_000_000_000, who.grant, here, use)

    def _get_realm(self, _: Principal, __: bytes) -> RealmStatus:
        bundle = self.identity.bundle
        heard_s = bundle.heard_s()
        return RealmStatus(
            bundle.anchor.realm_id,
            bundle.anchor.name,
            self.name,
            bundle.anchor.epoch,
            tuple(fingerprint(public_key_of(root)) for root in bundle.roots),
            tuple(entry.key_id.hex() for entry in bundle.issuers),
            len(bundle.revocations),
            self.identity.realm.number,
            int(time.time() - heard_s) if heard_s is not None else -1,
            self.issuer is not None and self.issuer.entry is not None,
            self.tokens.count(time.monotonic()),
            self.issuer.entry.key_id.hex() if self.issuer is not None and self.issuer.entry else "",
            tuple(int(entry.ends_s) for entry in bundle.issuers),
        )

    def _get_bundle(self, _: Principal, __: bytes) -> bytes:
        return frame([self.identity.bundle.to_bytes(), self.identity.tag_key_documents()])

    def _post_documents(self, _: Principal, body: bytes) -> Done:
        self.learn(*read_documents(body))
        return Done("taken in")

    def _post_renewals(self, leaf: bytes, body: bytes) -> Admitted:
        issued = self._desk().renew(leaf, from_json(Renew, body).request, wall_s=time.time())
        return Admitted(issued.leaf, self.identity.tag_key_documents())

    def _post_hosts(self, who: Principal, body: bytes) -> Invited:
        return self._token(who, "host", from_json(InviteHost, body).name, None)

    def _post_users(self, who: Principal, body: bytes) -> Invited:
        asked = from_json(InviteUser, body)
        if self._desk().is_taken("user", asked.name, time.time()):
            raise IssueError("name-taken", f"there is a user {asked.name} in this realm already", "another name")
        return self._token(who, "user", asked.name, asked.grant)

    def _token(self, who: Principal, kind: Any, name: str, grant: Any) -> Invited:
        self._desk()
        token = self.tokens.issue(
            kind,
            name=name,
            grant=grant,
            by=who.name,
            root=fingerprint(public_key_of(self.identity.bundle.roots[0])),
            addresses=["127.0.0.1"],
            port=self.port,
            random=os.urandom(ID_BYTES + SECRET_BYTES),
            now_s=time.monotonic(),
        )
        assert token is not None
        return Invited(token.text(), int(TOKEN_S))

    def _post_grants(self, _: Principal, body: bytes) -> Done:
        asked = from_json(ChangeGrant, body)
        self.learn(self._desk().change(asked.name, asked.grant, wall_s=time.time()))
        return Done(f"{asked.name} has another grant")

    def _post_revocations(self, _: Principal, body: bytes) -> Done:
        asked = from_json(Revoke, body)
        self.learn(self._desk().revoke(asked.kind, asked.member, asked.why, wall_s=time.time()))
        return Done(f"{asked.kind} {asked.member[:8]} is revoked")

    def _get_members(self, _: Principal, __: bytes) -> Members:
        return Members(self._desk().members(time.time()))

    def _get_uses(self, _: Principal, user_id: str) -> UserUses:
        return UserUses(self.uses.get(user_id, Use()), tuple(self.heard))

    def _post_issuers(self, _: Principal, __: bytes) -> Renew:
        return Renew(self.issuer.request(self.name) if self.issuer else make_request(self.issuer_key, self.name))

    def is_issuer(self) -> bool:
        return entry_of(self.issuer_key, self.identity.bundle) is not None


class Link:
    """The hosts that a client's multicast reaches. `Client` is what a session uses in place of its own."""

    def __init__(self, realm: Realm, *names: str) -> None:
        self.realm = realm
        self.hosts: list[Host] = []
        for name in names:
            self.hosts.append(Host(self, realm[name], realm.issuer if name == "h0" else None))
        self.silent: set[str] = set()  # asked by multicast, they say nothing

    def __getitem__(self, name: str) -> Host:
        return next(host for host in self.hosts if host.name == name)

    def asked(self, request: str) -> list[str]:
        """The names of those who have had this request."""
        return [host.name for host in self.hosts if request in host.asked]

    def client(
        self, identity: Identity, *, known: tuple[Door, ...] = (), soon: object = (), relays: object = None
    ) -> "FakeClient":
        return FakeClient(self, identity, known)

    def close(self) -> None:
        for host in self.hosts:
            host.close()


class FakeClient:
    """A client whose multicast is a function call; its HTTPS is real."""

    relay: Door | None = None
    has_heard_near = True

    def now_s(self) -> float:
        return time.monotonic()

    def __init__(self, link: Link, identity: Identity, known: tuple[Door, ...]) -> None:
        self.link, self.identity, self.known = link, identity, known
        self.interrupts = Interrupts()
        self._said: list[Said] = []

    def __enter__(self) -> "FakeClient":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, query: Query) -> None:
        self._said = [
            host.answer(query)
            for host in self.link.hosts
            if host.name not in self.link.silent and not host.away and host.hears(self.identity)
        ]

    def hear(self, until_s: float) -> Iterator[Said]:
        if not self._said:
            time.sleep(max(0.0, until_s - time.monotonic()))
        while self._said:
            yield self._said.pop(0)

    def connect(self, door: Door, *, timeout_s: float) -> Connection:
        return Connection(self.identity, door, timeout_s=timeout_s)


@contextmanager
def on_link(realm: Realm, *names: str) -> Iterator[Link]:
    link = Link(realm, *names)
    try:
        yield link
    finally:
        link.close()


def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG folders of one's own, and nothing in them."""
    for kind in ("CONFIG", "STATE", "CACHE", "DATA"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", str(tmp_path / kind.lower()))
    monkeypatch.setenv("ATOMOS_CONTEXT", "")
    folders.config_folder().mkdir(parents=True)


@contextmanager
def keyboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> Iterator[Link]:
    """ada, who may do everything, sits at a keyboard; h0, which issues, and hosts of these names are on her link."""
    empty_home(tmp_path, monkeypatch)
    realm = make_realm(tmp_path / "realm", *names, "ada")
    realm["ada"].folder.rename(folders.identity_folder())
    with on_link(realm, "h0", *names) as link:
        monkeypatch.setattr("matcher.cli.session.Client", link.client)
        yield link
