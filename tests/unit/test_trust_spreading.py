"""How a realm's word spreads: told, told again, fetched; on hosts that have no network but a list."""

from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from matcher.trust.bundle import Bundle
from matcher.trust.documents import Signed, read_documents
from matcher.trust.spreading import (
    FETCH_PAUSE_S,
    PEERS_MAX,
    SILENCE_S,
    TELL_S,
    TOLD_ENOUGH,
    USES_MAX,
    Effect,
    Fetch,
    Give,
    Peer,
    Save,
    Spreading,
    Tell,
)
from matcher.trust.tag_keys import OVERLAP_S
from matcher.wire.codec import encode
from matcher.wire.envelope import TAG_KEY_BYTES
from matcher.wire.framing import frame, unframe
from matcher.wire.messages import Message
from matcher.wire.realm import News, Revocation, TagKey, UserUse
from specs.ids import HostId
from tests.fakes.realms import Realm, make_realm

WALL_S = 1_800_000_000.0


@dataclass
class Knowing:
    """A member's knowledge without its files."""

    bundle: Bundle
    tag_key: Signed[TagKey]
    key_number: int = 1
    learned: list[Message] = field(default_factory=list)

    def learn(self, documents: object, wall_s: float) -> bool:
        before = self.bundle
        listed: list[Signed[Message]] = list(documents)  # type: ignore[call-overload]
        self.learned += [document.says for document in listed]
        self.bundle = before.merged(listed)
        return self.bundle is not before


@pytest.fixture(scope="module")
def realm(tmp_path_factory: pytest.TempPathFactory) -> Realm:
    return make_realm(tmp_path_factory.mktemp("realm"), "h1", "h2", "ann", "bob")


def a_host(realm: Realm, name: str, *, peers: tuple[Peer, ...] = (), uses: tuple[UserUse, ...] = ()) -> Spreading:
    return Spreading(
        Knowing(realm["h0"].bundle, realm["h0"].tag_key),
        host=name,
        host_id=HostId(name.rjust(64, "0")),
        port=7766,
        random=Random(1),
        uses=lambda: uses,
        peers=peers,
        now_s=0.0,
    )


def knows(host: Spreading) -> Knowing:
    knowing = host._knowing
    assert isinstance(knowing, Knowing)
    return knowing


def revoked(realm: Realm, name: str, tmp_path: Path) -> Signed[Revocation]:
    """Without a trace in the shared realm."""
    issuer, kept = realm.issuer, dict(realm.issuer._records)
    try:
        return issuer.revoke("user", name, "test", wall_s=WALL_S)
    finally:
        issuer._records.update(kept)


def told(effects: list[Effect]) -> list[News]:
    return [effect.news for effect in effects if isinstance(effect, Tell)]


def ticks(host: Spreading, until_s: float, *, start_s: float = 0.0) -> list[tuple[float, Effect]]:
    """All effects up to `until_s`, with their times, as a loop would perform them."""
    done: list[tuple[float, Effect]] = []
    now_s = start_s
    while (now_s := max(now_s + 0.001, host.next_deadline_s())) <= until_s:
        done += [(now_s, effect) for effect in host.tick(now_s, WALL_S)]
    return done


def test_what_an_issuer_makes_is_saved_before_it_is_told_and_told_again_three_times(
    realm: Realm, tmp_path: Path
) -> None:
    host = a_host(realm, "h1")
    revocation = revoked(realm, "ann", tmp_path)
    first = host.made([revocation], 10.0, WALL_S)
    assert isinstance(first[0], Save)
    again = [effect for _, effect in ticks(host, 18.0, start_s=10.0)]
    heard = told(first) + told(again)
    assert len(heard) == 4
    assert all(revocation.data in list(unframe(news.fresh)) for news in heard)


def test_what_is_known_already_is_neither_saved_nor_told(realm: Realm, tmp_path: Path) -> None:
    host = a_host(realm, "h1")
    revocation = revoked(realm, "ann", tmp_path)
    host.made([revocation], 10.0, WALL_S)
    assert host.made([revocation], 10.1, WALL_S) == []


def test_a_revocation_in_the_news_is_known_at_once_and_told_on(realm: Realm, tmp_path: Path) -> None:
    first, second = a_host(realm, "h1"), a_host(realm, "h2")
    (news,) = told(first.made([revoked(realm, "ann", tmp_path)], 10.0, WALL_S))
    assert second.heard(news, HostId("1" * 64), "10.0.0.1", 10.0, WALL_S) == [Save()]
    assert knows(second).bundle.digest == knows(first).bundle.digest
    on = told([effect for _, effect in ticks(second, 12.5, start_s=10.0)])
    assert on
    assert on[0].fresh


def test_another_digest_makes_a_host_ask_within_a_second_or_so(realm: Realm, tmp_path: Path) -> None:
    first, second = a_host(realm, "h1"), a_host(realm, "h2")
    knows(first).learn([revoked(realm, "ann", tmp_path)], WALL_S)
    ticks(second, 9.0)
    news = News("h1", 0, knows(first).bundle.digest, 1, 7766, b"")
    second.heard(news, HostId("1" * 64), "10.0.0.1", 10.0, WALL_S)
    asked = [effect for _, effect in ticks(second, 12.0, start_s=10.0) if isinstance(effect, Fetch)]
    assert asked == [Fetch(Peer(HostId("1" * 64), "h1", "10.0.0.1", 7766))]
    answer = frame([knows(first).bundle.to_bytes()])
    assert Save() in second.fetched(asked[0].peer, answer, 12.0, WALL_S)
    assert knows(second).bundle.digest == knows(first).bundle.digest


def test_one_who_is_heard_by_gossip_alone_is_asked_and_not_at_each_ping(
    realm: Realm,
) -> None:
    host, far = a_host(realm, "h1"), Peer(HostId("2" * 64), "h2", "10.9.0.2", 7766)
    ticks(host, 9.0)
    asked: list[Effect] = []
    for step in range(40):
        host.differs(far, 10.0 + step / 10)
        asked += [effect for effect in host.tick(10.0 + step / 10, WALL_S) if isinstance(effect, Fetch)]
    assert asked == [Fetch(far)]
    host.fetched(far, b"", 14.0, WALL_S)
    host.differs(far, 14.1)
    assert [e for _, e in ticks(host, 14.1 + FETCH_PAUSE_S, start_s=14.1) if isinstance(e, Fetch)] == [Fetch(far)]


def test_a_newer_tag_key_elsewhere_is_reason_enough_to_ask(realm: Realm) -> None:
    host = a_host(realm, "h1")
    ticks(host, 9.0)
    host.heard(News("h2", 0, knows(host).bundle.digest, 2, 7766, b""), HostId("2" * 64), "10.0.0.2", 10.0, WALL_S)
    assert [e for _, e in ticks(host, 12.0, start_s=10.0) if isinstance(e, Fetch)]


def test_one_host_is_asked_only_now_and_then_however_much_it_tells(realm: Realm) -> None:
    host = a_host(realm, "h1")
    ticks(host, 9.0)
    for step in range(200):
        news = News("h2", step, bytes([step]) * 32, 1, 7766, b"")
        host.heard(news, HostId("2" * 64), "10.0.0.2", 10.0 + step * 0.05, WALL_S)
        for effect in host.tick(10.0 + step * 0.05, WALL_S):
            if isinstance(effect, Fetch):
                host.fetched(effect.peer, b"", 10.0 + step * 0.05, WALL_S)
    assert len(host._fetched_s) == 1
    times = [at for at, e in ticks(host, 60.0, start_s=20.0) if isinstance(e, Fetch)]
    assert len(times) <= 1
    assert host._fetched_s[HostId("2" * 64)] >= 10.0 + FETCH_PAUSE_S


def test_every_host_tells_what_it_knows_about_twice_a_minute(realm: Realm) -> None:
    tells = [at for at, effect in ticks(a_host(realm, "h1"), 600.0) if isinstance(effect, Tell)]
    assert 600 / TELL_S * 0.8 <= len(tells) <= 600 / TELL_S * 1.3


def tells_beside(host: Spreading, digest: bytes, *, key_number: int = 1) -> int:
    """How often it tells in ten minutes, where another one tells `digest` every 20 s."""
    count = 0
    for second in range(600):
        if second % 20 == 0:
            news = News("h2", 0, digest, key_number, 7766, b"")
            host.heard(news, HostId("2" * 64), "10.0.0.2", float(second), WALL_S)
        count += len(told(host.tick(float(second), WALL_S)))
    return count


def test_what_another_has_just_said_is_not_said_again(realm: Realm) -> None:
    host = a_host(realm, "h1")
    assert tells_beside(host, knows(host).bundle.digest) == 0


@pytest.mark.parametrize(("digest", "key_number"), [(bytes(32), 1), (None, 2), (None, 0)])
def test_whoever_hears_what_differs_does_speak(realm: Realm, digest: bytes | None, key_number: int) -> None:
    host = a_host(realm, "h1")
    assert tells_beside(host, digest or knows(host).bundle.digest, key_number=key_number) > 15


@pytest.mark.parametrize(("after_s", "asks"), [(OVERLAP_S - 1, True), (OVERLAP_S + 1, False)])
def test_whoever_tags_with_another_key_of_the_same_number_is_asked_for_it(
    realm: Realm, after_s: float, asks: bool
) -> None:
    """While both are understood; later those who have not heard of the other one do not hear its news either."""
    one, two = a_host(realm, "h1"), a_host(realm, "h2")
    knowing = knows(two)
    other = replace(knowing.tag_key.says, key=bytes(TAG_KEY_BYTES))
    knowing.tag_key = replace(knowing.tag_key, says=other)
    (news,) = told(two.tick(TELL_S * 1.2, other.at_ms / 1000 + after_s))
    one.heard(news, HostId("2".rjust(64, "0")), "10.0.0.2", 0.0, WALL_S)
    assert any(isinstance(effect, Fetch) for _, effect in ticks(one, 2 * FETCH_PAUSE_S)) is asks


def test_whoever_tags_with_the_same_key_is_not_asked(realm: Realm) -> None:
    one, two = a_host(realm, "h1"), a_host(realm, "h2")
    (news,) = told(two.tick(TELL_S * 1.2, knows(two).tag_key.says.at_ms / 1000))
    assert news.key_hint
    one.heard(news, HostId("2".rjust(64, "0")), "10.0.0.2", 0.0, WALL_S)
    assert not any(isinstance(effect, Fetch) for _, effect in ticks(one, 2 * FETCH_PAUSE_S))


def test_a_host_with_users_speaks_whatever_others_say(realm: Realm) -> None:
    host = a_host(realm, "h1", uses=(UserUse("0" * 16, 1, 512, 1),))
    assert tells_beside(host, knows(host).bundle.digest) > 15


def test_what_has_changed_is_told_though_another_has_just_spoken(realm: Realm) -> None:
    host = a_host(realm, "h1")
    ticks(host, 10.0)
    host.heard(News("h2", 0, knows(host).bundle.digest, 1, 7766, b""), HostId("2" * 64), "10.0.0.2", 10.0, WALL_S)
    host.tell_soon(10.0)
    assert told([effect for _, effect in ticks(host, 11.5, start_s=10.0)])


def test_a_host_that_hears_nobody_asks_somebody_it_knew(realm: Realm) -> None:
    peer = Peer(HostId("2" * 64), "h2", "10.0.0.2", 7766)
    host = a_host(realm, "h1", peers=(peer,))
    asked = [(at, effect) for at, effect in ticks(host, 3 * SILENCE_S) if isinstance(effect, Fetch)]
    assert asked[0][0] < 10.0
    assert {effect for _, effect in asked} == {Fetch(peer)}
    assert 3 <= len(asked) <= 4


def test_a_host_that_hears_others_asks_nobody(realm: Realm) -> None:
    host = a_host(realm, "h1", peers=(Peer(HostId("2" * 64), "h2", "10.0.0.2", 7766),))
    for second in range(300):
        news = News("h2", 0, knows(host).bundle.digest, 1, 7766, b"")
        host.heard(news, HostId("2" * 64), "10.0.0.2", float(second), WALL_S)
        assert not [effect for effect in host.tick(float(second), WALL_S) if isinstance(effect, Fetch)]


def test_its_own_voice_is_no_news(realm: Realm) -> None:
    host = a_host(realm, "h1")
    news = News("h1", 0, b"x" * 32, 9, 7766, b"")
    assert host.heard(news, HostId("h1".rjust(64, "0")), "10.0.0.1", 1.0, WALL_S) == []
    assert host.peers == {}


def test_peers_are_kept_up_to_a_limit_the_newest_first(realm: Realm) -> None:
    host = a_host(realm, "h1")
    for number in range(PEERS_MAX + 50):
        news = News("h", 0, bytes(32), 1, 7766, b"")
        host.heard(news, HostId(f"{number:064x}"), "10.0.0.9", 1.0, WALL_S)
    assert len(host.peers) == PEERS_MAX
    assert HostId(f"{PEERS_MAX + 49:064x}") in host.peers
    assert len(host._fetch_at_s) <= PEERS_MAX


def test_all_users_have_their_turn_in_the_news(realm: Realm) -> None:
    uses = tuple(UserUse(f"{number:016x}", 1, 512, 1) for number in range(3 * USES_MAX + 1))
    host = a_host(realm, "h1", uses=uses)
    news = told([effect for _, effect in ticks(host, 2.5 * TELL_S)])
    assert {use.user for each in news for use in each.uses} == {use.user for use in uses}


def test_news_fit_a_datagram_beside_a_certificate(realm: Realm, tmp_path: Path) -> None:
    uses = tuple(UserUse(f"{number:016x}", 4096, 2**40, 4096) for number in range(50))
    host = a_host(realm, "h" * 64, uses=uses)
    documents = [revoked(realm, name, tmp_path) for name in ("ann", "bob")]
    (news,) = told(host.made(documents, 1.0, WALL_S))
    assert news.fresh
    assert len(encode(news)) <= 1200 - 30 - 64 - 480


def test_of_several_hosts_the_one_that_is_not_heard_is_asked_though_the_others_are(realm: Realm) -> None:
    """It may make its tags with a key that this one does not know, and hear its own part of the realm well."""
    heard, silent = (Peer(HostId(digit * 64), f"h{digit}", f"10.0.0.{digit}", 7766) for digit in "23")
    host = a_host(realm, "h1", peers=(heard, silent))
    asked: list[tuple[float, Peer]] = []
    for second in range(600):
        news = News("h2", second, knows(host).bundle.digest, 1, 7766, b"")
        host.heard(news, heard.host_id, heard.address, float(second), WALL_S)
        effects = host.tick(float(second), WALL_S)
        asked += [(second, effect.peer) for effect in effects if isinstance(effect, Fetch)]
    assert {peer for _, peer in asked} == {silent}
    assert len(asked) == 1 + 600 // SILENCE_S


def test_hosts_that_are_gone_for_ever_do_not_keep_others_from_being_asked(realm: Realm) -> None:
    peers = tuple(Peer(HostId(f"{number:064x}"), f"h{number}", "10.0.0.9", 7766) for number in range(5))
    host = a_host(realm, "h1", peers=peers)
    asked = set()
    for _, effect in ticks(host, 60 * SILENCE_S):
        if isinstance(effect, Fetch):
            host.not_fetched(effect.peer, 0.0)
            asked.add(effect.peer)
    assert asked == {*peers}


def test_who_was_asked_and_lacks_something_is_given_that_and_no_more(realm: Realm, tmp_path: Path) -> None:
    """It may not hear us, nor know that we are there."""
    first, second = a_host(realm, "h1"), a_host(realm, "h2")
    peer = Peer(HostId("2" * 64), "h2", "10.0.0.2", 7766)
    common, mine = revoked(realm, "ann", tmp_path), revoked(realm, "bob", tmp_path)
    knows(second).learn([common], WALL_S)
    knows(first).learn([common, mine], WALL_S)
    answer = frame([knows(second).bundle.to_bytes(), frame([knows(second).tag_key.data])])
    (give,) = first.fetched(peer, answer, 10.0, WALL_S)
    assert give == Give(peer, frame([mine.data]))
    assert isinstance(second.made(read_documents(give.documents), 10.0, WALL_S)[0], Save)
    assert knows(second).bundle.digest == knows(first).bundle.digest
    answer = frame([knows(second).bundle.to_bytes(), frame([knows(second).tag_key.data])])
    assert first.fetched(peer, answer, 20.0, WALL_S) == []


# ---- where there are many


def of_many(realm: Realm, name: str, *, hosts: int, uses: tuple[UserUse, ...] = ()) -> Spreading:
    return Spreading(
        Knowing(realm["h0"].bundle, realm["h0"].tag_key),
        host=name,
        host_id=HostId(name.rjust(64, "0")),
        port=7766,
        random=Random(1),
        uses=lambda: uses,
        hosts_known=lambda: hosts,
        now_s=0.0,
    )


def test_what_users_have_is_told_at_the_pace_at_which_others_forget(realm: Realm) -> None:
    host = of_many(realm, "h1", hosts=10_000, uses=(UserUse("a" * 16, 1, 512, 1),))
    times = [at_s for at_s, effect in ticks(host, 30_000.0) if isinstance(effect, Tell)]
    assert all(later - earlier <= 1.2 * TELL_S + 1 for earlier, later in pairwise(times))


@pytest.mark.parametrize(("others", "is_told"), [(TOLD_ENOUGH - 1, True), (TOLD_ENOUGH, False)])
def test_what_enough_others_have_told_is_not_told_on(realm: Realm, tmp_path: Path, others: int, is_told: bool) -> None:
    first, second = of_many(realm, "h1", hosts=10_000), of_many(realm, "h2", hosts=10_000)
    (news,) = told(first.made([revoked(realm, "ann", tmp_path)], 10.0, WALL_S))
    ticks(second, 9.0)  # its own first word
    for number in range(others):
        second.heard(news, HostId(f"{number:064x}"), "10.0.0.1", 10.01, WALL_S)
    assert bool(told([effect for _, effect in ticks(second, 13.0, start_s=10.0)])) is is_told


def test_who_is_no_longer_behind_asks_nobody(realm: Realm, tmp_path: Path) -> None:
    first, second = of_many(realm, "h1", hosts=100), of_many(realm, "h2", hosts=100)
    (news,) = told(first.made([revoked(realm, "ann", tmp_path)], 10.0, WALL_S))
    second.heard(replace(news, fresh=b""), HostId("1" * 64), "10.0.0.1", 10.0, WALL_S)
    second.heard(news, HostId("2" * 64), "10.0.0.2", 10.001, WALL_S)
    assert [effect for _, effect in ticks(second, 11.5, start_s=10.002) if isinstance(effect, Fetch)] == []
