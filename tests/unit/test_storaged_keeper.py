"""What a keeper answers is on the disk; what it refuses it says in a sentence; a failure on the way loses nothing."""

import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from matcher.wire.messages import Refused
from specs.ids import HostId, UserId, Vid, VmId, dashed
from storaged import keeper as keeper_module
from storaged.beneath import Unusable
from storaged.index import Index
from storaged.journal import Journal, JournalCorrupt, JournalError, JournalFull
from storaged.keeper import Keeper, Kept
from storaged.pool import POOL, Mark, PoolId, render_mark
from storaged.record import RECORD, parse_right, write_right
from storaged.testing import ALICE, BOB, H1, H2, make_volume, vid_of, vm_of
from storaged.volume import Right, Snapshot

ONE, TWO, SHARED, READONLY, PRIVATE = map(vid_of, range(1, 6))


class House:
    """A pool of five volumes and the keeper of a host; `restart` is a crash."""

    def __init__(self, root: Path) -> None:
        self.root, self.pool = root, root / "pool"
        make_volume(self.pool, ONE, bootable=True)
        make_volume(self.pool, TWO)
        make_volume(self.pool, SHARED, shareable=True)
        make_volume(self.pool, READONLY, readonly=True)
        make_volume(self.pool, PRIVATE, owner=ALICE)
        self.journals: list[Journal] = []
        self.keeper = self.start(H1)

    def start(self, host: HostId) -> Keeper:
        journal = Journal(self.root / f"{host[:2]}.journal")
        self.journals.append(journal)
        started = Keeper(journal, server=host, random=Random(1))
        started.recover(self.snapshot())
        return started

    def restart(self) -> None:
        for journal in self.journals:
            journal.close()
        self.keeper = self.start(H1)

    def snapshot(self) -> Snapshot:
        return Index().scan([self.pool])

    def folder(self, vid: Vid) -> Path:
        return self.pool / f"{dashed(vid)}.elimg"

    def record(self, vid: Vid) -> Right | None:
        return parse_right((self.folder(vid) / RECORD).read_bytes())

    def attach(
        self,
        vm: int,
        *vids: Vid,
        generation: int = 1,
        user_id: UserId = ALICE,
        by: Keeper | None = None,
        adds: bool = False,
    ) -> Kept | Refused:
        return (by or self.keeper).attach(
            vids,
            self.snapshot(),
            vm_id=vm_of(vm),
            generation=generation,
            user_id=user_id,
            host_id=H1,
            vm_name=f"vm{vm}",
            adds=adds,
        )

    def detach(self, vm: int, *vids: Vid, generation: int = 1) -> tuple[str, ...]:
        return self.keeper.detach(vm_of(vm), generation, H1, self.snapshot(), vids)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    for journal in made.journals:
        journal.close()


def again(answer: Kept | Refused) -> Kept:
    assert isinstance(answer, Kept)
    return replace(answer, new=frozenset())


def refusal(answer: Kept | Refused) -> tuple[str, str]:
    assert isinstance(answer, Refused)
    return answer.code, answer.reasons[0].has


def test_volumes_attach_in_the_order_asked_as_plain_files(house: House) -> None:
    answer = house.attach(1, TWO, ONE, SHARED)
    assert isinstance(answer, Kept)
    assert [(v.vid, v.path) for v in answer.files] == [
        (vid, str(house.folder(vid) / "data.img")) for vid in (TWO, ONE, SHARED)
    ]
    assert [v.bootable for v in answer.files] == [False, True, False]


def test_the_right_to_write_is_recorded_in_the_volume(house: House) -> None:
    house.attach(1, ONE, READONLY)
    right = house.record(ONE)
    assert right is not None
    assert (right.vm_id, right.generation, right.host_id, right.held) == (vm_of(1), 1, H1, True)
    assert right.epoch.counter == 1
    assert not (house.folder(READONLY) / RECORD).exists()


def test_the_same_call_gives_the_same_answer_and_writes_nothing(house: House) -> None:
    first, record = house.attach(1, ONE), house.record(ONE)
    assert house.attach(1, ONE) == again(first)
    house.restart()
    assert house.attach(1, ONE) == again(first)
    assert house.record(ONE) == record


def test_another_vm_is_refused_until_the_first_lets_go(house: House) -> None:
    house.attach(1, ONE)
    assert refusal(house.attach(2, ONE)) == ("volume-in-use", 'in use by your VM "vm1"')
    assert refusal(house.attach(2, ONE, user_id=BOB)) == ("volume-in-use", "in use by another user's VM")
    assert house.detach(1) == ()
    assert isinstance(house.attach(2, ONE), Kept)


def test_one_volume_that_cannot_be_had_keeps_the_others_free(house: House) -> None:
    house.attach(1, ONE)
    assert isinstance(house.attach(2, TWO, ONE), Refused)
    assert isinstance(house.attach(3, TWO), Kept)


def test_shareable_and_readonly_volumes_have_many_users(house: House) -> None:
    assert all(isinstance(house.attach(vm, SHARED, READONLY), Kept) for vm in (1, 2, 3))


def test_a_higher_generation_takes_over_and_the_older_is_over(house: House) -> None:
    house.attach(1, ONE, TWO)
    assert isinstance(house.attach(1, ONE, generation=2), Kept)
    right, freed = house.record(ONE), house.record(TWO)
    assert right is not None
    assert freed is not None
    assert (right.epoch.counter, right.generation, freed.held) == (2, 2, False)
    assert refusal(house.attach(1, ONE, generation=1))[0] == "generation-over"
    assert house.detach(1, generation=1) == ()
    assert refusal(house.attach(2, ONE))[0] == "volume-in-use"


def test_an_older_generation_stays_over_after_the_newer_let_go(house: House) -> None:
    house.attach(1, ONE, generation=2)
    house.detach(1, generation=2)
    assert refusal(house.attach(1, ONE, generation=1))[0] == "generation-over"
    assert isinstance(house.attach(1, ONE, generation=2), Kept)


def test_the_same_generation_with_other_volumes_is_refused(house: House) -> None:
    house.attach(1, ONE)
    assert refusal(house.attach(1, TWO))[0] == "other-volumes"


def test_one_volume_more_is_the_vms_beside_the_others_and_goes_alone(house: House) -> None:
    house.attach(1, ONE)
    more = house.attach(1, TWO, adds=True)
    assert isinstance(more, Kept)
    assert more.new == {TWO}
    assert house.attach(1, ONE) == again(house.attach(1, ONE)), "who had it before has it still, in the same words"
    assert refusal(house.attach(2, TWO))[0] == "volume-in-use"
    house.restart()
    assert house.detach(1, TWO) == ()
    assert isinstance(house.attach(2, TWO), Kept)
    assert refusal(house.attach(2, ONE, adds=True))[0] == "volume-in-use"
    assert house.detach(1) == ()
    assert isinstance(house.attach(2, ONE, adds=True), Kept)


def test_what_a_vm_that_goes_on_has_open_still_is_not_let_go_of(house: House) -> None:
    house.attach(1, ONE, TWO)
    descriptor = os.open(house.folder(ONE) / "data.img", os.O_RDWR)
    lock = struct.pack("@hhqqi0q", fcntl.F_RDLCK, os.SEEK_SET, 101, 1, 0)
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, lock)
    with pytest.raises(Unusable, match="open for writing"):
        house.detach(1, ONE)
    assert house.detach(1, TWO) == ()
    assert refusal(house.attach(2, ONE))[0] == "volume-in-use"
    os.close(descriptor)
    assert house.detach(1, ONE) == ()
    assert isinstance(house.attach(2, ONE), Kept)


def test_another_users_vm_id_opens_nothing_and_frees_nothing(house: House) -> None:
    house.attach(1, ONE)
    assert refusal(house.attach(1, ONE, generation=2, user_id=BOB))[0] == "vm-of-another-user"
    assert refusal(house.attach(1, TWO, generation=2, user_id=BOB))[0] == "vm-of-another-user"


def test_another_users_private_volume_is_as_if_it_were_not_here(house: House) -> None:
    theirs = house.attach(2, PRIVATE, user_id=BOB)
    house.folder(PRIVATE).rename(house.root / "gone")
    assert house.attach(2, PRIVATE, user_id=BOB) == theirs


def test_a_detach_can_be_repeated_and_the_epoch_stays(house: House) -> None:
    house.attach(1, ONE)
    house.detach(1)
    house.detach(1)
    house.detach(7)
    house.attach(2, ONE)
    right = house.record(ONE)
    assert right is not None
    assert right.epoch.counter == 2


def test_a_hold_is_known_after_the_journal_was_lost(house: House) -> None:
    house.attach(1, ONE)
    house.journals[0].close()
    for file in house.root.glob("*.journal*"):
        file.unlink()
    house.keeper = house.start(H1)
    assert refusal(house.attach(2, ONE))[0] == "volume-in-use"
    house.detach(1)
    assert isinstance(house.attach(2, ONE), Kept)


def test_a_pool_rolled_back_is_noticed_and_a_person_can_say_it_is_right(house: House) -> None:
    house.attach(1, ONE)
    house.detach(1)
    backup = (house.folder(ONE) / RECORD).read_bytes()
    house.attach(1, ONE)
    house.detach(1)
    (house.folder(ONE) / RECORD).write_bytes(backup)
    assert refusal(house.attach(2, ONE)) == (
        "volume-rolled-back",
        "this pool was rolled back: epoch 2 is remembered, its record says 1",
    )
    assert house.keeper.rolled_back(house.snapshot()) == (ONE,)
    assert house.keeper.forget(ONE, house.snapshot()) == f"volume {dashed(ONE)} is free, at epoch 3"
    assert isinstance(house.attach(2, ONE), Kept)


def test_a_record_that_is_gone_is_a_rolled_back_pool(house: House) -> None:
    house.attach(1, ONE)
    (house.folder(ONE) / RECORD).unlink()
    assert "its record is gone" in refusal(house.attach(1, ONE))[1]


def test_a_second_history_of_the_same_length_is_noticed(house: House) -> None:
    house.attach(1, ONE)
    record = house.folder(ONE) / RECORD
    record.write_text(_other_nonce(record.read_text()))
    assert "given twice" in refusal(house.attach(1, ONE))[1]


def _other_nonce(text: str) -> str:
    right = parse_right(text.encode())
    assert right is not None
    return text.replace(right.epoch.nonce, "0123456789abcdef")


def test_a_volume_held_by_another_host_is_refused_until_a_person_says_that_host_is_dead(house: House) -> None:
    house.attach(1, ONE)
    other = house.start(H2)
    assert refusal(house.attach(2, ONE, by=other))[0] == "volume-held-elsewhere"
    other.forget(ONE, house.snapshot())
    assert isinstance(house.attach(2, ONE, by=other), Kept)
    assert refusal(house.attach(1, ONE))[0] == "volume-held-elsewhere"


def test_an_image_that_a_program_writes_is_refused(house: House) -> None:
    descriptor = os.open(house.folder(ONE) / "data.img", os.O_RDWR)
    lock = struct.pack("@hhqqi0q", fcntl.F_RDLCK, os.SEEK_SET, 101, 1, 0)
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, lock)
    assert refusal(house.attach(1, ONE))[1] == "a program on this host has its image open for writing"
    with pytest.raises(Unusable, match="end that VM first"):
        house.keeper.forget(ONE, house.snapshot())
    os.close(descriptor)
    assert isinstance(house.attach(1, ONE), Kept)


def test_a_volume_that_changed_since_the_scan_is_refused(house: House) -> None:
    old = house.snapshot()
    (house.folder(ONE) / "meta.json").write_text("{size: .125, readonly: true}")
    answer = house.keeper.attach([ONE], old, vm_id=VmId(vm_of(1)), generation=1, user_id=ALICE, host_id=H1)
    assert "changed since the last scan" in refusal(answer)[1]


def test_an_image_swapped_for_a_link_after_the_scan_is_refused(house: House) -> None:
    old = house.snapshot()
    (house.folder(ONE) / "data.img").unlink()
    (house.folder(ONE) / "data.img").symlink_to("/etc/shadow")
    answer = house.keeper.attach([ONE], old, vm_id=VmId(vm_of(1)), generation=1, user_id=ALICE, host_id=H1)
    assert refusal(answer) == ("volume-unusable", "unusable: data.img is a symbolic link")


def test_a_folder_on_the_way_swapped_for_a_link_after_the_scan_is_refused(house: House) -> None:
    make_volume(house.pool / "a", vid_of(9))
    old = house.snapshot()
    (house.pool / "a").rename(house.root / "moved")
    (house.pool / "a").symlink_to(house.root / "moved")
    answer = house.keeper.attach([vid_of(9)], old, vm_id=VmId(vm_of(1)), generation=1, user_id=ALICE, host_id=H1)
    assert "can't be opened" in refusal(answer)[1]


@pytest.mark.parametrize("error", [JournalFull("no space is left for j"), JournalError("j can't be used")])
def test_a_full_journal_is_a_refusal_and_the_volumes_are_free_again(
    house: House, monkeypatch: pytest.MonkeyPatch, error: JournalError
) -> None:
    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "write", fail)
        assert refusal(house.attach(1, ONE, TWO))[0] == "storage-unwritable"
    assert isinstance(house.attach(2, ONE, TWO), Kept)
    right = house.record(ONE)
    assert right is not None
    assert right.epoch.counter == 2


def test_a_pool_that_fills_up_half_way_is_a_refusal_and_the_volumes_are_free_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_write = write_right

    def fail_on_two(pool: str, path: str, right: Right, _: str | None) -> None:
        if right.vid == TWO and right.held:
            raise Unusable("attachment.json can't be written: No space left on device")
        really_write(pool, path, right)

    with monkeypatch.context() as patched:
        patched.setattr(keeper_module, "write_right", fail_on_two)
        assert "No space left" in refusal(house.attach(1, ONE, TWO))[1]
    assert isinstance(house.attach(2, ONE, TWO), Kept)


def test_what_could_not_be_freed_again_is_found_by_a_detach(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    really_write = write_right

    def fail_after_one(pool: str, path: str, right: Right, _: str | None) -> None:
        if right.vid == TWO or not right.held:
            raise Unusable("attachment.json can't be written: Input/output error")
        really_write(pool, path, right)

    with monkeypatch.context() as patched:
        patched.setattr(keeper_module, "write_right", fail_after_one)
        assert isinstance(house.attach(1, ONE, TWO), Refused)
    assert refusal(house.attach(2, ONE))[0] == "volume-in-use"
    house.detach(1)
    assert isinstance(house.attach(2, ONE), Kept)


def test_a_pool_that_is_gone_does_not_keep_a_vm_from_letting_go(house: House) -> None:
    house.attach(1, ONE)
    house.pool.rename(house.root / "away")
    house.detach(1)
    (house.root / "away").rename(house.pool)
    assert isinstance(house.attach(2, ONE), Kept)


def test_a_damaged_journal_at_a_write_goes_through_to_the_daemon(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise JournalCorrupt("j is damaged")

    monkeypatch.setattr(Journal, "write", fail)
    with pytest.raises(JournalCorrupt):
        house.attach(1, ONE)


def test_attachments_are_residents_by_vm_and_generation(house: House) -> None:
    house.attach(1, ONE, TWO)
    house.attach(2, SHARED)
    assert [(s.vm_id, [v.vid for v in s.volumes]) for s in house.keeper.shares()] == [
        (vm_of(1), [ONE, TWO]),
        (vm_of(2), [SHARED]),
    ]


def test_a_vm_without_volumes_attaches_nothing(house: House) -> None:
    assert house.attach(1) == Kept((), (), frozenset())


def test_a_volume_that_the_older_generation_still_writes_is_not_freed_by_the_next(house: House) -> None:
    house.attach(1, ONE)
    with (house.folder(ONE) / "data.img").open("r+b") as image:
        fcntl.fcntl(image, fcntl.F_OFD_SETLK, struct.pack("@hhqqi0q", fcntl.F_RDLCK, os.SEEK_SET, 101, 1, 0))
        assert refusal(house.attach(1, TWO, generation=2))[0] == "volume-in-use"
    assert isinstance(house.attach(1, TWO, generation=2), Kept)


def test_a_full_journal_leaves_no_hold_in_memory(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise JournalFull("no space is left for j")

    monkeypatch.setattr(Journal, "write", fail)
    assert isinstance(house.attach(1, SHARED), Refused)
    assert house.keeper.shares() == ()


# ---- a pool that changes hands


@pytest.mark.parametrize(
    ("owner", "shared", "why"), [(H2, False, "that of host"), (H1, True, "shared by several servers")]
)
def test_a_pool_that_changed_hands_since_the_scan_gives_nothing(
    house: House, owner: HostId, shared: bool, why: str
) -> None:
    scanned = house.snapshot()
    mark = Mark(PoolId("a" * 32), owner, shared)
    (house.pool / POOL).write_bytes(render_mark(mark))
    refused = house.keeper.attach([ONE], scanned, vm_id=vm_of(1), generation=1, user_id=ALICE, host_id=H1)
    assert isinstance(refused, Refused)
    assert refused.code == "storage-unwritable"
    assert why in refused.reasons[0].has
    assert not (house.folder(ONE) / RECORD).exists()
    assert house.keeper.shares() == ()
    with pytest.raises(Unusable, match=why):
        house.keeper.forget(ONE, scanned)


def test_what_was_given_before_the_pool_changed_hands_is_still_freed(house: House) -> None:
    """Nobody else gives it away before that, whoever owns the pool."""
    house.attach(1, ONE)
    scanned = house.snapshot()
    (house.pool / POOL).write_bytes(render_mark(Mark(PoolId("a" * 32), H2)))
    assert house.keeper.detach(vm_of(1), 1, H1, scanned) == ()
    record = house.record(ONE)
    assert record is not None
    assert not record.held
