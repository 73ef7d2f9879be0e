"""What storaged answers the atomd of its host: by the user's own signature, in order, and never after letting go."""

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
from matcher.wire.codec import BODY_MAX_BYTES, encode
from matcher.wire.envelope import Kind, host_audience, seal
from matcher.wire.messages import Arch, Confirm, Firmware, Message, Refused, Role, VmAsk, VolumeClaim
from matcher.wire.volumes import Asked, AskVolumesUsed, Attach, Attached, Detach, Detached, Forget, Replies, VolumesUsed
from specs.ids import HostId
from storaged.answering import Proposer, StorageAnswers, admitting
from storaged.attaching import Attaching
from storaged.claims import VolumeShare
from storaged.exporting import NoExports
from storaged.index import Index
from storaged.journal import Journal
from storaged.keeper import Keeper
from storaged.quota import Quota
from storaged.testing import make_volume, vid_of, vm_of
from tests.fakes.realms import make_realm

VID = vid_of(1)
ASK = VmAsk(1, False, 1, (Arch.X86_64,), (), 512, False, (), Firmware.BIOS, True)
ROOT = Peer(1, 0, frozenset((0,)))
OFFER, OTHER_OFFER = "0f" * 16, "1f" * 16


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    top = tmp_path_factory.mktemp("realms")
    home, away = make_realm(top / "home", "h1", "h2", "ann", "bob"), make_realm(top / "away", "eve")
    return home.members | away.members


@pytest.fixture
def storage(tmp_path: Path, members: dict[str, Identity]) -> SimpleNamespace:
    make_volume(tmp_path / "pool", VID, bootable=True)
    identity = members["h1"]
    host_id = HostId(identity.principal.id)
    keeper = Keeper(Journal(tmp_path / "journal"), server=host_id)
    snapshot = Index().scan([tmp_path / "pool"])
    quota = Quota(host="h1", shares=keeper.shares, snapshot=lambda: snapshot)
    ledger = Ledger[VolumeShare](admitting(keeper, lambda: snapshot), quota.allows)
    proposer = Proposer("h1", host_id, keeper, lambda: snapshot, quota)
    offering = Offering(host="h1", role=Role.STORAGE, proposer=proposer, ledger=ledger, random=Random(1))
    answers = StorageAnswers("h1", 7767, offering, lambda: snapshot, lambda: None, lambda: "")
    attaching = Attaching(
        identity,
        keeper,
        ledger,
        lambda: snapshot,
        Intake(identity, answers),
        quota,
        Audit(tmp_path / "audit", "h1"),
        NoExports(),
    )
    return SimpleNamespace(attaching=attaching, host_id=host_id, members=members)


def confirmed(storage: SimpleNamespace, who: str = "ann", *, vm: int = 1, offer: str = OFFER, to: str = "h1") -> bytes:
    signer = storage.members[who]
    host_id = HostId(storage.members[to].principal.id)
    claims = (VolumeClaim(VID, host_id, "2f" * 16),)
    confirm = Confirm(vm_of(vm), 1, "3f" * 16, offer, host_id, "web", ASK, claims, "{}")
    audience = host_audience(host_id, Role.COMPUTE)
    return seal(
        Kind.CONFIRM, encode(confirm), realm=signer.realm, signer=signer, audience=audience, max_bytes=BODY_MAX_BYTES
    )


async def ask(storage: SimpleNamespace, question: Message) -> Message:
    answer: Message = await storage.attaching.answer(question, ROOT)
    return answer


async def test_a_users_own_confirm_attaches_and_again_gives_the_same(storage: SimpleNamespace) -> None:
    first = await ask(storage, Attach(confirmed(storage)))
    assert isinstance(first, Attached)
    assert await ask(storage, Attach(confirmed(storage))) == first


@pytest.mark.parametrize(("who", "to", "code"), [("eve", "h1", "denied"), ("ann", "h2", "denied")])
async def test_a_confirm_of_a_stranger_or_for_another_host_attaches_nothing(
    storage: SimpleNamespace, who: str, to: str, code: str
) -> None:
    answer = await ask(storage, Attach(confirmed(storage, who, to=to)))
    assert isinstance(answer, Refused)
    assert answer.code == code


async def test_what_a_user_has_attached_is_told_and_of_others_nothing(storage: SimpleNamespace) -> None:
    ann, bob = (storage.members[name].principal.id for name in ("ann", "bob"))
    assert await ask(storage, AskVolumesUsed(ann)) == VolumesUsed(0)
    await ask(storage, Attach(confirmed(storage)))
    used = await ask(storage, AskVolumesUsed(ann))
    assert isinstance(used, VolumesUsed)
    assert used.mib > 0
    assert await ask(storage, AskVolumesUsed(bob)) == VolumesUsed(0)


async def test_a_second_vm_does_not_get_the_volume_until_the_first_lets_go(storage: SimpleNamespace) -> None:
    await ask(storage, Attach(confirmed(storage)))
    taken = await ask(storage, Attach(confirmed(storage, "bob", vm=2, offer=OTHER_OFFER)))
    assert isinstance(taken, Refused)
    assert await ask(storage, Detach(vm_of(1), 1, OFFER)) == Detached()
    assert isinstance(await ask(storage, Attach(confirmed(storage, "bob", vm=2, offer=OTHER_OFFER))), Attached)


async def test_a_confirm_that_is_served_after_its_detach_attaches_nothing(storage: SimpleNamespace) -> None:
    await ask(storage, Detach(vm_of(1), 1, OFFER))
    late = await ask(storage, Attach(confirmed(storage)))
    assert isinstance(late, Refused)
    assert late.code == "let-go"
    assert isinstance(await ask(storage, Attach(confirmed(storage, offer=OTHER_OFFER))), Attached)


async def test_a_pledge_that_cannot_be_read_gets_no_answers(storage: SimpleNamespace) -> None:
    assert await ask(storage, Asked(b"nonsense")) == Replies(b"")


async def test_what_cannot_be_forgotten_is_refused_in_words(storage: SimpleNamespace) -> None:
    answer = await ask(storage, Forget(vid_of(9)))
    assert isinstance(answer, Refused)
    assert answer.reasons[0].has == "it is not here, or not in order"
