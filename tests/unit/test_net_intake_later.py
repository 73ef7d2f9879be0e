"""Pledges that are answered later: each once, to where it came from, and only where it came as a datagram."""

import socket
from dataclasses import dataclass, field, replace

import pytest
import trio

from matcher.net import multicast, peer
from matcher.net.intake import Arrival, Intake
from matcher.net.peer import answer_due
from matcher.trust.identity import Identity
from matcher.trust.principal import Principal
from matcher.wire.envelope import Kind
from matcher.wire.messages import Accelerator, Address, Arch, Pledge, Unfit, VmOffer, VolumeOffer
from tests.fakes.realms import make_realm
from tests.unit.test_net_intake import HERE, NOW_MS, PLEDGE, Daemon, heard, opened, sealed
from tests.unit.test_net_peer import LO

OFFER = VmOffer(PLEDGE.pledge_id, "e" * 32, "h1", 1, 0, 0, 0.5, (0,), 1, 0, (), Arch.X86_64, Accelerator.KVM)


@dataclass
class Patient(Daemon):
    """Answers everything at `due_s`."""

    due_s: float = 5.0
    waiting: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.answers = (OFFER,)

    def hear(self, pledge: Pledge, user: Principal, now_s: float) -> tuple[VmOffer | VolumeOffer | Unfit, ...] | None:
        if pledge.pledge_id not in self.waiting:
            self.waiting.append(pledge.pledge_id)
        return None

    def due(self, now_s: float) -> list[str]:
        found, self.waiting = (self.waiting, []) if now_s >= self.due_s else ([], self.waiting)
        return found

    def next_deadline_s(self) -> float | None:
        return self.due_s if self.waiting else None


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    return make_realm(tmp_path_factory.mktemp("realm"), "ann", "bob", "h1").members


@pytest.fixture
def daemon() -> Patient:
    return Patient()


@pytest.fixture
def intake(members: dict[str, Identity], daemon: Patient) -> Intake:
    return Intake(members["h1"], daemon, later=daemon)


def test_an_answer_that_waits_goes_to_where_its_question_came_from(
    intake: Intake, daemon: Patient, members: dict[str, Identity]
) -> None:
    assert heard(intake, sealed(PLEDGE, Kind.PLEDGE, members["ann"])) == []
    assert intake.next_deadline_s() == 5.0
    assert intake.tick(4.9) == []
    (out,) = intake.tick(5.0)
    assert out[1] == ("10.0.0.9", 4000)
    assert opened(out, members["ann"]) == OFFER
    assert daemon.asked == [(PLEDGE, "ann")]
    assert intake.next_deadline_s() is None
    assert intake.tick(6.0) == []


def test_a_pledge_heard_again_while_it_waits_is_answered_once_and_to_its_first_sender(
    intake: Intake, daemon: Patient, members: dict[str, Identity]
) -> None:
    elsewhere = replace(PLEDGE, reply=(Address("10.0.0.8", 4000),))
    heard(intake, sealed(PLEDGE, Kind.PLEDGE, members["ann"]))
    heard(intake, sealed(elsewhere, Kind.PLEDGE, members["bob"]), arrival=Arrival(socket.AF_INET, 0, "10.0.0.8"))
    assert [address for _, address in intake.tick(5.0)] == [("10.0.0.9", 4000)]


def test_nothing_is_left_of_what_waited(intake: Intake, members: dict[str, Identity]) -> None:
    heard(intake, sealed(PLEDGE, Kind.PLEDGE, members["ann"]))
    before = len(intake)
    intake.tick(5.0)
    assert len(intake) == before - 1


def test_what_comes_by_https_is_answered_at_once(intake: Intake, members: dict[str, Identity]) -> None:
    data = sealed(PLEDGE, Kind.PLEDGE, members["ann"])
    (body,) = intake.receive_body(data, now_s=0.0, wall_ms=NOW_MS)
    assert opened((body, ("10.0.0.9", 4000)), members["ann"]) == OFFER
    assert intake.next_deadline_s() is None


def test_where_nobody_can_be_answered_nothing_waits(
    intake: Intake, daemon: Patient, members: dict[str, Identity]
) -> None:
    nowhere = replace(PLEDGE, reply=(Address("10.0.0.7", 4000),))
    assert heard(intake, sealed(nowhere, Kind.PLEDGE, members["ann"]), arrival=HERE) == []
    assert daemon.waiting == []


async def test_the_loop_wakes_up_for_what_is_due(members: dict[str, Identity], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else comes that could wake it."""
    monkeypatch.setattr(multicast, "links", lambda: (LO,))
    daemon = Patient(due_s=peer.now_s() + 0.05)
    intake = Intake(members["h1"], daemon, later=daemon)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.bind(("127.0.0.1", 0))
        asking.settimeout(5)
        port = asking.getsockname()[1]
        mine = replace(PLEDGE, sent_at_ms=peer.wall_ms(), reply=(Address("127.0.0.1", port),))
        async with trio.open_nursery() as nursery:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.bind(("127.0.0.1", 0))
                group_port = probe.getsockname()[1]
            await nursery.start(lambda task_status: peer.serve(intake, port=group_port, task_status=task_status))
            assert multicast.ask(asking, sealed(mine, Kind.PLEDGE, members["ann"]), LO, group_port)
            answer = await trio.to_thread.run_sync(asking.recv, 2000)
            nursery.cancel_scope.cancel()
    assert opened((answer, ("127.0.0.1", port)), members["ann"]) == OFFER


def test_answers_leave_by_the_socket_of_their_family(members: dict[str, Identity], daemon: Patient) -> None:
    intake = Intake(members["h1"], daemon, later=daemon)
    daemon.due_s = 0.0
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as four,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as asking,
    ):
        asking.bind(("::1", 0))
        asking.settimeout(5)
        mine = replace(PLEDGE, reply=(Address("::1", asking.getsockname()[1]),))
        heard(intake, sealed(mine, Kind.PLEDGE, members["ann"]), arrival=Arrival(socket.AF_INET6, 0, "::1"))
        answer_due({socket.AF_INET: four, socket.AF_INET6: six}, intake)
        assert opened((asking.recv(2000), ("::1", 1)), members["ann"]) == OFFER
