"""What users are said to have on other hosts, and what this host says of its own. Pure, and bounded.

A soft total by nature: a host that is out of reach is forgotten after `FORGET_S`, one that has just given something
away has not said so yet, and nobody can be made to tell the truth. So it speaks against offers alone.
A user is named by the first 16 digits of their id, which is enough to count by and saves room in a datagram.
"""

from collections.abc import Collection, Iterable

from atomd.capacity.hardware import Claim
from atomd.capacity.quota import NOWHERE, Elsewhere, Quota
from atomd.vms.lifecycle import Vm
from matcher.wire.realm import HostUse, Use, UserUse
from specs.ids import HostId, UserId

FORGET_S = 90.0
ENTRIES_MAX = 65_536  # hosts times users; what comes beyond is not remembered

SHORT = 16


class Uses:
    """What others said, and when."""

    def __init__(self) -> None:
        self._said: dict[tuple[HostId, str], tuple[float, str, UserUse]] = {}  # in the order of hearing
        self._of_user: dict[str, dict[HostId, None]] = {}

    def __len__(self) -> int:
        return len(self._said)

    def eat(self, host_id: HostId, host: str, uses: Iterable[UserUse], now_s: float) -> None:
        """A host's own word about its users; it takes the place of what that host said of them before."""
        self._forget(now_s)
        for use in uses:
            self._drop((host_id, use.user))
            if (use.slots or use.ram_mib or use.vms) and len(self._said) < ENTRIES_MAX:
                self._said[host_id, use.user] = (now_s, host, use)
                self._of_user.setdefault(use.user, {})[host_id] = None

    def elsewhere(self, user_id: UserId, now_s: float) -> Elsewhere:
        if user_id[:SHORT] not in self._of_user:
            return NOWHERE
        said = self.told(user_id, now_s)
        use = Use(sum(each.slots for each in said), sum(each.ram_mib for each in said), sum(each.vms for each in said))
        return Elsewhere(use, tuple(each.host for each in said))

    def told(self, user_id: UserId, now_s: float) -> tuple[HostUse, ...]:
        """What each other host last said of this user, by the hosts' names."""
        self._forget(now_s)
        user = user_id[:SHORT]
        said = [(host_id, *self._said[host_id, user][1:]) for host_id in self._of_user.get(user, ())]
        told = [HostUse(host, host_id, use.slots, use.ram_mib, use.vms) for host_id, host, use in said]
        return tuple(sorted(told, key=lambda each: (each.host, each.host_id)))

    def _forget(self, now_s: float) -> None:
        while self._said:
            key, (heard_s, _, _) = next(iter(self._said.items()))
            if now_s - heard_s < FORGET_S:
                return
            self._drop(key)

    def _drop(self, key: tuple[HostId, str]) -> None:
        if self._said.pop(key, None) is not None:
            hosts = self._of_user[key[1]]
            del hosts[key[0]]
            if not hosts:
                del self._of_user[key[1]]


def uses_here(quota: Quota, vms: Iterable[Vm], committed: Collection[Claim]) -> tuple[UserUse, ...]:
    """What each user has on this host, to be told to others; what is only held is gone before anybody hears of it."""
    users = dict.fromkeys(vm.user_id for vm in vms)
    return tuple(_short(user_id, quota.use(user_id, committed)) for user_id in users)


def _short(user_id: UserId, use: Use) -> UserUse:
    return UserUse(user_id[:SHORT], use.slots, use.ram_mib, use.vms)
