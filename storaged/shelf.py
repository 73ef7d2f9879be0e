"""The volumes, as those that change them need them: which there are, whose, and who has them.

A volume is its owner's to change; one that nobody owns is for admins. What a caller may not see is not there.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from matcher.net.caller import Caller
from matcher.wire.messages import Reason, Refused
from matcher.wire.realm import Verb
from specs.ids import UserId, Vid, VmId
from storaged.views import Views
from storaged.volume import Snapshot, Volume

HAS_MAX, HINT_MAX = 120, 160  # characters, as a `Reason` may have

ABSENT = Refused(
    "not-found", (Reason("volume", "this volume", "no such volume here", "electros volume ls shows what you may see"),)
)
COPY = "a copy would be yours: electros volume clone"

VmLife = tuple[VmId, int]  # with its generation


@dataclass(frozen=True, slots=True)
class Shelf:
    """One host's. `in_use` tells of attachments; `look` reads the folder at a path again, before anybody is told that
    it has changed. `close` is for a worker thread: the host of a life that is over has the volume open no more; it
    raises `Unusable` or `JournalError`."""

    snapshot: Callable[[], Snapshot]
    views: Views
    in_use: Callable[[Vid, VmLife | None], bool]
    look: Callable[[str], Awaitable[None]]
    close: Callable[[Vid, VmId, int, Snapshot], None]
    under_lease: Callable[[Volume, Callable[[], None]], None] = lambda _, work: work()  # while no server gives it away

    def knows(self, vid: Vid) -> bool:
        """Whether a volume can't be made of this UUID any more."""
        snapshot = self.snapshot()
        return vid in snapshot.volumes or vid in snapshot.bad or vid in snapshot.conflicts

    def seen(self, vid: Vid, caller: Caller) -> Volume | Refused:
        """The volume, if the caller may see it."""
        snapshot = self.snapshot()
        volume, bad = snapshot.volumes.get(vid), snapshot.bad.get(vid)
        if bad is not None and bad.withheld is not None and bad.withheld.visible_to(UserId(caller.id)):
            return no("withheld", vid, "change it", bad.reason, "electros volume inspect")
        return volume if volume is not None and volume.visible_to(UserId(caller.id)) else ABSENT

    def own(self, vid: Vid, caller: Caller, hint: str = "") -> Volume | Refused:
        """The volume, if it is the caller's to change; `hint`: what whose it is not can do instead."""
        volume = self.seen(vid, caller)
        if isinstance(volume, Refused) or volume.owner == caller.id:
            return volume
        if volume.owner is not None:
            return no("denied", vid, "change it", "it is another user's", hint)
        if caller.who.may(Verb.ADMIN):
            return volume
        return no("denied", vid, "change it", "nobody owns it, so that it is for admins", hint)

    def who_has(self, vid: Vid, user_id: UserId) -> str:
        """A VM of somebody else stays nameless."""
        view = self.views.one(vid, user_id)
        return f"your VM {view.vms[0]} has it" if view is not None and view.vms else "a VM has it"


def no(code: str, vid: Vid, asked: str, has: str, hint: str) -> Refused:
    """What is too long for one line ends in the other, where that is free: most such sentences end with what helps."""
    if len(has) > HAS_MAX and not hint:
        has, hint = _in_two(has)
    return Refused(code, (Reason(f"volume {vid}", cut(asked, HAS_MAX), cut(has, HAS_MAX), cut(hint, HINT_MAX)),))


def _in_two(sentence: str) -> tuple[str, str]:
    """At the last place where it may be parted, the best kind of place first."""
    for mark in ("; ", ". ", " "):
        at = sentence.rfind(mark, 0, HAS_MAX + 1)
        if at > 0:
            return sentence[:at], sentence[at + len(mark) :]
    return sentence, ""


def cut(text: str, most: int) -> str:
    """What is left out shows."""
    return text if len(text) <= most else text[: most - 1] + "…"
