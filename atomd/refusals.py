"""The noes of a compute host: a code for programs, and a reason for the person. Pure."""

from matcher.wire.messages import Attached, Reason, Refused


def refused(code: str, resource: str, asked: str, has: str, hint: str) -> Refused:
    return Refused(code, (Reason(resource[:80], asked[:120], has[:120], hint[:160]),))


def too_old(here: int, asked: int) -> Refused:
    return refused("old-generation", "vm", f"generation {asked}", f"generation {here} is here", "electros ps")


def unattached(answer: Attached | Refused) -> str:
    reasons = answer.reasons if isinstance(answer, Refused) else ()
    told = "; ".join(f"{reason.resource}: {reason.has}" for reason in reasons)
    return f"its volumes could not be attached after the host started{': ' if told else ''}{told}"


REMOVED = refused("not-found", "vm", "this VM", "you removed it", "run it again")
ABANDONED = refused("abandoned", "offer", "this offer", "you abandoned it", "run it again")
UNDONE = refused("undone", "confirm", "this offer", "atomd ended before it could promise it", "run it again")
DRAINED = refused("drained", "host", "a new VM", "drained by its sysadmin", "run it again")
SILENT = refused("storage", "volumes", "the volumes attached", "storaged does not answer", "ask its sysadmin")
