"""Hosts and clients on an event heap: `Placing`, `Offering`, `Ledger` and the placement, as they run in the daemons.

Not here: signatures, journals, libvirt, grants. The link takes 0.2 to 3 ms each way and may lose a datagram; a confirm
by HTTPS is sent again by TCP. A client reads its answers one after another, each in `READ_S`. What is revealed is told
to a host before the next thing that it does: the same as at once, and cheaper.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

from atomd.capacity.fit import reasons_against
from atomd.capacity.hardware import Claim, Hardware
from atomd.capacity.occupancy import LastOccupancy, uncharged_mib
from atomd.capacity.placement import admits, place_on
from atomd.inventory.facts import Core
from matcher.offers.ledger import Ledger, Refusal, User
from matcher.offers.offering import Nothing, Offering, Proposal, Reply
from matcher.scheduler.outcomes import (
    Committed,
    Effects,
    Finished,
    Outcome,
    Placed,
    SendAbandon,
    SendConfirm,
    SendPledge,
    SendReveal,
)
from matcher.scheduler.placing import Placing
from matcher.scheduler.pledging import Errand
from matcher.trust.principal import Principal
from matcher.wire.messages import (
    Accelerator,
    Arch,
    Firmware,
    Pledge,
    Policy,
    Refused,
    Reveal,
    Role,
    Unfit,
    VmAsk,
    VmOffer,
)
from specs.ids import HostId, OfferId, UserId, VmId, new_id
from tests.bench.packing.workload import Vm

LINK_S = (0.0002, 0.003)
AGAIN_S = 0.2  # TCP's first retransmission
COMMIT_S = 0.0015  # a journal that is synced
READ_S = 0.00025
COPIES = 2  # of what is multicast, on a link with both families
HOUR_S = 3600.0
WALL_MS = 1_800_000_000_000


def vm_ask(vm: Vm) -> VmAsk:
    """Charged, it takes what it says and no more."""
    return VmAsk(vm.cores, True, 1, (Arch.X86_64,), (), uncharged_mib(vm.gib * 1024), False, (), Firmware.BIOS, False)


def machine(cores: int, gib: int) -> Hardware:
    return Hardware(
        archs=frozenset({Arch.X86_64}),
        accelerator=Accelerator.KVM,
        cpu_model="bench",
        guest_flags=frozenset(),
        cores=tuple(Core((number,), 0, 0) for number in range(cores)),
        ram_mib=((0, gib * 1024),),
        ecc=None,
        pci=(),
        pci_refused=(),
        firmwares=frozenset({Firmware.BIOS}),
    )


class Timeline:
    def __init__(self) -> None:
        self.now_s = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def at(self, when_s: float, what: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._heap, (when_s, self._number, what))

    def step(self) -> None:
        self.now_s, _, what = heapq.heappop(self._heap)
        what()

    def run_until(self, when_s: float) -> None:
        while self._heap and self._heap[0][0] <= when_s:
            self.step()
        self.now_s = max(self.now_s, when_s)


class Link:
    """Delays and losses; what is revealed is kept here, for hosts to hear when they next do something."""

    def __init__(self, timeline: Timeline, random: Random, loss: float) -> None:
        self.timeline, self._random, self._loss = timeline, random, loss
        self.revealed: list[tuple[float, Reveal]] = []

    def datagram(self, deliver: Callable[[], None]) -> None:
        if self._random.random() >= self._loss:
            self.timeline.at(self.timeline.now_s + self._random.uniform(*LINK_S), deliver)

    def multicast(self, deliver: Callable[[], None]) -> None:
        """By IPv4 and by IPv6; the second copy changes nothing where the first was heard."""
        if self._random.random() >= self._loss**COPIES:
            self.timeline.at(self.timeline.now_s + self._random.uniform(*LINK_S), deliver)

    def stream(self, deliver: Callable[[], None]) -> None:
        again_s = AGAIN_S if self._random.random() < self._loss else 0.0
        self.timeline.at(self.timeline.now_s + again_s + self._random.uniform(*LINK_S), deliver)

    def reveal(self, reveal: Reveal) -> None:
        self.revealed.append((self.timeline.now_s, reveal))

    def reaches_s(self, index: int, host: int) -> float:
        """When a host hears it; never, where it is lost. The same each time that it is asked."""
        chances = hash((index, host, 7919))
        if (chances >> 20 & 0xFFFF) < self._loss**COPIES * 0x10000:
            return float("inf")
        return self.revealed[index][0] + LINK_S[0] + (LINK_S[1] - LINK_S[0]) * (chances & 0xFFFF) / 0x10000


class Host:
    """A proposer as well: what `atomd.answering` does, without grants."""

    def __init__(self, number: int, shape: tuple[int, int], link: Link, random: Random, hosts_known: int) -> None:
        self.number, self.name, self.id = number, f"h{number}", HostId(f"{number:064x}")
        self.hardware = hardware = machine(*shape)
        self._now = LastOccupancy(hardware)
        self._link, self._timeline = link, link.timeline
        self.ledger = Ledger[Claim](lambda residents, claim: admits(hardware, residents, claim), lambda *_: True)
        self.offering = Offering(host=self.name, role=Role.COMPUTE, proposer=self, ledger=self.ledger, random=random)
        self.offering.hosts_known = hosts_known
        self._asked: dict[str, tuple[Pledge, Principal, Client]] = {}
        self._told = 0  # of what was revealed

    def propose(self, pledge: Pledge, user: User, residents: Sequence[Claim]) -> Proposal[Claim] | Nothing:
        assert pledge.vm is not None
        vm_id, user_id = VmId(pledge.vm_id), UserId(user.id)
        now = self._now.of(residents)
        placed = place_on(pledge.vm, now, vm_id=vm_id, user_id=user_id, policy=pledge.policy)
        if placed is None:
            return Nothing(reasons_against(pledge.vm, now, user_id) if pledge.dry else ())
        claim, score = placed.claim, placed.score
        offer = VmOffer(
            pledge.pledge_id, "", self.name, 1, 0, 0, score, claim.threads, 1, 0, (), Arch.X86_64, Accelerator.KVM
        )
        return Proposal(claim, offer)

    def hear(self, pledge: Pledge, user: Principal, client: "Client") -> None:
        now_s = self._listen()
        replies = self.offering.hear(pledge, user, now_s)
        if replies is not None:
            client.answered(self, replies)
        elif pledge.pledge_id not in self._asked:
            self._asked[pledge.pledge_id] = pledge, user, client
            self._wake()

    def confirm(self, offer_id: OfferId, user: Principal) -> Committed | Refused:
        committed = self.ledger.commit(offer_id, user, self._listen())
        if isinstance(committed, Refusal):
            return Refused(str(committed), ())
        self._check()
        return Committed()

    def settle(self, vm: Vm, offer_id: OfferId) -> None:
        residents = self.ledger.residents(self._timeline.now_s)
        whose = {"vm_id": VmId(offer_id), "user_id": UserId("0" * 64)}
        placed = place_on(vm_ask(vm), self._now.of(residents), policy=Policy.PACK, **whose)  # type: ignore[arg-type]
        assert placed is not None, "it was counted before"
        self.ledger.restore(offer_id, placed.claim)
        self._timeline.at((vm.at_h + vm.life_h) * HOUR_S, lambda: self.ledger.release(offer_id))

    def _wake(self) -> None:
        due_s = self.offering.next_deadline_s()
        if due_s is not None:
            self._timeline.at(due_s, self._answer)

    def _answer(self) -> None:
        now_s = self._listen()
        for pledge_id in self.offering.due(now_s):
            pledge, user, client = self._asked.pop(pledge_id)
            client.answered(self, self.offering.pledge(pledge, user, now_s))
        self._wake()

    def _listen(self) -> float:
        """All that has reached it by now."""
        link, now_s = self._link, self._timeline.now_s
        for index in range(self._told, len(link.revealed)):
            if link.reaches_s(index, self.number) <= now_s:
                self.offering.reveal(link.revealed[index][1], now_s)
        while self._told < len(link.revealed) and link.revealed[self._told][0] + LINK_S[1] <= now_s:
            self._told += 1
        return now_s

    def _check(self) -> None:
        """I1, counted by itself."""
        claims = self.ledger.residents(self._timeline.now_s)
        threads = [thread for claim in claims for thread in claim.threads]
        assert len(set(threads)) == len(threads), "a thread was promised twice"
        assert sum(mib for claim in claims for _, mib in claim.ram_mib) <= self.hardware.ram_mib[0][1]


@dataclass(slots=True)
class Told:
    """What happened to one VM. `offers` are those of the round that ended it, `answers` all datagrams to its client."""

    vm: Vm
    outcome: Outcome | None = None
    decided_s: float | None = None
    placed_s: float | None = None
    offers: Counter[str] = field(default_factory=Counter)
    confirms: int = 0
    conflicts: int = 0
    answers: int = 0
    score: float = 0.0


class Client:
    """One `electros run`."""

    def __init__(self, vm: Vm, user: Principal, realm: "Realm") -> None:
        self.told, self._user, self._realm = Told(vm), user, realm
        self._link, self._timeline = realm.link, realm.timeline
        errand = Errand(VmId(new_id(realm.random)), 1, vm_ask(vm), hosts_known=realm.clients_know)
        self._placing = Placing(errand, random=realm.random)
        self._reads_s = self._begun_s = self._timeline.now_s
        self._planned_s: float | None = None
        self._perform(self._placing.start(self._begun_s, wall_ms=WALL_MS))

    @property
    def is_over(self) -> bool:
        return self.told.outcome is not None

    def answered(self, host: Host, replies: Sequence[Reply]) -> None:
        for reply in replies:
            if isinstance(reply, VmOffer) and reply.expires_in_ms:
                self.told.offers[reply.pledge_id] += 1
            self.told.answers += 1
            self._link.datagram(partial(self._arrives, host, reply))

    def _arrives(self, host: Host, reply: Reply) -> None:
        self._reads_s = max(self._reads_s, self._timeline.now_s) + READ_S
        self._timeline.at(self._reads_s, partial(self._reads, host, reply))

    def _reads(self, host: Host, reply: Reply) -> None:
        if self.is_over:
            return
        now_s = self._timeline.now_s
        match reply:
            case VmOffer():
                self._perform(self._placing.heard_vm(reply, host.id, host.name, now_s))
            case Unfit():
                self._perform(self._placing.heard_unfit(reply, host.id, now_s))

    def _perform(self, effects: Effects) -> None:
        for effect in effects:
            match effect:
                case SendPledge(pledge):
                    for host in self._realm.hosts:
                        self._link.multicast(partial(host.hear, pledge, self._user, self))
                case SendReveal(reveal):
                    self._link.reveal(reveal)
                case SendConfirm():
                    self._confirm(effect)
                case SendAbandon():
                    raise AssertionError("no host of this realm dies")
                case Finished(outcome):
                    self._finish(outcome)
        self._wake()

    def _wake(self) -> None:
        due_s = None if self.is_over else self._placing.next_deadline_s()
        if due_s is not None and due_s != self._planned_s:
            self._planned_s = due_s
            self._timeline.at(max(due_s, self._timeline.now_s), partial(self._tick, due_s))

    def _tick(self, due_s: float) -> None:
        """As `electros`, it reads what has come before it looks at the clock."""
        if self.is_over or self._placing.next_deadline_s() != due_s:
            return
        if self._reads_s > self._timeline.now_s:
            self._timeline.at(self._reads_s, partial(self._tick, due_s))
        else:
            self._perform(self._placing.tick(self._timeline.now_s))

    def _confirm(self, send: SendConfirm) -> None:
        host, offer_id = self._realm.by_id[send.host_id], OfferId(send.confirm.offer_id)
        self.told.confirms += 1
        if self.told.decided_s is None:
            self.told.decided_s = self._timeline.now_s - self._begun_s

        def told(answer: Committed | Refused) -> None:
            self.told.conflicts += isinstance(answer, Refused)
            if not self.is_over:
                self._perform(self._placing.confirm_answered(offer_id, answer, self._timeline.now_s))

        def arrives() -> None:
            answer = host.confirm(offer_id, self._user)
            self._timeline.at(self._timeline.now_s + COMMIT_S, lambda: self._link.stream(lambda: told(answer)))

        self._link.stream(arrives)

    def _finish(self, outcome: Outcome) -> None:
        self.told.outcome = outcome
        if isinstance(outcome, Placed):
            self.told.placed_s = self._timeline.now_s - self._begun_s
            self.told.score = outcome.offer.score
            ledger, offer_id = self._realm.by_id[outcome.host_id].ledger, OfferId(outcome.offer.offer_id)
            self._timeline.at(self._timeline.now_s + self.told.vm.life_h * HOUR_S, lambda: ledger.release(offer_id))


class Realm:
    """`best_first`: hosts know how many they are; else every offer is heard. `clients_know` is what clients do."""

    def __init__(
        self, shapes: Sequence[tuple[int, int]], *, seed: int, loss: float = 0.0, best_first: bool = True,
        clients_know: int = 0,
    ) -> None:  # fmt: skip
        self.random, self.clients_know = Random(seed), clients_know
        self.timeline = Timeline()
        self.link = Link(self.timeline, self.random, loss)
        known = len(shapes) if best_first else 0
        self.hosts = [Host(number, shape, self.link, self.random, known) for number, shape in enumerate(shapes)]
        self.by_id = {host.id: host for host in self.hosts}

    def settle(self, there: Sequence[tuple[int, Vm]], at_h: float) -> None:
        """VMs that are here when the clock begins."""
        self.timeline.now_s = at_h * HOUR_S
        for number, vm in there:
            self.hosts[number].settle(vm, OfferId(new_id(self.random)))

    def place(self, group: Sequence[Vm], within_s: float = 0.0) -> list[Told]:
        """All of a group at once, each by a client of its own, until each has its outcome."""
        self.timeline.run_until(group[0].at_h * HOUR_S)
        clients: list[Client] = []
        begun_s = self.timeline.now_s
        for number, vm in enumerate(group):
            user = Principal("user", f"{number:064x}", f"u{number}")
            self.timeline.at(
                begun_s + self.random.uniform(0, within_s),
                lambda vm=vm, user=user: clients.append(Client(vm, user, self)),  # type: ignore[misc]
            )
        while len(clients) < len(group) or not all(client.is_over for client in clients):
            self.timeline.step()
        return [client.told for client in clients]
