"""A host's membership: what of it lies on the disk (`Home`), and one run of what keeps it (`Upkeep`).

`Upkeep` stands in for `matcher.net.upkeep` and the front door's desk, event for event, on virtual time. Everything that
decides is real: `Identity` with its files, `Spreading`, `Intake`, `Issuer`, sealed datagrams, leaves held against the
bundle. A crash can come before any effect, and between any two files of a save.
"""

import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Protocol

from matcher.net.intake import Arrival, Intake
from matcher.net.upkeep import FETCH_S, PEERS_SAVED_S, SAVE_AGAIN_S, sealed
from matcher.trust import files
from matcher.trust.bundle import Bundle
from matcher.trust.certificates import Untrusted
from matcher.trust.documents import Signed, read_documents
from matcher.trust.identity import load_identity
from matcher.trust.issuing import IssueError, open_issuer
from matcher.trust.peers import load_peers, save_peers
from matcher.trust.principal import Principal, PrincipalKind
from matcher.trust.spreading import Effect, Fetch, Give, Peer, Save, Spreading, Tell
from matcher.wire.envelope import TAG_KEY_BYTES
from matcher.wire.framing import frame
from matcher.wire.messages import Answer, Message, Pledge, Query, Reveal
from matcher.wire.realm import News
from specs.ids import HostId
from tests.fakes.realms import Crash, crash_at
from tests.sim import papers
from tests.sim.network import Network
from tests.sim.timeline import Process

if TYPE_CHECKING:
    from tests.sim.host import Host

PORT = 7766
REALM_FILES = ("realm.bundle", "realm.keys", "root.pem")


class NotDone(Exception):
    """The admin has to ask again: here later, or elsewhere."""


class Home:
    """The folder of one host's identity. It outlives the daemon; a backup of it may come back."""

    def __init__(self, folder: Path, number: int, hosts: int) -> None:
        self.folder, self.number = folder, number
        papers.lay_out(folder, number, hosts)
        if number > 1:  # where it has joined
            save_peers(folder, [Peer(papers.host_id(1), "h1", papers.address_of(1), PORT)])
        self._backup = self._content()

    def back_up(self) -> None:
        self._backup = self._content()

    def restore(self) -> None:
        for name, content in self._backup.items():
            files.write(self.folder / name, content)

    def _content(self) -> dict[str, bytes]:
        return {name: files.read(self.folder / name) for name in REALM_FILES}


class Watcher(Protocol):
    """Whoever judges a run; see `invariants`."""

    def saved(self, host: "Host", bundle: Bundle) -> None: ...


class Upkeep:
    """One daemon's part. `others`: all hosts there are. `later` and `may_crash` are the daemon's."""

    def __init__(
        self,
        host: "Host",
        *,
        others: Sequence["Host"],
        network: Network,
        later: Callable[[float, Callable[[], None]], None],
        may_crash: Callable[[], None],
    ) -> None:
        self._host, self._others, self._network = host, others, network
        self._later, self._may_crash = later, may_crash
        self._timeline: Process = host.timeline
        self._random: Random = host.random
        self.identity = load_identity(host.home.folder, wall_s=host.wall_s, allow_expired=True)
        self.identity.tick(host.wall_s)
        self.issuer = open_issuer(host.home.folder / "issuer", self.identity)
        self._intake = Intake(self.identity, _Deaf(), hears_news=self._hears_news)
        self._spreading = Spreading(
            self.identity,
            host=host.name,
            host_id=host.host_id,
            port=PORT,
            random=self._random,
            peers=load_peers(host.home.folder),
            hears=self._hears,
            hosts_known=lambda: len(others),
            now_s=self._now_s,
        )
        self._planned_s = float("-inf")
        self._save_peers_s = self._now_s
        self._save_again_s = float("inf")

    def work(self) -> None:
        """Everything that is due; once a second, and when `Spreading` wants it."""
        self.identity.tick(self._host.wall_s)
        if self._now_s >= self._save_again_s:
            self._save()
        self._perform(self._spreading.tick(self._now_s, self._host.wall_s))
        self._issue()
        if self._now_s >= self._save_peers_s + PEERS_SAVED_S:
            self._save_peers_s = self._now_s
            save_peers(self._host.home.folder, tuple(self._spreading.peers.values()))

    def receive(self, datagram: bytes, source: str) -> None:
        arrival = Arrival(socket.AF_INET, 0, source)
        self._intake.receive(datagram, arrival, now_s=self._now_s, wall_ms=int(self._host.wall_s * 1000))

    def bundle_for(self, leaf: bytes) -> bytes | None:
        """What the front door gives to who shows `leaf`; `None`: the handshake fails."""
        return None if self._judged(leaf) is None else self._known()

    def offered(self, documents: bytes, leaf: bytes) -> None:
        """They prove themselves, whoever brings them."""
        if self._judged(leaf) is not None:
            self.publish(list(read_documents(documents)))

    # ---- what admins do here; all raise `NotDone`, and what they did may be known all the same

    def revoke(self, kind: PrincipalKind, member_id: str) -> None:
        """Returns once it is on the disk. A host that is removed takes the tag key with it."""
        wall_s, issuer = self._host.wall_s, self.issuer
        if issuer is None or (self._save_again_s < float("inf") and not self._save()):
            raise NotDone
        try:
            documents: list[Signed[Message]] = [issuer.revoke(kind, member_id, "", wall_s=wall_s)]
            if kind == "host":
                key, number = self._random.randbytes(TAG_KEY_BYTES), self.identity.key_number + 1
                documents.append(issuer.new_tag_key(key, number=number, wall_s=wall_s))
        except IssueError as error:
            if error.code == "revoked":
                return
            raise NotDone from error
        self.publish(documents)

    def publish(self, documents: Iterable[Signed[Message]]) -> None:
        effects = self._spreading.made(documents, self._now_s, self._host.wall_s)
        self._perform(effect for effect in effects if effect != Save())
        if Save() in effects and not self._save():
            raise NotDone

    # ---- inside

    @property
    def _now_s(self) -> float:
        return self._timeline.now_s

    def _hears(self, host_id: HostId) -> bool:
        """As gossip would: that host is up, on our side, and tags with a key that is good here."""
        host = self._others[papers.number_of(host_id) - 1]
        if host.daemon is None or host.is_cut_from(self._host):
            return False
        return self.identity.realm.understands(host.daemon.upkeep.identity.realm)

    def _hears_news(self, news: News, host: Principal, address: str) -> None:
        if host.id != self._host.host_id:
            self._perform(self._spreading.heard(news, HostId(host.id), address, self._now_s, self._host.wall_s))

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            self._may_crash()
            match effect:
                case Save():
                    self._save()
                case Tell(news=news):
                    self._tell(news)
                case Fetch(peer=peer):
                    self._fetch(peer)
                case Give(peer=peer, documents=documents):
                    self._give(peer, documents)
        self._plan()

    def _plan(self) -> None:
        due_s = max(self._spreading.next_deadline_s(), self._now_s + 0.01)
        if self._planned_s <= self._now_s or due_s < self._planned_s:
            self._planned_s = due_s
            self._later(due_s - self._now_s, self.work)

    def _save(self) -> bool:
        host = self._host
        if host.disk.is_full:
            self._timeline.note(f"{host.name} can't save what it knows of the realm")
            self._save_again_s = self._now_s + SAVE_AGAIN_S
            return False
        try:
            with crash_at(self._random.randrange(3) if host.happens(host.faults.crash) else len(REALM_FILES)):
                self.identity.save()
        except Crash:
            host.dies()
        self._save_again_s = float("inf")
        host.watcher.saved(host, self.identity.bundle)
        return True

    def _tell(self, news: News) -> None:
        datagram = sealed(news, self.identity)
        assert datagram is not None
        address = papers.address_of(self._host.home.number)
        for other in self._others:
            if other is not self._host:
                self._network.datagram(
                    lambda other=other: other.hears(datagram, address),  # type: ignore[misc]
                    cut=other.is_cut_from(self._host),
                )

    def _fetch(self, peer: Peer) -> None:
        host, other = self._host, self._at(peer)

        def asked(reply: Callable[[bytes | None], None]) -> None:
            assert other.daemon is not None
            reply(other.daemon.upkeep.bundle_for(self.identity.certificate))

        def answered(answer: bytes | None) -> None:
            server = self._judged(papers.host_leaf(other.home.number))
            if answer is None or server is None or server.id != peer.host_id:
                failed(True)
                return
            self._timeline.note(f"{host.name} has fetched from {other.name}")
            self._perform(self._spreading.fetched(peer, answer, self._now_s, host.wall_s))

        def failed(sent: bool) -> None:
            self._spreading.not_fetched(peer, self._now_s)
            self._plan()

        mine = host.daemon
        self._network.request(
            lambda: other.is_cut_from(host),
            lambda: other.daemon is not None,
            asked,
            answered=lambda answer: answered(answer) if host.daemon is mine else None,
            failed=lambda sent: failed(sent) if host.daemon is mine else None,
            timeout_s=FETCH_S,
        )

    def _give(self, peer: Peer, documents: bytes) -> None:
        host, other = self._host, self._at(peer)

        def offered(_: Callable[[None], None]) -> None:
            assert other.daemon is not None
            try:
                other.daemon.upkeep.offered(documents, self.identity.certificate)
            except NotDone:
                self._timeline.note(f"{other.name} can't keep what {host.name} gives")

        if self._judged(papers.host_leaf(other.home.number)) is not None:
            self._timeline.note(f"{host.name} gives to {other.name}")
            self._network.request(
                lambda: other.is_cut_from(host),
                lambda: other.daemon is not None,
                offered,
                answered=lambda _: None,
                failed=lambda _: None,
                timeout_s=FETCH_S,
            )

    def _at(self, peer: Peer) -> "Host":
        return self._others[papers.number_of(peer.host_id) - 1]

    def _issue(self) -> None:
        """An issuer shows that it lives, and stands in for those that are no more."""
        issuer, wall_s = self.issuer, self._host.wall_s
        documents = issuer.due(self.identity.tag_keys, self._now_s, wall_s) if issuer is not None else []
        if not documents:
            return
        try:
            self.publish(documents)
        except NotDone:
            self._timeline.note(f"{self._host.name} can't keep a heartbeat")

    def _judged(self, leaf: bytes) -> Principal | None:
        """Who is at the other end of a handshake."""
        try:
            principal, _ = self.identity.verifier.principal(leaf, self._host.wall_s)
        except Untrusted:
            return None
        return principal if principal.kind == "host" else None

    def _known(self) -> bytes:
        return frame([self.identity.bundle.to_bytes(), self.identity.tag_key_documents()])


class _Deaf:
    """Users' datagrams do not come this way: see `Daemon.pledge`."""

    def pledge(self, pledge: Pledge, user: Principal, now_s: float) -> tuple[()]:
        raise AssertionError(pledge)

    def reveal(self, reveal: Reveal, now_s: float) -> None:
        raise AssertionError(reveal)

    def query(self, query: Query, user: Principal) -> Answer:
        raise AssertionError(query)
