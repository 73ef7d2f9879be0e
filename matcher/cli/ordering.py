"""Changes of volumes that take a while: asked for, watched, and asked for again where the connection was lost."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

from matcher.cli.failures import Exit, Failure
from matcher.cli.output import Progress, note
from matcher.cli.session import Session, refused
from matcher.net.https import Door, Unanswered, Unreachable
from matcher.wire.messages import Message, Refused
from matcher.wire.volumes import VolumeProgress, VolumeView
from specs.ids import dashed, new_id
from specs.units import show_mib

LINE_S = 30.0  # a host that is at it says something each half second
AGAIN_MAX = 5  # times that nothing was heard, one after the other


@dataclass(frozen=True, slots=True)
class Order:
    """`doing` completes "the host did not …"; `helps` is for whoever does not see the end."""

    doing: str
    method: str
    path: str
    body: Message | None = None
    helps: str = "electros volume ls shows what became of it"

    @classmethod
    def to_make(cls, path: str, vid: str, doing: str, body: Message | None = None) -> "Order":
        """A volume that is not there yet."""
        return cls(doing, "POST", path, body, how_it_goes(vid))


def how_it_goes(vid: str) -> str:
    """For whoever no longer waits for what is done to a volume."""
    vid = dashed(vid)
    return f"electros volume inspect {vid} shows how far it is; electros volume cancel {vid} ends it"


def ordered(
    mine: Session,
    door: Door,
    order: Order,
    begun: Callable[[], None] = lambda: None,
    ended: Callable[[VolumeProgress], None] = lambda _: None,
) -> VolumeView:
    """The volume as it is then. Hosts know a repeated order by its name, so that it is done once. `begun` is called
    when the host has begun, each time that it says so anew, and `ended` with the last that it says. Raises `Failure`,
    with the code "unknown" where it may have been done, and "interrupted" where it may be done yet."""
    progress, name = Progress(), new_id(mine.random)
    said, is_sure, has_begun = "", True, False

    def begins() -> None:
        nonlocal has_begun
        has_begun = True
        begun()

    try:
        for _ in range(AGAIN_MAX):
            try:
                return _told(_followed(mine, door, order, name, progress, begins), ended)
            except Unreachable as error:
                if is_sure:
                    raise Failure(Exit.UNREACHABLE, f"{door.host} can't be reached: {error}") from None
                said = str(error)
            except Unanswered as error:
                said, is_sure = str(error), False
            time.sleep(random.uniform(0.2, 1.0))  # noqa: S311
    except KeyboardInterrupt:
        left = "goes on with it" if has_begun else "may do it all the same"
        said = f"interrupted; {door.host} was asked to {order.doing}, and {left}"
        raise Failure(Exit.INTERRUPTED, said, helps=order.helps) from None
    finally:
        progress.clear()
    message = f"{door.host} was asked to {order.doing}, and what became of it is not known: {said}"
    raise Failure(Exit.TIMEOUT, message, code="unknown", helps=order.helps)


class Copying:
    """Tells how much was copied for a copy, and how long it took."""

    def __init__(self, of: str) -> None:
        self._of, self._started_s = of, time.monotonic()

    def ended(self, last: VolumeProgress) -> None:
        if last.step == "share":
            note(f"electros: it shares its blocks with {self._of}: nothing is copied")
        elif last.step == "copy":
            took_s = time.monotonic() - self._started_s
            note(f"electros: {show_mib(last.total_mib)} of {self._of} are copied, in {took_s:.1f} s")


def _told(last: VolumeProgress, ended: Callable[[VolumeProgress], None]) -> VolumeView:
    assert last.volume is not None
    ended(last)
    return last.volume


def _followed(
    mine: Session, door: Door, order: Order, name: str, progress: Progress, begun: Callable[[], None]
) -> VolumeProgress:
    """The last that the host says, with the volume."""
    with mine.client.interrupts.waiting(), mine.client.connect(door, timeout_s=LINE_S) as connection:
        first = connection.first(order.method, order.path, VolumeProgress, order.body, name=name)
        if isinstance(first, Refused):
            raise refused(door.host, first, order.doing)
        begun()
        for line in chain((first,), connection.rest(VolumeProgress, LINE_S)):
            if line.volume is not None:
                return line
            if line.refused is not None:
                raise refused(door.host, line.refused, order.doing)
            progress.say(_shown(line))
    raise Unanswered(f"{door.host}: the answer breaks off")


def _shown(line: VolumeProgress) -> str:
    if not line.total_mib:
        return line.step
    percent = 100 * line.done_mib // line.total_mib
    return f"{line.step} {percent} % of {show_mib(line.total_mib)}"
