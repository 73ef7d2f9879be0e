"""One member: what it does about each thing that it hears. How many of them get along is shown in virtual time."""

from dataclasses import replace
from random import Random

import pytest

from matcher.gossip import membership, voice
from matcher.gossip.effects import Changed, Differs, Effect, Greet, Send, Shout
from matcher.gossip.membership import LOST_PINGS_MAX, Membership
from matcher.gossip.roster import Charge, Record
from matcher.gossip.voice import Way
from matcher.wire.gossip import (
    MARK_BYTES,
    Ack,
    Ask,
    Digest,
    HostState,
    Listing,
    Nack,
    Ping,
    Says,
    Summary,
    Tidings,
    Unsigned,
    Want,
)
from tests.fakes.gossip import Hand, address, charge, host_id, member, record, short

VIEW, REALM = bytes(8), bytes(MARK_BYTES)


def sent(effects: list[Effect], kind: type[Unsigned]) -> list[Send]:
    return [each for each in effects if isinstance(each, Send) and isinstance(each.message, kind)]


def shouted(effects: list[Effect], kind: type[Record] | type[Charge]) -> list[Record | Charge]:
    return [each.told for each in effects if isinstance(each, Shout) and isinstance(each.told, kind)]


def pinged(made: Membership) -> tuple[Send, float]:
    """Its next ping, and when."""
    for _ in range(50):
        now_s = made.next_deadline_s()
        pings = sent(made.tick(now_s), Ping)
        if pings:
            return pings[0], now_s
    raise AssertionError("it pings nobody")


def run(made: Membership, until_s: float) -> None:
    """Nobody answers."""
    while made.next_deadline_s() < until_s:
        made.tick(made.next_deadline_s())


def number_of(host: bytes, hosts: int = 100) -> int:
    return next(number for number in range(hosts) if short(number) == host)


def test_it_starts_by_telling_all_that_it_is_there_and_asks_who_they_are() -> None:
    made = Membership(record(0).alive, Hand(0), random=Random(1), now_s=0.0)
    said = shouted(made.tick(0.0), Record)
    assert [told.alive.fresh for told in said if isinstance(told, Record)] == [True]
    assert made.hosts_known == 1


def test_a_ping_is_acked_to_where_it_came_from_and_another_hosts_is_not() -> None:
    made = member(3)
    (ack,) = sent(made.receive(Ping(7, short(1), short(0), VIEW), address(1), 1.0), Ack)
    assert (ack.to, ack.message.nonce) == (address(1), 7)  # type: ignore[union-attr]
    assert made.receive(Ping(7, short(1), short(2), VIEW), address(1), 1.0) == []


def test_who_is_not_known_is_told_so_and_gets_nothing_beside_the_ack() -> None:
    made = member(3)
    (ack,) = sent(made.receive(Ping(7, short(9), short(0), VIEW), address(9), 1.0), Ack)
    assert isinstance(ack.message, Ack)
    assert (ack.message.hears, ack.told) == (0, ())


def test_what_is_held_against_a_host_is_told_to_it_only_where_it_says_that_it_is() -> None:
    made = member(5)
    made.charged(charge(2, 1, Says.SUSPECT), 1.0)
    (here,) = sent(made.receive(Ping(7, short(1), short(0), VIEW), address(1), 1.0), Ack)
    assert here.told == (charge(2, 1, Says.SUSPECT),)
    (elsewhere,) = sent(made.receive(Ping(7, short(1), short(0), VIEW), address(4), 1.0), Ack)
    assert elsewhere.told == ()


def test_a_claim_about_itself_is_objected_to_with_a_higher_incarnation() -> None:
    made = member(3)
    effects = made.charged(charge(1, 0, Says.GONE), 1.0)
    (said,) = shouted(effects, Record)
    assert isinstance(said, Record)
    assert said.alive.incarnation == 2
    assert made.charged(charge(1, 0, Says.GONE), 1.1) == [], "it was about the incarnation before"


def test_its_own_word_from_before_a_restart_is_outdone() -> None:
    made = member(3)
    made.heard(record(0, incarnation=50), 1.0)
    assert made.roster.version(short(0))[0] == 51


def test_silence_is_asked_about_by_three_others_and_then_told_to_all() -> None:
    made = member(10)
    ping, _ = pinged(made)
    effects = made.tick(made.next_deadline_s())
    target = ping.message.target  # type: ignore[union-attr]
    assert len(sent(effects, Ask)) == 3
    assert len(sent(effects, Ping)) == 1, "and once more by itself"
    effects = made.tick(made.next_deadline_s())
    (said,) = shouted(effects, Charge)
    assert isinstance(said, Charge)
    assert (said.about, said.claim.says) == (target, Says.SUSPECT)
    assert Changed(host_id(number_of(target)), HostState.SUSPECT) in effects


def test_an_ack_with_a_mark_that_differs_leads_to_a_comparison_not_too_often() -> None:
    made = member(10)
    summaries = 0
    for _ in range(3):
        ping, now_s = pinged(made)
        assert isinstance(ping.message, Ping)
        effects = made.receive(Ack(ping.message.nonce, ping.message.target, VIEW, 2, REALM), ping.to, now_s)
        summaries += len(sent(effects, Summary))
        again = made.receive(Ack(ping.message.nonce, ping.message.target, VIEW, 2, REALM), ping.to, now_s)
        assert again == [], "a nonce counts once"
    assert summaries >= 2
    ping, now_s = pinged(made)
    assert isinstance(ping.message, Ping)
    mark = made.roster.mark.to_bytes(8, "big")
    assert made.receive(Ack(ping.message.nonce, ping.message.target, mark, 2, REALM), ping.to, now_s) == []


def test_who_knows_something_else_of_the_realm_is_named_once_a_ping_whatever_strangers_write() -> None:
    made = member(10)
    made.realm = b"ours"
    ping, now_s = pinged(made)
    assert isinstance(ping.message, Ping)
    mark, target = made.roster.mark.to_bytes(8, "big"), ping.message.target
    assert made.receive(Ack(ping.message.nonce + 1, target, mark, 2, b"else"), ping.to, now_s) == []
    other = short((number_of(target) + 1) % 10)
    assert made.receive(Ack(ping.message.nonce, target, mark, 2, b"else"), ping.to, now_s) == [
        Differs(made.roster.records[target])
    ]
    ping, now_s = pinged(made)
    assert isinstance(ping.message, Ping)
    assert made.receive(Ack(ping.message.nonce, other, mark, 2, b"else"), ping.to, now_s) == []
    ping, now_s = pinged(made)
    assert isinstance(ping.message, Ping)
    assert made.receive(Ack(ping.message.nonce, ping.message.target, mark, 2, b"ours"), ping.to, now_s) == []


def test_an_errand_is_answered_with_the_ack_or_with_its_absence() -> None:
    made = member(5)
    (ping,) = sent(made.receive(Ask(9, short(1), short(2)), address(1), 1.0), Ping)
    assert isinstance(ping.message, Ping)
    (passed_on,) = sent(made.receive(Ack(ping.message.nonce, short(2), VIEW, 2, REALM), address(2), 1.1), Ack)
    assert (passed_on.to, passed_on.message.nonce) == (address(1), 9)  # type: ignore[union-attr]
    made.receive(Ask(10, short(3), short(2)), address(3), 1.0)
    now_s, nacks = 1.0, list[Send]()
    while now_s < 3.0 and not nacks:
        now_s = made.next_deadline_s()
        nacks = sent(made.tick(now_s), Nack)
    assert [nack.to for nack in nacks] == [address(3)]


def test_a_refused_ping_is_told_to_all_and_two_others_are_asked_to_see_for_themselves() -> None:
    made = member(10)
    ping, now_s = pinged(made)
    assert isinstance(ping.message, Ping)
    effects = made.refused(ping.message.nonce, now_s)
    assert [each.claim.says for each in shouted(effects, Charge) if isinstance(each, Charge)] == [Says.REFUSED]
    assert len(sent(effects, Ask)) == 2
    target = host_id(number_of(ping.message.target))
    assert made.state_of(target) is HostState.ALIVE
    other = next(n for n in range(1, 10) if short(n) != ping.message.target)
    made.charged(charge(other, number_of(ping.message.target), Says.REFUSED), now_s)
    assert made.state_of(target) is HostState.DOWN
    assert made.refused(12345, now_s) == [], "a nonce that was never sent"


def test_a_newcomer_is_greeted_by_each_a_little_later_and_many_by_one_multicast() -> None:
    for newcomers, greetings in ((1, (1, 0)), (2, (2, 0)), (5, (0, 1))):
        made = member(3)
        for number in range(50, 50 + newcomers):
            made.heard(record(number, fresh=True), 5.0, Way.MULTICAST)
        introduced = said = 0
        while made.next_deadline_s() < 5.2:
            effects = made.tick(made.next_deadline_s())
            introduced += sum(isinstance(each, Greet) for each in effects)
            said += len(shouted(effects, Record))
        assert (introduced, said) == greetings


def test_a_seed_answers_who_comes_to_it_at_once() -> None:
    made = member(3)
    effects = made.heard(record(50, fresh=True), 5.0, Way.ITSELF)
    assert [(each.to, each.told) for each in sent(effects, Tidings)] == [
        (address(50), (made.roster.records[short(0)],))
    ]
    assert not any(isinstance(each, Greet) for each in effects)


def test_who_introduces_itself_may_be_far_all_the_same_unless_it_answers_our_multicast() -> None:
    """It may know us from others, as a seed, or from our ack to its ping; so a relay goes on asking it one by one."""
    made = member(3)
    for way, is_far in ((Way.OTHERS, True), (Way.ITSELF, True), (Way.ANSWER, False)):
        made.heard(record(50), 5.0, way)
        assert made.is_far(short(50)) is is_far


def test_who_is_greeted_is_told_that_its_multicast_was_heard() -> None:
    made = member(3)
    made.heard(record(50, fresh=True), 5.0, Way.MULTICAST)
    effects: list[Effect] = []
    while made.next_deadline_s() < 5.2:
        effects += made.tick(made.next_deadline_s())
    assert [each.to for each in effects if isinstance(each, Greet)] == [address(50)]
    assert not sent(effects, Tidings)


def test_what_is_free_is_told_at_once_the_first_time_and_then_at_a_pace() -> None:
    made = member(10)
    assert len(shouted(made.tell(Digest(slots_free=3), 10.0), Record)) == 1
    assert made.tell(Digest(slots_free=3), 10.01) == []
    assert made.tell(Digest(slots_free=2), 10.02) == []
    assert made.tell(Digest(slots_free=1), 10.03) == []
    while made.roster.records[short(0)].alive.digest.slots_free != 1:
        assert made.next_deadline_s() < 10.5
        made.tick(made.next_deadline_s())
    assert made.roster.version(short(0))[1] == 2, "what was in between was told to nobody"


def test_answers_go_to_members_alone_where_they_say_that_they_are_and_not_too_often() -> None:
    made = member(5)
    want = Want(short(1), short(2) + b"\0")
    (answer,) = sent(made.receive(want, address(99), 10.0), Tidings)
    assert answer.to == address(1), "whoever asked in its name"
    assert made.receive(want, address(1), 10.05) == []
    assert len(made.receive(want, address(1), 10.2)) == 1
    assert made.receive(replace(want, sender=short(77)), address(77), 10.0) == []
    assert made.receive(Summary(short(77), bytes(256)), address(77), 10.0) == []
    assert made.receive(Ask(1, short(77), short(2)), address(77), 10.0) == []
    assert made.receive(Listing(short(77), 2**64 - 1, bytes(8), b"\xff" * 8, b""), address(77), 10.0) == []


def test_the_last_word_is_told_to_all_and_pings_are_not_acked_after_it() -> None:
    made = member(5)
    (said,) = shouted(made.leave(10.0), Record)
    assert isinstance(said, Record)
    assert said.alive.leaving
    assert made.receive(Ping(7, short(1), short(0), VIEW), address(1), 10.1) == []


def test_one_that_has_left_is_remembered_for_a_day_on_a_machine_that_is_up_for_longer() -> None:
    up_s = 30 * 86_400.0
    made = member(4, now_s=up_s)
    made.heard(record(1, 1, 1, leaving=True), up_s)
    for by in (2, 3):
        made.charged(charge(by, 1 + by % 3, Says.SUSPECT), up_s)
    run(made, up_s + 600.0)
    assert made.roster.lost, "others are lost, and are minded"
    assert made.state_of(host_id(1)) is HostState.LEFT


def test_one_that_has_left_is_forgotten_in_the_end_though_nobody_else_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "LOST_KEEP_S", 100.0)
    made = member(2, now_s=50.0)
    made.heard(record(1, 1, 1, leaving=True), 50.0)
    run(made, 140.0)
    assert made.state_of(host_id(1)) is HostState.LEFT
    run(made, 190.0)
    assert made.state_of(host_id(1)) is None


def test_who_is_expelled_from_the_realm_is_forgotten() -> None:
    made = member(5)
    made.expel(host_id(3))
    assert made.state_of(host_id(3)) is None
    assert made.hosts_known == 4


def test_a_member_that_was_stopped_gives_all_others_as_much_more_time() -> None:
    made = member(10)
    made.charged(charge(1, 5, Says.SUSPECT), 10.0)
    due_s = made.roster.troubles[short(5)].due_s
    made.tick(made.next_deadline_s() + 60.0)
    assert made.roster.troubles[short(5)].due_s > due_s + 50.0
    assert made.state_of(host_id(5)) is HostState.SUSPECT


def test_of_pings_to_the_lost_so_many_are_remembered() -> None:
    made = member(200)
    for number in range(1, 150):
        made._ping_lost(short(number))
    assert len(made._lost_pings) == LOST_PINGS_MAX


def test_who_was_answered_when_is_remembered_of_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voice, "ANSWERED_MAX", 10)
    made = member(50)
    for number in range(1, 50):
        made.receive(Want(short(number), short(2) + b"\0"), address(number), 1.0)
    assert len(made._voice._answered_s) == 10


def test_so_many_seeds_are_remembered() -> None:
    made = member(1)
    made.seed(address(number) for number in range(500))
    assert len(made._voice.seeds) == voice.SEEDS_MAX


def test_a_host_that_many_have_called_gone_too_soon_is_gone_here_once_its_time_is_over() -> None:
    made = member(10)
    for by in (1, 2, 3, 4, 6):
        made.charged(charge(by, 5, Says.GONE), 10.0)
    now_s = 10.0
    while made.state_of(host_id(5)) is not HostState.GONE:
        now_s = made.next_deadline_s()
        assert now_s < 30.0
        made.tick(now_s)
    assert now_s > 14.0


def test_a_machine_that_was_called_gone_and_answers_here_is_down_and_no_more_than_that() -> None:
    made = member(10)
    made.roster.set_state(short(5), HostState.GONE, 1.0)
    for by in (1, 2, 3):
        made.charged(charge(by, 5, Says.REFUSED), 2.0)
    assert made.state_of(host_id(5)) is HostState.GONE, "others may say what they like"
    made.refused(made._ping_lost(short(5)), 3.0)
    assert made.state_of(host_id(5)) is HostState.DOWN
