"""What the judge asks for of revocations, and what it lets go: exactly that which lay on no issuer's disk any more."""

import pytest

from matcher.trust.certificates import BACKDATE_S
from matcher.trust.spreading import RECENT_S, TELL_S
from matcher.wire.envelope import TAG_KEY_BYTES
from specs.ids import UserId
from tests.sim import invariants, papers
from tests.sim.by_hand import a_calm_world, upkeep_of, wait
from tests.sim.host import Host
from tests.sim.invariants import SETTLES_S
from tests.sim.papers import WALL_S
from tests.sim.violation import Violation
from tests.sim.world import World

ADA = papers.user_id("ada")
SPREADS_S = 30.0


@pytest.fixture
def world() -> World:
    """Everybody knows that an older grant of Ada's is over, on the disk and in each backup."""
    world = a_calm_world()
    before_s = int(WALL_S + world.timeline.now_s) - BACKDATE_S
    upkeep_of(world.hosts[0]).publish([papers.narrowing(ADA, before_s)])
    wait(world, SPREADS_S)
    for host in world.hosts:
        host.home.back_up()
    return world


def revoke(world: World, host: Host, user_id: UserId = ADA) -> None:
    upkeep_of(host).revoke("user", user_id)
    world.judge.acknowledged_revocation(host, user_id)


def look(world: World) -> None:
    """At what the hosts know, as at the end of a run."""
    for host in world.hosts:
        world.judge._see(host)
    world.judge.check_known(world.hosts)


def test_what_one_disk_alone_held_is_let_go_with_it_though_others_know_of_a_narrowing(world: World) -> None:
    last = world.hosts[-1]
    last.is_cut = True
    revoke(world, last)
    last.restore()
    last.is_cut = False
    wait(world, SPREADS_S)
    look(world)
    assert world.judge._revoked_before_s(last, ADA) < float("inf")


def test_what_an_issuer_says_that_does_not_know_that_it_was_dropped_is_for_itself_alone(world: World) -> None:
    """Though the root has named it again since, if nobody has heard so."""
    first, _, last = world.hosts
    last.is_cut = True
    root = papers.RootDesk(3)
    upkeep_of(first).publish([root.toggle_issuer(3)])
    wait(world, SPREADS_S)
    root.toggle_issuer(3)
    assert root.issuers == ["h1", "h2", "h3"]
    world.judge.lost(root.issuers)
    revoke(world, last)
    last.is_cut = False
    wait(world, SPREADS_S)
    look(world)
    assert world.judge._revoked_before_s(first, ADA) < world.judge._revoked_before_s(last, ADA)


def test_what_another_issuer_has_on_its_disk_comes_back(world: World) -> None:
    last = world.hosts[-1]
    revoke(world, last)
    wait(world, SPREADS_S)
    last.restore()
    wait(world, SPREADS_S)
    look(world)
    assert world.judge._revoked_before_s(last, ADA) == float("inf")


def test_what_another_issuer_had_on_its_disk_and_nobody_knows_any_more_is_a_violation(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    *others, last = world.hosts
    revoke(world, last)
    wait(world, SPREADS_S)
    last.restore()
    for host in others:  # as a product would that loses what it has kept
        host.crash()
        host.home.restore()
    monkeypatch.setattr(invariants, "only_grows", lambda *_: None)  # which would see it sooner,
    monkeypatch.setattr(world.judge, "saved", lambda *_: None)  # before they save what little they know
    wait(world, SPREADS_S)
    with pytest.raises(Violation, match="nobody knows it"):
        look(world)


def test_what_is_acknowledged_and_on_no_disk_is_a_violation(world: World) -> None:
    with pytest.raises(Violation, match="h1 did not keep it"):
        world.judge.acknowledged_revocation(world.hosts[0], ADA)


def test_who_comes_back_with_less_and_saves_it_at_once_is_a_violation(world: World) -> None:
    first = world.hosts[0]
    revoke(world, first)
    first.crash()
    first.home.restore()
    with pytest.raises(Violation, match="h1 has forgotten 1 revocations that it had on its disk"):
        wait(world, SPREADS_S)


def test_where_two_hosts_made_a_key_of_one_number_all_come_to_tag_with_the_same_while_both_are_understood(
    world: World,
) -> None:
    """Long after both were told: what they know besides is the same, and so is what they say of it."""
    first, _, last = world.hosts
    last.is_cut = True
    for host in (first, last):
        make_key(host)
    wait(world, RECENT_S + TELL_S)
    assert len(keys_of(world)) == 2
    last.is_cut = False
    wait(world, SETTLES_S)
    assert len(keys_of(world)) == 1


def make_key(host: Host) -> None:
    upkeep = upkeep_of(host)
    assert upkeep.issuer is not None
    key, number = host.random.randbytes(TAG_KEY_BYTES), upkeep.identity.key_number + 1
    upkeep.publish([upkeep.issuer.new_tag_key(key, number=number, wall_s=host.wall_s)])


def keys_of(world: World) -> set[bytes]:
    """Today's, of all hosts; all of one number."""
    identities = [upkeep_of(host).identity for host in world.hosts]
    assert len({identity.key_number for identity in identities}) == 1
    return {identity.tag_key.says.key for identity in identities}
