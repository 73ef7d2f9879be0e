"""A pool that was exchanged after the scan, by an older copy of it say, is neither read for a VM nor written."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from matcher.wire.messages import Refused
from specs.ids import VmId
from storaged import attachments, index
from storaged.beneath import Unusable
from storaged.export import description, file
from storaged.export.description import Export, Kind
from storaged.export.writers import Writers, serves, writers_of
from storaged.images import changing, making, snapshots
from storaged.images.sandbox import Sandbox
from storaged.images.seed import Seed, make_seed
from storaged.index import Index
from storaged.journal import Journal
from storaged.keeper import Keeper, Kept
from storaged.metadata import Metadata
from storaged.pool import POOL, Mark, PoolId, render_mark
from storaged.reaching import image_of
from storaged.record import RECORD
from storaged.testing import ALICE, H1, H2, make_volume, vid_of, vm_of
from storaged.volume import Epoch, Snapshot, Volume

ONE, READONLY, NEW = vid_of(1), vid_of(2), vid_of(3)
SANDBOX = Sandbox.of()


class Mounted:
    """A pool with a mark, as it was scanned."""

    def __init__(self, root: Path) -> None:
        self.root, self.pool = root, root / "pool"
        make_volume(self.pool, ONE)
        make_volume(self.pool, READONLY, readonly=True)
        self.mark("a")
        snapshots.take(self.scan().volumes[ONE], "kept")
        self.index = Index()
        self.seen = self.index.scan([self.pool])

    def scan(self) -> Snapshot:
        return Index().scan([self.pool])

    @property
    def volume(self) -> Volume:
        return self.seen.volumes[ONE]

    @property
    def pool_id(self) -> str | None:
        return self.seen.pools[0].pool_id

    def mark(self, digit: str) -> None:
        (self.pool / POOL).write_bytes(render_mark(Mark(PoolId(digit * 32), H1)))

    def exchange(self) -> None:
        """It is unmounted, and a copy of it is mounted in its place, which is a pool of its own."""
        shutil.copytree(self.pool, self.root / "copy")
        self.pool.rename(self.root / "unmounted")
        (self.root / "copy").rename(self.pool)
        self.mark("b")

    def unmount(self) -> None:
        """The empty folder beneath the mount is seen again."""
        self.pool.rename(self.root / "unmounted")
        self.pool.mkdir()

    def content(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes()[:4096] for path in sorted(self.pool.rglob("*")) if path.is_file()}


@pytest.fixture
def mounted(tmp_path: Path) -> Mounted:
    return Mounted(tmp_path)


CHANGES: dict[str, Callable[[Mounted], object]] = {
    "resize": lambda m: changing.resize(SANDBOX, m.volume, 256, most_mib=256),
    "rename": lambda m: changing.rename(m.volume, "other"),
    "remove": lambda m: changing.remove(m.volume),
    "take": lambda m: snapshots.take(m.volume, "more"),
    "rollback": lambda m: snapshots.rollback(m.volume, "kept"),
    "drop": lambda m: snapshots.drop(m.volume, "kept"),
    "list": lambda m: snapshots.snapshots_of(m.volume),
    "clone": lambda m: making.clone(str(m.pool), m.volume, NEW, Metadata(128), most_mib=128),
    "create": lambda m: making.create(SANDBOX, str(m.pool), NEW, Metadata(128), most_mib=128, pool_id=m.pool_id),
    "seed": lambda m: make_seed(
        str(m.pool), NEW, Metadata(128, owner=ALICE), Seed("#cloud-config\n", "i"), most_mib=128, pool_id=m.pool_id
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_nothing_is_changed_in_a_pool_that_was_exchanged(mounted: Mounted, what: str) -> None:
    mounted.exchange()
    before = mounted.content()
    with pytest.raises(Unusable, match="another pool"):
        CHANGES[what](mounted)
    assert mounted.content() == before


def test_nothing_is_made_in_the_empty_folder_of_a_pool_that_was_unmounted(mounted: Mounted) -> None:
    mounted.unmount()
    with pytest.raises(Unusable, match="another pool"):
        CHANGES["create"](mounted)
    assert not [*mounted.pool.iterdir()]


async def test_no_image_of_a_pool_that_was_exchanged_is_opened_for_an_export(mounted: Mounted) -> None:
    image = image_of(mounted.volume)
    export = Export(image, Epoch(1, "0" * 16), Kind.FILE, H2)
    assert writers_of(image, None) == (Writers.NONE, "")
    mounted.exchange()
    with pytest.raises(Unusable, match="another pool"):
        serves(1, image)
    answer = await file.Files().export(export)
    assert isinstance(answer, description.Refused)
    assert "another pool" in answer.reasons[0].has


def test_that_nobody_writes_is_not_said_of_another_pools_image(mounted: Mounted) -> None:
    image = image_of(mounted.volume)
    mounted.exchange()
    assert writers_of(image, None)[0] is Writers.UNKNOWN


def attached(mounted: Mounted, keeper: Keeper, *, of: Snapshot, vid: object = ONE) -> Kept | Refused:
    vids = [READONLY if vid == READONLY else ONE]
    return keeper.attach(vids, of, vm_id=VmId(vm_of(1)), generation=1, user_id=ALICE, host_id=H1)


@pytest.mark.parametrize("vid", [ONE, READONLY])
def test_a_pool_that_was_exchanged_gives_nothing_until_it_is_scanned(mounted: Mounted, vid: object) -> None:
    keeper = Keeper(Journal(mounted.root / "journal"), server=H1)
    mounted.exchange()
    answer = attached(mounted, keeper, of=mounted.seen, vid=vid)
    assert isinstance(answer, Refused)
    assert "another pool" in answer.reasons[0].has
    assert isinstance(attached(mounted, keeper, of=mounted.scan(), vid=vid), Kept)


def test_no_record_is_written_into_a_pool_that_is_exchanged_while_it_is_decided(
    mounted: Mounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = Keeper(Journal(mounted.root / "journal"), server=H1)
    decide = attachments.attach

    def late(*args: object, **more: object) -> object:
        answer = decide(*args, **more)  # type: ignore[arg-type]
        mounted.exchange()
        return answer

    monkeypatch.setattr(attachments, "attach", late)
    answer = attached(mounted, keeper, of=mounted.seen)
    assert isinstance(answer, Refused)
    assert answer.code == "storage-unwritable"
    assert not (Path(mounted.volume.path) / RECORD).exists()
    assert not keeper.is_attached(ONE)


def test_a_scan_knows_each_volume_by_the_pool_that_it_lies_in_now(
    mounted: Mounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "SETTLED_NS", -(10**12))  # what was read a moment ago is kept
    mounted.index.scan([mounted.pool])
    mounted.mark("b")  # nothing of the volume itself has changed
    assert mounted.index.scan([mounted.pool]).volumes[ONE].pool_id == "b" * 32
