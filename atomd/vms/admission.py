"""Whether this host lets a user start something: a member, a realm that is fresh, a grant that is wide enough. Pure.

Asked for every offer, again for every confirm, and once more when volumes were slow to attach, since much may have
changed meanwhile: the user, the grant, the settings, the hour. What runs already is never judged by it.
"""

from collections.abc import Callable, Collection

from atomd.capacity.hardware import Claim
from atomd.capacity.quota import Quota, Want
from atomd.vms.lease import Lease, begin
from atomd.vms.lifecycle import PROMISED, State, Vm
from atomd.vms.moment import Moment
from atomd.vms.refusals import REVOKED, WHY_REVOKED, over_grant
from matcher.offers.ledger import User
from matcher.wire.messages import Abandon, Confirm, Pledge, Refused
from specs.ids import UserId, VmId


def always() -> None:
    """For a host that has nothing against new VMs as such."""


class Admission:
    """`is_member` tells whether a user has not been revoked; `takes_new` why this host takes no new VMs from anybody
    (it is being emptied, its realm is stale), or `None`."""

    def __init__(
        self,
        quota: Quota,
        *,
        is_member: Callable[[UserId], bool],
        takes_new: Callable[[], Refused | None] = always,
    ) -> None:
        self.quota, self.is_member, self.takes_new = quota, is_member, takes_new

    def against_confirm(
        self, confirm: Confirm, claim: Claim, user: User, committed: Collection[Claim], moment: Moment
    ) -> Refused | None:
        """Why an offer may not be taken any more; the ledger judges the numbers once more."""
        if not self.is_member(UserId(user.id)):
            return REVOKED
        if (closed := self.takes_new()) is not None:
            return closed
        want = Want(VmId(confirm.vm_id), confirm.vm, claim, confirm.generation)
        reasons = self.quota.against_confirm(want, user, committed, minute=moment.minute)
        return over_grant(reasons) if reasons else None

    def against_attached(self, vm: Vm) -> Refused | None:
        """Why a VM whose volumes are attached may not go on its way: one that was not promised yet, or one that comes
        back after a reboot."""
        if not self.is_member(vm.user_id):
            return REVOKED
        return self.takes_new() if vm.state is State.PREPARED else None

    def kept_down(self, vm: Vm, lease: Lease | None, now_s: float) -> str | None:
        """Why a VM does not come back after the host's own reboot."""
        if not self.is_member(vm.user_id):
            return WHY_REVOKED
        return lease.why_over if lease is not None and lease.is_over(now_s) else None

    def lease(self, confirm: Confirm, user: User, boot_id: str, moment: Moment) -> Lease | None:
        return begin(self.quota.lease_s(confirm.vm, user), boot_id, moment)


def is_as_pledged(confirm: Confirm, pledge: Pledge) -> bool:
    asked = (confirm.pledge_id, confirm.vm_id, confirm.generation, confirm.vm)
    vids = tuple(volume.vid for volume in confirm.volumes)
    return (*asked, vids) == (pledge.pledge_id, pledge.vm_id, pledge.generation, pledge.vm, pledge.volumes)


def standing(vm: Vm, older: Vm | None, abandon: Abandon, *, undone: bool) -> Vm | None:
    """The promise that an abandon comes too late for: of this very offer, or of a later generation. `undone`: the VM's
    own confirm was refused."""
    if older is not None and older.offer_id == abandon.offer_id:
        return older
    meant = vm.offer_id == abandon.offer_id or vm.generation > abandon.generation
    was_promised = vm.state is State.REMOVING and not undone
    return vm if meant and (vm.state in PROMISED or was_promised) else None
