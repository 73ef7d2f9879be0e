"""A storage host's own front door: what is there, who may see it, and what is not there for others."""

from pathlib import Path

import pytest

from matcher.wire.messages import Refused, VmViews
from matcher.wire.realm import Grant, Verb
from matcher.wire.volumes import VolumeView, VolumeViews
from specs.ids import UserId
from storaged.keeper import Kept
from storaged.testing import make_volume, vid_of, vm_of
from tests.fakes.realms import Realm, make_realm
from tests.fakes.storage import open_storage

OPEN, HIDDEN = vid_of(1), vid_of(2)


@pytest.fixture
def realm(tmp_path: Path) -> Realm:
    made = make_realm(tmp_path / "realm", "h1", "ann", "bob")
    made.add("con", Grant(verbs=(Verb.CONSOLE,)))
    make_volume(tmp_path / "pool", OPEN, name="open")
    make_volume(tmp_path / "pool", HIDDEN, name="hidden", owner=UserId(made["ann"].principal.id))
    return made


async def test_everybody_sees_public_volumes_and_their_own_private_ones(tmp_path: Path, realm: Realm) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        anns = await storage.get(realm["ann"], "/v1/volumes", VolumeViews)
        bobs = await storage.get(realm["bob"], "/v1/volumes", VolumeViews)
        foreign = await storage.get(realm["bob"], f"/v1/volumes/{HIDDEN}", VolumeView)
        absent = await storage.get(realm["bob"], f"/v1/volumes/{vid_of(9)}", VolumeView)
    assert isinstance(anns, VolumeViews)
    assert isinstance(bobs, VolumeViews)
    assert {volume.name for volume in anns.volumes} == {"open", "hidden"}
    assert {volume.name for volume in bobs.volumes} == {"open"}
    assert isinstance(foreign, Refused)
    assert foreign == absent, "nobody can tell a private volume from none"
    assert foreign.code == "not-found"


async def test_who_has_a_volume_is_told_to_the_one_whose_vm_it_is(tmp_path: Path, realm: Realm) -> None:
    ann = UserId(realm["ann"].principal.id)
    async with open_storage(tmp_path, realm["h1"]) as storage:
        attached = storage.keeper.attach(
            [OPEN],
            storage.catalogue.snapshot(),
            vm_id=vm_of(1),
            generation=1,
            user_id=ann,
            host_id=storage.host_id,
            vm_name="web",
        )
        assert isinstance(attached, Kept)
        anns = await storage.get(realm["ann"], f"/v1/volumes/{OPEN}", VolumeView)
        bobs = await storage.get(realm["bob"], f"/v1/volumes/{OPEN}", VolumeView)
    assert isinstance(anns, VolumeView)
    assert isinstance(bobs, VolumeView)
    assert (anns.state, anns.vms) == ("attached", ("web",))
    assert (bobs.state, bobs.vms) == ("attached", ())


async def test_what_a_grant_lacks_is_refused_and_written_down(tmp_path: Path, realm: Realm) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        refused = await storage.get(realm["con"], "/v1/volumes", VolumeViews)
    assert isinstance(refused, Refused)
    assert refused.code == "denied"
    assert '"GET /v1/volumes"' in storage.audit.read_text()


async def test_this_door_has_no_vms(tmp_path: Path, realm: Realm) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        refused = await storage.get(realm["ann"], "/v1/vms", VmViews)
    assert isinstance(refused, Refused)
    assert refused.code == "not-found"
