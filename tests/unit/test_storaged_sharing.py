"""Folders for other hosts: who may mount one, from where, and for how long."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trio.testing

from matcher.wire.messages import ImageFormat, Reason, Refused
from matcher.wire.volumes import AttachedVolume
from specs.ids import HostId
from storaged import exporting, reaching, sharing
from storaged.attachments import Attachment
from storaged.beneath import Unusable
from storaged.config import Config
from storaged.export import description as words
from storaged.export.description import Access, Cut, Export, Image, Kind, Observed, Unknown
from storaged.export.exporter import Problems
from storaged.exporting import Exporting, NoExports
from storaged.images import making
from storaged.images.sandbox import Sandbox
from storaged.index import Index
from storaged.journal import Journal
from storaged.keeper import Keeper, Kept, NotCut
from storaged.metadata import Metadata
from storaged.sharing import Folders
from storaged.testing import ALICE, H1, H2, make_volume, vid_of, vm_of
from storaged.volume import Epoch, Snapshot

SHARED, DISK = vid_of(1), vid_of(2)
H3 = HostId("33" * 32)
SILENT = Unknown("ganesha does not answer")


class FakeNfs:
    """An `Exporter`. `served` is what lives on when the daemon dies."""

    kind = Kind.NFS

    def __init__(self, served: dict[str, Export]) -> None:
        self.served, self.is_up, self.is_stuck = served, bool(served), False
        self.refuses: words.Refused | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self.is_up = True
        task_status.started()
        await trio.sleep_forever()

    async def observe(self) -> frozenset[Observed] | Unknown:
        await trio.lowlevel.checkpoint()
        if not self.is_up:
            return SILENT
        seen = self.served.values()
        return frozenset(
            Observed(e.image.vid, e.epoch, frozenset({e.admitted}), frozenset(), e.image.file, False, 0) for e in seen
        )

    async def export(self, export: Export) -> Access | words.Refused | Unknown:
        await trio.lowlevel.checkpoint()
        if self.refuses or self.is_stuck:
            return self.refuses or SILENT
        self.served[export.target] = export
        path = f"/vol.{export.image.vid}.{export.epoch.counter}.{export.epoch.nonce}"
        return Access(Kind.NFS, path, ImageFormat.FOLDER, export.image.readonly, address="0.0.0.0", port=7769)

    async def cut(self, image: Image, epoch: Epoch | None = None) -> Cut | Unknown:
        await trio.lowlevel.checkpoint()
        if self.is_stuck:
            return SILENT
        for target in [t for t, e in self.served.items() if e.image.vid == image.vid and epoch in (None, e.epoch)]:
            del self.served[target]
        return Cut()

    async def reconcile(self, wanted: Collection[Export]) -> Problems:
        await trio.lowlevel.checkpoint()
        self.served.clear()
        self.served.update({export.target: export for export in wanted})
        return {}


@dataclass
class House:
    pool: Path
    served: dict[str, Export]

    def __post_init__(self) -> None:
        self.journal = Journal(self.pool.parent / "journal")
        self.begin(self.served)

    def begin(self, served: dict[str, Export]) -> None:
        """A storaged; beside what a ganesha that lives on still serves."""
        self.journal.close()
        self.journal = Journal(self.pool.parent / "journal")
        self.nfs = FakeNfs(served)
        self.folders = Folders(self.nfs, self.snapshot, H1)
        self.exports = Exporting(NoExports(), self.folders, self.snapshot)
        self.keeper = Keeper(
            self.journal,
            server=H1,
            cut=lambda attachment: trio.from_thread.run(self.exports.cut, attachment),
        )

    def snapshot(self) -> Snapshot:
        return Index().scan([self.pool])

    def attached(self, vm: int, host: HostId) -> tuple[Attachment, AttachedVolume]:
        kept = self.keeper.attach([SHARED], self.snapshot(), vm_id=vm_of(vm), generation=1, user_id=ALICE, host_id=host)
        assert isinstance(kept, Kept), kept
        return kept.attachments[0], kept.files[0]

    async def given(self, vm: int, host: HostId, asker: str) -> AttachedVolume:
        answer = await self.exports.give(*self.attached(vm, host), asker)
        assert not isinstance(answer, Refused), answer
        volume, secret = answer
        assert secret is None
        return volume

    async def detached(self, vm: int, host: HostId) -> None:
        await trio.to_thread.run_sync(lambda: self.keeper.detach(vm_of(vm), 1, host, self.snapshot()))

    def admitted(self) -> list[str]:
        return sorted(export.admitted for export in self.nfs.served.values())


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    pool = tmp_path / "pool"
    pool.mkdir()
    wanted = Metadata(128, "common", shareable=True, format=ImageFormat.FOLDER, owner=ALICE)
    making.create(Sandbox.of(), str(pool), SHARED, wanted, most_mib=128)
    make_volume(pool, DISK, shareable=True)
    monkeypatch.setattr(sharing, "address_towards", lambda _: "10.0.0.1")
    return House(pool, {})


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not is_so():
            await trio.lowlevel.checkpoint()


async def test_each_host_may_come_from_its_own_address_until_its_last_vm_has_let_go(
    house: House, nursery: trio.Nursery
) -> None:
    nursery.start_soon(house.exports.run, house.keeper)
    first = await house.given(1, H2, "10.0.0.2")
    second = await house.given(2, H2, "10.0.0.2")
    await house.given(3, H3, "fd00::3")
    assert first.path == ""
    assert first.nfs is not None
    assert second.nfs is not None
    assert (first.nfs.server.ip, first.nfs.server.port) == ("10.0.0.1", 7769)
    assert first.nfs.path != second.nfs.path
    assert house.admitted() == ["10.0.0.2", "10.0.0.2", "fd00::3"]
    await house.detached(1, H2)
    assert house.admitted() == ["10.0.0.2", "fd00::3"]
    await house.detached(2, H2)
    assert house.admitted() == ["fd00::3"]


async def test_no_server_begins_before_a_folder_is_shared(house: House, nursery: trio.Nursery) -> None:
    nursery.start_soon(house.exports.run, house.keeper)
    await trio.testing.wait_all_tasks_blocked()
    assert not house.nfs.is_up
    await house.given(1, H2, "10.0.0.2")
    assert house.nfs.is_up


async def test_a_new_daemon_keeps_what_is_attached_and_ends_what_is_not(house: House, nursery: trio.Nursery) -> None:
    nursery.start_soon(house.exports.run, house.keeper)
    kept = await house.given(1, H2, "10.0.0.2")
    served = dict(house.nfs.served)
    gone = Export(next(iter(served.values())).image, Epoch(9, "9" * 16), Kind.NFS, H3, client=IPv4Address("10.0.0.3"))
    served[gone.target] = gone
    house.begin(served)
    nursery.start_soon(house.exports.run, house.keeper)
    await until(lambda: house.admitted() == ["10.0.0.2"])
    assert await house.given(1, H2, "10.0.0.2") == kept, "asked again, it is the same"


async def test_a_host_that_has_moved_is_admitted_from_where_it_asks(house: House, nursery: trio.Nursery) -> None:
    nursery.start_soon(house.exports.run, house.keeper)
    before = await house.given(1, H2, "10.0.0.2")
    after = await house.given(1, H2, "10.0.0.22")
    assert before.nfs == after.nfs
    assert house.admitted() == ["10.0.0.22"]


async def test_what_is_not_known_to_have_ended_stays_attached(house: House, nursery: trio.Nursery) -> None:
    nursery.start_soon(house.exports.run, house.keeper)
    await house.given(1, H2, "10.0.0.2")
    house.nfs.is_stuck = True
    with pytest.raises(NotCut):
        await house.detached(1, H2)
    assert house.keeper.is_attached(SHARED)
    with pytest.raises(Unusable, match="not exported yet"):
        await house.exports.give(*house.attached(1, H2), "10.0.0.2")
    house.nfs.is_stuck = False
    await house.detached(1, H2)
    assert house.admitted() == []


async def test_a_servers_no_is_told(house: House, nursery: trio.Nursery) -> None:
    house.nfs.refuses = words.Refused("path", (Reason("volume", "by nfs", "unusual characters", ""),))
    nursery.start_soon(house.exports.run, house.keeper)
    answer = await house.exports.give(*house.attached(1, H2), "10.0.0.2")
    assert isinstance(answer, Refused)
    assert answer.code == "path"


def test_a_shareable_disk_is_no_folder(house: House) -> None:
    volumes = house.snapshot().volumes
    assert house.exports.why_not(volumes[SHARED]) is None
    assert house.exports.why_not(volumes[DISK]) is not None


@pytest.mark.parametrize(("bits", "is_able"), [("000001ffffffffff", True), ("0000000010000003", False), ("cf", True)])
def test_folders_stay_here_where_ganesha_would_lack_rights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: str, is_able: bool
) -> None:
    status = tmp_path / "status"
    status.write_text(f"Name:\tstoraged\nCapEff:\t{bits}\n")
    monkeypatch.setattr(exporting, "capabilities", lambda: reaching.capabilities(status))
    monkeypatch.setattr(exporting, "which", lambda program: f"/usr/bin/{program}")
    config = Config(state=tmp_path, exports=tmp_path / "exports")
    exports = exporting.exports_of(config, lambda: Index().scan([]), H1)
    wanted = Metadata(128, "common", shareable=True, format=ImageFormat.FOLDER, owner=ALICE)
    making.create(Sandbox.of(), str(tmp_path), SHARED, wanted, most_mib=128)
    why = exports.why_not(Index().scan([tmp_path]).volumes[SHARED])
    assert (why is None) is is_able
