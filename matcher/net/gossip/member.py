"""The loop of a host's member: sockets and time in, datagrams out.

What waits in the sockets is heard before any time is looked at: a daemon that was stopped must not hold against others
what it did not read. All that is decided is decided in `matcher.gossip`, synchronously.
"""

import errno
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from random import SystemRandom

import trio

from matcher.gossip.effects import Changed, Differs, Effect, Shout
from matcher.gossip.membership import Membership, Seen
from matcher.gossip.roster import HOSTS_MAX, Record, short_of
from matcher.gossip.voice import Way
from matcher.net import multicast
from matcher.net.gossip import seeds as seeding
from matcher.net.gossip.scribe import Lacking, Scribe
from matcher.net.gossip.sockets import PORT, Came, Refused, Sockets
from matcher.net.gossip.speaking import Parts
from matcher.net.peer import LINKS_RESCAN_S, now_s
from matcher.trust.certificates import Untrusted
from matcher.trust.identity import Identity
from matcher.wire.codec import BadBytes
from matcher.wire.gossip import MARK_BYTES, Alive, Digest, HostState, Says, Statement
from matcher.wire.messages import Address, Role
from specs.ids import HostId

LOOK_S = 1.0  # so often it is looked whether what is free has changed, if nobody says so
BIND_AGAIN_S = 0.2
TAKEN_S = 5.0
KEEP_S = 30.0
SEEDS_AGAIN_S = 300.0
BATCHES_MAX = 16  # before others have a turn

log = logging.getLogger("gossip")


class Member:
    """One daemon's part. `digest`: what it knows of what is free on this host. `changed` is called after `hosts_known`
    or any host's state has changed, `differs` for a host that knows something else of the realm; `seeds` are as in
    `matcher.net.gossip.seeds`."""

    def __init__(
        self,
        identity: Identity,
        *,
        digest: Callable[[], Digest],
        role: Role = Role.COMPUTE,
        front_door_port: int = 0,
        port: int = PORT,
        seeds: Sequence[str] = (),
        changed: Callable[[], None] = lambda: None,
        differs: Callable[[Record], None] = lambda _: None,
    ) -> None:
        self.scribe = Scribe(identity)
        self._identity, self._digest, self._front_door_port = identity, digest, front_door_port
        self._port, self._named_seeds, self._changed = port, tuple(seeds), changed
        self._differs = differs
        self._parts = Parts(identity.folder, role)
        self._sockets: Sockets | None = None
        self._core: Membership | None = None
        self._heard_of = 0
        self._logged: dict[HostId, HostState] = {}
        self._told: dict[HostId, tuple[tuple[int, int], float]] = {}  # which version of its word was heard when
        self._spoke_s = float("inf")
        self._wake, self._due_s = trio.Event(), float("inf")
        self._kept_s, self._kept = float("-inf"), 0
        self._bundle, self._leaf = identity.short_digest, identity.certificate

    # ---- what the daemon asks

    @property
    def counters(self) -> Counter[str]:
        """Why something was not heard."""
        return self.scribe.counters

    @property
    def hosts_known(self) -> int:
        """How many hosts of the realm live, as far as is known here; this one with them."""
        return self._core.hosts_known if self._core is not None else self._heard_of

    def hosts(self) -> list[Seen]:
        return self._core.hosts() if self._core is not None else []

    def far(self) -> list[Seen]:
        """Those that may not hear this host's multicast."""
        core = self._core
        return [seen for seen in core.hosts() if core.is_far(seen.record.short)] if core is not None else []

    def state(self, host_id: HostId) -> HostState | None:
        """What is known of this host; `None` for nothing. `GONE` alone permits to run elsewhere what ran there."""
        return self._core.state_of(host_id) if self._core is not None else None

    def hears(self, host_id: HostId) -> bool:
        """Whether it lives, as far as is known here, and is heard with the realm's key of today."""
        return self.state(host_id) is HostState.ALIVE

    @property
    def listens_s(self) -> float:
        """For how long it has listened to others; below 0 where it does not."""
        return now_s() - self._spoke_s if self._core is not None else -1.0

    def told_s(self, record: Record) -> float:
        """How long ago this word of a host came here; below 0 where that is not known. This host's own is of now."""
        version, heard_s = self._told.get(record.host_id, ((-1, -1), 0.0))
        if self.is_me(record):
            return 0.0
        return now_s() - heard_s if version == record.version else -1.0

    def held_against(self, record: Record) -> tuple[list[tuple[str, Says]], float]:
        """Who says what against this host, by name, and when its time to object is over."""
        trouble = self._core.roster.troubles.get(record.short) if self._core is not None else None
        if self._core is None or trouble is None:
            return [], float("inf")
        records = self._core.roster.records
        by = {short: records[short].name if short in records else short.hex() for short, _ in trouble.charges}
        return [(by[short], says) for short, says in trouble.charges], trouble.due_s

    @property
    def realm(self) -> str:
        """The digest of what this host knows of its realm."""
        return self._identity.short_digest

    def is_me(self, record: Record) -> bool:
        return record.host_id == self._identity.principal.id

    def look(self) -> None:
        """What is free here may have changed: told to all at once, where it has."""
        digest = self._digest()
        self._parts.write(digest)
        if self._core is not None:
            self._perform(self._core.tell(self._parts.joined(digest), now_s()))

    # ---- the loop

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled, and then it says that it leaves. Started once this daemon speaks, or knows that the other
        does."""
        self._parts.open()
        try:
            while True:
                self._parts.write(self._digest())
                if self._parts.speaks:
                    sockets = await self._bound()
                    await self._speak(sockets, task_status)
                else:
                    self._heard_of = seeding.hosts_kept(self._identity.folder)
                    self._changed()
                    task_status.started()
                    await trio.sleep(LOOK_S)
                task_status = trio.TASK_STATUS_IGNORED
        finally:
            self._parts.close()

    async def _bound(self) -> Sockets:
        """The other daemon lets go of the port once it sees this one. Who else has it keeps this host from hearing of
        others, and no more."""
        warn_s = now_s() + TAKEN_S
        while True:
            try:
                return Sockets(self._port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            if now_s() > warn_s:
                warn_s = float("inf")
                log.warning("another program has UDP port %d: no gossip until it is free (gossip_port)", self._port)
            await trio.sleep(BIND_AGAIN_S)

    async def _speak(self, sockets: Sockets, task_status: trio.TaskStatus[None]) -> None:
        sockets.follow(multicast.links())
        self._sockets = sockets
        self._core = core = self._member(sockets)
        self._spoke_s = now_s()
        self._told.clear()
        try:
            async with trio.open_nursery() as nursery:
                for each in sockets.all:
                    nursery.start_soon(self._hear, each)
                nursery.start_soon(self._keep_time)
                nursery.start_soon(self._follow)
                nursery.start_soon(self._seed)
                task_status.started()
                while self._parts.speaks:
                    await trio.sleep(LOOK_S)
                    self._look_around()
                nursery.cancel_scope.cancel()
        finally:
            if self._parts.speaks:
                self._perform(core.leave(now_s()))
            self._core, self._heard_of = None, core.hosts_known
            self._sockets = None
            sockets.close()

    def _member(self, sockets: Sockets) -> Membership:
        addresses = sockets.addresses() or (Address("127.0.0.1", sockets.port),)
        digest = self._parts.joined(self._digest())
        core = Membership(
            Alive(time.time_ns() // 1_000_000, 0, addresses, self._front_door_port, digest),
            self.scribe,
            random=SystemRandom(),
            now_s=now_s(),
            ahead_s=time.time() - now_s(),
            seeds=seeding.load(self._identity.folder),
        )
        self._bundle = self._identity.short_digest
        core.realm = _mark(self._bundle)
        return core

    async def _hear(self, readable: socket.socket) -> None:
        while True:
            await trio.lowlevel.wait_readable(readable)
            self._hear_waiting(readable)

    def _hear_waiting(self, readable: socket.socket) -> bool:
        """One batch; whether there was anything."""
        found = False
        assert self._sockets is not None
        for came in self._sockets.read(readable):
            found = True
            if isinstance(came, Refused):
                self._refused(came.data)
            else:
                self._heard(came)
        return found

    async def _keep_time(self) -> None:
        while True:
            assert self._core is not None
            self._wake, self._due_s = trio.Event(), self._core.next_deadline_s()
            with trio.move_on_after(max(0.0, self._due_s - now_s())):
                await self._wake.wait()
                continue
            assert self._sockets is not None
            for _ in range(BATCHES_MAX):
                if not any([self._hear_waiting(each) for each in self._sockets.all]):  # noqa: C419  each has its turn
                    break
            self._perform(self._core.tick(now_s()))

    async def _follow(self) -> None:
        """Links come and go, and what they are called by."""
        while True:
            await trio.sleep(LINKS_RESCAN_S)
            assert self._sockets is not None
            assert self._core is not None
            if self._sockets.follow(multicast.links()):
                self._perform(self._core.moved(self._sockets.addresses(), now_s()))

    async def _seed(self) -> None:
        while self._named_seeds:
            assert self._core is not None
            found = await trio.to_thread.run_sync(
                seeding.look_up, self._named_seeds, self._port, abandon_on_cancel=True
            )
            self._perform(self._core.seed(found))
            await trio.sleep(SEEDS_AGAIN_S)

    def _look_around(self) -> None:
        """What others have changed without telling: what is free, who is a member, this host's own leaf."""
        self.look()
        core, mine = self._core, self._identity
        assert core is not None
        if mine.short_digest != self._bundle:
            self._bundle = mine.short_digest
            core.realm = _mark(self._bundle)
            for seen in core.hosts():
                if not mine.verifier.is_member("host", seen.record.host_id):
                    self._perform(core.expel(seen.record.host_id))
        if mine.certificate != self._leaf and self._sockets is not None:
            self._leaf = mine.certificate
            self._perform(core.moved(self._sockets.addresses(), now_s()))
        self._keep(core)

    def _keep(self, core: Membership) -> None:
        if now_s() - self._kept_s > KEEP_S or core.hosts_known != self._kept:
            self._kept_s, self._kept = now_s(), core.hosts_known
            seeding.keep(self._identity.folder, core.hosts(), core.roster.me)

    # ---- hearing and doing

    def _refused(self, data: bytes) -> None:
        nonce = self.scribe.refused_nonce(data)
        if nonce is not None and self._core is not None:
            self._perform(self._core.refused(nonce, now_s()))

    def _heard(self, came: Came) -> None:
        """What a stranger can write raises nothing."""
        core, heard_s = self._core, now_s()
        if core is None:
            return
        try:
            opened = self.scribe.open(came.data, came.at.ip, heard_s)
            sender = opened.message.sender if opened.message is not None else b""
            direct = Way.ITSELF
            if opened.message is None:
                direct = Way.MULTICAST if came.by_multicast else Way.ANSWER
            for statement in opened.statements:
                self._stated(statement, direct, sender, core, heard_s)
            if opened.message is not None:
                self._perform(core.receive(opened.message, came.at, heard_s))
        except (BadBytes, Untrusted) as error:
            self.scribe.count(error.reason)

    def _stated(self, statement: Statement, direct: Way, sender: bytes, core: Membership, heard_s: float) -> None:
        """`direct`: how it came, if from whom it is about."""
        try:
            told = self.scribe.told(statement, core, heard_s)
        except Lacking as lacking:
            self._perform(core.lacks(lacking.signer, sender, heard_s))
            return
        if isinstance(told, Record):
            self._perform(core.heard(told, heard_s, direct if sender in (b"", told.short) else Way.OTHERS))
        elif told is not None:
            self._perform(core.charged(told, heard_s))

    def _note(self, change: Changed, core: Membership) -> None:
        """When a host has said something new."""
        record = core.roster.records.get(short_of(change.host_id))
        if record is None or self._told.get(change.host_id, ((-1, -1), 0.0))[0] == record.version:
            return
        self._told.pop(change.host_id, None)
        self._told[change.host_id] = record.version, now_s()
        while len(self._told) > HOSTS_MAX:
            del self._told[next(iter(self._told))]

    def _log(self, change: Changed) -> None:
        """Of digests, which change all the time, nothing is said."""
        if self._logged.get(change.host_id) is not change.state:
            self._logged.pop(change.host_id, None)
            self._logged[change.host_id] = change.state
            while len(self._logged) > HOSTS_MAX:
                del self._logged[next(iter(self._logged))]
            log.info("host %s is %s", change.host_id[:16], change.state.value)

    def _perform(self, effects: Iterable[Effect]) -> None:
        """In order."""
        sockets, has_changed = self._sockets, False
        for effect in effects:
            if isinstance(effect, Changed):
                has_changed = True
                self._log(effect)
                if self._core is not None:
                    self._note(effect, self._core)
            elif isinstance(effect, Differs):
                self._differs(effect.record)
            elif sockets is None:
                pass
            elif isinstance(effect, Shout):
                sockets.shout(self.scribe.datagram(effect))
            else:
                sockets.send(self.scribe.datagram(effect), effect.to)
        if self._core is not None and self._core.next_deadline_s() < self._due_s:
            self._wake.set()
        if has_changed:
            self._changed()


def _mark(short_digest: str) -> bytes:
    return bytes.fromhex(short_digest)[:MARK_BYTES]
