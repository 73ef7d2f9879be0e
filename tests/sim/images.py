"""What is on a store's disk: blocks in which each writer leaves its stamp, and records of who may write. Judged here:

I3 at most one writer of a non-shareable volume: from the moment in which a record has a new epoch, no block may get a
stamp of another one, nor of another life of a VM. I4 a volume's epoch only grows: each new holder has a higher one, and
a record that was on the disk stays there, or a newer one does. Where the whole pool is replaced by an older one, that
one's records count again, and yet the next holder's epoch is higher than any before.

Judged by what is in blocks and records, and not by anybody's books.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from specs.ids import Vid, VmId
from storaged.volume import Epoch, Right
from tests.sim.violation import Violation

BLOCKS = 4
NEVER = Epoch(0, "")


@dataclass(frozen=True, slots=True)
class Stamp:
    """Who wrote a block."""

    epoch: Epoch
    vm_id: VmId
    generation: int

    def __str__(self) -> str:
        return f"{self.vm_id[:6]}.{self.generation} of epoch {self.epoch.counter}"


@dataclass(slots=True)
class Image:
    blocks: list[Stamp | None] = field(default_factory=lambda: [None] * BLOCKS)


class Stamps:
    """The judge of all images and records."""

    def __init__(self) -> None:
        self.writes = self.takeovers = 0
        self._newest: dict[Vid, Right] = {}
        self._of_life: dict[tuple[Vid, VmId, int], Epoch] = {}
        self._floors: defaultdict[Vid, int] = defaultdict(int)

    def recorded(self, right: Right) -> None:
        """A record is on the disk: from now on, nobody but its holder may write."""
        before, counter = self._newest.get(right.vid), right.epoch.counter
        if counter < self._floors[right.vid]:
            raise Violation(
                "I4", f"the record of volume {right.vid[:6]} says {counter} after {self._floors[right.vid]}"
            )
        if before is not None and right.held and _stamp(right) != _stamp(before):
            if counter <= before.epoch.counter:
                raise Violation("I4", f"volume {right.vid[:6]} is given to {_stamp(right)} after {_stamp(before)}")
            self.takeovers += before.held
        self._floors[right.vid] = counter
        self._newest[right.vid] = right
        if right.held:
            self._of_life[right.vid, right.vm_id, right.generation] = right.epoch

    def found(self, vid: Vid, right: Right | None) -> None:
        """After power has failed."""
        counter = right.epoch.counter if right else 0
        if counter < self._floors[vid]:
            raise Violation("I4", f"the record of volume {vid[:6]} is back at {counter} after {self._floors[vid]}")

    def replaced(self, vid: Vid, right: Right | None) -> None:
        """With the whole pool, by an older one."""
        self._floors[vid] = right.epoch.counter if right else 0

    def stamp_of(self, vid: Vid, vm_id: VmId, generation: int) -> Stamp:
        """Of a VM that opens the image itself: its own last epoch."""
        return Stamp(self._of_life.get((vid, vm_id, generation), NEVER), vm_id, generation)

    def written(self, vid: Vid, image: Image, block: int, stamp: Stamp) -> None:
        """A block is on the disk."""
        self.writes += 1
        image.blocks[block] = stamp
        newest = self._newest.get(vid)
        if newest is None or not newest.held or stamp != _stamp(newest):
            has = "nobody" if newest is None or not newest.held else _stamp(newest)
            raise Violation("I3", f"block {block} of volume {vid[:6]} is written by {stamp}, and {has} has it")


def _stamp(right: Right) -> Stamp:
    return Stamp(right.epoch, right.vm_id, right.generation)
