"""The back door hears root and one group, by the kernel's word, and notes who did what."""

import json
import os
import socket
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from pydantic import TypeAdapter

from atomd.answering import Face
from atomd.backdoor import BackDoor, Drain
from atomd.devices import Devices, Notes
from atomd.functions import Functions
from atomd.lent import Lent
from atomd.mediated import Mediated
from atomd.vms.lifecycle import State
from matcher.net import local
from matcher.net.audit import Audit
from matcher.wire import backdoor as asked
from matcher.wire.codec import encode
from matcher.wire.messages import Message, Refused
from matcher.wire.realm import Done
from specs.ids import VmId
from tests.fakes.one_host import VM_ID, OneHost
from tests.unit.test_atomd_capacity_fit import HOST as HARDWARE
from tests.unit.test_atomd_lent import NIC

ME = local.Peer(os.getpid(), os.geteuid(), frozenset())
GID = 54321


class Performs:
    """As much of a `Performer` as the back door uses."""

    def __init__(self, host: OneHost) -> None:
        self.compute, self._host = host.compute, host
        self.quarantined: frozenset[VmId] = frozenset()

    def apply(self, effects: Any) -> Refused | None:
        return self._host.apply(effects)

    async def changed(self) -> None:
        self._host.destroy()


class Names:
    def name_of(self, user_id: str) -> str:
        return f"name of {user_id[:4]}"


@pytest.fixture
def host() -> OneHost:
    return OneHost()


def back_door(host: OneHost, tmp_path: Path) -> BackDoor:
    """Without a realm's desk and a front door's service: neither is asked here."""
    none = cast(Any, None)
    drain, audit = Drain(tmp_path / "drained", host.compute), Audit(tmp_path / "audit", "h1")
    performs = cast(Any, Performs(host))
    devices = Devices(
        tmp_path / "devices.json",
        Face("h1", 7766, HARDWARE, False),
        held=host.compute.held_devices,
        boot_id="1",
        audit=audit,
        functions=Functions({}),
        mediated=Mediated({}),
        reads=lambda: (NIC,),
    )
    names = cast(Any, Names())
    return BackDoor(
        drain, none, performs, devices, names, host.ledger, none, audit, lambda: None, tmp_path / "storaged"
    )


def noted(tmp_path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]


async def test_a_drained_host_is_drained_after_a_restart_until_that_is_undone(host: OneHost, tmp_path: Path) -> None:
    door = back_door(host, tmp_path)
    assert isinstance(await door.answer(asked.SetDrained(True), ME), Done)
    host.compute.drained = False
    back_door(host, tmp_path)
    assert host.compute.drained
    await door.answer(asked.SetDrained(False), ME)
    back_door(host, tmp_path)
    assert not host.compute.drained
    assert [line["what"] for line in noted(tmp_path)] == ["host.drain", "host.undrain"]
    assert f"uid {os.geteuid()} (" in noted(tmp_path)[0]["who"]


async def test_all_users_vms_are_listed_and_one_is_evicted_with_the_reason(host: OneHost, tmp_path: Path) -> None:
    vm_id = host.running(name="web").vm_id
    door = back_door(host, tmp_path)
    rows = await door.answer(asked.ListVms(), ME)
    assert isinstance(rows, asked.VmRows)
    assert [(row.name, row.user) for row in rows.rows] == [("web", "ann")]
    ended = await door.answer(asked.EvictVm(vm_id, 1, True, "a fan is broken"), ME)
    assert isinstance(ended, asked.Ended)
    assert (ended.row.state, ended.row.why) == ("stopped", "its sysadmin ended it: a fan is broken")
    (line,) = noted(tmp_path)
    assert (line["what"], line["outcome"]) == ("vm.evict", "ok")
    assert "web of ann" in line["detail"]


def test_what_is_left_over_is_counted_for_the_status(host: OneHost, tmp_path: Path) -> None:
    door = back_door(host, tmp_path)
    assert not +door._left_over()
    host.running(name="web")
    host.compute.owed.add(next(iter(host.compute.vms.values())))
    cast(Any, door)._performer.quarantined = frozenset({VmId("b" * 32), VmId("c" * 32)})
    assert +door._left_over() == {"gone, storage hosts to be told": 1, "domains that no VM explains": 2}


async def test_a_device_in_quarantine_is_listed_counted_and_let_out_by_a_person(host: OneHost, tmp_path: Path) -> None:
    broken = (Lent(NIC.address, "i40e", "1", "does not answer"), Lent("0000:09:00.0", None, "1", "is gone"))
    (tmp_path / "devices.json").write_bytes(TypeAdapter(Notes).dump_json(Notes(broken)))
    door = back_door(host, tmp_path)
    await door._devices.look()
    listed = await door.answer(asked.ListDevices(), ME)
    assert isinstance(listed, asked.DeviceRows)
    told = [(row.address, row.is_quarantined, row.why_not) for row in listed.rows]
    assert told == [
        (NIC.address, True, "is in quarantine: it does not answer since a VM had it"),
        ("0000:09:00.0", True, "is in quarantine: it is gone"),
    ]
    assert await door.answer(asked.ListDevices(NIC.address), ME) == asked.DeviceRows(listed.rows[1:], False)
    assert door._left_over()["devices in quarantine"] == 2
    assert isinstance(await door.answer(asked.ReadmitDevice(NIC.address), ME), Done)
    assert isinstance(await door.answer(asked.ReadmitDevice(NIC.address), ME), Refused)
    listed = await door.answer(asked.ListDevices(), ME)
    assert isinstance(listed, asked.DeviceRows)
    assert (listed.rows[0].why_not, listed.rows[0].is_quarantined) == ("", False)
    assert [(line["what"], line["about"], line["outcome"]) for line in noted(tmp_path)] == [
        ("device.readmit", NIC.address, "ok"),
        ("device.readmit", NIC.address, "refused: not-found"),
    ]


async def test_a_pledge_is_seen_as_a_hold_until_it_lapses(
    host: OneHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atomd.backdoor.now_s", lambda: host.now_s)
    confirm = host.offered(host.pledge())
    door = back_door(host, tmp_path)
    rows = await door.answer(asked.ListHolds(), ME)
    assert isinstance(rows, asked.HoldRows)
    (row,) = rows.rows
    assert (row.offer_id, row.vm_id, row.left_ms) == (confirm.offer_id, confirm.vm_id, 3000)
    assert row.user.startswith("name of ")
    host.now_s += 11
    assert await door.answer(asked.ListHolds(), ME) == asked.HoldRows(())


async def test_a_vm_that_is_not_here_is_refused_and_noted(host: OneHost, tmp_path: Path) -> None:
    said = await back_door(host, tmp_path).answer(asked.RemoveVm("a" * 32, 1), ME)
    assert isinstance(said, Refused)
    assert noted(tmp_path)[0]["outcome"] == "refused: not-found"


@pytest.mark.parametrize("question", [asked.EvictVm(VM_ID, 1, True), asked.RemoveVm(VM_ID, 1)])
async def test_a_vm_that_was_placed_anew_since_the_sysadmin_looked_goes_on(
    host: OneHost, tmp_path: Path, question: Message
) -> None:
    host.running(name="web", vm_id=VM_ID, generation=2)
    said = await back_door(host, tmp_path).answer(question, ME)
    assert isinstance(said, Refused)
    assert (said.code, host.compute.vms[VM_ID].state) == ("replaced", State.RUNNING)
    assert "generation 2" in said.reasons[0].has
    assert noted(tmp_path)[0]["outcome"] == "refused: replaced"


def asks_as(path: Path, uid: int, groups: list[int]) -> bool:
    """Whether a child of that user and those supplementary groups is answered."""
    body = encode(asked.ListVms())
    frame = len(body).to_bytes(4, "big") + bytes([local.KINDS.index(asked.ListVms)]) + body
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups(groups)
            os.setresgid(65534, 65534, 65534)
            os.setresuid(uid, uid, uid)
            with socket.socket(socket.AF_UNIX) as to:
                to.connect(str(path))
                to.sendall(frame)
                os._exit(0 if to.recv(5) else 1)
        except OSError:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can pass for another user")
async def test_others_are_hung_up_on_and_noted_and_a_member_of_the_group_is_let_in(
    host: OneHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atomd.backdoor.gid_of_group", lambda: GID)
    path = tmp_path / "socket"
    async with trio.open_nursery() as nursery:
        door = back_door(host, tmp_path)
        await nursery.start(door.serve, path)
        assert path.stat().st_mode & 0o777 == 0o660
        for folder in path.parents[:-2]:
            folder.chmod(0o777)
        assert await trio.to_thread.run_sync(asks_as, path, 65534, [GID])
        path.chmod(0o666)  # so that it is not the file's mode that keeps them out
        assert not await trio.to_thread.run_sync(asks_as, path, 65534, [])
        nursery.cancel_scope.cancel()
    (line,) = noted(tmp_path)
    assert (line["who"], line["outcome"]) == ("uid 65534", "denied")
    assert door.dropped == {"turned away": 1}
