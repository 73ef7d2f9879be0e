"""The noes of a compute host: a code for programs, and a reason for the person. Pure."""

from collections.abc import Sequence

from atomd.vms.lifecycle import AT_REST, State, Vm
from atomd.volumes.answers import Silent, told
from matcher.offers.ledger import Refusal
from matcher.wire.messages import REASONS_MAX, Confirm, Reason, Refused
from specs.ids import UserId


def refused(code: str, resource: str, asked: str, has: str, hint: str) -> Refused:
    return Refused(code, (Reason(resource[:80], asked[:120], has[:120], hint[:160]),))


def over_grant(reasons: Sequence[Reason]) -> Refused:
    return Refused(Refusal.OVER_GRANT, tuple(reasons[:REASONS_MAX]))


def too_old(here: int, asked: int) -> Refused:
    return refused("old-generation", "vm", f"generation {asked}", f"generation {here} is here", "electros ps")


def not_next(vm: Vm, confirm: Confirm, user_id: UserId, *, busy: bool, undone: bool) -> Refused | None:
    """Why `confirm` can't be the next life of the VM that is here. `undone`: its last one is being taken back."""
    if vm.user_id != user_id:
        return refused("not-found", "vm", "this VM", "not yours", "electros ps shows yours")
    if vm.state is State.REMOVING and undone:  # never promised, and soon gone
        return refused("not-now", "vm", "this VM", "an earlier try is still being undone", "run it again")
    if confirm.generation <= vm.generation:
        return too_old(vm.generation, confirm.generation)
    if vm.state not in AT_REST or busy:
        return refused("running", "vm", "a new start", f"it is {vm.state} here", "electros stop it first")
    if (vm.confirm.vm.firmware, vm.confirm.vm.tpm) != (confirm.vm.firmware, confirm.vm.tpm):
        # What they keep is found by the VM's id: secure boot must not meet the variables of a firmware without it.
        return refused("not-now", "vm", "another firmware or TPM", "a VM keeps its own", "rm it, and run it anew")
    return None


def name_taken(name: str) -> Refused:
    hint = "choose another name, or remove that one: electros rm"
    return refused("name-taken", "name", name, "you have a VM of that name here", hint)


def stale_realm(why: str) -> Refused:
    """Who has heard no issuer for long may not know who was revoked."""
    return refused("stale-realm", "realm", "a new VM", why, "is an issuer's host up? electros realm status")


def unattached(refusal: Refused) -> str:
    """For a VM that is promised already."""
    return f"its volumes could not be attached{': ' if refusal.reasons else ''}{told(refusal.reasons)}"


def silent(silence: Silent) -> Refused:
    if silence.asked:
        return refused("storage", "volumes", "the volumes attached", silence.why, "ask its sysadmin")
    return refused("not-reachable", "volumes", "the volumes attached", silence.why, "is it up? electros hosts")


def on_volume(vid: str, code: str, has: str, hint: str, asked: str = "to attach it") -> Refused:
    return refused(code, f"volume {vid}", asked, has, hint)


def owes_too_much(asked: str) -> Refused:
    has = "too many VMs of this host are gone, and their storage hosts have yet to hear of it"
    return refused("owes-too-much", "volumes", asked, has, "if one is gone for good: electros realm remove HOST")


STILL_OWED = refused("not-now", "vm", "to run it", "its storage host has not let go of its last try", "run it anew")
NOT_FOUND = refused("not-found", "vm", "a VM", "no such VM of yours here", "electros ps shows yours")
REMOVED = refused("not-found", "vm", "this VM", "you removed it", "run it again")
DETACHED = refused("detached", "volume", "this volume", "it was detached since", "ask again: electros volume attach")
ABANDONED = refused("abandoned", "offer", "this offer", "you abandoned it", "run it again")
UNDONE = refused("undone", "confirm", "this offer", "atomd ended before it could promise it", "run it again")
DRAINED = refused("drained", "host", "a new VM", "drained by its sysadmin", "run it again")
REVOKED = refused("revoked", "user", "a VM", "you are no member of this realm any more", "ask an admin")
OVER_GRANT = refused(Refusal.OVER_GRANT, "grant", "this offer", "more than your grant allows here", "electros whoami")
WHY_REVOKED = "its user was revoked"
