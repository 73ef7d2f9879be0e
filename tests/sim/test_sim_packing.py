"""Hosts that score themselves pack a realm better than one scheduler does by best fit, and the best is found."""

from itertools import chain
from random import Random
from statistics import fmean

import pytest

from atomd.capacity.score import fill
from matcher.scheduler.outcomes import Placed
from matcher.wire.slots import AT_ONCE_HOSTS
from tests.bench.packing import central, model
from tests.bench.packing.exact import most_cores
from tests.bench.packing.realm import Host, Realm
from tests.bench.packing.workload import HOURS, Vm, arrivals, batch, fleet, rate_h

HOSTS = 100
SEEDS = 3
COUNTED_H = 40.0
VMS_MAX = 300  # to place through the protocol, each heard by all hosts


def test_a_nearly_full_realm_rejects_less_than_by_best_fit_and_far_less_than_by_samples() -> None:
    """Best fit by volume, with all hosts in sight, rejects as much as the omniscient; three seeds tell them apart."""
    ours, omniscient, sampled = 0.0, 0.0, 0.0
    for seed in range(SEEDS):
        random = Random(seed)
        shapes = fleet(HOSTS, random)
        vms = list(chain(*arrivals(rate_h(shapes, 0.95, random), HOURS + COUNTED_H, 1, random)))
        ours += model.churn(shapes, vms, model.all_heard, from_h=HOURS).share
        omniscient += central.churn(shapes, vms, from_h=HOURS).share
        sampled += central.churn(shapes, vms, from_h=HOURS, sample=10, seed=seed).share
    assert ours <= 0.85 * omniscient
    assert ours <= 0.5 * sampled


def best_of(realm: Realm, vm: Vm) -> float:
    return max((score for host in realm.hosts if (score := _score_on(host, vm)) is not None), default=0.0)


def _score_on(host: Host, vm: Vm) -> float | None:
    """From the claims alone."""
    claims = host.ledger.committed()
    cores = len(host.hardware.cores) - sum(len(claim.threads) for claim in claims)
    mib = host.hardware.ram_mib[0][1] - sum(mib for claim in claims for _, mib in claim.ram_mib)
    return fill(vm.cores, vm.gib * 1024, cores, mib) if cores >= vm.cores and mib >= vm.gib * 1024 else None


@pytest.mark.parametrize(("hosts", "regret_max"), [(12, 0.0), (AT_ONCE_HOSTS + 16, 0.01)])
def test_a_vm_goes_to_the_host_that_suits_it_best(hosts: int, regret_max: float) -> None:
    """In a small realm always; in one where the best answer first, nearly."""
    random = Random(hosts)
    shapes = fleet(hosts, random)
    realm = Realm(shapes, seed=hosts)
    regrets = []
    for vm in batch(shapes, 1.1, random)[:VMS_MAX]:
        best = best_of(realm, vm)
        (told,) = realm.place([vm])
        assert isinstance(told.outcome, Placed) is (best > 0)
        regrets.append(best - told.score)
    assert min(regrets) > -1e-9
    assert fmean(regrets) <= regret_max + 1e-9


def test_of_a_batch_on_few_hosts_nearly_as_much_is_placed_one_by_one_as_could_be() -> None:
    """Against the exact optimum, which sees the whole batch before it places anything."""
    ours, most = 0, 0.0
    for seed in range(4):
        random = Random(seed)
        shapes = fleet(6, random)
        vms = batch(shapes, 1.0, random)
        realm = Realm(shapes, seed=seed)
        ours += sum(vm.cores for vm in vms for told in realm.place([vm]) if isinstance(told.outcome, Placed))
        best = most_cores(shapes, [(vm.cores, vm.gib) for vm in vms], limit_s=5.0)
        assert best.found <= best.bound
        most += best.bound
    assert 0.95 * most <= ours <= most
