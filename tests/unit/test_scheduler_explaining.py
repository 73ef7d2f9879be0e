"""When nothing can be chosen, people are told what is where, why not there, and what would help."""

from dataclasses import replace

import pytest

from matcher.scheduler.explaining import explain, host_reasons, missing_volumes, nearest, reason
from matcher.scheduler.heard import Answers, Heard
from matcher.scheduler.outcomes import (
    HostReasons,
    Nearest,
    NoHostFits,
    NoHostInReach,
    VolumeMissing,
)
from matcher.wire.codec import decode, encode
from matcher.wire.messages import (
    Accelerator,
    Arch,
    Clock,
    Firmware,
    ImageFormat,
    OfferedVolume,
    Pledge,
    Policy,
    Reach,
    Reason,
    Role,
    Unfit,
    VmAsk,
    VmOffer,
    VolumeOffer,
)
from specs.ids import HostId, Vid

H1, H2, H3 = (HostId(digit * 64) for digit in "123")
ROOT, DATA = "a" * 32, "b" * 32
ASK = VmAsk(1, True, 1, (Arch.X86_64,), (), 512, False, (), Firmware.BIOS, True)
PLEDGE = Pledge("0" * 32, 1, (), True, "f" * 32, 1, ASK, (ROOT,), b"", 3000, 0, Policy.PACK)
GPU = Reason("pci 10de:24b0", "2", "1 free", "", "pci.0.quantity=1")
RAM = Reason("ram", "64 GiB", "41.5 GiB free", "", "ram.ramsize=42000")
FLAG = Reason("flags avx512f", "avx512f", "not on this CPU", "")
OFFER = VmOffer("0" * 32, "e" * 32, "h1", 7443, 3, 0, 0.5, (0,), 1, 0, (), Arch.X86_64, Accelerator.KVM)


def unfit(host: str, *reasons: Reason, role: Role = Role.COMPUTE) -> Unfit:
    return Unfit(PLEDGE.pledge_id, host, role, 3, reasons)


def store(host: str, *vids: str) -> VolumeOffer:
    volumes = tuple(OfferedVolume(vid, "v", 64, ImageFormat.RAW, True, False, False, Reach.LOCAL) for vid in vids)
    return VolumeOffer(PLEDGE.pledge_id, f"{ord(host[1]):032x}", host, 3, 0, volumes)


def says(answers: Answers) -> dict[str, list[tuple[str, str, str]]]:
    told = host_reasons(answers, wall_ms=1_000_000, now_s=0.3)
    return {unfit.host: [(r.resource, r.asked, r.has) for r in unfit.reasons] for unfit in told}


def test_nobody_answered_is_said_so() -> None:
    assert explain(Answers(PLEDGE, 0.0), wall_ms=1, now_s=0.3) == NoHostInReach()


def test_a_host_that_fits_learns_where_the_volume_is_and_why_that_host_does_not_fit() -> None:
    answers = Answers(PLEDGE, 0.0)
    answers.vm(OFFER, H1, "10.0.0.1", 0.0)
    answers.unfit(unfit("h2", GPU), H2, 0.0)
    answers.volume(store("h2", ROOT), H2, "10.0.0.2", 0.0)
    where = "on h2 (which does not fit: pci 10de:24b0)"
    assert says(answers) == {
        "h1": [(f"volume {ROOT}", "on the VM's own host", where)],
        "h2": [("pci 10de:24b0", "2", "1 free")],
    }
    outcome = explain(answers, wall_ms=1, now_s=0.3)
    assert isinstance(outcome, NoHostFits)
    assert outcome.nearest == (Nearest(H2, "h2", ("pci.0.quantity=1",)),)


@pytest.mark.parametrize(
    ("reach", "address", "hint"),
    [
        (Reach.LOCAL, "10.0.0.2", "h2 does not export it: make room there, or move the volume"),
        (
            Reach.NETWORK,
            "fe80::2%7",
            "h2 exports it, but was heard at a link-local address, which means nothing to oth",
        ),
    ],
)
def test_what_would_bring_a_volume_into_reach_is_said(reach: Reach, address: str, hint: str) -> None:
    answers = Answers(PLEDGE, 0.0)
    answers.vm(OFFER, H1, "10.0.0.1", 0.0)
    answers.unfit(unfit("h2", RAM), H2, 0.0)
    there = replace(store("h2", ROOT).volumes[0], reach=reach)
    answers.volume(replace(store("h2"), volumes=(there,), front_door_port=7767), H2, address, 0.0)
    told = {unfit.host: unfit.reasons for unfit in host_reasons(answers, wall_ms=1_000_000, now_s=0.3)}
    assert told["h1"][0].hint.startswith(hint)


def test_a_volume_that_every_host_can_reach_is_nobodys_reason() -> None:
    answers = Answers(PLEDGE, 0.0)
    answers.unfit(unfit("h1", RAM), H1, 0.0)
    there = replace(store("h2", ROOT).volumes[0], reach=Reach.NETWORK)
    answers.volume(replace(store("h2"), volumes=(there,), front_door_port=7767), H2, "10.0.0.2", 0.0)
    assert says(answers)["h1"] == [("ram", "64 GiB", "41.5 GiB free")]


def test_an_unfit_host_without_the_volume_is_not_near() -> None:
    answers = Answers(PLEDGE, 0.0)
    answers.unfit(unfit("h1", RAM), H1, 0.0)
    answers.unfit(unfit("h2", FLAG), H2, 0.0)
    answers.volume(store("h2", ROOT), H2, "10.0.0.2", 0.0)
    outcome = explain(answers, wall_ms=1, now_s=0.3)
    assert isinstance(outcome, NoHostFits)
    assert outcome.nearest == ()
    assert [len(unfit.reasons) for unfit in outcome.unfits] == [2, 1]


def test_volumes_apart_point_at_each_other() -> None:
    answers = Answers(replace(PLEDGE, volumes=(ROOT, DATA)), 0.0)
    for host, host_id, vid in (("h1", H1, ROOT), ("h2", H2, DATA)):
        answers.vm(replace(OFFER, host=host, offer_id=f"{ord(host[1]):032x}"), host_id, "10.0.0.1", 0.0)
        answers.volume(store(host, vid), host_id, "10.0.0.1", 0.0)
    assert says(answers) == {
        "h1": [(f"volume {DATA}", "on the VM's own host", "on h2 (which fits)")],
        "h2": [(f"volume {ROOT}", "on the VM's own host", "on h1 (which fits)")],
    }


def test_a_volume_nowhere_is_missing() -> None:
    answers = Answers(PLEDGE, 0.0)
    answers.vm(OFFER, H1, "10.0.0.1", 0.0)
    outcome = explain(answers, wall_ms=1, now_s=0.3)
    assert isinstance(outcome, VolumeMissing)
    assert outcome.vids == (Vid(ROOT),)
    assert outcome.unfits[0].reasons[0].has == "on no host in reach"


@pytest.mark.parametrize("name", [ROOT, ROOT[:6] + "…", f"{ROOT[:8]}-{ROOT[:4]}-{ROOT[:4]}-{ROOT[:4]}-{ROOT[:12]}"])
def test_a_volume_that_storage_cannot_give_is_not_missing_and_its_own_words_stand(name: str) -> None:
    answers = Answers(PLEDGE, 0.0)
    answers.vm(OFFER, H1, "10.0.0.1", 0.0)
    in_use = Reason(f"volume {name}", "to write", 'in use by vm "db"', "stop it first")
    answers.unfit(unfit("h1", in_use, role=Role.STORAGE), H1, 0.0)
    assert missing_volumes(answers) == ()
    assert says(answers) == {"h1": [(f"volume {name}", "to write", 'in use by vm "db"')]}


def test_a_host_that_stores_and_does_not_compute_says_so() -> None:
    answers = Answers(PLEDGE, 0.0)
    answers.vm(OFFER, H1, "10.0.0.1", 0.0)
    answers.volume(store("h2", ROOT), H2, "10.0.0.2", 0.0)
    assert says(answers) == {
        "h1": [(f"volume {ROOT}", "on the VM's own host", "on h2 (which runs no VMs)")],
        "h2": [("vm", "a host that runs VMs", "it stores volumes, and no atomd answers there")],
    }


@pytest.mark.parametrize(("offset_s", "has"), [(-94, "94 s behind this machine"), (61, "61 s ahead of this machine")])
def test_a_host_whose_clock_is_off_is_named_with_its_distance(offset_s: int, has: str) -> None:
    answers = Answers(PLEDGE, 0.0)
    answers.clock(Clock(PLEDGE.pledge_id, "h2", 999_900 + offset_s * 1000), H2, 0.2)
    assert says(answers) == {"h2": [("clock", "at most 30 s apart", has)]}
    assert isinstance(explain(answers, wall_ms=1_000_000, now_s=0.3), NoHostFits)


def test_what_was_heard_before_is_not_forgotten() -> None:
    earlier, answers = Answers(replace(PLEDGE, pledge_id="9" * 32), 0.0), Answers(PLEDGE, 1.0)
    earlier.unfit(replace(unfit("h1", RAM), pledge_id="9" * 32), H1, 0.0)
    earlier.unfit(replace(unfit("h2", RAM), pledge_id="9" * 32), H2, 0.0)
    answers.unfit(unfit("h2", FLAG), H2, 1.0)
    answers.volume(store("h2", ROOT), H2, "10.0.0.2", 1.0)
    answers.absorb(earlier)
    assert {host: told[0][0] for host, told in says(answers).items()} == {"h1": "ram", "h2": "flags avx512f"}


def test_the_nearest_host_needs_the_fewest_edits() -> None:
    unfits = [
        HostReasons(H1, "h1", (GPU, RAM)),
        HostReasons(H2, "h2", (GPU,)),
        HostReasons(H3, "h3", (GPU, FLAG)),
    ]
    assert nearest(unfits) == (
        Nearest(H2, "h2", ("pci.0.quantity=1",)),
        Nearest(H1, "h1", ("pci.0.quantity=1", "ram.ramsize=42000")),
    )


def test_edits_that_contradict_each_other_help_nobody() -> None:
    assert nearest([HostReasons(H1, "h1", (GPU, replace(GPU, edit="pci.0.quantity=0")))]) == ()
    assert nearest([HostReasons(H1, "h1", (GPU, replace(GPU, hint="same edit")))])[0].edits == ("pci.0.quantity=1",)
    assert nearest([HostReasons(H1, "h1", ())]) == ()


def test_a_reason_made_here_always_fits_its_message() -> None:
    long = reason("r" * 500, "a" * 500, "h" * 500, "t" * 500)
    message = unfit("h1", long)
    assert decode(Unfit, encode(message)) == message
    assert long.has.endswith("…")


def test_a_host_that_shows_a_recorded_machine_says_so() -> None:
    answers = Answers(replace(PLEDGE, volumes=()), 0.0)
    answers.vm(replace(OFFER, pretended=True), H1, "10.0.0.1", 0.0)
    outcome = explain(answers, wall_ms=1, now_s=0.3)
    assert isinstance(outcome, NoHostFits)
    assert [reason.resource for reason in outcome.unfits[0].reasons] == ["hardware"]
    assert outcome.nearest == ()


def test_what_was_heard_says_who_and_from_where() -> None:
    assert Heard(OFFER, H1, "10.0.0.1").address == "10.0.0.1"


def test_reasons_that_found_no_room_are_counted_and_leave_nothing_that_would_fit_for_sure() -> None:
    answers = Answers(replace(PLEDGE, volumes=()), 0.0)
    answers.unfit(replace(unfit("h1", RAM), left_off=3), H1, 0.0)
    assert says(answers)["h1"][1] == ("more", "3 more", "its answer had no room for what is wrong with them")
    outcome = explain(answers, wall_ms=1, now_s=0.3)
    assert isinstance(outcome, NoHostFits)
    assert outcome.nearest == ()
