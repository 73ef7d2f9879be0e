"""Who sits on which core and thread of a host, counted as they come and go. Pure.

Each core keeps the claims on it, so that whoever goes is taken out without counting anybody else's core anew: a core
carries few VMs, and a VM lies on few cores. `changed` tells those who keep what they found (`atomd.capacity.openings`)
which cores to look at again.
"""

from collections.abc import Iterable

from atomd.capacity.hardware import Claim, Hardware
from atomd.capacity.layout import NO_LIMIT, Layout
from specs.ids import UserId


class Seats:
    def __init__(self, hardware: Hardware, layout: Layout) -> None:
        self.cores, self.layout = hardware.cores, layout
        self.thread_vms: dict[int, int] = dict.fromkeys(layout.core_of, 0)
        self.thread_limit: dict[int, int] = dict.fromkeys(layout.core_of, NO_LIMIT)  # of VMs that ask for threads
        self.core_vms = [0] * len(hardware.cores)
        self.core_limit = [NO_LIMIT] * len(hardware.cores)  # of VMs that ask for whole cores
        self.changed: list[int] = []  # cores, in the order in which somebody came or went
        self.are_alike = hardware.share_cores_between_users or all(len(core.threads) == 1 for core in hardware.cores)
        self._claims: list[list[Claim]] = [[] for _ in hardware.cores]
        self._loads = [0.0] * len(hardware.cores)
        self._loads_of = 0  # so many of `changed` are in them

    def add(self, claim: Claim) -> None:
        here = self._here(claim)
        for thread in here:
            self.thread_vms[thread] += 1
            if claim.smt:
                self.thread_limit[thread] = min(self.thread_limit[thread], claim.overprovision)
        for core in self._cores_of(here):
            self._claims[core].append(claim)
            self.core_vms[core] += 1
            if not claim.smt:
                self.core_limit[core] = min(self.core_limit[core], claim.overprovision)

    def remove(self, claim: Claim) -> None:
        """Of one that was added."""
        here = self._here(claim)
        for thread in here:
            self.thread_vms[thread] -= 1
        for core in self._cores_of(here):
            self._claims[core].remove(claim)
            self.core_vms[core] -= 1
            self._limit_anew(core)

    def _here(self, claim: Claim) -> list[int]:
        return [thread for thread in claim.threads if thread in self.layout.core_of]  # one may have gone offline

    def _cores_of(self, threads: Iterable[int]) -> set[int]:
        cores = {self.layout.core_of[thread] for thread in threads}
        self.changed += cores
        return cores

    def _limit_anew(self, core: int) -> None:
        claims = self._claims[core]
        self.core_limit[core] = min((each.overprovision for each in claims if not each.smt), default=NO_LIMIT)
        for thread in self.cores[core].threads:
            limits = (each.overprovision for each in claims if each.smt and thread in each.threads)
            self.thread_limit[thread] = min(limits, default=NO_LIMIT)

    def is_shut(self, core: int, user_id: UserId) -> bool:
        """Whether a core with sibling threads already serves another user."""
        return (
            not self.are_alike
            and len(self.cores[core].threads) > 1
            and any(claim.user_id != user_id for claim in self._claims[core])
        )

    def forget_changes(self) -> None:
        """Whoever keeps what they found has to look at all cores again."""
        self.load()
        self.changed.clear()
        self._loads_of = 0

    def load(self) -> float:
        """Of all threads: the VMs on each as a share of what its strictest VM allows."""
        for core in set(self.changed[self._loads_of :]):
            self._loads[core] = self._load(core)
        self._loads_of = len(self.changed)
        return sum(self._loads)

    def _load(self, core: int) -> float:
        whole = self.core_vms[core] / self.core_limit[core]
        return sum(max(whole, self.thread_vms[t] / self.thread_limit[t]) for t in self.cores[core].threads)
