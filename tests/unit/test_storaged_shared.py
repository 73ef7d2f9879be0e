"""Two servers that serve one pool: each gives a volume away under its lease alone, and what the record then says."""

import json
from collections.abc import Collection
from pathlib import Path
from random import Random
from threading import Event
from types import SimpleNamespace
from typing import Any, cast

import pytest

from matcher.wire.messages import ImageFormat, Refused
from specs.ids import HostId, Vid, dashed
from storaged.attachments import Attachment
from storaged.beneath import Unusable
from storaged.catalogue import complaints
from storaged.config import Config
from storaged.fit import SHARED_HINT, given_elsewhere, offer_volumes
from storaged.index import Index
from storaged.journal import Journal
from storaged.keeper import Disk, Keeper, Kept, NotCut, NotHeld
from storaged.leases import pools
from storaged.leases.pools import SharedPools
from storaged.leases.sanlock import IN_USE
from storaged.leases.takeover import NOT_FENCED
from storaged.looking import Looks
from storaged.metadata import Metadata, write_metadata
from storaged.pool import MEMORY, POOL, Pool, Pools
from storaged.record import RECORD, parse_right
from storaged.testing import ALICE, BOB, H1, H2, make_volume, vid_of, vm_of
from storaged.views import Views
from storaged.volume import Right, Snapshot, Volume
from tests.fakes.leases import LeaseTable
from tests.fakes.qcow2 import Qcow2
from tests.unit.test_storaged_fit import pledge

DISK, SPARE, FIXED = vid_of(1), vid_of(2), vid_of(3)
H3 = HostId("33" * 32)


class ToldDisk(Disk):
    """That says when a record is read or written."""

    def __init__(self, server: "Server") -> None:
        super().__init__(lambda _: server.why_not)
        self._said = server.table.said

    def right(self, volume: Volume) -> Right | None:
        self._said.append("reads")
        return super().right(volume)

    def put(self, volume: Volume, right: Right) -> None:
        self._said.append("writes")
        super().put(volume, right)


class Server:
    """One of the two; `restart` is a crash of its storaged. Its exports are what was given and not cut."""

    def __init__(self, host_id: HostId, root: Path, table: LeaseTable) -> None:
        self.host_id, self.root, self.table = host_id, root, table
        self.exports: set[Attachment] = set()
        self.why_not = ""
        self.is_stuck = False
        self.leases = table.of(host_id, lambda vid: any(a.vid == vid for a in self.exports))
        self.index = Index(Pools(host_id, root / host_id[:2] / MEMORY, joined=lambda _: self.why_not))
        (root / host_id[:2]).mkdir()
        self.journal = Journal(root / host_id[:2] / "journal")
        self.keeper = self.start()

    def start(self) -> Keeper:
        started = Keeper(
            self.journal,
            server=self.host_id,
            cut=self.cut,
            random=Random(1),
            disk=ToldDisk(self),
            leases=self.leases,
        )
        started.recover(self.snapshot())
        return started

    def restart(self) -> None:
        self.journal.close()
        self.journal = Journal(self.root / self.host_id[:2] / "journal")
        self.keeper = self.start()

    def snapshot(self) -> Snapshot:
        return self.index.scan([Pool(str(self.root / "pool"))])

    def cut(self, attachment: Attachment) -> None:
        self.table.said.append(f"{self.host_id[:2]} cuts")
        if self.is_stuck:
            raise NotCut("tgtd does not answer")
        self.exports.discard(attachment)

    def attach(self, vm: int, *vids: Vid, generation: int = 1, host: HostId = H3) -> Kept | Refused:
        kept = self.keeper.attach(
            vids, self.snapshot(), vm_id=vm_of(vm), generation=generation, user_id=ALICE, host_id=host
        )
        if isinstance(kept, Kept):
            self.exports |= {a for a in kept.attachments if a.volume.exclusive}
        return kept

    def detach(self, vm: int, generation: int = 1, host: HostId = H3) -> tuple[str, ...]:
        return self.keeper.detach(vm_of(vm), generation, host, self.snapshot())

    def take_over(self, *, is_said_dead: bool = False) -> str:
        return self.keeper.forget(DISK, self.snapshot(), is_said_dead=is_said_dead)


class House:
    def __init__(self, root: Path) -> None:
        self.pool = root / "pool"
        self.folder = make_volume(self.pool, DISK, bootable=True)
        make_volume(self.pool, SPARE)
        make_volume(self.pool, FIXED, readonly=True)
        (self.pool / POOL).write_text(json.dumps({"pool_id": "5b" * 16, "owner": H1, "shared": True}))
        self.table = LeaseTable()
        self.one, self.two = Server(H1, root, self.table), Server(H2, root, self.table)

    def record(self) -> Right:
        right = parse_right((self.folder / RECORD).read_bytes())
        assert right is not None
        return right


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def code_of(answer: Kept | Refused) -> str:
    assert isinstance(answer, Refused), answer
    return answer.code


# ---- lease, record, export; cut, record, lease


def test_the_lease_is_held_before_the_record_is_read_and_let_go_when_it_is_written(house: House) -> None:
    one, said = house.one, house.table.said
    assert isinstance(one.attach(1, DISK), Kept)
    assert said == ["11 holds", "reads", "writes"]
    said.clear()
    assert one.detach(1) == ()
    assert said == ["11 holds", "reads", "11 cuts", "writes", "11 lets go"]


def test_a_volume_that_one_server_has_given_away_the_other_does_not_give(house: House) -> None:
    assert isinstance(house.one.attach(1, DISK), Kept)
    assert code_of(house.two.attach(2, DISK)) == IN_USE
    assert house.record().server == H1
    assert isinstance(house.two.attach(2, SPARE), Kept)
    house.one.detach(1)
    assert isinstance(house.two.attach(2, DISK, SPARE, generation=2), Kept)
    assert (house.record().server, house.record().epoch.counter) == (H2, 2)


def test_a_lease_that_came_to_nothing_is_free_again(house: House) -> None:
    assert isinstance(house.one.attach(1, DISK), Kept)
    for vids in ((SPARE, DISK), (SPARE, vid_of(9))):
        assert isinstance(house.two.attach(2, *vids), Refused)
        assert house.table.holders == {DISK: H1}


def test_a_vm_on_the_server_itself_has_the_volume_by_its_export_alone(house: House) -> None:
    """So that it is cut like any other: no lock on the image tells that it has ended."""
    assert isinstance(house.one.attach(1, DISK, host=H1), Kept)
    house.one.is_stuck = True
    with pytest.raises(NotCut):
        house.one.detach(1, host=H1)
    assert house.record().held
    assert house.table.holders == {DISK: H1}
    house.one.is_stuck = False
    house.one.detach(1, host=H1)
    assert house.one.exports == set()
    assert house.table.holders == {}


def test_what_can_be_read_only_needs_no_lease(house: House) -> None:
    assert isinstance(house.one.attach(1, FIXED), Kept)
    assert isinstance(house.two.attach(2, FIXED), Kept)
    assert house.table.holders == {}


def test_a_detach_that_is_not_sure_of_the_lease_writes_nothing(house: House) -> None:
    assert isinstance(house.one.attach(1, DISK), Kept)
    house.one.leases.is_silent = True
    with pytest.raises(NotHeld):
        house.one.detach(1)
    assert house.record().held
    assert house.one.keeper.is_attached(DISK)


def test_a_detach_after_another_server_took_it_leaves_that_ones_record_alone(house: House) -> None:
    assert isinstance(house.one.attach(1, DISK), Kept)
    house.table.died.add(H1)
    house.two.take_over(is_said_dead=True)
    assert isinstance(house.two.attach(2, DISK), Kept)
    house.table.died.clear()
    before = house.record()
    (problem,) = house.one.detach(1)
    assert "it lives" in problem
    assert house.record() == before
    assert not house.one.keeper.is_attached(DISK)


# ---- takeover


def test_a_dead_servers_volume_is_free_on_a_persons_word_alone(house: House) -> None:
    assert isinstance(house.one.attach(1, DISK), Kept)
    with pytest.raises(NotHeld) as refused:
        house.two.take_over(is_said_dead=True)
    assert refused.value.refused is not None
    assert refused.value.refused.code == IN_USE, "no word counts about a server that lives"
    house.table.died.add(H1)
    with pytest.raises(NotHeld) as unsaid:
        house.two.take_over()
    assert unsaid.value.refused is not None
    assert unsaid.value.refused.code == NOT_FENCED
    assert house.record().epoch.counter == 1
    assert "free, at epoch 2" in house.two.take_over(is_said_dead=True)
    assert house.table.holders == {}
    assert isinstance(house.two.attach(1, DISK, generation=2), Kept)
    assert house.record().epoch.counter == 3


def test_a_lease_alone_is_no_right_while_the_record_says_that_another_server_gave_it(house: House) -> None:
    """A tgtd that died has lost its leases, and may have them again in a moment."""
    assert isinstance(house.one.attach(1, DISK), Kept)
    del house.table.holders[DISK]
    assert code_of(house.two.attach(2, DISK)) == "volume-held-elsewhere"
    assert house.table.holders == {}


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_server_that_comes_back_has_nothing_that_another_has_given_since(house: House, is_restarted: bool) -> None:
    assert isinstance(house.one.attach(1, DISK), Kept)
    house.table.died.add(H1)
    house.two.take_over(is_said_dead=True)
    assert isinstance(house.two.attach(2, DISK), Kept)
    house.table.died.clear()
    house.one.exports.clear()  # its tgtd was ended
    if is_restarted:
        house.one.restart()
        assert not house.one.keeper.is_attached(DISK)
    else:
        (over,) = house.one.keeper.tidy(house.one.snapshot())
        assert over.vid == DISK
    assert not house.one.keeper.is_attached(DISK)
    assert house.table.holders == {DISK: H2}
    assert house.one.keeper.tidy(house.one.snapshot()) == ()
    assert house.two.keeper.tidy(house.two.snapshot()) == ()
    assert house.two.keeper.is_attached(DISK)


def test_leases_that_nobody_here_needs_are_let_go(house: House) -> None:
    """As after a crash between the lease and the record: tgtd lives on, and has it."""
    house.table.holders[DISK] = H1
    house.one.restart()
    house.one.keeper.tidy(house.one.snapshot())
    assert house.table.holders == {}


# ---- until it has joined


def test_nobody_waits_while_sanlock_is_asked_what_it_holds(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may stand still for seconds, each time; tidying is done over and over."""
    is_free = []

    def held() -> Collection[Vid]:
        is_free.append(not house.one.keeper._lock.locked())
        return ()

    monkeypatch.setattr(house.one.keeper._leases, "held", held)
    house.one.keeper.tidy(house.one.snapshot())
    assert is_free == [True]


async def test_a_shared_pool_that_does_not_answer_is_not_tidied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper would have its lock for as long as that takes."""
    hangs = Event()
    monkeypatch.setattr(pools, "_read", lambda _: hangs.wait())
    shared = SharedPools(Config(state=tmp_path), H1, lambda: Snapshot())
    shared._looks = Looks(look_s=0.01)
    shared._pools = cast(Any, {"5b" * 16: SimpleNamespace(exporter=object(), root=str(tmp_path))})
    await shared._tidy(cast(Keeper, SimpleNamespace()))  # which has no `tidy`
    hangs.set()


def test_before_it_has_joined_a_server_lists_what_is_there_with_the_reason(house: House) -> None:
    house.one.why_not = "this server is joining it"
    snapshot = house.one.snapshot()
    assert set(snapshot.volumes) == {FIXED}
    view = Views("h1", H1, house.one.keeper, lambda: snapshot).one(DISK, ALICE)
    assert view is not None
    assert (view.state, view.shared) == ("bad", True)
    assert view.why == "its pool is shared by several servers: this server is joining it"
    assert view in list(Views("h1", H1, house.one.keeper, lambda: snapshot).all(ALICE))
    assert isinstance(house.one.attach(1, DISK), Refused)
    assert house.table.said == []


def test_a_scan_from_before_it_was_shared_gives_nothing(house: House) -> None:
    (house.pool / POOL).write_text(json.dumps({"pool_id": "5b" * 16, "owner": H1, "shared": False}))
    old = house.one.snapshot()
    (house.pool / POOL).write_text(json.dumps({"pool_id": "5b" * 16, "owner": H1, "shared": True}))
    house.one.why_not = "this server has not joined it"
    answer = house.one.keeper.attach([DISK], old, vm_id=vm_of(1), generation=1, user_id=ALICE, host_id=H3)
    assert isinstance(answer, Refused)
    assert not (house.folder / RECORD).exists()


def test_while_a_pool_is_lost_what_was_given_from_it_stays_given(house: House) -> None:
    """Its export can't be seen to have ended."""
    assert isinstance(house.one.attach(1, DISK, host=H1), Kept)
    house.one.why_not = "its sanlock has ended"
    house.one.is_stuck = True  # as exporting says of a volume that is not here now
    with pytest.raises(NotCut):
        house.one.detach(1, host=H1)
    assert house.one.keeper.is_attached(DISK)


@pytest.mark.parametrize(
    ("image_format", "shareable", "why"),
    [(ImageFormat.RAW, True, "share no locks"), (ImageFormat.QCOW2, False, "raw images alone; this one is qcow2")],
)
def test_what_the_exporter_can_not_give_is_listed_and_not_given(
    house: House, image_format: ImageFormat, shareable: bool, why: str
) -> None:
    folder = house.pool / f"{dashed(SPARE)}.elimg"
    metadata = Metadata(
        128,
        "odd",
        bootable=False,
        private=False,
        shareable=shareable,
        readonly=False,
        format=image_format,
        owner=None,
    )
    (folder / "meta.json").write_bytes(write_metadata(metadata))
    if image_format is ImageFormat.QCOW2:
        (folder / "data.img").write_bytes(Qcow2().image())
    bad = house.one.snapshot().bad[SPARE]
    assert why in bad.reason
    assert bad.withheld is not None


# ---- what is said of it


def test_each_server_says_who_has_given_a_volume_away(house: House) -> None:
    assert isinstance(house.one.attach(1, DISK), Kept)
    for server, having in ((house.one, H1), (house.two, H1)):
        snapshot = server.snapshot()
        view = Views("h", server.host_id, server.keeper, lambda found=snapshot: found).one(DISK, ALICE)  # type: ignore[misc]
        assert view is not None
        assert (view.state, view.lent_by, view.vms) == ("attached", having, (vm_of(1),))
    other = Views("h2", H2, house.two.keeper, house.two.snapshot).one(DISK, BOB)
    assert other is not None
    assert (other.state, other.vms) == ("attached", ())


def test_the_other_server_offers_nothing_and_says_what_frees_it(house: House) -> None:
    assert isinstance(house.one.attach(1, DISK), Kept)
    snapshot = house.two.snapshot()
    assert given_elsewhere(snapshot.volumes[DISK], H2)
    fit = offer_volumes(pledge(DISK), snapshot, (), user_id=ALICE, host_id=H2)
    assert fit.offered == ()
    assert fit.reasons[0].hint == SHARED_HINT


def test_one_volume_that_two_servers_see_is_no_conflict(house: House) -> None:
    for server in (house.one, house.two):
        snapshot = server.snapshot()
        assert set(snapshot.volumes) == {DISK, SPARE, FIXED}
        assert not snapshot.conflicts
        assert list(complaints(snapshot)) == []


# ---- removed


def test_a_volume_is_removed_under_its_lease_and_only_if_no_server_has_given_it_away(house: House) -> None:
    gone: list[str] = []

    def remove() -> None:
        assert house.table.holders == {DISK: H2}
        gone.append("gone")

    assert isinstance(house.one.attach(1, DISK), Kept)
    snapshot = house.two.snapshot()
    with pytest.raises(Unusable):
        house.two.keeper.under_lease(snapshot.volumes[DISK], snapshot, remove)
    del house.table.holders[DISK]  # its tgtd ended, and will be back
    with pytest.raises(Unusable, match="by its own record"):
        house.two.keeper.under_lease(snapshot.volumes[DISK], snapshot, remove)
    house.one.detach(1)
    house.two.keeper.under_lease(snapshot.volumes[DISK], snapshot, remove)
    assert gone == ["gone"]
    assert house.table.holders == {}


def test_what_the_record_says_and_the_journal_missed_is_learned_before_a_lease_is_let_go(house: House) -> None:
    """A crash between the two, and a server that had not joined when it was started again."""
    assert isinstance(house.one.attach(1, DISK), Kept)
    house.one.journal.close()
    (house.one.root / H1[:2] / "journal").unlink()
    house.one.why_not = "this server is joining it"
    house.one.journal = Journal(house.one.root / H1[:2] / "journal")
    house.one.keeper = house.one.start()
    assert not house.one.keeper.is_attached(DISK)
    house.one.why_not = ""
    assert house.one.keeper.tidy(house.one.snapshot()) == ()
    assert house.one.keeper.is_attached(DISK)
    assert house.table.holders == {DISK: H1}
