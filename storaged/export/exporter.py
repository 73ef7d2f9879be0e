"""What every driver does: makes exports, ends them for certain, and says what there is.

    wanted --export--> served --cut--> gone, proven
       '--the server dies--> made again as soon as it is back

`Unknown` is no failure: what was asked may have happened, or may yet. Whoever gets it asks again, and until then takes
the old writer for one that can still write.
"""

from collections.abc import Collection, Mapping
from typing import Protocol

import trio

from storaged.export.description import Access, Cut, Export, Image, Kind, Observed, Refused, Unknown
from storaged.volume import Epoch

Problems = Mapping[str, Refused | Unknown]  # by name of target


class Exporter(Protocol):
    """One way for volumes to reach hosts. All calls may be made at once; edits wait for each other."""

    @property
    def kind(self) -> Kind: ...

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the server alive and its exports as they are wanted, for ever. Says *started* when it has been found or
        begun. Cancelling it leaves the server alone: exports outlive the daemon. Until the first `reconcile` nothing
        that was found there is touched."""

    async def observe(self) -> frozenset[Observed] | Unknown:
        """The exports as they are, whoever made them."""

    async def export(self, export: Export) -> Access | Refused | Unknown:
        """Make it, or find it made; the same call again gives the same answer. It is wanted from then on."""

    async def cut(self, image: Image, epoch: Epoch | None = None) -> Cut | Unknown:
        """End what serves the volume, of this epoch or of any. `Cut` is given when it is proven that no write of an old
        holder can land any more."""

    async def reconcile(self, wanted: Collection[Export]) -> Problems:
        """Make what there is equal to `wanted`: end all that isn't in it, export what is missing. Those of `wanted`
        that are served already keep their sessions. That an image is closed is proven by `cut` alone. What can't be
        done now is told, and tried again whenever the server is looked at."""
