"""What users change through the front door is noted with who, from where and the outcome; what they look at is not."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from atomd.answering import Face
from atomd.capacity.quota import Quota
from atomd.capacity.uses import Uses
from atomd.hypervisor.domains import ConsoleBusy
from atomd.performing import became
from atomd.service import Service
from atomd.vms.lifecycle import State
from matcher.net import local
from matcher.net.audit import Audit
from matcher.net.caller import Caller
from matcher.net.peer import now_s
from matcher.trust.principal import Principal
from matcher.wire.codec import BODY_MAX_BYTES, encode
from matcher.wire.envelope import Kind, host_audience, seal
from matcher.wire.messages import Abandon, ImageFormat, Message, Refused, Role
from matcher.wire.realm import HostUse, UserUse
from matcher.wire.volumes import AskVolumesUsed, AttachedVolume, VolumesUsed
from specs.ids import HostId, Vid, VmId, dashed
from tests.fakes.one_host import ANN, BOB, DATA, HOST, VID, OneHost, a_vm
from tests.fakes.realms import Realm, make_realm

ANNS = Caller(Principal("user", ANN, "ann"), "10.0.0.7")
BOBS = Caller(Principal("user", BOB, "bob"), "10.0.0.8")
NOBODYS = VmId("c" * 32)


class Performs:
    """As much of a `Performer` as a service uses; slow work is done while it waits."""

    def __init__(self, host: OneHost) -> None:
        self.compute, self._host = host.compute, host

    def apply(self, effects: Any) -> Refused | None:
        return self._host.apply(effects)

    async def changed(self) -> None:
        self._host.destroy()


class Terminal:
    """A hypervisor with one console, that one person at a time may have."""

    def __init__(self) -> None:
        self.is_taken = False

    async def open_console(self, vm_id: VmId) -> "Terminal":
        if self.is_taken:
            raise ConsoleBusy("somebody is at it")
        self.is_taken = True
        return self

    async def aclose(self) -> None:
        self.is_taken = False


class Served(Service):
    """Without the view of a VM, which takes a whole machine to tell."""

    def _view(self, vm: Any, addresses: Any) -> Any:
        return vm


@pytest.fixture
def host() -> OneHost:
    return OneHost()


@pytest.fixture(scope="module")
def realm(tmp_path_factory: pytest.TempPathFactory) -> Realm:
    return make_realm(tmp_path_factory.mktemp("realm"), "h1", "ann")


@pytest.fixture
def uses() -> Uses:
    return Uses()


@pytest.fixture
def service(host: OneHost, realm: Realm, uses: Uses, tmp_path: Path) -> Service:
    none = cast(Any, None)
    return Served(
        identity=realm["h1"],
        face=cast(Face, None),
        performer=cast(Any, Performs(host)),
        answers=none,
        hypervisor=cast(Any, Terminal()),
        storaged_socket=tmp_path / "storaged",
        audit=Audit(tmp_path / "audit", "h1"),
        quota=Quota(host="h1", kinds={}, vms=host.compute.ids_of),
        ledger=host.ledger,
        uses=uses,
    )


def noted(tmp_path: Path) -> list[tuple[str, str, str, str, str]]:
    path = tmp_path / "audit"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [(line["who"][:8], line["from"], line["what"], line["about"], line["outcome"]) for line in lines]


async def test_what_a_user_does_to_a_vm_is_noted(host: OneHost, service: Service, tmp_path: Path) -> None:
    vm_id = VmId(host.running(name="web").vm_id)
    await service.reboot(vm_id, ANNS)
    await service.stop(vm_id, ANNS, force=True)
    await service.stop(vm_id, ANNS, force=True)  # changes nothing
    await service.remove(vm_id, ANNS, None)
    by_ann = ("user ann", "10.0.0.7")
    whats = ("vm.reboot", "vm.kill", "vm.remove")
    assert noted(tmp_path) == [(*by_ann, what, dashed(vm_id), "ok") for what in whats]


async def test_what_was_refused_is_noted_also_what_was_tried_on_vms_of_others(
    host: OneHost, service: Service, tmp_path: Path
) -> None:
    vm_id = VmId(host.stopped().vm_id)
    await service.reboot(vm_id, ANNS)
    await service.stop(vm_id, BOBS, force=True)
    await service.remove(NOBODYS, BOBS, None)
    await service.console(vm_id, BOBS)
    assert [line[2:] for line in noted(tmp_path)] == [
        ("vm.reboot", dashed(vm_id), "refused: not-now"),
        ("vm.kill", dashed(vm_id), "refused: not-found"),
        ("vm.remove", dashed(NOBODYS), "refused: not-found"),
        ("vm.console", dashed(vm_id), "refused: not-found"),
    ]
    assert {line[1] for line in noted(tmp_path)} == {"10.0.0.7", "10.0.0.8"}


async def test_a_volume_that_comes_or_goes_is_noted_and_only_ones_own(
    host: OneHost, service: Service, realm: Realm, tmp_path: Path
) -> None:
    confirm = host.stopped(volumes=[VID])
    vm_id = VmId(confirm.vm_id)
    words = host.confirm_volume(confirm, DATA)
    host.plug(words)
    host.attach_one()
    anns = Caller(realm["ann"].principal, "10.0.0.7")
    envelope = seal(
        Kind.CONFIRM_VOLUME,
        encode(words),
        realm=realm["ann"].realm,
        signer=realm["ann"],
        audience=host_audience(HostId(realm["h1"].principal.id), Role.COMPUTE),
        max_bytes=BODY_MAX_BYTES,
    )
    spoilt = envelope[:-1] + b"x"
    for whose, of, by in (
        (vm_id, envelope, anns),
        (NOBODYS, envelope, ANNS),
        (vm_id, spoilt, BOBS),
        (vm_id, spoilt, ANNS),
    ):
        assert isinstance(await service.attach_volume(whose, of, by), Refused)
    assert isinstance(await service.detach_volume(vm_id, Vid(DATA), BOBS), Refused)
    assert await service.detach_volume(vm_id, Vid("0" * 32), ANNS) == host.vm(confirm), "it has none such"
    host.unplug(confirm, DATA)
    host.detach_one()
    assert await service.detach_volume(vm_id, Vid(DATA), ANNS) == host.vm(confirm)
    assert [line[2::2] for line in noted(tmp_path)] == [
        ("vm.attach", "refused: not-found"),
        ("vm.attach", "refused: not-found"),
        ("vm.attach", "refused: not-found"),
        ("vm.attach", "refused: bad-request"),
        ("vm.detach", "refused: not-found"),
    ]


def test_a_view_names_each_volumes_server(host: OneHost, service: Service) -> None:
    host.servers[DATA] = HostId("2" * 64)
    vm = host.vm(host.running(volumes=[VID, DATA]))
    assert vm is not None
    assert [(volume.vid, volume.server) for volume in service._volumes(vm)] == [(VID, HOST), (DATA, "2" * 64)]


async def test_who_was_at_a_console_is_noted_from_when_to_when(host: OneHost, service: Service, tmp_path: Path) -> None:
    vm_id = VmId(host.running().vm_id)
    console = await service.console(vm_id, ANNS)
    assert not isinstance(console, Refused)
    assert isinstance(await service.console(vm_id, ANNS), Refused)
    await console.aclose()
    assert [line[4] for line in noted(tmp_path)] == ["ok", "refused: not-now", "ok"]
    details = [json.loads(line)["detail"] for line in (tmp_path / "audit").read_text().splitlines()]
    assert details[::2] == ["opened", "ended"]


async def test_bytes_that_the_caller_has_not_signed_are_refused_and_noted(service: Service, tmp_path: Path) -> None:
    await service.confirm(b"nonsense", ANNS)
    await service.abandon(b"nonsense", ANNS)
    outcomes = [(line[2], line[4]) for line in noted(tmp_path)]
    assert outcomes == [("vm.confirm", "refused: bad-request"), ("vm.abandon", "refused: bad-request")]


ABANDON = Abandon(NOBODYS, 1, "f" * 32, HOST)


def signed(realm: Realm, payload: bytes) -> bytes:
    ann, host_id = realm["ann"], HostId(realm["h1"].principal.id)
    audience = host_audience(host_id, Role.COMPUTE)
    return seal(Kind.ABANDON, payload, realm=ann.realm, signer=ann, audience=audience, max_bytes=BODY_MAX_BYTES)


async def test_who_sends_what_cannot_be_read_is_told_why(service: Service, realm: Realm) -> None:
    ann, somebody = Caller(realm["ann"].principal, "10.0.0.7"), ANNS
    honest = signed(realm, encode(ABANDON))
    wrong = {
        "tail: more bytes": await service.abandon(signed(realm, encode(ABANDON) + b"\0"), ann),
        "type: an extension": await service.abandon(signed(realm, b"\xd4\x05x"), ann),
        "version: 2, and 1 is": await service.abandon(honest[:4] + b"\2" + honest[5:], ann),
        "tag": await service.abandon(honest[:-1], ann),
        "unexpected kind: abandon": await service.confirm(honest, ann),
        "its certificate is not the caller's": await service.abandon(honest, somebody),
    }
    for why, answer in wrong.items():
        assert isinstance(answer, Refused)
        assert answer.code == "bad-request"
        assert why in answer.reasons[0].has


async def test_an_offer_that_a_user_lets_go_of_is_noted(
    host: OneHost, service: Service, realm: Realm, tmp_path: Path
) -> None:
    envelope = signed(realm, encode(ABANDON))
    await service.abandon(envelope, Caller(realm["ann"].principal, "10.0.0.7"))
    assert noted(tmp_path) == [("user ann", "10.0.0.7", "vm.abandon", dashed(NOBODYS), "ok")]


async def test_what_is_only_looked_at_is_not_noted(host: OneHost, service: Service, tmp_path: Path) -> None:
    vm_id = VmId(host.stopped().vm_id)
    await service.vms(ANNS)
    await service.vm(vm_id, ANNS)
    await service.vm(vm_id, BOBS)
    assert noted(tmp_path) == []


async def test_a_line_is_there_before_the_answer_so_that_who_hangs_up_is_noted_as_well(
    host: OneHost, service: Service, tmp_path: Path
) -> None:
    vm_id = VmId(host.running().vm_id)
    with trio.CancelScope() as scope:
        scope.cancel()
        await service.stop(vm_id, ANNS, force=True)
    assert [line[2] for line in noted(tmp_path)] == ["vm.kill"]


# ---- what a user has


@asynccontextmanager
async def storaged(path: Path, answer: Message) -> AsyncIterator[None]:
    """One that has one answer."""

    async def reply(question: Message, _: local.Peer) -> Message:
        assert question == AskVolumesUsed(ANN)
        return answer

    async with trio.open_nursery() as nursery:
        await nursery.start(local.serve, path, reply)
        yield
        nursery.cancel_scope.cancel()


async def test_volumes_are_what_storaged_says_of_this_user(host: OneHost, service: Service, tmp_path: Path) -> None:
    host.running()
    async with storaged(tmp_path / "storaged", VolumesUsed(1152)):
        told = await service.uses(ANN)
    assert (told.here.vms, told.here.volumes_mib) == (1, 1152)


async def test_where_no_storaged_runs_nobody_has_volumes(host: OneHost, service: Service) -> None:
    host.running()
    assert (await service.uses(ANN)).here.volumes_mib == 0


async def test_volumes_of_a_storaged_that_is_away_or_says_no_are_not_known(
    host: OneHost, service: Service, tmp_path: Path
) -> None:
    async with storaged(tmp_path / "storaged", Refused("bad-request", ())):
        assert (await service.uses(ANN)).here.volumes_mib is None
    assert (await service.uses(ANN)).here.volumes_mib is None, "its socket is there, and nobody behind it"
    (tmp_path / "storaged").unlink()
    assert (await service.uses(ANN)).here.volumes_mib == 0
    host.running(volumes=(VID,))
    assert (await service.uses(ANN)).here.volumes_mib is None, "a VM has some"


async def test_what_others_have_told_of_a_user_stands_beside_what_is_here(
    host: OneHost, service: Service, uses: Uses
) -> None:
    host.running()
    uses.eat(HostId("2" * 64), "h2", [UserUse(ANN[:16], 3, 300, 2)], now_s())
    told = await service.uses(ANN)
    assert told.here.vms == 1
    assert told.elsewhere == (HostUse("h2", "2" * 64, 3, 300, 2),)


def test_what_becomes_of_a_vm_by_itself_has_words_of_its_own() -> None:
    steps = {
        (None, State.PREPARED): "",
        (State.PREPARED, State.COMMITTED): "vm.committed",
        (State.COMMITTED, State.RUNNING): "vm.started",
        (State.RUNNING, State.COMMITTED): "vm.restarted",
        (State.RUNNING, State.STOPPED): "vm.ended",
        (State.RUNNING, State.FAILED): "vm.failed",
        (State.RUNNING, State.STOPPING): "",
        (State.STOPPING, State.RUNNING): "vm.goes-on",
    }
    for (before, after), word in steps.items():
        assert became(a_vm(before) if before else None, a_vm(after)) == word
    vm = a_vm(State.RUNNING)
    more = replace(vm, volumes=(AttachedVolume(VID, "/x", ImageFormat.RAW, False, False, False),))
    assert (became(vm, more), became(more, vm), became(vm, vm)) == ("vm.attached", "vm.detached", "")
