"""A VM's storage servers, asked together: all of them or none, and nobody before every one can be reached."""

import logging
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from atomd.vms.lifecycle import Added, State, Vm
from atomd.volumes import storage
from atomd.volumes.answers import Silent
from atomd.volumes.storage import REACH_S, Storage
from matcher.scheduler.placing import CONFIRM_S
from matcher.wire.messages import Address, ConfirmVolume, ImageFormat, Reason, Refused, VolumeClaim
from matcher.wire.volumes import Attached, AttachedVolume, ChapSecret, Detach, IscsiTarget
from specs.ids import HostId
from tests.fakes.one_host import a_vm
from tests.fakes.realms import Realm, make_realm
from tests.fakes.storage_host import FakeStore, home_storage, storage_host

A, B, C = "a" * 32, "b" * 32, "c" * 32
IN_USE = Refused("volume-in-use", (Reason("volume b", "to write", "taken", ""),))
GONE = Refused("volume-unusable", (Reason("volume c", "to use it", "not here", ""),))


def export(vid: str) -> Attached:
    target = IscsiTarget(Address("10.0.0.2", 3260), f"iqn.2026-01.atomos:{vid}", 1, "iqn.2026-01.atomos:h1", "u1")
    volume = AttachedVolume(vid, "", ImageFormat.RAW, False, False, True, target)
    return Attached((volume,), (ChapSecret(vid, "top secret"),))


def at_home(vid: str) -> Attached:
    return Attached((AttachedVolume(vid, f"/srv/{vid}", ImageFormat.RAW, False, False, True),))


class Net:
    """h1, whose VM it is, with volume A at home; h2 with B and h3 with C."""

    def __init__(self, realm: Realm) -> None:
        self.realm = realm
        self.home, self.h2, self.h3 = FakeStore(at_home(A)), FakeStore(export(B)), FakeStore(export(C))
        self.doors: dict[str, Address | None] = {}
        self.storage: Storage

    def server(self, name: str) -> HostId:
        return HostId(self.realm[name].principal.id)

    def vm(self, *vids: str) -> Vm:
        where = {A: "h1", B: "h2", C: "h3"}
        claims = tuple(VolumeClaim(vid, self.server(where[vid]), "1" * 32, self.doors.get(where[vid])) for vid in vids)
        vm = a_vm(State.PREPARED)
        return replace(vm, confirm=replace(vm.confirm, volumes=claims, host_id=self.server("h1")))


@pytest.fixture(scope="module")
def realm(tmp_path_factory: pytest.TempPathFactory) -> Realm:
    return make_realm(tmp_path_factory.mktemp("realm"), "h1", "h2", "h3", "ann")


@pytest.fixture
async def net(realm: Realm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Net]:
    monkeypatch.setattr(storage, "may_be_a_host", lambda ip: True)  # here, all of them are on loopback
    net = Net(realm)
    async with AsyncExitStack() as stack:
        path = await stack.enter_async_context(home_storage(tmp_path / "storaged", net.home))
        for name, store in (("h2", net.h2), ("h3", net.h3)):
            net.doors[name] = await stack.enter_async_context(storage_host(realm[name], store))
        net.storage = Storage(realm["h1"], path)
        with trio.fail_after(30):
            yield net


async def test_all_servers_get_the_users_words_and_their_answers_become_one(net: Net) -> None:
    vm = net.vm(C, A, B)
    attached = await net.storage.attach(vm)
    assert isinstance(attached, Attached)
    assert [volume.vid for volume in attached.volumes] == [C, A, B]
    assert {secret.vid for secret in attached.secrets} == {B, C}
    assert net.home.heard == [("home", vm.envelope)]
    assert net.h2.heard == net.h3.heard == [(net.server("h1"), vm.envelope)]


async def test_a_refusal_comes_with_the_reasons_of_all(net: Net) -> None:
    net.h2.gives, net.h3.gives = IN_USE, GONE
    refused = await net.storage.attach(net.vm(A, B, C))
    assert refused == Refused("volume-in-use", (*IN_USE.reasons, *GONE.reasons))


async def test_where_one_can_not_be_reached_no_other_is_told_anything(net: Net) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        net.doors["h3"] = Address("127.0.0.1", listening.getsockname()[1])
    silent = await net.storage.attach(net.vm(A, B, C))
    assert isinstance(silent, Silent)
    assert not silent.asked
    assert not net.home.heard
    assert not net.h2.heard


async def test_whatever_is_at_a_users_address_the_sentence_is_the_same(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A closed port, silence, another protocol, another host: who chose the address does not learn which."""
    monkeypatch.setattr(storage, "REACH_S", 0.3)
    said = set()

    async def talks(plain: trio.SocketStream) -> None:
        await plain.send_all(b"220 smtp ready\r\n")

    async with trio.open_nursery() as nursery:
        (mail,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, talks, [mail])
        with socket.create_server(("127.0.0.1", 0)) as listening:
            silent = listening.getsockname()[1]
            doors = (
                Address("127.0.0.1", 1),
                Address("127.0.0.1", silent),
                Address("127.0.0.1", mail.socket.getsockname()[1]),
                net.doors["h2"],
                None,
            )
            for net.doors["h3"] in doors:
                said.add(await net.storage.attach(net.vm(C)))
        nursery.cancel_scope.cancel()
    why = f"host {net.server('h3')[:16]}, which has its volume, can't be reached"
    assert said == {Silent(why, asked=False)}
    assert not net.h2.heard


async def test_this_host_is_not_made_to_talk_to_itself(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    silent = await net.storage.attach(net.vm(B))
    assert isinstance(silent, Silent)
    assert not silent.asked
    assert not net.h2.heard


async def test_who_was_asked_and_does_not_answer_may_have_done_it(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "STORAGE_S", 0.3)
    net.h2.is_silent = True
    assert await net.storage.attach(net.vm(B, C)) == Silent("h2, which has its volume, does not answer")


async def test_a_silent_storaged_at_home_is_told_from_others(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "STORAGE_S", 0.3)
    net.home.is_silent = True
    assert await net.storage.attach(net.vm(A)) == Silent("storaged of its host does not answer")


async def test_detached_is_what_every_server_has_let_go_of(net: Net) -> None:
    vm = net.vm(A, B, C)
    assert await net.storage.detach(vm)
    question = Detach(vm.vm_id, vm.generation, vm.offer_id)
    assert net.home.heard == [("home", question)]
    assert net.h2.heard == net.h3.heard == [(net.server("h1"), question)]
    net.h3.lets_go = Refused("unavailable", ())
    assert not await net.storage.detach(vm)
    net.doors["h2"] = Address("127.0.0.1", 1)
    net.h3.lets_go = net.h2.lets_go
    assert not await net.storage.detach(net.vm(A, B, C))
    assert len(net.home.heard) == 3, "the others are told all the same"


async def test_a_host_that_was_removed_from_the_realm_is_nobody_to_tell(tmp_path: Path) -> None:
    """Gone for good, it would be told for ever."""
    realm = make_realm(tmp_path / "realm", "h1", "h2")
    home = FakeStore(at_home(A))
    async with home_storage(tmp_path / "storaged", home) as path:
        storage = Storage(realm["h1"], path)
        claims = tuple(VolumeClaim(vid, realm[name].principal.id, "1" * 32) for vid, name in ((A, "h1"), (B, "h2")))
        vm = a_vm(State.REMOVING)
        vm = replace(vm, confirm=replace(vm.confirm, volumes=claims, host_id=realm["h1"].principal.id))
        assert not await storage.detach(vm)
        realm["h1"].learn([realm.issuer.revoke("host", "h2", "", wall_s=time.time())], time.time())
        assert await storage.detach(vm)
        assert len(home.heard) == 2


async def test_a_volume_that_came_later_has_words_of_its_own_and_one_that_went_is_not_asked_for(net: Net) -> None:
    vm = net.vm(A, B)
    claim = VolumeClaim(C, net.server("h2"), "7" * 32, net.doors["h2"])
    said = ConfirmVolume(vm.vm_id, 1, "6" * 32, net.server("h1"), "web", claim)
    vm = replace(vm, added=(Added(said, b"later"),), dropped=(A,))
    net.h2.gives = Attached((*export(B).volumes, *export(C).volumes), (*export(B).secrets, *export(C).secrets))
    assert isinstance(await net.storage.attach(vm), Silent), "it gives what was not asked for"
    assert [what for _, what in net.h2.heard] == [b"envelope", b"later"]
    assert net.h2.withouts == [(A,), ()]
    assert net.home.heard == []
    net.h2.gives = export(C)
    one = await net.storage.attach_one(vm, C)
    assert isinstance(one, Attached)
    assert [volume.vid for volume in one.volumes] == [C]
    assert await net.storage.detach_one(vm, C)
    assert net.h2.heard[-1][1] == Detach(vm.vm_id, 1, "7" * 32, (C,))
    assert await net.storage.detach_one(replace(vm, dropped=()), A)
    assert net.home.heard == [("home", Detach(vm.vm_id, 1, vm.offer_id, (A,)))]


async def test_what_its_user_wants_read_alone_or_as_a_cd_is_so_whatever_storage_says(net: Net) -> None:
    vm = net.vm(A)
    for wish, readonly in (({}, False), ({"readonly": True}, True), ({"cdrom": True}, True)):
        claims = tuple(replace(claim, **wish) for claim in vm.confirm.volumes)
        attached = await net.storage.attach(replace(vm, confirm=replace(vm.confirm, volumes=claims)))
        assert isinstance(attached, Attached)
        assert (attached.volumes[0].readonly, attached.volumes[0].cdrom) == (readonly, "cdrom" in wish)


async def test_a_vm_that_was_promised_and_is_removed_is_said_to_be_gone(net: Net) -> None:
    promised = replace(net.vm(A), volumes=at_home(A).volumes)
    for vm in (replace(promised, state=State.REMOVING), replace(net.vm(A), state=State.REMOVING), promised):
        assert await net.storage.detach(vm)
    told = [question.gone for _, question in net.home.heard]
    assert told == [True, False, False], "removed; undone before it was promised; cut off from its volumes"


async def test_a_host_is_called_by_the_name_that_it_has_shown(net: Net) -> None:
    await net.storage.attach(net.vm(B))
    net.doors["h2"] = None
    assert await net.storage.attach(net.vm(B)) == Silent("h2, which has its volume, can't be reached", asked=False)


async def test_no_secret_is_logged(net: Net, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    attached = await net.storage.attach(net.vm(A, B))
    assert isinstance(attached, Attached)
    net.h2.gives = replace(export(B), volumes=export(C).volumes)
    await net.storage.attach(net.vm(B))
    assert "top secret" not in caplog.text + repr(attached)


def test_a_frozen_host_is_found_out_before_the_client_gives_up() -> None:
    assert REACH_S < CONFIRM_S / 2
