"""Keeps a host's membership alive: tells and hears the realm's news, fetches what is missing, renews its own leaf.

Both daemons of a host have the same identity folder, and a front door with what they know. atomd does the work;
storaged does it where there is no atomd. Who does not do it hears the same news, knows at once what they say, and takes
up from the disk what it missed.
What is decided is decided in `matcher.trust.spreading`; this file moves bytes.
"""

import contextlib
import dataclasses
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from random import SystemRandom
from typing import Protocol

import trio

from matcher.gossip.roster import Record
from matcher.net import multicast
from matcher.net.https import Connection, Door, Unanswered, Unreachable
from matcher.net.peer import now_s
from matcher.trust.certificates import Scope, Untrusted
from matcher.trust.documents import Signed, read_documents
from matcher.trust.identity import Identity
from matcher.trust.issuing import ENDING_S, IssueError, Issuer
from matcher.trust.peers import load_peers, save_peers
from matcher.trust.principal import Principal
from matcher.trust.requests import make_request
from matcher.trust.spreading import Effect, Fetch, Give, Peer, Save, Spreading, Tell
from matcher.wire.codec import encode, to_json
from matcher.wire.envelope import HOSTS, TAG_KEY_BYTES, Kind, TooLong, seal
from matcher.wire.messages import Message, Refused
from matcher.wire.realm import Admitted, News, Renew, TagKey, UserUse
from specs.ids import HostId

REFRESH_S = 1.0
FETCH_S = 5.0
RENEW_RETRY_S = 600.0
WARN_AFTER_S = 86_400.0
STALE_AFTER_S = 7 * 86_400.0
WARN_AGAIN_S = 3600.0
PEERS_SAVED_S = 60.0
SAVE_AGAIN_S = 10.0  # after the disk could not take it
NEW_KEY_WITHIN_S = 60.0  # so that of several issuers one replaces the tag key, and the others hear of it

log = logging.getLogger("realm")


def stale(identity: Identity, wall_s: float) -> str | None:
    """Why this host may take nothing new: it is no member any more, or nobody has told it for long who is; `None` where
    it may."""
    if not identity.verifier.is_member("host", identity.principal.id):
        return "it was removed from its realm"
    heard_s = identity.bundle.heard_s(wall_s)
    if heard_s is not None and wall_s - heard_s < STALE_AFTER_S:
        return None
    age = f"for {(wall_s - heard_s) / 86_400:.0f} days" if heard_s is not None else "ever"
    return f"it has not heard of its realm's issuers {age}, and so not of who was revoked"


class Heard(Protocol):
    """What `Spreading` asks of gossip; see there."""

    @property
    def hosts_known(self) -> int: ...

    def hears(self, host_id: HostId) -> bool: ...


class Upkeep:
    """One daemon's part. `port`: of its front door. `is_first`: it does the work, also where the host's other daemon is
    there. `uses` are told to the other hosts."""

    def __init__(
        self,
        identity: Identity,
        *,
        port: int,
        is_first: bool = True,
        multicast_port: int = multicast.PORT,
        uses: Callable[[], Sequence[UserUse]] = tuple,
        hears_uses: Callable[[HostId, str, Sequence[UserUse], float], None] = lambda *_: None,
    ) -> None:
        self.identity = identity
        self.issuer: Issuer | None = None  # of this host, where it has one
        self.gossip: Heard | None = None  # once it is there
        self._multicast_port, self._hears_uses = multicast_port, hears_uses
        self._random = SystemRandom()
        self._spreading = Spreading(
            identity,
            host=identity.principal.name,
            host_id=HostId(identity.principal.id),
            port=port,
            random=self._random,
            uses=uses,
            peers=load_peers(identity.folder),
            hosts_known=lambda: self.gossip.hosts_known if self.gossip is not None else 0,
            hears=lambda host_id: self.gossip is not None and self.gossip.hears(host_id),
            now_s=now_s(),
        )
        self._nursery: trio.Nursery | None = None
        self._is_first = is_first
        self._uses, self._told = uses, tuple[UserUse, ...]()
        self._works = False
        self._save_again_s = float("inf")
        self._present: int | None = None
        self._saved_peers: tuple[Peer, ...] = ()
        self._save_peers_s = self._renew_s = self._warn_s = self._beat_s = float("-inf")
        self._new_key_s = float("inf")
        self._warned_of_end_s = 0.0

    @property
    def peers(self) -> tuple[Peer, ...]:
        return tuple(self._spreading.peers.values())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; started once this daemon knows whether the work is its own."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                self._work()
                task_status.started()
                while True:
                    await trio.sleep(self._until_due_s())
                    self._work()
            finally:
                if self._present is not None:
                    os.close(self._present)

    def hears_news(self, news: News, host: Principal, address: str) -> None:
        """`Intake` has heard another host, and has judged that it is one."""
        if host.id != self.identity.principal.id:
            self._hears_uses(HostId(host.id), news.host, news.uses, now_s())
        if not self._works or host.id == self.identity.principal.id:  # of our own host as well: two daemons, one word
            self.identity.learn(read_documents(news.fresh), time.time())
        else:
            self._perform(self._spreading.heard(news, HostId(host.id), address, now_s(), time.time()))

    def hears_difference(self, record: Record) -> None:
        """Gossip has heard of a host that knows something else of the realm."""
        if self._works and record.alive.front_door_port:
            at = record.alive.addresses[0]
            self._spreading.differs(Peer(record.host_id, record.name, at.ip, record.alive.front_door_port), now_s())

    def publish(self, documents: Iterable[Signed[Message]]) -> None:
        """What our issuer made, or an admin brought: known here and on the disk when this returns, and told to all.

        Raises `OSError` where the disk can't take it; it is told all the same, since a revocation that one host will
        have forgotten is better than none.
        """
        effects = self._spreading.made(documents, now_s(), time.time())
        self._perform(effect for effect in effects if effect != Save())
        if Save() in effects:
            self._save()

    def keep(self) -> None:
        """Before anybody is told that something is known already: it may be in memory alone, where a full disk did not
        take it. Raises `OSError`."""
        if self._save_again_s < float("inf"):
            self._save()

    def new_key(self) -> Signed[TagKey]:
        """The tag key that replaces today's; to be published. Raises `IssueError`."""
        assert self.issuer is not None
        number = self.identity.key_number + 1
        return self.issuer.new_tag_key(os.urandom(TAG_KEY_BYTES), number=number, wall_s=time.time())

    # ---- inside

    def _until_due_s(self) -> float:
        """Who leaves the work to the other daemon only looks what that one wrote."""
        if not self._works:
            return REFRESH_S
        return min(REFRESH_S, max(0.01, self._spreading.next_deadline_s() - now_s()))

    def _work(self) -> None:
        """Everything that is due. A daemon that is not the one to do it only keeps its eyes open."""
        wall_s = time.time()
        self.identity.tick(wall_s)
        self.identity.refresh()
        self._works = self._is_mine()
        if not self._works:
            return
        if (uses := tuple(self._uses())) != self._told:
            self._told = uses
            self._spreading.tell_soon(now_s())
        if now_s() >= self._save_again_s:
            self._try_to_save()
        self._perform(self._spreading.tick(now_s(), wall_s))
        self._issue(wall_s)
        self._replace_key(wall_s)
        self._renew(wall_s)
        self._warn(wall_s)
        self._keep_peers()

    def _is_mine(self) -> bool:
        """atomd shows that it is there and does the work; storaged does it while atomd is not there."""
        if self._present is None:
            self._present = os.open(self.identity.folder / ".upkeep", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if self._is_first:
            fcntl.flock(self._present, fcntl.LOCK_SH)
            return True
        try:
            fcntl.flock(self._present, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        fcntl.flock(self._present, fcntl.LOCK_UN)
        return True

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Save():
                    self._try_to_save()
                case Tell(news=news):
                    self._tell(news)
                case Fetch(peer=peer):
                    if self._nursery is not None:
                        self._nursery.start_soon(self._fetch, peer)
                case Give(peer=peer, documents=documents):
                    if self._nursery is not None:
                        self._nursery.start_soon(self._give, peer, documents)

    def _save(self) -> None:
        """Raises `OSError`, and then it is tried again: the next news may be long in coming."""
        self._save_again_s = now_s() + SAVE_AGAIN_S
        self.identity.save()
        self._save_again_s = float("inf")

    def _try_to_save(self) -> None:
        try:
            self._save()
        except OSError as error:
            log.error("what the realm says can't be kept on the disk: %s", error)

    def _tell(self, news: News) -> None:
        datagram = sealed(news, self.identity)
        if datagram is not None:
            multicast.tell(datagram, self._multicast_port)

    async def _fetch(self, peer: Peer) -> None:
        answer = await trio.to_thread.run_sync(self._ask, peer, "GET", "/v1/realm/bundle", None, abandon_on_cancel=True)
        if answer is None:
            self._spreading.not_fetched(peer, now_s())
        else:
            self._perform(self._spreading.fetched(peer, answer, now_s(), time.time()))

    async def _give(self, peer: Peer, documents: bytes) -> None:
        post = "POST", "/v1/realm/documents", documents
        await trio.to_thread.run_sync(self._ask, peer, *post, abandon_on_cancel=True)

    def _ask(self, peer: Peer, method: str, path: str, body: bytes | None) -> bytes | None:
        """Another host's answer, blocking; `None` where it gives none."""
        door = Door(peer.name, peer.host_id, peer.address, peer.port)
        try:
            with Connection(self.identity, door, timeout_s=FETCH_S) as connection:
                answer = connection.ask_bytes(method, path, body)
        except (Unreachable, Unanswered) as error:
            log.info("%s was asked about the realm, %s %s: %s", peer.name, method, path, error)
            return None
        return None if isinstance(answer, Refused) else answer

    def _issue(self, wall_s: float) -> None:
        """An issuer shows that it lives, and stands in for those that are no more."""
        documents = self.issuer.due(self.identity.tag_keys, now_s(), wall_s) if self.issuer is not None else []
        if not documents:
            return
        try:
            self.publish(documents)
        except OSError as error:
            log.error("a heartbeat can't be kept on the disk: %s", error)

    def _replace_key(self, wall_s: float) -> None:
        """What could not be done at once when somebody was revoked, or not by the issuer that did it."""
        if self.issuer is None or Scope.HOSTS not in self.issuer.scopes or not self.identity.is_key_due(wall_s):
            self._new_key_s = float("inf")
            return
        if self._new_key_s == float("inf"):
            self._new_key_s = now_s() + self._random.uniform(0, NEW_KEY_WITHIN_S)
        if now_s() < self._new_key_s:
            return
        self._new_key_s = float("inf")
        try:
            self.publish([self.new_key()])
        except OSError as error:
            log.error("a new tag key can't be kept on the disk: %s", error)

    def _renew(self, wall_s: float) -> None:
        if now_s() < self._renew_s + RENEW_RETRY_S or self._nursery is None:
            return
        if not self.identity.is_due(wall_s) and not self._is_orphan():
            return
        self._renew_s = now_s()
        self._nursery.start_soon(self._renew_leaf)

    def _is_orphan(self) -> bool:
        """The root has dropped the issuer that made our leaf."""
        try:
            self.identity.verifier.certified(self.identity.certificate)
        except Untrusted:
            return True
        return False

    async def _renew_leaf(self) -> None:
        """From our own issuer where there is one, else from whoever gives it."""
        mine = self.identity.principal
        request = make_request(self.identity.key, mine.name)
        if self.issuer is not None:
            with contextlib.suppress(IssueError):
                self._adopt(self._made_here(self.issuer, request))
                return
        body = to_json(Renew(request)).encode()
        for peer in self.peers:
            answer = await trio.to_thread.run_sync(self._ask_renewal, peer, body, abandon_on_cancel=True)
            if answer is not None:
                self._adopt(answer.leaf)
                return
        if self._is_orphan():
            log.warning("the realm's root has dropped the issuer that let this host in: atomd join --again TOKEN")
            return
        log.warning("nobody renews this host's certificate, which ends in %s", _days(self.identity.expires_s))

    def _made_here(self, issuer: Issuer, request: bytes) -> bytes:
        """An issuer stays a member by its own word, whichever other one has let it in. Raises `IssueError`."""
        wall_s, addresses, mine = time.time(), own_addresses(), self.identity
        if self._is_orphan():
            return issuer.admit("host", mine.principal.name, request, None, wall_s=wall_s, addresses=addresses).leaf
        return issuer.renew(mine.certificate, request, wall_s=wall_s, addresses=addresses).leaf

    def _ask_renewal(self, peer: Peer, body: bytes) -> Admitted | None:
        door = Door(peer.name, peer.host_id, peer.address, peer.port)
        try:
            with Connection(self.identity, door, timeout_s=FETCH_S) as connection:
                answer = connection.ask("POST", "/v1/realm/renewals", Admitted, body)
        except (Unreachable, Unanswered):
            return None
        return None if isinstance(answer, Refused) else answer

    def _adopt(self, leaf: bytes) -> None:
        try:
            self.identity.adopt_leaf(leaf)
            log.info("this host's certificate was renewed; it ends in %s", _days(self.identity.expires_s))
        except (Untrusted, OSError) as error:
            log.error("a renewed certificate can't be used: %s", error)

    def _warn(self, wall_s: float) -> None:
        heard_s = self.identity.bundle.heard_s(wall_s)
        is_old = heard_s is None or wall_s - heard_s > WARN_AFTER_S
        if is_old and now_s() > self._warn_s + WARN_AGAIN_S:
            self._warn_s = now_s()
            since = f"for {_days(wall_s, heard_s)}" if heard_s is not None else "yet"
            log.warning("no issuer of the realm was heard %s; after 7 days this host takes no new VMs", since)
        entry = self.issuer.entry if self.issuer is not None else None
        if entry is not None and entry.ends_s - wall_s < ENDING_S and entry.ends_s != self._warned_of_end_s:
            self._warned_of_end_s = entry.ends_s
            mine = self.identity.principal.name
            log.warning(
                "the certificate of this host's issuer ends in %s; where the root key is: electros realm issuer add %s",
                _days(entry.ends_s, wall_s),
                mine,
            )

    def _keep_peers(self) -> None:
        if now_s() < self._save_peers_s + PEERS_SAVED_S or self.peers == self._saved_peers:
            return
        self._save_peers_s, self._saved_peers = now_s(), self.peers
        with contextlib.suppress(OSError):  # they are heard of again
            save_peers(self.identity.folder, self.peers)


def own_addresses() -> tuple[str, ...]:
    """This machine's, one or two of each link, as others can reach it."""
    return tuple(ip for link in multicast.links() for ip in (link.ipv4, link.ipv6) if ip)


def sealed(news: News, identity: Identity) -> bytes | None:
    """Whole, or with less where that does not fit a datagram."""
    for fitting in (news, dataclasses.replace(news, uses=()), dataclasses.replace(news, uses=(), fresh=b"")):
        with contextlib.suppress(TooLong):
            return seal(Kind.NEWS, encode(fitting), realm=identity.realm.spoken, signer=identity, audience=HOSTS)
    return None


def _days(until_s: float, since_s: float | None = None) -> str:
    seconds = until_s - (time.time() if since_s is None else since_s)
    return f"{seconds / 86_400:.1f} days"
