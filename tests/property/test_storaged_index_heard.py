"""Whatever happens beneath a pool, what is heard of it and looked at leads to the same as searching everything."""

import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from specs.ids import dashed
from storaged import index as index_module
from storaged.hints import NAMED, Hints
from storaged.index import Index
from storaged.testing import a_tick_later, make_volume, vid_of
from storaged.volume import Snapshot

FOLDERS = ("", "a", "a/b", "c", "c/d/e")
Act = Callable[[Path, Path], object]  # one place, and another one; a second link to an image alone is not heard of


def rewrite(volume: Path, _: Path) -> None:
    (volume / "meta.json").write_text("{size: .25, name: rewritten}")


def spoil(volume: Path, _: Path) -> None:
    (volume / "meta.json").write_text("{")


def regrow(volume: Path, _: Path) -> None:
    with (volume / "data.img").open("r+b") as image:
        image.truncate(2**28)


ACTS: dict[str, Act] = {
    "make": lambda volume, _: make_volume(volume.parent, vid_of(int(volume.name[-7], 16))),
    "move": lambda volume, other: volume.rename(other),
    "remove": lambda volume, _: shutil.rmtree(volume),
    "copy": lambda volume, other: shutil.copytree(volume, other),
    "rewrite": rewrite,
    "spoil": spoil,
    "regrow": regrow,
    "link the folder": lambda volume, other: other.symlink_to(volume),
    "put a file": lambda volume, _: volume.write_text(""),
    "record": lambda volume, _: (volume / "attachment.json").write_text("{}"),
    "open to all": lambda volume, _: volume.chmod(0o777),
    "unlink": lambda volume, _: volume.unlink(),
    "make the folder": lambda volume, _: volume.parent.mkdir(parents=True),
    "move the folder": lambda volume, other: volume.parent.rename(other.parent),
    "remove the folder": lambda volume, _: shutil.rmtree(volume.parent) if volume.parent.name != "pool" else None,
}
places = st.tuples(st.sampled_from(FOLDERS), st.integers(1, 3))
stories = st.lists(st.tuples(st.sampled_from(sorted(ACTS)), places, places), min_size=1, max_size=8)


def heard(pool: Path, scanner: Index, hints: Hints, snapshot: Snapshot) -> Snapshot:
    """As the catalogue does it, until there is nothing more to hear."""
    again: set[str] = set()
    for _ in range(20):
        hint = hints.take()
        paths = hint.paths | again
        looked = None if hint.whole or not all(path.endswith(NAMED) for path in again) else scanner.look(paths)
        snapshot = scanner.scan([pool]) if looked is None else looked
        again = set(hints.watch(scanner.watchable()).new)
        if not (again or hint.whole or hint.paths):
            return snapshot
    raise AssertionError("it does not come to rest")


def essence(snapshot: Snapshot) -> Snapshot:
    """What is passed over is counted by scans alone; the order of what has no vid is nobody's."""
    nameless = tuple(sorted(snapshot.nameless, key=lambda bad: bad.path))
    return replace(snapshot, nameless=nameless, ignored=Snapshot().ignored)


@given(stories)
@settings(max_examples=60, deadline=None)
def test_what_is_heard_and_looked_at_is_what_a_search_of_everything_finds(
    story: list[tuple[str, tuple[str, int], tuple[str, int]]],
) -> None:
    with tempfile.TemporaryDirectory() as root, patch.object(index_module, "SETTLED_NS", 0):
        pool, hints, scanner = Path(root, "pool"), Hints(), Index()
        make_volume(pool / "a", vid_of(1))
        make_volume(pool, vid_of(2))
        snapshot = heard(pool, scanner, hints, scanner.scan([pool]))
        for act, one, other in story:
            a_tick_later(Path(root))
            with suppress(OSError):
                ACTS[act](*(pool / folder / f"{dashed(vid_of(number))}.elimg" for folder, number in (one, other)))
            snapshot = heard(pool, scanner, hints, snapshot)
            assert essence(snapshot) == essence(Index().scan([pool]))
        hints.close()
