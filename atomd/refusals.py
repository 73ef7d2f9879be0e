"""The noes of a compute host: a code for programs, and a reason for the person. Pure."""

from matcher.wire.messages import Reason, Refused


def refused(code: str, resource: str, asked: str, has: str, hint: str) -> Refused:
    return Refused(code, (Reason(resource[:80], asked[:120], has[:120], hint[:160]),))


REMOVED = refused("not-found", "vm", "this VM", "you removed it", "run it again")
ABANDONED = refused("abandoned", "offer", "this offer", "you abandoned it", "run it again")
UNDONE = refused("undone", "confirm", "this offer", "atomd ended before it could promise it", "run it again")
SILENT = refused("storage", "volumes", "the volumes attached", "storaged does not answer", "ask its sysadmin")
