"""Whatever the network does, views climb, never disagree for ever, and nobody is lost that could be heard."""

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from matcher.gossip.roster import Roster
from matcher.wire.gossip import HostState, Says
from tests.fakes.gossip import charge, record, short
from tests.sim.members import DIGEST, Host, World, changed, grown

numbers = st.integers(0, 5)
statements = st.builds(record, numbers, st.integers(1, 3), st.integers(0, 2))
states = st.tuples(numbers, st.sampled_from(HostState))


@given(st.lists(st.one_of(statements, states), max_size=30), st.randoms())
def test_in_whatever_order_a_view_learns_it_only_climbs(heard: list[object], random: object) -> None:
    view = Roster(record(99))
    for each in heard:
        before = {key: view.key(key) for key in view.records}
        if isinstance(each, tuple):
            number, state = each
            if short(number) in view.records:
                view.set_state(short(number), state, 1.0)
        else:
            view.put(each, 0.0)  # type: ignore[arg-type]
        assert all(view.key(key) >= key_before for key, key_before in before.items())
    fresh = Roster(record(99))
    for known in view.records.values():
        fresh.put(known, 0.0)
    for key, trouble in view.troubles.items():
        fresh.set_state(key, trouble.state, 9.0)
    assert (fresh.mark, fresh.marks(), fresh.ring) == (view.mark, view.marks(), view.ring)


Fault = tuple[str, int, int]
faults = st.lists(
    st.tuples(
        st.sampled_from(["kill", "power", "start", "pause", "part", "heal", "one way", "tell", "leave", "lie", "wait"]),
        st.integers(0, 7),
        st.integers(0, 7),
    ),
    max_size=12,
)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), faults, st.sampled_from([0.0, 0.1, 0.3]), st.booleans())
def test_once_faults_end_all_views_agree_and_hold_each_host_for_what_it_is(
    seed: int, happened: list[Fault], loss: float, multicast: bool
) -> None:
    world = grown(seed, 8, loss=loss, settle_s=5.0)
    world.multicast = multicast
    for fault, one, other in happened:
        cause(world, fault, world.hosts[one], other)
        world.run(world.random.uniform(0.1, 8.0))
    world.loss, world.multicast, world.parted = 0.0, True, lambda _a, _b: False
    off = [host for host in world.hosts if host.member is None]
    assert world.comes_to_rest(240.0, lambda: world.agree() and all(is_true(world, host) for host in world.hosts)), [
        (host.number, host in off, world.states_of(host)) for host in world.hosts
    ]


def cause(world: World, fault: str, host: Host, other: int) -> None:
    is_on = host.member is not None
    deeds: dict[str, Callable[[], object]] = {
        "kill": lambda: world.kill(host),
        "power": lambda: world.cut_power(host),
        "leave": lambda: world.leave(host) if is_on else None,
        "start": lambda: None if is_on else world.start(host, seeds=[each.address for each in world.living]),
        "pause": lambda: world.pause(host, 0.5 + other),
        "tell": lambda: world.tell(host, changed(DIGEST, world.random)) if is_on else None,
        "lie": lambda: lie(world, host, other),
    }
    if fault in deeds:
        deeds[fault]()
    elif fault == "part":
        world.parted = lambda a, b: (a < other) != (b < other)
    elif fault == "one way":
        world.parted = lambda a, b: (a, b) == (host.number, other)
    elif fault == "heal":
        world.parted = lambda _a, _b: False


def lie(world: World, liar: Host, about: int) -> None:
    for victim in world.living:
        assert victim.member is not None
        said = victim.member.roster.records.get(world.hosts[about].short)
        if said is not None and about != liar.number and liar.short in victim.member.roster.records:
            claim = charge(0, 0, Says.GONE, said.alive.incarnation).claim
            claim = type(claim)(said.host_id, claim.incarnation, Says.GONE)
            world._do(victim, victim.member.charged(type(charge(0, 0, Says.GONE))(liar.short, claim), world.now_s))


def is_true(world: World, host: Host) -> bool:
    """Alive, if it is; and if not, nobody thinks so."""
    found = world.states_of(host)
    if host.member is not None:
        return set(found) <= {HostState.ALIVE} and found[HostState.ALIVE] == len(world.living) - 1
    return not {HostState.ALIVE, HostState.SUSPECT} & set(found)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.05, 0.1]), st.booleans())
def test_a_host_that_is_stopped_for_three_seconds_at_most_is_never_lost(
    seed: int, loss: float, multicast: bool
) -> None:
    world = grown(seed, 10, loss=loss, settle_s=10.0)
    world.multicast = multicast
    world.changes.clear()
    for _ in range(8):
        world.pause(world.random.choice(world.hosts), world.random.uniform(0.5, 3.0))
        world.run(world.random.uniform(0.5, 6.0))
    assert not {HostState.GONE, HostState.DOWN} & {state for *_, state in world.changes}
