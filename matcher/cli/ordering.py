"""Changes of volumes that take a while: asked for, watched, and asked for again where the connection was lost."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

from matcher.cli.failures import Exit, Failure
from matcher.cli.output import Progress
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
        vid = dashed(vid)
        helps = f"electros volume inspect {vid} shows it when it is whole; electros volume rm {vid} removes it then"
        return cls(doing, "POST", path, body, helps)


def ordered(mine: Session, door: Door, order: Order, begun: Callable[[], None] = lambda: None) -> VolumeView:
    """The volume as it is then. Hosts know a repeated order by its name, so that it is done once. `begun` is called
    when the host has begun, each time that it says so anew. Raises `Failure`, with the code "unknown" where it may have
    been done, and "interrupted" where it may be done yet."""
    progress, name = Progress(), new_id(mine.random)
    said, is_sure, has_begun = "", True, False

    def begins() -> None:
        nonlocal has_begun
        has_begun = True
        begun()

    try:
        for _ in range(AGAIN_MAX):
            try:
                return _followed(mine, door, order, name, progress, begins)
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


def _followed(
    mine: Session, door: Door, order: Order, name: str, progress: Progress, begun: Callable[[], None]
) -> VolumeView:
    with mine.client.interrupts.waiting(), mine.client.connect(door, timeout_s=LINE_S) as connection:
        first = connection.first(order.method, order.path, VolumeProgress, order.body, name=name)
        if isinstance(first, Refused):
            raise refused(door.host, first, order.doing)
        begun()
        for line in chain((first,), connection.rest(VolumeProgress, LINE_S)):
            if line.volume is not None:
                return line.volume
            if line.refused is not None:
                raise refused(door.host, line.refused, order.doing)
            progress.say(_shown(line))
    raise Unanswered(f"{door.host}: the answer breaks off")


def _shown(line: VolumeProgress) -> str:
    if not line.total_mib:
        return line.step
    percent = 100 * line.done_mib // line.total_mib
    return f"{line.step} {percent} % of {show_mib(line.total_mib)}"
