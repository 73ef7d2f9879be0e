"""A world in which nothing happens by chance: what a test does with it, one thing after the other."""

from tests.sim.faults import NONE
from tests.sim.host import Host
from tests.sim.upkeep import Upkeep
from tests.sim.world import World


def a_calm_world() -> World:
    """Three hosts, each with an issuer, that know each other."""
    world = World(1, hosts=3, clients=0, pledges=0, faults=NONE)
    wait(world, 5.0)
    return world


def wait(world: World, seconds: float) -> None:
    """Nobody judges meanwhile."""
    until_s = world.timeline.now_s + seconds
    while world.timeline.now_s < until_s:
        assert world.timeline.step()


def upkeep_of(host: Host) -> Upkeep:
    assert host.daemon is not None
    return host.daemon.upkeep
