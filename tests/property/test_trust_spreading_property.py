"""Whatever is lost, doubled or late, and however hosts are parted: in the end all know the same, and nobody less."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from matcher.trust.bundle import Bundle
from matcher.trust.documents import Signed, read_documents
from matcher.trust.spreading import SILENCE_S, Effect, Fetch, Give, Save, Spreading, Tell
from matcher.wire.framing import frame
from matcher.wire.messages import Message
from matcher.wire.realm import TagKey
from specs.ids import HostId
from tests.fakes.realms import Realm, make_realm

WALL_S = 1_800_000_000.0
SETTLES_S = SILENCE_S  # after the last loss; one telling and one question are enough


@dataclass
class Knowing:
    bundle: Bundle
    tag_key: Signed[TagKey]
    key_number: int = 1
    saved: Bundle | None = None

    def learn(self, documents: object, wall_s: float) -> bool:
        before = self.bundle
        self.bundle = before.merged(documents)  # type: ignore[arg-type]
        assert set(before.revocations) <= set(self.bundle.revocations), "I11: revocations only grow"
        assert before.anchor.epoch <= self.bundle.anchor.epoch, "I11: the epoch only grows"
        return self.bundle is not before


class Net:
    """Hosts on a heap of events; `loss` of each datagram and fetch until `calm_s`, and hosts cut off for a while."""

    def __init__(self, realm: Realm, hosts: int, seed: int, loss: float, calm_s: float) -> None:
        self.random, self.loss, self.calm_s = Random(seed), loss, calm_s
        self.now_s = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.number = count()
        self.cut: set[int] = set()
        self.knowing = [Knowing(realm["h0"].bundle, realm["h0"].tag_key) for _ in range(hosts)]
        self.hosts = [
            Spreading(
                self.knowing[i],
                host=f"h{i}",
                host_id=HostId(f"{i:064x}"),
                port=7766,
                random=Random(seed * 1000 + i),
                now_s=0.0,
            )
            for i in range(hosts)
        ]
        self.due_s = [float("inf")] * hosts
        for i in range(hosts):
            self.wake(i, self.random.uniform(0, 5))

    def at(self, when_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.events, (when_s, next(self.number), what))

    def run(self, until_s: float) -> None:
        while self.events and self.events[0][0] <= until_s:
            self.now_s, _, what = heapq.heappop(self.events)
            what()
        self.now_s = until_s

    def wake(self, i: int, at_s: float) -> None:
        """Unless it wakes up sooner."""
        if at_s < self.due_s[i]:
            self.due_s[i] = at_s
            self.at(at_s, lambda: self.tick(i, at_s))

    def tick(self, i: int, at_s: float) -> None:
        if at_s == self.due_s[i]:
            self.due_s[i] = float("inf")
            self.perform(i, self.hosts[i].tick(self.now_s, WALL_S + self.now_s))

    def perform(self, i: int, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Save():
                    self.knowing[i].saved = self.knowing[i].bundle
                case Tell(news=news):
                    for j in range(len(self.hosts)):
                        if j != i and not self.is_lost(i, j):
                            self.at(self.now_s + self.random.uniform(0.001, 0.4), lambda j=j: self.hear(j, i, news))  # type: ignore[misc]
                case Fetch(peer=peer):
                    self.at(self.now_s + 0.01, lambda peer=peer: self.fetch(i, peer))  # type: ignore[misc]
                case Give(peer=peer, documents=documents):
                    self.at(self.now_s + 0.01, lambda peer=peer, given=documents: self.give(i, peer, given))  # type: ignore[misc]
        self.wake(i, max(self.now_s + 0.05, self.hosts[i].next_deadline_s()))

    def give(self, i: int, peer: object, documents: bytes) -> None:
        j = int(peer.host_id, 16)  # type: ignore[attr-defined]
        if not self.is_lost(i, j):
            self.perform(j, self.hosts[j].made(read_documents(documents), self.now_s, WALL_S + self.now_s))

    def hear(self, j: int, i: int, news: object) -> None:
        heard = self.hosts[j].heard(news, HostId(f"{i:064x}"), f"10.0.0.{i}", self.now_s, WALL_S + self.now_s)  # type: ignore[arg-type]
        self.perform(j, heard)

    def fetch(self, i: int, peer: object) -> None:
        j = int(peer.host_id, 16)  # type: ignore[attr-defined]
        if self.is_lost(i, j):
            self.hosts[i].not_fetched(peer, self.now_s)  # type: ignore[arg-type]
            return
        answer = frame([self.knowing[j].bundle.to_bytes(), frame([self.knowing[j].tag_key.data])])
        self.perform(i, self.hosts[i].fetched(peer, answer, self.now_s, WALL_S + self.now_s))  # type: ignore[arg-type]

    def is_lost(self, i: int, j: int) -> bool:
        if self.now_s > self.calm_s:
            return False
        return i in self.cut or j in self.cut or self.random.random() < self.loss


@pytest.fixture(scope="module")
def realm(tmp_path_factory: pytest.TempPathFactory) -> Realm:
    return make_realm(tmp_path_factory.mktemp("realm"), "h1", *(f"u{number}" for number in range(6)))


@pytest.fixture(scope="module")
def revocations(realm: Realm) -> list[Signed[Message]]:
    return [realm.issuer.revoke("user", f"u{number}", "", wall_s=WALL_S) for number in range(6)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000), hosts=st.integers(2, 7), loss=st.sampled_from([0.0, 0.05, 0.3, 0.9]), data=st.data()
)
def test_all_hosts_know_the_same_in_the_end(
    realm: Realm, revocations: list[Signed[Message]], seed: int, hosts: int, loss: float, data: st.DataObject
) -> None:
    net = Net(realm, hosts, seed, loss, calm_s=60.0)
    for revocation in revocations:
        when_s, host = data.draw(st.floats(0.5, 59.0)), data.draw(st.integers(0, hosts - 1))
        net.at(
            when_s,
            lambda host=host, revocation=revocation: net.perform(  # type: ignore[misc]
                host, net.hosts[host].made([revocation], net.now_s, WALL_S + net.now_s)
            ),
        )
    for host in data.draw(st.sets(st.integers(0, hosts - 1), max_size=hosts - 1)):
        net.at(data.draw(st.floats(0.0, 30.0)), lambda host=host: net.cut.add(host))  # type: ignore[misc]
    net.run(60.0 + SETTLES_S)
    assert {knowing.bundle.digest for knowing in net.knowing} == {net.knowing[0].bundle.digest}
    assert len(net.knowing[0].bundle.revocations) == len(revocations)
    assert all(knowing.saved is not None and knowing.saved.digest == knowing.bundle.digest for knowing in net.knowing)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), hosts=st.integers(2, 7))
def test_with_a_tenth_lost_a_revocation_is_everywhere_within_thirty_seconds(
    realm: Realm, revocations: list[Signed[Message]], seed: int, hosts: int
) -> None:
    net = Net(realm, hosts, seed, 0.1, calm_s=1000.0)
    net.run(100.0)
    net.perform(0, net.hosts[0].made([revocations[0]], net.now_s, WALL_S))
    net.run(130.0)
    assert all(len(knowing.bundle.revocations) == 1 for knowing in net.knowing)
