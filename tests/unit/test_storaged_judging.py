"""storaged believes the user's own words and nothing else: what atomd brings is judged again, each time."""

import time
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest

from matcher.net.audit import Audit
from matcher.net.intake import Intake
from matcher.net.local import Peer
from matcher.offers.ledger import Ledger
from matcher.offers.offering import Offering
from matcher.trust.identity import Identity
from matcher.trust.realm import EVERYTHING
from matcher.wire.codec import BODY_MAX_BYTES, encode
from matcher.wire.envelope import Kind, host_audience, seal
from matcher.wire.messages import (
    Arch,
    Confirm,
    Firmware,
    Pledge,
    Policy,
    Refused,
    Role,
    Unfit,
    VmAsk,
    VolumeClaim,
    VolumeOffer,
)
from matcher.wire.realm import Grant, Verb
from matcher.wire.volumes import Attach, Attached, Detach
from specs.ids import HostId
from storaged import attaching
from storaged.answering import Proposer, StorageAnswers, admitting
from storaged.attaching import Attaching
from storaged.claims import VolumeShare
from storaged.exporting import NoExports
from storaged.index import Index
from storaged.journal import Journal
from storaged.keeper import Keeper
from storaged.looking import Hangs, Looks
from storaged.quota import Quota
from storaged.reopening import Lies
from storaged.testing import make_volume, vid_of, vm_of
from tests.fakes.realms import Realm, make_realm

ONE, TWO = vid_of(1), vid_of(2)
ASK = VmAsk(1, False, 1, (Arch.X86_64,), (), 512, False, (), Firmware.BIOS, True)
DAY_S = 86_400


class Storage:
    """A host's storaged with two volumes of 1 GB, and a realm with ann in it."""

    def __init__(self, folder: Path) -> None:
        for vid in (ONE, TWO):
            make_volume(folder / "pool", vid, size_mib=1024)
        self.folder = folder
        self.realm: Realm = make_realm(folder / "realm", "h1", "h2", "ann")
        self.host: Identity = self.realm["h1"]
        self.host_id = HostId(self.host.principal.id)
        self.narrow_gb: int | None = None
        self.journal: Journal | None = None
        self.begin()

    def begin(self) -> None:
        if self.journal is not None:
            self.journal.close()
        self.journal = Journal(self.folder / "journal")
        self.keeper = keeper = Keeper(self.journal, server=self.host_id)
        snapshot = Index().scan([self.folder / "pool"])
        quota = Quota(host="h1", shares=keeper.shares, snapshot=lambda: snapshot, volumes_gb=self.narrow_gb)
        ledger = Ledger[VolumeShare](admitting(keeper, lambda: snapshot), quota.allows)
        proposer = Proposer("h1", self.host_id, keeper, lambda: snapshot, quota)
        offering = Offering(host="h1", role=Role.STORAGE, proposer=proposer, ledger=ledger, random=Random(1))
        self.answers = StorageAnswers("h1", 7767, offering, lambda: snapshot, lambda: None, lambda: "")
        intake, audit = Intake(self.host, self.answers), Audit(self.folder / "audit.jsonl", "h1")
        self.attaching = Attaching(self.host, keeper, ledger, lambda: snapshot, intake, quota, audit, NoExports())

    def granted(self, grant: Grant) -> Identity:
        return self.realm.add("bea", grant)

    def confirmed(
        self, who: str = "ann", *, vm: int = 1, generation: int = 1, vids: tuple[str, ...] = (ONE,), to: str = "h1"
    ) -> bytes:
        signer, host_id = self.realm[who], HostId(self.realm[to].principal.id)
        claims = tuple(VolumeClaim(vid, host_id, "2f" * 16) for vid in vids)
        offer = f"{vm:016x}{generation:016x}"
        confirm = Confirm(vm_of(vm), generation, "3f" * 16, offer, host_id, "web", ASK, claims, "{}")
        audience = host_audience(host_id, Role.COMPUTE)
        return seal(
            Kind.CONFIRM, encode(confirm), realm=signer.realm, signer=signer, audience=audience,
            max_bytes=BODY_MAX_BYTES,
        )  # fmt: skip

    async def attach(self, envelope: bytes) -> Attached | Refused:
        answer = await self.attaching.answer(Attach(envelope), Peer(1, 0, frozenset((0,))))
        assert isinstance(answer, Attached | Refused)
        return answer


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The wall clock, so many days on."""
    clock = SimpleNamespace(days=0.0)
    monkeypatch.setattr(attaching, "wall_ms", lambda: int((time.time() + clock.days * DAY_S) * 1000))
    return clock


def code(answer: object) -> str:
    assert isinstance(answer, Refused), answer
    return answer.code


# ---- what was attached is attached again


async def test_a_vm_older_than_its_users_certificate_comes_back_with_its_host(
    storage: Storage, later: SimpleNamespace
) -> None:
    envelope = storage.confirmed()
    first = await storage.attach(envelope)
    later.days = 100
    storage.begin()
    assert isinstance(first, Attached)
    assert await storage.attach(envelope) == first


async def test_a_certificate_that_has_ended_attaches_nothing_that_was_not_attached(
    storage: Storage, later: SimpleNamespace
) -> None:
    await storage.attach(storage.confirmed())
    later.days = 100
    assert code(await storage.attach(storage.confirmed(vm=2, vids=(TWO,)))) == "denied"
    assert code(await storage.attach(storage.confirmed(generation=2))) == "denied"
    assert code(await storage.attach(storage.confirmed(vids=(ONE, TWO)))) == "denied", "nor one volume more"


async def test_a_user_who_was_revoked_is_attached_nothing_not_even_again(storage: Storage) -> None:
    envelope = storage.confirmed()
    assert isinstance(await storage.attach(envelope), Attached)
    revocation = storage.realm.issuer.revoke("user", "ann", "gone", wall_s=time.time())
    storage.host.learn([revocation], time.time())
    assert code(await storage.attach(envelope)) == "denied"


async def test_another_grant_of_the_same_user_keeps_what_is_attached_and_gives_nothing_by_the_old_one(
    storage: Storage,
) -> None:
    envelope, new = storage.confirmed(), storage.confirmed(vm=2, vids=(TWO,))
    first = await storage.attach(envelope)
    change = storage.realm.issuer.change("ann", Grant((Verb.PLEDGE,)), wall_s=time.time() + 3600)
    storage.host.learn([change], time.time())
    assert await storage.attach(envelope) == first
    assert code(await storage.attach(new)) == "denied"


async def test_the_tag_of_a_kept_envelope_may_be_of_a_key_that_is_forgotten(
    storage: Storage, later: SimpleNamespace
) -> None:
    envelope, new = storage.confirmed(), storage.confirmed(vm=2, vids=(TWO,))
    first = await storage.attach(envelope)
    key = storage.realm.issuer.new_tag_key(b"k" * 32, number=2, wall_s=time.time())
    storage.host.learn([key], time.time())
    storage.host.tick(time.time() + 30 * DAY_S)
    assert storage.host.realm.older == ()
    assert await storage.attach(envelope) == first
    assert code(await storage.attach(new)) == "denied"


# ---- a host that turns bad


async def test_a_users_words_are_good_for_that_host_alone(storage: Storage) -> None:
    assert code(await storage.attach(storage.confirmed(to="h2"))) == "denied"


@pytest.mark.parametrize("inside", [vm_of(1).encode(), ONE.encode(), b"web"])
async def test_an_envelope_that_was_changed_is_good_for_nothing(storage: Storage, inside: bytes) -> None:
    """For another VM, with another volume, or in any other way."""
    envelope = storage.confirmed()
    assert isinstance(await storage.attach(envelope), Attached)
    changed = envelope.replace(inside, inside[:-1] + b"9")
    assert changed != envelope
    assert code(await storage.attach(changed)) == "denied"
    assert len(storage.keeper.state.attachments) == 1


async def test_the_same_life_of_a_vm_gets_no_other_volumes(storage: Storage) -> None:
    assert isinstance(await storage.attach(storage.confirmed()), Attached)
    assert code(await storage.attach(storage.confirmed(vids=(TWO,)))) == "other-volumes"


async def test_who_may_not_run_is_attached_nothing(storage: Storage) -> None:
    storage.granted(replace(EVERYTHING, verbs=(Verb.PLEDGE,)))
    assert code(await storage.attach(storage.confirmed("bea"))) == "denied"


# ---- how many gigabytes


def pledge(*vids: str, vm: int = 1) -> Pledge:
    return Pledge(f"{vm:032x}", 0, (), True, vm_of(vm), 1, ASK, vids, b"s" * 32, 3000, 0, Policy.PACK)


async def test_more_than_the_grant_allows_is_not_attached_and_one_volume_counts_once(storage: Storage) -> None:
    storage.granted(replace(EVERYTHING, volumes_gb=1))
    envelope = storage.confirmed("bea")
    assert isinstance(await storage.attach(envelope), Attached)
    answer = await storage.attach(storage.confirmed("bea", vm=2, vids=(TWO,)))
    assert code(answer) == "over-grant"
    assert isinstance(answer, Refused)
    assert (answer.reasons[0].asked, answer.reasons[0].has) == ("1 GB", "0 GB of your 1 GB are left on h1")
    assert isinstance(await storage.attach(envelope), Attached)
    assert isinstance(await storage.attach(storage.confirmed("bea", generation=2)), Attached), "it has it already"


async def test_what_is_attached_stays_when_its_host_narrows(storage: Storage) -> None:
    envelope = storage.confirmed()
    assert isinstance(await storage.attach(envelope), Attached)
    storage.narrow_gb = 0
    storage.begin()
    assert isinstance(await storage.attach(envelope), Attached)
    assert code(await storage.attach(storage.confirmed(vm=2, vids=(TWO,)))) == "over-grant"


def test_a_pledge_for_more_is_answered_aloud_with_the_reason(storage: Storage) -> None:
    bea = storage.granted(replace(EVERYTHING, volumes_gb=1)).principal
    (enough,) = storage.answers.pledge(pledge(ONE), bea, 100.0)
    assert isinstance(enough, VolumeOffer)
    (unfit,) = storage.answers.pledge(pledge(ONE, TWO, vm=2), bea, 100.0)
    assert isinstance(unfit, Unfit)
    assert unfit.reasons[0].resource == "grant volumes"
    assert (unfit.reasons[0].asked, unfit.reasons[0].has) == ("2 GB", "1 GB of your 1 GB are left on h1")


# ---- pools that do not answer


class SomeHang(Looks):
    """`hung` are the roots that answer nobody."""

    def __init__(self, *hung: Path) -> None:
        super().__init__()
        self._hung = {str(path) for path in hung}

    async def see(self, lies: Lies) -> None:
        if lies.pool in self._hung:
            raise Hangs("its pool does not answer")
        await super().see(lies)


async def test_a_pool_that_does_not_answer_keeps_nobody_waiting(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither turn nor lock is taken for it: who has them would keep them for as long as it hangs."""
    envelope = storage.confirmed()
    assert isinstance(await storage.attach(envelope), Attached)
    monkeypatch.setattr(storage.attaching, "_looks", SomeHang(storage.folder / "pool"))
    monkeypatch.setattr(storage.keeper, "_lock", None)  # whoever takes it fails
    monkeypatch.setattr(storage.attaching, "turn", None)
    assert code(await storage.attach(storage.confirmed(vm=2, vids=(TWO,)))) == "unavailable"
    assert code(await storage.attach(envelope)) == "unavailable", "which atomd takes for *ask again*"
    ended = Detach(vm_of(1), 1, f"{1:016x}{1:016x}")
    assert code(await storage.attaching.detach(ended, storage.host_id)) == "unavailable"
    assert code(await storage.attaching._forget(ONE, "ann")) == "not-now"
    assert storage.keeper.is_attached(ONE)
