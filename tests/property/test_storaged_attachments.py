"""Two hosts on one pool, VMs of two users, crashes between any two writes: never two writers, and epochs only grow."""

from collections.abc import Iterable
from functools import partial
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from matcher.wire.messages import Refused
from specs.ids import HostId, UserId, Vid, VmId
from storaged.attachments import (
    Attachment,
    Change,
    Granted,
    Refusal,
    State,
    attach,
    detach,
    forgotten,
    merged,
    renewed,
    rolled_back,
)
from storaged.claims import SharedVolume, VolumeShare
from storaged.testing import ALICE, BOB, H1, H2, vid_of, vm_of
from storaged.volume import Right

EXCLUSIVE = (vid_of(1), vid_of(2))
SHARED = vid_of(3)

hosts = st.sampled_from([H1, H2])
users = st.sampled_from([ALICE, BOB])
vms = st.integers(1, 3).map(vm_of)
generations = st.integers(1, 4)
choices = st.lists(st.sampled_from([*EXCLUSIVE, SHARED]), min_size=1, unique=True)
crashes = st.none() | st.integers(0, 3)  # after how many writes


def shared(vid: Vid) -> SharedVolume:
    return SharedVolume(vid, writable=True, shareable=vid == SHARED)


class Attachments(RuleBasedStateMachine):
    """In whatever order VMs come, go, come again, and hosts crash, each volume has one writer at most.

    `answered` is what VMs were told (by which server, on which host): they write from then until they ended, which is
    before their detach is sent, or until they are cut. A crash of `storaged` ends no VM.
    """

    def __init__(self) -> None:
        super().__init__()
        self.random = Random(0)
        self.records: dict[Vid, Right | None] = dict.fromkeys(EXCLUSIVE)
        self.journals = {H1: State(), H2: State()}
        self.answered: dict[tuple[HostId, HostId, VmId, UserId, int], tuple[Attachment, ...]] = {}
        self.highest = dict.fromkeys(EXCLUSIVE, 0)

    def busy(self, server: HostId) -> set[Vid]:
        """What VMs on the volumes' own host have open; exports take no lock."""
        local = [held for (by, at, *_), held in self.answered.items() if by == at == server]
        return {a.vid for held in local for a in held}

    def perform(self, host: HostId, change: Change, crash: int | None) -> bool:
        """The writes in their order; `False` when the daemon crashed on the way and came back."""
        writes = len(change.rights) + 1
        for number, right in enumerate(change.rights):
            if number == crash:
                break
            self.records[right.vid] = right
        if crash is None or crash >= writes:
            self.journals[host] = change.state
            return True
        self.journals[host] = merged(self.journals[host], self.records, server=host)
        return False

    def end(self, ended: Iterable[Attachment]) -> None:
        """Their writers can't write any more."""
        gone = {(a.vid, a.epoch) for a in ended}
        for key, held in list(self.answered.items()):
            self.answered[key] = tuple(a for a in held if (a.vid, a.epoch) not in gone)

    @rule(server=hosts, host=hosts, user=users, vm=vms, generation=generations, vids=choices, crash=crashes)
    def attach(
        self, server: HostId, host: HostId, user: UserId, vm: VmId, generation: int, vids: list[Vid], crash: int | None
    ) -> None:
        """Who is ended is cut first. A crash after that, before its record is overwritten, brings it back."""
        claim = VolumeShare(vm, generation, user, tuple(shared(vid) for vid in vids))
        ask = partial(attach, server=server, host_id=host, random=self.random, busy=self.busy(server))
        answer = ask(self.journals[server], claim, self.records)
        if isinstance(answer, Refused):
            assert answer.reasons
            return
        assert [a.vid for a in answer.attachments] == vids
        assert all(a.host_id == host for a in answer.attachments)
        before = self.answered.copy()
        self.end(answer.ended)
        if answer.change is None or self.perform(server, answer.change, crash):
            self.answered[server, host, vm, user, generation] = answer.attachments
            assert ask(self.journals[server], claim, self.records) == Granted(answer.attachments, None)
        else:
            self.answered = before
            self.end(a for a in answer.ended if self.records.get(a.vid) != a.right(server, held=True))

    @rule(server=hosts, host=hosts, vm=vms, generation=generations, crash=crashes)
    def end_and_detach(self, server: HostId, host: HostId, vm: VmId, generation: int, crash: int | None) -> None:
        """As atomd does: the domain has ended, then its volumes are let go, until that is acknowledged."""
        ended = [key for key in self.answered if key[:3] == (server, host, vm) and key[4] <= generation]
        for key in ended:
            del self.answered[key]
        for attempt in (crash, None):
            change = detach(self.journals[server], vm, generation, self.records, server=server, host_id=host)
            if change is None or self.perform(server, change, attempt):
                break
        assert detach(self.journals[server], vm, generation, self.records, server=server, host_id=host) is None

    @rule(server=hosts, vid=st.sampled_from(EXCLUSIVE), crash=crashes)
    def close_on_another_host(self, server: HostId, vid: Vid, crash: int | None) -> None:
        """A life that is over keeps its volume, and its host has it no more, whatever it goes on with."""
        held = next((a for a in self.journals[server].attachments if a.vid == vid and a.host_id != server), None)
        if held is None:
            return
        change = renewed(self.journals[server], held, self.records[vid], server=server, random=self.random)
        if isinstance(change, Refusal):
            return
        self.end((held,))
        if self.perform(server, change, crash):
            (now,) = (a for a in self.journals[server].attachments if a.vid == vid)
            assert (now.vm_id, now.generation, now.host_id) == (held.vm_id, held.generation, held.host_id)
            assert now.epoch.counter == held.epoch.counter + 1

    @precondition(lambda self: not any(self.answered.values()))
    @rule(host=hosts, vid=st.sampled_from(EXCLUSIVE), back=st.booleans())
    def roll_the_pool_back_until_a_person_speaks(self, host: HostId, vid: Vid, back: bool) -> None:
        """A restored backup is noticed by the host that remembers more, and only a person's word frees the volume."""
        state, before = self.journals[host], self.records[vid]
        if not back or before is None or vid not in state.epochs or state.epochs[vid] != before.epoch:
            return
        self.records[vid] = None
        claim = VolumeShare(vm_of(9), 1, ALICE, (shared(vid),))
        assert rolled_back(state, vid, None)
        assert isinstance(attach(state, claim, self.records, server=host, host_id=host, random=self.random), Refused)
        change = forgotten(state, vid, None, server=host, random=self.random)
        self.perform(host, change, None)
        assert isinstance(
            attach(change.state, claim, self.records, server=host, host_id=host, random=self.random), Granted
        )

    @invariant()
    def a_volume_has_one_writer_at_most(self) -> None:
        for vid in EXCLUSIVE:
            writers = {key for key, held in self.answered.items() if vid in [a.vid for a in held]}
            assert len(writers) <= 1, writers

    @invariant()
    def a_writer_has_the_right_of_the_newest_epoch(self) -> None:
        for (server, *_), held in self.answered.items():
            assert all(self.records[a.vid] == a.right(server, held=True) for a in held if a.vid in EXCLUSIVE)

    @invariant()
    def epochs_only_grow(self) -> None:
        for vid, right in self.records.items():
            counter = right.epoch.counter if right else self.highest[vid]
            assert counter >= self.highest[vid]
            self.highest[vid] = counter

    @invariant()
    def a_journal_knows_one_holder_of_a_volume(self) -> None:
        for state in self.journals.values():
            exclusive = [a.vid for a in state.attachments if a.vid in EXCLUSIVE]
            assert len(exclusive) == len(set(exclusive))


TestAttachments = Attachments.TestCase
TestAttachments.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
