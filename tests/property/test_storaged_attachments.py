"""Two hosts on one pool, VMs of two users, crashes between any two writes: never two writers, and epochs only grow."""

from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from matcher.wire.messages import Refused
from specs.ids import HostId, UserId, Vid, VmId
from storaged.attachments import Attachment, Change, Granted, State, attach, detach, forgotten, merged, rolled_back
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

    `answered` is what VMs were told: they write from then until they ended, which is before their detach is sent.
    A crash of `storaged` ends no VM.
    """

    def __init__(self) -> None:
        super().__init__()
        self.random = Random(0)
        self.records: dict[Vid, Right | None] = dict.fromkeys(EXCLUSIVE)
        self.journals = {H1: State(), H2: State()}
        self.answered: dict[tuple[HostId, VmId, UserId, int], tuple[Attachment, ...]] = {}
        self.highest = dict.fromkeys(EXCLUSIVE, 0)

    def busy(self, host: HostId) -> set[Vid]:
        return {a.vid for (at, *_), held in self.answered.items() if at == host for a in held}

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
        self.journals[host] = merged(self.journals[host], self.records, host_id=host)
        return False

    @rule(host=hosts, user=users, vm=vms, generation=generations, vids=choices, crash=crashes)
    def attach(self, host: HostId, user: UserId, vm: VmId, generation: int, vids: list[Vid], crash: int | None) -> None:
        claim = VolumeShare(vm, generation, user, tuple(shared(vid) for vid in vids))
        state, busy = self.journals[host], self.busy(host)
        answer = attach(state, claim, self.records, host_id=host, random=self.random, busy=busy)
        if isinstance(answer, Refused):
            assert answer.reasons
            return
        assert [a.vid for a in answer.attachments] == vids
        if answer.change is None or self.perform(host, answer.change, crash):
            self.answered[host, vm, user, generation] = answer.attachments
            again = attach(self.journals[host], claim, self.records, host_id=host, random=self.random, busy=busy)
            assert again == Granted(answer.attachments, None)

    @rule(host=hosts, vm=vms, generation=generations, crash=crashes)
    def end_and_detach(self, host: HostId, vm: VmId, generation: int, crash: int | None) -> None:
        """As atomd does: the domain has ended, then its volumes are let go, until that is acknowledged."""
        ended = [key for key in self.answered if key[0] == host and key[1] == vm and key[3] <= generation]
        for key in ended:
            del self.answered[key]
        for attempt in (crash, None):
            change = detach(self.journals[host], vm, generation, self.records, host_id=host)
            if change is None or self.perform(host, change, attempt):
                break
        assert detach(self.journals[host], vm, generation, self.records, host_id=host) is None

    @precondition(lambda self: not self.answered)
    @rule(host=hosts, vid=st.sampled_from(EXCLUSIVE), back=st.booleans())
    def roll_the_pool_back_until_a_person_speaks(self, host: HostId, vid: Vid, back: bool) -> None:
        """A restored backup is noticed by the host that remembers more, and only a person's word frees the volume."""
        state, before = self.journals[host], self.records[vid]
        if not back or before is None or vid not in state.epochs or state.epochs[vid] != before.epoch:
            return
        self.records[vid] = None
        claim = VolumeShare(vm_of(9), 1, ALICE, (shared(vid),))
        assert rolled_back(state, vid, None)
        assert isinstance(attach(state, claim, self.records, host_id=host, random=self.random), Refused)
        change = forgotten(state, vid, None, host_id=host, random=self.random)
        self.perform(host, change, None)
        assert isinstance(attach(change.state, claim, self.records, host_id=host, random=self.random), Granted)

    @invariant()
    def a_volume_has_one_writer_at_most(self) -> None:
        for vid in EXCLUSIVE:
            writers = {key for key, held in self.answered.items() if vid in [a.vid for a in held]}
            assert len(writers) <= 1, writers

    @invariant()
    def a_writer_has_the_right_of_the_newest_epoch(self) -> None:
        for held in self.answered.values():
            assert all(self.records[a.vid] == a.right(held=True) for a in held if a.vid in EXCLUSIVE)

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
