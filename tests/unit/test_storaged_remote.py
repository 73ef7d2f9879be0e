"""Volumes for VMs on other hosts: on the user's word for that host, held for that VM, and cut before anybody else's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from matcher.net.https import Connection, Door
from matcher.trust.identity import Identity
from matcher.wire.codec import BODY_MAX_BYTES, encode
from matcher.wire.envelope import Kind, host_audience, seal
from matcher.wire.messages import (
    Arch,
    Confirm,
    ConfirmVolume,
    Firmware,
    Reach,
    Reason,
    Refused,
    Role,
    VmAsk,
    VolumeClaim,
    VolumeOffer,
)
from matcher.wire.realm import Done, Grant, Verb
from matcher.wire.volumes import Attached, Detach, Detached
from specs.ids import HostId, Vid
from storaged.record import read_right_at
from storaged.testing import make_volume, vid_of, vm_of
from storaged.volume import Right
from tests.fakes.realms import Realm, make_realm
from tests.fakes.storage import Storage, open_storage

DISK, FIXED, MORE = vid_of(1), vid_of(2), vid_of(3)
ASK = VmAsk(1, False, 1, (Arch.X86_64,), (), 512, False, (), Firmware.BIOS, True)
NO_OFFER = VolumeOffer("0" * 32, "1" * 32, "", 0, 0, ())


@pytest.fixture
def realm(tmp_path: Path) -> Realm:
    made = make_realm(tmp_path / "realm", "h1", "h2", "h3", "ann")
    make_volume(tmp_path / "pool", DISK, bootable=True)
    make_volume(tmp_path / "pool", FIXED, readonly=True)
    return made


def confirm(realm: Realm, storage: Storage, to: str, offer: VolumeOffer, generation: int = 1, vid: Vid = DISK) -> bytes:
    """What ann signs for the host `to`."""
    ann, host_id = realm["ann"], HostId(realm[to].principal.id)
    claims = (VolumeClaim(vid, storage.host_id, offer.offer_id),)
    offer_id = f"{generation:032x}"
    said = Confirm(vm_of(1), generation, "3f" * 16, offer_id, host_id, "web", ASK, claims, "{}")
    audience = host_audience(host_id, Role.COMPUTE)
    return seal(Kind.CONFIRM, encode(said), realm=ann.realm, signer=ann, audience=audience, max_bytes=BODY_MAX_BYTES)


def hold(storage: Storage, realm: Realm, generation: int = 1, vid: Vid = DISK) -> VolumeOffer:
    offer = storage.hold(realm["ann"], vm_of(1), generation, vid)
    assert isinstance(offer, VolumeOffer), offer
    return offer


async def ask(storage: Storage, who: Identity, path: str, answer: Any, body: Any) -> Any:
    def asked() -> Any:
        with Connection(who, Door("h1", storage.host_id, "127.0.0.1", storage.port), timeout_s=5) as connection:
            return connection.ask("POST", path, answer, body)

    return await trio.to_thread.run_sync(asked)


async def attach(storage: Storage, who: Identity, words: bytes) -> Attached | Refused:
    answer: Attached | Refused = await ask(storage, who, "/v1/attachments", Attached, words)
    return answer


async def detach(storage: Storage, who: Identity, generation: int = 1) -> Detached | Refused:
    body = Detach(vm_of(1), generation, f"{generation:032x}")
    answer: Detached | Refused = await ask(storage, who, "/v1/detachments", Detached, body)
    return answer


def right(storage: Storage) -> Right:
    found = read_right_at(str(storage.pool), str(storage.pool / "00000000-0000-0000-0000-000000000001.elimg"), DISK)
    assert found is not None
    return found


async def test_a_host_gets_a_target_for_the_vm_that_its_user_confirmed_there(tmp_path: Path, realm: Realm) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        offer = hold(storage, realm)
        assert [volume.reach for volume in offer.volumes] == [Reach.NETWORK]
        assert offer.front_door_port == 7767
        words = confirm(realm, storage, "h2", offer)
        given = await attach(storage, realm["h2"], words)
        assert isinstance(given, Attached), given
        (volume,), (secret,) = given.volumes, given.secrets
        assert volume.path == ""
        assert volume.iscsi is not None
        assert secret.secret not in repr(given)
        assert (right(storage).host_id, right(storage).server) == (realm["h2"].principal.id, storage.host_id)
        assert await attach(storage, realm["h2"], words) == given, "asked again, it is the same"


async def test_a_host_gets_nothing_by_words_for_another_or_of_nobody(tmp_path: Path, realm: Realm) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        words = confirm(realm, storage, "h2", hold(storage, realm))
        for who, said in ((realm["h3"], words), (realm["h2"], words[:-1] + b"x"), (realm["ann"], words)):
            refused = await attach(storage, who, said)
            assert isinstance(refused, Refused)
            assert refused.code == "denied"
        assert storage.exports.given == []
        assert storage.keeper.state.attachments == ()


async def test_old_words_of_a_user_are_good_for_nothing(tmp_path: Path, realm: Realm) -> None:
    """A host that turns bad keeps the confirms of all VMs that it has had."""
    async with open_storage(tmp_path, realm["h1"]) as storage:
        words = confirm(realm, storage, "h2", hold(storage, realm))
        assert isinstance(await attach(storage, realm["h2"], words), Attached)
        assert isinstance(await detach(storage, realm["h2"]), Detached)
        storage.attaching.admission._let_go.clear()  # as after a restart
        again = await attach(storage, realm["h2"], words)
        assert isinstance(again, Refused)
        assert again.code == "volume-not-held"
        assert not right(storage).held


async def served_after_the_detach(storage: Storage, realm: Realm, to: str, words: bytes) -> Attached | Refused:
    """What the host `to` hears, whose words come while the detach of the VM on h2 waits for its turn."""
    answers: list[Attached | Refused] = []

    async def attach_late() -> None:
        answers.append(await storage.attaching.attach(words, HostId(realm[to].principal.id)))

    async with trio.open_nursery() as nursery, storage.attaching.turn:
        gone = Detach(vm_of(1), 1, f"{1:032x}")
        nursery.start_soon(storage.attaching.detach, gone, HostId(realm["h2"].principal.id))
        await until(lambda: waiting(storage) == 1)
        nursery.start_soon(attach_late)
        await until(lambda: waiting(storage) == 2 or answers != [])  # some are refused before it is their turn
    return answers[0]


def waiting(storage: Storage) -> int:
    """How many wait for their turn: before that they look at the volumes, in threads."""
    return storage.attaching.turn.statistics().tasks_waiting


async def until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not holds():  # noqa: ASYNC110  a lock tells nobody
            await trio.sleep(0.001)


async def test_what_a_vm_has_on_one_host_lets_no_other_host_in_without_a_hold(tmp_path: Path, realm: Realm) -> None:
    """The same generation was confirmed on both, say, and one was refused."""
    async with open_storage(tmp_path, realm["h1"]) as storage:
        await attach(storage, realm["h2"], confirm(realm, storage, "h2", hold(storage, realm)))
        words = confirm(realm, storage, "h3", NO_OFFER)
        refused = await attach(storage, realm["h3"], words)
        assert isinstance(refused, Refused)
        assert refused.code == "volume-not-held"
        assert refused.reasons[0].has == "this VM's generation 1 has it"
        late = await served_after_the_detach(storage, realm, "h3", words)
        assert isinstance(late, Refused)
        assert storage.keeper.state.attachments == ()


async def test_what_is_detached_before_its_turn_does_not_stand_in_for_a_hold(tmp_path: Path, realm: Realm) -> None:
    """By another offer than the one that is let go of."""
    async with open_storage(tmp_path, realm["h1"]) as storage:
        await attach(storage, realm["h2"], confirm(realm, storage, "h2", hold(storage, realm)))
        late = await served_after_the_detach(storage, realm, "h2", more(realm, storage, "h2", NO_OFFER, DISK))
        assert isinstance(late, Refused)
        assert late.code == "volume-not-held"
        assert storage.keeper.state.attachments == ()


async def test_the_next_generation_elsewhere_cuts_the_old_one_first(tmp_path: Path, realm: Realm) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        assert isinstance(
            await attach(storage, realm["h2"], confirm(realm, storage, "h2", hold(storage, realm))), Attached
        )
        (old,) = storage.keeper.state.attachments
        words = confirm(realm, storage, "h3", hold(storage, realm, 2), 2)
        storage.exports.is_stuck = True
        stuck = await attach(storage, realm["h3"], words)
        assert isinstance(stuck, Refused)
        assert "still writes" in stuck.reasons[0].has
        assert storage.keeper.state.attachments == (old,), "one writer, and it is the old one"
        storage.exports.is_stuck = False
        words = confirm(realm, storage, "h3", hold(storage, realm, 2), 2)
        assert isinstance(await attach(storage, realm["h3"], words), Attached)
        assert storage.exports.ended == [old]
        assert right(storage).epoch.counter == old.epoch.counter + 1
        late = await attach(storage, realm["h2"], confirm(realm, storage, "h2", NO_OFFER))
        assert isinstance(late, Refused)
        assert late.code == "volume-not-held"
        assert "generation 2 has it; generation 1 is over" in late.reasons[0].has


async def test_one_host_cannot_detach_what_another_has(tmp_path: Path, realm: Realm) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        assert isinstance(
            await attach(storage, realm["h2"], confirm(realm, storage, "h2", hold(storage, realm))), Attached
        )
        assert isinstance(await detach(storage, realm["h3"]), Detached), "it has nothing there, and is told so"
        assert right(storage).held
        storage.exports.is_stuck = True
        refused = await detach(storage, realm["h2"])
        assert isinstance(refused, Refused)
        assert refused.code == "unavailable", "asked again, it goes on"
        assert right(storage).held
        storage.exports.is_stuck = False
        assert isinstance(await detach(storage, realm["h2"]), Detached)
        assert not right(storage).held


async def test_what_can_not_be_exported_is_not_attached(tmp_path: Path, realm: Realm) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        storage.exports.refuses = Refused("too-many-exports", (Reason("volume", "by iscsi", "1024 already", ""),))
        refused = await attach(storage, realm["h2"], confirm(realm, storage, "h2", hold(storage, realm)))
        assert refused == storage.exports.refuses
        assert storage.keeper.state.attachments == ()
        assert not right(storage).held


async def test_a_volume_that_nobody_writes_goes_to_many_hosts(tmp_path: Path, realm: Realm) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        words = confirm(realm, storage, "h2", hold(storage, realm, vid=FIXED), vid=FIXED)
        assert isinstance(await attach(storage, realm["h2"], words), Attached)
        here = storage.keeper.attach(
            [FIXED],
            storage.catalogue.snapshot(),
            vm_id=vm_of(2),
            generation=1,
            user_id=storage.keeper.state.attachments[0].user_id,
            host_id=storage.host_id,
        )
        assert not isinstance(here, Refused)


async def test_its_owner_takes_a_volume_from_whoever_has_it(tmp_path: Path, realm: Realm) -> None:
    path = f"/v1/volumes/{DISK}/takeover"
    async with open_storage(tmp_path, realm["h1"]) as storage:
        words = confirm(realm, storage, "h2", hold(storage, realm))
        assert isinstance(await attach(storage, realm["h2"], words), Attached)
        (had,) = storage.keeper.state.attachments
        realm.add("bob", Grant(verbs=(Verb.RUN, Verb.PLEDGE)))
        refused = await ask(storage, realm["bob"], path, Done, None)
        assert isinstance(refused, Refused)
        assert refused.code == "denied", "nobody owns it, and bob is no admin"
        assert right(storage).held
        assert isinstance(await ask(storage, realm["ann"], path, Done, None), Done)
        assert storage.exports.ended == [had]
        assert not right(storage).held
        assert right(storage).epoch.counter == had.epoch.counter + 1
        late = await attach(storage, realm["h2"], words)
        assert isinstance(late, Refused)


# ---- one volume more


def more(realm: Realm, storage: Storage, to: str, offer: VolumeOffer, vid: Vid) -> bytes:
    """What ann signs for the host `to`, where her VM is already."""
    ann, host_id = realm["ann"], HostId(realm[to].principal.id)
    said = ConfirmVolume(vm_of(1), 1, "3f" * 16, host_id, "web", VolumeClaim(vid, storage.host_id, offer.offer_id))
    audience = host_audience(host_id, Role.COMPUTE)
    return seal(
        Kind.CONFIRM_VOLUME, encode(said), realm=ann.realm, signer=ann, audience=audience, max_bytes=BODY_MAX_BYTES
    )


async def test_a_vm_elsewhere_gets_one_volume_more_by_a_hold_and_keeps_the_others(tmp_path: Path, realm: Realm) -> None:
    make_volume(tmp_path / "pool", MORE)
    async with open_storage(tmp_path, realm["h1"]) as storage:
        first = confirm(realm, storage, "h2", hold(storage, realm))
        had = await attach(storage, realm["h2"], first)
        refused = await attach(storage, realm["h2"], more(realm, storage, "h2", NO_OFFER, MORE))
        assert isinstance(refused, Refused)
        assert refused.code == "volume-not-held", "words alone are not enough"
        offer = hold(storage, realm, vid=MORE)
        for who in ("h3", "ann"):
            stranger = await attach(storage, realm[who], more(realm, storage, "h2", offer, MORE))
            assert isinstance(stranger, Refused)
        words = more(realm, storage, "h2", offer, MORE)
        given = await attach(storage, realm["h2"], words)
        assert isinstance(given, Attached), given
        assert [volume.vid for volume in given.volumes] == [MORE]
        assert await attach(storage, realm["h2"], words) == given
        assert await attach(storage, realm["h2"], first) == had, "which it was asked for before"
        gone = Detach(vm_of(1), 1, offer.offer_id, (MORE,))
        assert isinstance(await ask(storage, realm["h2"], "/v1/detachments", Detached, gone), Detached)
        assert [a.vid for a in storage.keeper.state.attachments] == [DISK]
        assert [a.vid for a in storage.exports.ended] == [MORE]
        late = await attach(storage, realm["h2"], words)
        assert isinstance(late, Refused)
        assert late.code == "volume-not-held"


async def test_what_can_not_be_exported_takes_nothing_from_a_vm_that_has_others(tmp_path: Path, realm: Realm) -> None:
    make_volume(tmp_path / "pool", MORE)
    async with open_storage(tmp_path, realm["h1"]) as storage:
        await attach(storage, realm["h2"], confirm(realm, storage, "h2", hold(storage, realm)))
        storage.exports.refuses = Refused("too-many-exports", (Reason("volume", "by iscsi", "1024 already", ""),))
        words = more(realm, storage, "h2", hold(storage, realm, vid=MORE), MORE)
        assert await attach(storage, realm["h2"], words) == storage.exports.refuses
        assert [a.vid for a in storage.keeper.state.attachments] == [DISK]


async def test_what_a_vm_has_let_go_of_does_not_come_back_by_its_first_words(tmp_path: Path, realm: Realm) -> None:
    make_volume(tmp_path / "pool", MORE)
    async with open_storage(tmp_path, realm["h1"]) as storage:
        ann, host_id = realm["ann"], HostId(realm["h2"].principal.id)
        offer = storage.hold(ann, vm_of(1), 1, DISK, MORE)
        assert isinstance(offer, VolumeOffer)
        claims = tuple(VolumeClaim(vid, storage.host_id, offer.offer_id) for vid in (DISK, MORE))
        said = Confirm(vm_of(1), 1, "3f" * 16, "1" * 32, host_id, "web", ASK, claims, "{}")
        audience = host_audience(host_id, Role.COMPUTE)
        first = seal(
            Kind.CONFIRM, encode(said), realm=ann.realm, signer=ann, audience=audience, max_bytes=BODY_MAX_BYTES
        )
        assert isinstance(await attach(storage, realm["h2"], first), Attached)
        gone = Detach(vm_of(1), 1, "1" * 32, (MORE,))
        assert isinstance(await ask(storage, realm["h2"], "/v1/detachments", Detached, gone), Detached)
        kept = await ask(storage, realm["h2"], f"/v1/attachments?without={MORE}", Attached, first)
        assert isinstance(kept, Attached), kept
        assert [volume.vid for volume in kept.volumes] == [DISK]
        whole = await attach(storage, realm["h2"], first)
        assert isinstance(whole, Refused)
        assert [a.vid for a in storage.keeper.state.attachments] == [DISK]
