"""Whether a user may take an offer of this host, and what became of the offers that were taken. Pure.

The first objection counts, in the order in which a person can do something about them. A refusal is for good: see
`atomd.vms.closed`.
"""

from collections.abc import Mapping

from atomd.capacity.hardware import Claim
from atomd.vms import refusals as no
from atomd.vms.admission import Admission, is_as_pledged
from atomd.vms.closed import Closed
from atomd.vms.lifecycle import State, Vm
from atomd.vms.moment import Moment
from atomd.vms.refusals import name_taken, not_next, refused, too_old
from atomd.vms.table import VmTable
from atomd.volumes.owed import Owed
from matcher.offers.ledger import Ledger, Refusal, User
from matcher.offers.offering import Offering
from matcher.wire.messages import Confirm, Refused
from specs.ids import HostId, OfferId, UserId, VmId


class Judging:
    """`older` are the stopped generations that PREPARED ones would replace."""

    def __init__(
        self,
        *,
        host_id: HostId,
        table: VmTable,
        older: Mapping[VmId, Vm],
        closed: Closed,
        owed: Owed,
        ledger: Ledger[Claim],
        offering: Offering[Claim],
        admission: Admission,
    ) -> None:
        self._host_id, self._table, self._older = host_id, table, older
        self._closed, self._owed = closed, owed
        self._ledger, self._offering, self._admission = ledger, offering, admission

    def taken(self, offer_id: OfferId) -> Vm | None:
        """The VM that an offer has become."""
        vms = (*self._table.vms.values(), *self._older.values())
        return next((vm for vm in vms if vm.offer_id == offer_id), None)

    def outcome(self, offer_id: OfferId) -> Vm | Refused | None:
        """What became of a confirm: the VM once it is promised, the refusal, or `None` while it is being decided."""
        if (refusal := self._closed.refusal(offer_id)) is not None:
            return refusal
        vm = self.taken(offer_id)
        if vm is None or vm.state is State.PREPARED:
            return None
        return no.REMOVED if vm.state is State.REMOVING else vm

    def refuse(self, offer_id: OfferId, user_id: UserId, refusal: Refused, now_s: float) -> Refused:
        """For good, and the hold is free; another user's hold stays."""
        hold = self._ledger.held(offer_id, now_s)
        if hold is not None and hold.user_id == user_id:
            self._ledger.release(offer_id)
            self._closed.refuse(offer_id, refusal)
        return refusal

    def objection(self, confirm: Confirm, user: User, moment: Moment) -> Refused | None:
        """Why this offer can't be taken with these words; it has not been yet."""
        offer_id, user_id = OfferId(confirm.offer_id), UserId(user.id)
        vm = self._table.vms.get(VmId(confirm.vm_id))
        if (refusal := self._closed.refusal(offer_id)) is not None:
            return refusal
        if confirm.host_id != self._host_id:
            return refused("wrong-host", "confirm", "another host", "this is not it", "send it to the host it names")
        if vm is not None and vm.user_id == user_id and confirm.generation < vm.generation:
            return too_old(vm.generation, confirm.generation)  # lapsed or not: no other host should run it either
        if self._closed.is_abandoned(offer_id):
            return no.ABANDONED
        if (VmId(confirm.vm_id), confirm.generation) in self._owed:
            return no.STILL_OWED
        if confirm.volumes and self._owed.is_full:
            return no.owes_too_much("to give it volumes")
        hold = self._ledger.held(offer_id, moment.now_s)
        if hold is None or hold.user_id != user_id:
            return refused(Refusal.HOLD_LAPSED, "offer", "this offer", "it has lapsed", "run it again")
        pledge = self._offering.pledged(hold.pledge_id, user_id)
        if pledge is None or not is_as_pledged(confirm, pledge):
            return refused("not-as-pledged", "confirm", "what was pledged", "something else", "run it again")
        if (objection := self._against_place(confirm, vm, user_id)) is not None:
            return objection
        return self._admission.against_confirm(confirm, hold.claim, user, self._ledger.committed(), moment)

    def _against_place(self, confirm: Confirm, vm: Vm | None, user_id: UserId) -> Refused | None:
        """That of the VM that is here under this id, or of another one under its name."""
        if vm is not None:
            undone = self._closed.is_refused(vm.offer_id)
            objection = not_next(vm, confirm, user_id, busy=vm.vm_id in self._table.busy, undone=undone)
            if objection is not None:
                return objection
        others = (other for other in self._table.vms.values() if other is not vm and other.user_id == user_id)
        if confirm.name and any(other.confirm.name == confirm.name for other in others):
            return name_taken(confirm.name)
        return None
