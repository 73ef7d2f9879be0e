"""What is to be exported, and what follows where a server has something else: which exports go, which are made.

Until it has been told all that is wanted, what was found is left alone: exports outlive the daemon that made them, and
who writes through one may be right to do so.
Pure.
"""

from collections.abc import Collection, Iterator

from specs.ids import Vid
from storaged.export.description import Export, Image, Observed, Refused, refused
from storaged.volume import Epoch

EXPORTS_MAX = 1024  # of one host


class Wanted:
    """By name of target. It is the truth; what the server has follows it."""

    def __init__(self) -> None:
        self._exports: dict[str, Export] = {}
        self._is_told = False

    def __contains__(self, target: str) -> bool:
        return target in self._exports

    def __iter__(self) -> Iterator[str]:
        return iter(self._exports)

    def has(self, vid: Vid) -> bool:
        """Whether the volume is to be exported, in whichever epoch."""
        return any(export.image.vid == vid for export in self._exports.values())

    def tell(self, exports: Collection[Export]) -> None:
        """All of it."""
        assert len(exports) <= EXPORTS_MAX
        self._exports = {export.target: export for export in exports}
        self._is_told = True

    def want(self, export: Export) -> Refused | None:
        """One more, from now on."""
        if len(self._exports.keys() | {export.target}) > EXPORTS_MAX:
            return refused(export, "too-many-exports", f"this host exports {EXPORTS_MAX} already", "use another host")
        self._exports[export.target] = export
        return None

    def forget(self, export: Export) -> None:
        """It can't be."""
        self._exports.pop(export.target, None)

    def let_go(self, image: Image, epoch: Epoch | None) -> None:
        """The volume's, of this epoch or of any: before anything is asked of the server, so that none is made anew."""
        for name, export in [*self._exports.items()]:
            if export.image.vid == image.vid and epoch in (None, export.epoch):
                del self._exports[name]

    def too_many(self, found: Collection[Observed]) -> Iterator[Observed]:
        """Those that have to go; each is judged when its turn comes, as it may be wanted again by then."""
        for seen in found:
            if self._is_told and seen.target not in self._exports:
                yield seen

    def missing(self, found: Collection[Observed]) -> list[Export]:
        """Those that are not there, or not as they should be."""
        served = {seen.target: seen for seen in found}
        return [e for name, e in self._exports.items() if name not in served or not served[name].serves(e)]
