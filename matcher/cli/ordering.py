"""Changes of volumes that take a while: asked for, watched, and asked for again where the connection was lost."""

import random
import time
from collections.abc import Callable
from itertools import chain

from matcher.cli.failures import Exit, Failure
from matcher.cli.output import Progress
from matcher.cli.session import Session, refused
from matcher.net.https import Door, Unanswered, Unreachable
from matcher.wire.messages import Message, Refused
from matcher.wire.volumes import VolumeProgress, VolumeView
from specs.ids import new_id
from specs.units import show_mib

LINE_S = 30.0  # a host that is at it says something each half second
AGAIN_MAX = 5  # times that nothing was heard, one after the other


def ordered(
    mine: Session,
    door: Door,
    method: str,
    path: str,
    body: Message | None = None,
    begun: Callable[[], None] = lambda: None,
) -> VolumeView:
    """The volume as it is then. Hosts know a repeated order by its name, so that it is done once. `begun` is called
    when the host has begun, each time that it says so anew. Raises `Failure`, with the code "unknown" where it may have
    been done."""
    progress, name = Progress(), new_id(mine.random)
    said, is_sure = "", True
    try:
        for _ in range(AGAIN_MAX):
            try:
                return _followed(mine, door, (method, path, body, name), progress, begun)
            except Unreachable as error:
                if is_sure:
                    raise Failure(Exit.UNREACHABLE, f"{door.host} can't be reached: {error}") from None
                said = str(error)
            except Unanswered as error:
                said, is_sure = str(error), False
            time.sleep(random.uniform(0.2, 1.0))  # noqa: S311
    finally:
        progress.clear()
    message = f"{door.host} was asked, and what became of it is not known: {said}"
    raise Failure(Exit.TIMEOUT, message, code="unknown", helps="electros volume ls")


def _followed(
    mine: Session,
    door: Door,
    order: tuple[str, str, Message | None, str],
    progress: Progress,
    begun: Callable[[], None],
) -> VolumeView:
    method, path, body, name = order
    with mine.client.interrupts.waiting(), mine.client.connect(door, timeout_s=LINE_S) as connection:
        first = connection.first(method, path, VolumeProgress, body, name=name)
        if isinstance(first, Refused):
            raise refused(door.host, first)
        begun()
        for line in chain((first,), connection.rest(VolumeProgress, LINE_S)):
            if line.volume is not None:
                return line.volume
            if line.refused is not None:
                raise refused(door.host, line.refused)
            progress.say(_shown(line))
    raise Unanswered(f"{door.host}: the answer breaks off")


def _shown(line: VolumeProgress) -> str:
    if not line.total_mib:
        return line.step
    percent = 100 * line.done_mib // line.total_mib
    return f"{line.step} {percent} % of {show_mib(line.total_mib)}"
