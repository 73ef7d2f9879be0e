"""How much a user may have of one host: what is counted, which limit counts, and what a person reads where it is too
much."""

from dataclasses import replace

import pytest

from atomd.capacity.hardware import Claim
from atomd.capacity.occupancy import charged_mib, uncharged_mib
from atomd.capacity.quota import VMS_MAX, Elsewhere, Quota, Want, use_of
from atomd.inventory.facts import Pages
from matcher.trust.grants import Narrowing, parse_pci_limit
from matcher.trust.principal import Principal
from matcher.wire.messages import Arch, Firmware, PciAsk, Reason, UsbAsk, VmAsk
from matcher.wire.realm import Grant, PciLimit, Use, Verb
from specs.ids import UserId, VmId

ANN, BOB = UserId("a" * 64), UserId("b" * 64)
ASK = VmAsk(1, True, 1, (Arch.X86_64,), (), 512, False, (), Firmware.BIOS, True)
GPU, SOUND, NIC = ("10de", "24b0"), ("10de", "228b"), ("8086", "1572")
KINDS = {
    "0000:01:00.0": GPU,
    "0000:01:00.1": SOUND,
    "0000:02:00.0": GPU,
    "0000:02:00.1": SOUND,
    "0000:03:00.0": NIC,
    "0000:03:00.1": NIC,
    "1-1": ("1050", "0407"),
    "1-2": ("1050", "0407"),
}
MAY = (Verb.PLEDGE, Verb.RUN)
ANYTHING = Grant(MAY, pci=(PciLimit("*", "*", 4096),))
NOON = 12 * 60


def vm_id(number: int) -> VmId:
    return VmId(f"{number:032x}")


def claim(
    number: int = 1,
    *,
    slots: int = 1,
    smt: bool = True,
    ram_mib: int = 512,
    pci: tuple[str, ...] = (),
    user: UserId = ANN,
) -> Claim:
    per_core = 1 if smt else 2
    threads = tuple(range(slots * per_core))
    return Claim(vm_id(number), user, threads, per_core, smt, 1, ((0, charged_mib(ram_mib)),), 0, pci)


def ann(grant: Grant = ANYTHING, **changes: object) -> Principal:
    return Principal("user", ANN, "ann", replace(grant, **changes))  # type: ignore[arg-type]


def quota(
    *,
    vms: tuple[int, ...] = (),
    narrowing: Narrowing = Narrowing(),  # noqa: B008
    elsewhere: Elsewhere = Elsewhere(),  # noqa: B008
) -> Quota:
    return Quota(
        host="h1",
        kinds=KINDS,
        vms=lambda user_id: tuple(map(vm_id, vms)) if user_id == ANN else (),
        narrowing=narrowing,
        elsewhere=lambda user_id: elsewhere,
    )


def reasons(
    quota: Quota,
    user: Principal,
    *residents: Claim,
    ask: VmAsk = ASK,
    at: Claim | None = None,
    generation: int = 1,
    dry: bool = False,
    minute: int = NOON,
    number: int = 9,
) -> tuple[Reason, ...]:
    want = Want(vm_id(number), ask, at, generation)
    return quota.against_offer(want, user, residents, dry=dry, minute=minute)


def only(found: tuple[Reason, ...]) -> Reason:
    (reason,) = found
    return reason


# ---- what is counted


def test_slots_and_ram_count_as_they_were_asked_for() -> None:
    claims = [claim(1, slots=3, smt=False, ram_mib=1000), claim(2, slots=2, ram_mib=24)]
    assert use_of(claims, (), KINDS) == Use(slots=5, ram_mib=1024, vms=2)


def test_what_was_asked_is_known_from_what_is_charged() -> None:
    for asked in (*range(1, 700), 1 << 20, (1 << 26) - 1, 1 << 26):
        assert uncharged_mib(charged_mib(asked)) == asked


def test_a_vm_counts_once_whether_it_runs_or_is_stopped() -> None:
    assert use_of([claim(1)], [vm_id(1), vm_id(2)], KINDS).vms == 2


def test_a_card_counts_once_and_its_sound_comes_along() -> None:
    gpu = claim(pci=("0000:01:00.0", "0000:01:00.1"))
    assert use_of([gpu], (), KINDS).pci == (PciLimit(*GPU, 1),)


def test_equal_functions_of_one_card_and_cards_that_move_together_count_each() -> None:
    ports = claim(pci=("0000:03:00.0", "0000:03:00.1"))
    assert use_of([ports], (), KINDS).pci == (PciLimit(*NIC, 2),)
    both = claim(pci=("0000:01:00.0", "0000:01:00.1", "0000:02:00.0", "0000:02:00.1"))
    assert use_of([both], (), KINDS).pci == (PciLimit(*GPU, 2),)


def test_who_asks_for_the_sound_and_gets_the_card_is_counted_the_card() -> None:
    ask = replace(ASK, pci=(PciAsk(*SOUND, 1),))
    sound_alone = ann(pci=(PciLimit(*SOUND, 1),))
    found = reasons(quota(), sound_alone, ask=ask, at=claim(9, pci=("0000:01:00.0", "0000:01:00.1")))
    assert only(found).resource == "grant pci 10de:24b0"


# ---- limits


def test_a_person_reads_what_is_left_and_the_edit_that_helps() -> None:
    found = reasons(quota(), ann(slots=16), claim(1, slots=12), ask=replace(ASK, slots=8))
    hint = "electros ps shows your VMs; stop one, or ask for less"
    assert found == (Reason("grant slots", "8", "4 of your 16 are left on h1", hint, "cpu.slots=4"),)


def test_ram_reads_in_its_own_words_and_no_edit_asks_for_nothing() -> None:
    reason = only(reasons(quota(), ann(ram_mib=2048), claim(1, ram_mib=1024), ask=replace(ASK, ram_mib=4096)))
    assert (reason.resource, reason.asked, reason.has) == ("grant ram", "4 GiB", "1 GiB of your 2 GiB are left on h1")
    assert reason.edit == "ram.ramsize=1024"
    assert only(reasons(quota(), ann(ram_mib=512), claim(1))).edit == ""


def test_the_whole_limit_may_be_had_and_not_one_more() -> None:
    assert reasons(quota(), ann(slots=4), claim(1, slots=3)) == ()
    assert reasons(quota(), ann(slots=3), claim(1, slots=3)) != ()


def test_every_reason_is_told_at_once() -> None:
    ask = replace(ASK, slots=9, ram_mib=9999, pci=(PciAsk(*GPU, 1),), lease_s=7200)
    small = ann(Grant(MAY), slots=8, ram_mib=512, vms=0, overprovision_min=4, lease_max_s=3600)
    told = [reason.resource.removeprefix("grant ") for reason in reasons(quota(), small, ask=ask)]
    assert told == ["overprovision", "lease", "slots", "ram", "VMs", "pci 10de:24b0"]


def test_others_do_not_count() -> None:
    assert reasons(quota(), ann(slots=1), claim(1, user=BOB, slots=9)) == ()


def test_a_stopped_vm_counts_and_starting_it_again_counts_nothing_more() -> None:
    assert only(reasons(quota(vms=(1,)), ann(vms=1))).has == "0 of your 1 are left on h1"
    assert reasons(quota(vms=(1,)), ann(vms=1), number=1, generation=2) == ()


def test_no_grant_allows_vms_without_end() -> None:
    many = tuple(range(VMS_MAX))
    assert only(reasons(quota(vms=many), ann(), number=VMS_MAX)).resource == "grant VMs"
    assert only(reasons(quota(vms=many), ann(vms=4096), number=VMS_MAX)).resource == "grant VMs"


def test_nothing_more_exclusive_than_the_floor() -> None:
    reason = only(reasons(quota(), ann(overprovision_min=4), ask=replace(ASK, overprovision=2)))
    assert reason.edit == "cpu.overprovision=4"
    assert not quota().allows((), claim(), ann(overprovision_min=4))


# ---- devices


def test_what_no_pattern_names_is_not_given() -> None:
    ask = replace(ASK, pci=(PciAsk(*GPU, 1),))
    assert only(reasons(quota(), ann(pci=()), ask=ask)).has == "not among your devices on h1"


def test_the_most_exact_pattern_counts_and_all_that_fall_under_it_together() -> None:
    limits = tuple(map(parse_pci_limit, ("10de:24b0=1", "10de:*=4", "*:*=0")))
    user, one = ann(pci=limits), replace(ASK, pci=(PciAsk(*GPU, 2),))
    reason = only(reasons(quota(), user, ask=one))
    assert (reason.resource, reason.has) == ("grant pci 10de:24b0", "1 of your 1 are left on h1")
    assert reason.edit == "pci.0.quantity=1"
    several = replace(one, pci_else=((PciAsk(*NIC, 1),),))
    assert only(reasons(quota(), user, ask=several)).edit == "", "which of the alternatives it stands in is not said"
    assert only(reasons(quota(), user, ask=replace(ASK, pci=(PciAsk(*NIC, 1),)))).resource == "grant pci *:*"
    either = ann(pci=(PciLimit("10de", "*", 1),))
    mixed = replace(ASK, pci=(PciAsk(*GPU, 1), PciAsk("10de", "1111", 1)))
    assert only(reasons(quota(), either, ask=mixed)).asked == "2"
    used = claim(1, pci=("0000:01:00.0",))
    assert only(reasons(quota(), either, used, ask=replace(ASK, pci=(PciAsk(*GPU, 1),)))).has.startswith("0 of your 1")


def test_grant_and_host_must_both_allow_a_device() -> None:
    ask = replace(ASK, pci=(PciAsk(*GPU, 1),))
    none, one = Narrowing(pci=()), Narrowing(pci=(PciLimit("10de", "*", 1),))
    assert only(reasons(quota(narrowing=none), ann(), ask=ask)).has == "not among this host's devices on h1"
    assert reasons(quota(narrowing=one), ann(), ask=ask) == ()
    used = claim(1, pci=("0000:01:00.0",))
    assert only(reasons(quota(narrowing=one), ann(), used, ask=ask)).has == "0 of this host's 1 are left on h1"


# ---- this host's own word


def test_a_host_narrows_and_never_widens() -> None:
    narrow = quota(narrowing=Narrowing(slots=2, vms=9, lease_max_s=60, overprovision_min=2))
    wide = ann(slots=16, vms=1)
    assert narrow.here(wide).slots == 2
    assert narrow.here(wide).vms == 1
    assert narrow.here(wide).overprovision_min == 2
    assert narrow.lease_s(ASK, wide) == 60


def test_a_host_may_be_for_some_users_and_groups_alone() -> None:
    for_some = quota(narrowing=Narrowing(users=("bob", "@lab")))
    assert only(reasons(for_some, ann())).resource == "grant users"
    assert reasons(for_some, ann(groups=("lab",))) == ()


@pytest.mark.parametrize(("minute", "is_open"), [(479, False), (480, True), (1199, True), (1200, False)])
def test_a_host_may_have_hours(minute: int, is_open: bool) -> None:
    found = reasons(quota(narrowing=Narrowing(hours=((480, 1200),))), ann(), minute=minute)
    assert (not found) is is_open
    if found:
        assert only(found).has == "h1 starts VMs at 08:00-20:00 alone"


def test_a_verb_that_is_not_granted_is_named() -> None:
    assert only(reasons(quota(), ann(verbs=(Verb.PLEDGE,)))).asked == "to run"
    assert reasons(quota(), ann(verbs=(Verb.PLEDGE,)), dry=True) == ()
    assert only(reasons(quota(), ann(verbs=()), dry=True)).has == "yours says: nothing"


# ---- other hosts


def test_what_is_used_elsewhere_speaks_against_offers_and_never_against_a_commitment() -> None:
    there = quota(elsewhere=Elsewhere(Use(slots=14), ("h2", "h3")))
    user, ask = ann(slots=16), replace(ASK, slots=4)
    reason = only(reasons(there, user, ask=ask))
    assert reason.has == "2 of your 16 are left in the realm, 14 of it used on h2, h3"
    assert reason.edit == "cpu.slots=2"
    assert there.against_confirm(Want(vm_id(9), ask), user, (), minute=NOON) == ()
    assert there.allows((), claim(9, slots=4), user)


def test_a_vm_that_was_stopped_elsewhere_may_start_here() -> None:
    there = quota(elsewhere=Elsewhere(Use(vms=1), ("h2",)))
    assert reasons(there, ann(vms=1), generation=2) == ()
    assert reasons(there, ann(vms=1)) != ()


# ---- the ledger's judge


def test_ram_in_huge_pages_counts_as_any_other() -> None:
    huge = replace(claim(1), ram_mib=((0, charged_mib(512) - 512),), pages=Pages(0, 2048, 256))
    assert use_of([huge], (), {}).ram_mib == 512
    assert not quota().allows((), huge, ann(ram_mib=511))
    assert quota().allows((), huge, ann(ram_mib=512))


def test_the_judge_says_no_where_a_reason_would() -> None:
    assert quota().allows([claim(1)], claim(2), ann(slots=2))
    assert not quota().allows([claim(1), claim(3)], claim(2), ann(slots=2))
    assert not quota().allows((), claim(2), ann(verbs=(Verb.PLEDGE,)))
    assert not quota().allows((), claim(2, user=BOB), ann())


def test_how_often_a_grant_allows_the_same_again_is_what_its_first_limit_leaves() -> None:
    here, gpu = (claim(1, slots=2),), claim(9, pci=("0000:01:00.0",))
    assert quota(vms=(1,)).times(claim(9), ann(slots=5, ram_mib=65536, vms=64), here) == (3, "grant slots")
    assert quota(vms=(1,)).times(claim(9), ann(slots=50, ram_mib=1536, vms=64), here) == (2, "grant ram")
    assert quota(vms=(1,)).times(claim(9), ann(vms=2), here) == (1, "grant VMs")
    assert quota(vms=(1,)).times(claim(9), ann(slots=1), here) == (0, "grant slots")
    two = ann(pci=(PciLimit(*GPU, 2),))
    assert quota().times(gpu, two, ()) == (2, "grant pci 10de:24b0")
    elsewhere = Elsewhere(Use(3, 512, 1), ("h2",))
    assert quota(vms=(1,), elsewhere=elsewhere).times(claim(9), ann(slots=6), here) == (1, "grant slots")


# ---- USB


def with_tokens(number: int, *ports: str) -> Claim:
    return replace(claim(number), usb=ports)


def test_who_was_granted_no_usb_device_gets_none_whatever_else_they_may() -> None:
    assert ANYTHING.pci
    token = with_tokens(9, "1-1")
    reason = only(reasons(quota(), ann(), ask=replace(ASK, usb=(UsbAsk("1050", "0407", 1),)), at=token))
    assert (reason.resource, reason.has) == ("grant usb 1050:0407", "not among your devices on h1")
    assert not quota().allows([], token, ann())


def test_tokens_count_beside_those_that_the_user_has() -> None:
    grant = replace(ANYTHING, usb=(PciLimit("1050", "*", 1),))
    first, second = with_tokens(1, "1-1"), with_tokens(2, "1-2")
    assert use_of([first], (), KINDS).usb == (PciLimit("1050", "0407", 1),)
    assert quota().allows([], first, ann(grant))
    assert not quota().allows([first], second, ann(grant))
    asked = replace(ASK, usb=(UsbAsk("1050", "0407", 2),))
    reason = only(reasons(quota(), ann(grant), ask=asked))
    assert (reason.resource, reason.edit) == ("grant usb 1050:*", "usb.0.quantity=1")
    assert quota().times(first, ann(grant), []) == (1, "grant usb 1050:*")


def test_a_host_may_keep_its_usb_devices_from_everybody() -> None:
    grant = replace(ANYTHING, usb=(PciLimit("*", "*", 4096),))
    shut = quota(narrowing=Narrowing(usb=()))
    reason = only(reasons(shut, ann(grant), at=with_tokens(9, "1-1")))
    assert reason.has == "not among this host's devices on h1"
