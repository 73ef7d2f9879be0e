"""Why a host can't serve an ask, as a person reads it."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from atomd.capacity.devices import wish_of
from atomd.capacity.fit import Fit, Misfit, fit
from atomd.capacity.hardware import Claim, Hardware
from atomd.capacity.placement import admits
from atomd.capacity.traits import UEFI_ARCHS, arch_for
from atomd.hypervisor.domain_xml import PLATFORMS
from atomd.inventory.facts import Core, Pages, PciDevice, UsbDevice
from matcher.wire.codec import decode, encode
from matcher.wire.messages import (
    PCI_ASKS_MAX,
    REASONS_MAX,
    SLOTS_MAX,
    Accelerator,
    Arch,
    CoreClass,
    Firmware,
    PciAsk,
    Policy,
    Reason,
    UsbAsk,
    VmAsk,
)
from matcher.wire.naming import device_kind
from specs.ids import UserId, VmId

ANN, BOB = UserId("a" * 64), UserId("b" * 64)
GPU = PciAsk("10de", "24b0", 1)
ASK = VmAsk(
    slots=1,
    smt=False,
    overprovision=1,
    archs=(Arch.X86_64,),
    flags=(),
    ram_mib=512,
    ecc=False,
    pci=(),
    firmware=Firmware.BIOS,
    allow_emulation=False,
)
HOST = Hardware(
    archs=frozenset({Arch.X86_64, Arch.X86_32}),
    accelerator=Accelerator.KVM,
    cpu_model="AMD EPYC 7451",
    guest_flags=frozenset({"sse2", "sse4_2", "x86-64-v1", "x86-64-v2"}),
    cores=tuple(Core((n, n + 8), 0, 0) for n in range(8)),
    ram_mib=((0, 65536),),
    ecc=None,
    pci=(),
    pci_refused=(),
    firmwares=frozenset({Firmware.BIOS}),
)


def gpu(number: int, group: int | None = None, why_not: str | None = None) -> PciDevice:
    address = f"0000:{number:02x}:00.0"
    return PciDevice(address, "10de", "24b0", "030000", 0, group, None, why_not is None, why_not)


def answer(ask: VmAsk, hardware: Hardware, residents: Sequence[Claim] = (), user: UserId = ANN) -> Fit | Misfit:
    return fit(ask, hardware, residents, vm_id=VmId("1" * 32), user_id=user, policy=Policy.PACK)


def claim(ask: VmAsk, hardware: Hardware, residents: Sequence[Claim] = (), user: UserId = ANN) -> Claim:
    given = answer(ask, hardware, residents, user)
    assert isinstance(given, Fit)
    return given.placed.claim


def reasons(ask: VmAsk, hardware: Hardware, residents: Sequence[Claim] = (), user: UserId = ANN) -> tuple[Reason, ...]:
    given = answer(ask, hardware, residents, user)
    assert isinstance(given, Misfit)
    for reason in given.reasons:
        assert decode(Reason, encode(reason)) == reason  # within the limits of the wire
    return given.reasons


def only(ask: VmAsk, hardware: Hardware, residents: Sequence[Claim] = (), user: UserId = ANN) -> Reason:
    (reason,) = reasons(ask, hardware, residents, user)
    return reason


def test_what_fits_comes_with_its_placement() -> None:
    assert claim(ASK, HOST).threads == (0, 8)


def test_too_few_cores_says_how_many_there_are_free_and_in_use() -> None:
    busy = claim(replace(ASK, slots=6), HOST)
    reason = only(replace(ASK, slots=4), HOST, [busy])
    assert (reason.resource, reason.asked) == ("slots", "4 whole cores")
    assert reason.has == "8 in all, 2 free, 6 in use by other VMs"
    assert reason.edit == "cpu.slots=2"
    assert reason.hint == "at most 2 whole cores now; or with cpu.allowSMT=true"


def test_slots_that_no_machine_has_are_counted_against_this_one() -> None:
    reason = only(replace(ASK, slots=SLOTS_MAX, smt=True), HOST)
    assert reason.asked == "4096 threads"
    assert reason.has == "16 in all, 16 free"
    assert reason.edit == "cpu.slots=16"


def test_full_shared_cores_can_be_had_by_sharing_more() -> None:
    shared = claim(replace(ASK, slots=8, overprovision=4), HOST)
    reason = only(ASK, HOST, [shared])
    assert reason.has == "8 in all, 0 free, 8 in use by other VMs"
    assert reason.edit == "cpu.overprovision=2"


def test_where_only_single_threads_are_free_the_edit_asks_for_threads() -> None:
    halves = [claim(replace(ASK, smt=True), HOST)]
    scattered = [replace(halves[0], threads=(n,)) for n in range(8)]
    reason = only(ASK, HOST, scattered)
    assert reason.has == "8 in all, 0 free, 8 in use by other VMs"
    assert reason.edit == "cpu.allowSMT=true"


def test_exclusive_cores_leave_no_edit_that_would_help() -> None:
    reason = only(ASK, HOST, [claim(replace(ASK, slots=8), HOST)])
    assert reason.edit == ""
    assert "wait" in reason.hint


def test_cores_of_another_user_are_told_apart_from_full_ones() -> None:
    bobs = claim(replace(ASK, slots=3, overprovision=4), HOST, user=BOB)
    reason = only(replace(ASK, slots=8, overprovision=4), HOST, [bobs])
    assert reason.has == "8 in all, 5 free, 3 on cores of another user"


def test_unlike_cores_are_named_where_there_would_be_enough_together() -> None:
    performance = tuple(Core((n, n + 1), 0, 0, "performance") for n in (0, 2))
    efficiency = tuple(Core((n,), 0, 0, "efficiency") for n in (4, 5, 6))
    reason = only(replace(ASK, slots=5), replace(HOST, cores=performance + efficiency))
    assert reason.has == "5 in all, 5 free of unlike kinds (3 efficiency of 1 thread + 2 performance of 2 threads)"
    assert reason.hint == "at most 3 whole cores now, as the whole cores of a VM are alike"
    assert reason.edit == "cpu.slots=3"


def test_a_host_without_cores_says_so() -> None:
    reason = only(ASK, replace(HOST, cores=()))
    assert reason.has == "0 in all, 0 free"
    assert reason.hint == "this host lends no cores"


def test_ram_names_qemus_share_and_the_largest_that_fits() -> None:
    reason = only(replace(ASK, ram_mib=65536), HOST)
    assert reason.asked == "64 GiB (66975 MiB with QEMU's own)"
    assert reason.has == "64 GiB in all, 64 GiB free"
    assert reason.edit == "ram.ramsize=64125"
    assert isinstance(answer(replace(ASK, ram_mib=64125), HOST), Fit)
    assert isinstance(answer(replace(ASK, ram_mib=64126), HOST), Misfit)


def test_ram_in_use_is_told_apart() -> None:
    small = replace(HOST, ram_mib=((0, 1024),))
    reason = only(replace(ASK, ram_mib=600), small, [claim(ASK, small)])
    assert reason.has == "1024 MiB in all, 373 MiB free, 651 MiB in use by other VMs"


def test_ram_too_small_for_any_vm_has_no_edit() -> None:
    reason = only(ASK, replace(HOST, ram_mib=((0, 100),)))
    assert (reason.edit, reason.hint) == ("", "this host lends less than one VM needs")


def test_missing_flags_are_named_all_together() -> None:
    reason = only(replace(ASK, flags=("AVX512F", "sse2", "avx2")), HOST)
    assert (reason.resource, reason.asked) == ("flags", "avx512f, avx2")
    assert reason.has == "not on this CPU (AMD EPYC 7451)"
    assert reason.edit == "cpu.flags-=avx512f,avx2"


def test_a_flag_spelled_in_another_way_is_told_its_name_here() -> None:
    reason = only(replace(ASK, flags=("sse4.2",)), HOST)
    assert (reason.hint, reason.edit) == ("as Linux names it: sse4.2 is spelled sse4_2", "")


def test_a_long_list_of_flags_ends_with_the_number_of_the_rest() -> None:
    flags = tuple(f"{'x' * 50}{number}" for number in range(128))
    reason = only(replace(ASK, flags=flags), replace(HOST, cpu_model="long " * 60))
    assert reason.asked.endswith("and 126 more")
    assert reason.has.endswith("…")
    assert reason.edit == "", "no edit is cut short"


def test_levels_are_asked_for_as_flags() -> None:
    assert isinstance(answer(replace(ASK, flags=("x86-64-v2",)), HOST), Fit)
    assert only(replace(ASK, flags=("x86-64-v3",)), HOST).asked == "x86-64-v3"


def test_a_host_that_can_only_emulate_serves_who_allows_it() -> None:
    tcg = replace(HOST, accelerator=Accelerator.TCG)
    reason = only(ASK, tcg)
    assert (reason.resource, reason.asked, reason.has) == ("accelerator", "KVM", "emulation only (TCG)")
    assert reason.hint == "electros run … --allow-emulation"
    assert reason.edit == ""
    assert isinstance(answer(replace(ASK, allow_emulation=True), tcg), Fit)
    assert "emulation" in only(replace(ASK, allow_emulation=True, flags=("avx2",)), tcg).has


def test_one_of_the_alternative_archs_is_enough_and_none_means_x86_64() -> None:
    assert isinstance(answer(replace(ASK, archs=(Arch.ARM_8, Arch.X86_32)), HOST), Fit)
    assert isinstance(answer(replace(ASK, archs=()), HOST), Fit)
    reason = only(replace(ASK, archs=(Arch.ARM_8, Arch.S390X)), HOST)
    assert (reason.asked, reason.has) == ("ARM_8 or S390X", "X86_32, X86_64")


@pytest.mark.parametrize(("ecc", "has"), [(None, "unknown: this machine does not say"), (False, "no ECC")])
def test_unknown_is_not_ecc(ecc: bool | None, has: str) -> None:
    reason = only(replace(ASK, ecc=True), replace(HOST, ecc=ecc))
    assert (reason.has, reason.edit, reason.unknown) == (has, "ram.reqECC=false", ecc is None)
    assert isinstance(answer(replace(ASK, ecc=True), replace(HOST, ecc=True)), Fit)


def test_a_class_is_not_there_on_a_machine_whose_cores_are_alike() -> None:
    reason = only(replace(ASK, core_class=CoreClass.PERFORMANCE), HOST)
    assert (reason.resource, reason.asked, reason.edit) == ("class", "performance cores", "cpu.core_class=any")
    assert reason.has == "its cores are all of one kind, or it does not say"
    assert isinstance(answer(replace(ASK, core_class=CoreClass.ANY), HOST), Fit)


def test_of_the_class_that_was_asked_for_there_may_be_too_few() -> None:
    cores = tuple(
        Core((n,), 0, 0, "performance" if n < 2 else "efficiency", max_mhz=5000 if n < 2 else 3000) for n in range(6)
    )
    hardware = replace(HOST, cores=cores)
    reason = only(replace(ASK, slots=3, core_class=CoreClass.PERFORMANCE), hardware)
    assert (reason.resource, reason.has, reason.edit) == ("slots", "2 in all, 2 free", "cpu.slots=2")
    slow = only(replace(ASK, slots=3, min_frequency_mhz=5001), hardware)
    assert (slow.asked, slow.has, slow.edit) == ("5001 MHz", "5000 MHz at most", "cpu.min_frequency=3000")


def test_a_frequency_that_nobody_tells_is_unknown() -> None:
    reason = only(replace(ASK, min_frequency_mhz=1000), replace(HOST, cores=(Core((0,), 0, 0),)))
    assert (reason.resource, reason.has) == ("frequency", "unknown: this machine does not say")
    assert (reason.unknown, reason.edit) == (True, "cpu.min_frequency=0")


def test_huge_pages_that_are_not_there() -> None:
    ask = replace(ASK, ram_mib=4096, hugepages_kib=2048)
    reason = only(ask, HOST)
    assert (reason.resource, reason.asked) == ("hugepages", "2048 pages of 2 MiB on one NUMA node")
    assert (reason.has, reason.edit) == ("none are kept here", "ram.hugepages=none")
    full = replace(HOST, ram_mib=tuple((node, 512) for node, _ in HOST.ram_mib))
    assert [each.edit for each in reasons(ask, full) if each.resource == "hugepages"] == [""], "nor is there other RAM"
    assert only(ask, replace(HOST, pages=(Pages(0, 1024 * 1024, 8),))).has == "none of that size: 1024 MiB alone"
    few = replace(HOST, pages=(Pages(0, 2048, 2047), Pages(1, 2048, 2047)))
    assert only(ask, few).has == "4094 in all, at most 2047 free on one node"
    enough = replace(HOST, pages=(Pages(0, 2048, 2048),))
    taken = claim(ask, enough)
    assert taken.pages == Pages(0, 2048, 2048)
    assert only(ask, enough, [taken]).has == "2048 in all, at most 0 free on one node"


def test_firmware_that_the_host_lacks() -> None:
    reason = only(replace(ASK, firmware=Firmware.UEFI), HOST)
    assert (reason.asked, reason.has, reason.edit) == ("uefi", "bios", "misc.firmware=bios")
    assert "package ovmf" in reason.hint


def test_without_secure_boot_the_nearest_is_uefi() -> None:
    secure = replace(ASK, firmware=Firmware.UEFI_SECURE)
    host = replace(HOST, firmwares=frozenset({Firmware.BIOS, Firmware.UEFI}))
    reason = only(secure, host)
    assert (reason.asked, reason.has, reason.edit) == ("uefi-secure", "bios, uefi", "misc.firmware=uefi")
    assert isinstance(answer(secure, replace(HOST, firmwares=frozenset(Firmware))), Fit)


def test_guests_of_other_architectures_have_no_uefi_whatever_the_host_has() -> None:
    host = replace(HOST, firmwares=frozenset(Firmware))
    reason = only(replace(ASK, archs=(Arch.X86_32,), firmware=Firmware.UEFI), host)
    assert (reason.resource, reason.has, reason.edit) == ("firmware", "bios", "misc.firmware=bios")
    assert "ARM_8 and X86_64 alone" in reason.hint
    assert arch_for(replace(ASK, archs=(Arch.X86_32, Arch.X86_64), firmware=Firmware.UEFI), host) is Arch.X86_64
    assert {arch for arch, platform in PLATFORMS.items() if platform.has_uefi} == UEFI_ARCHS


def test_a_tpm_that_the_host_cannot_give() -> None:
    reason = only(replace(ASK, tpm=True), HOST)
    assert (reason.resource, reason.asked, reason.edit) == ("tpm", "TPM 2.0", "misc.tpm=false")
    assert isinstance(answer(replace(ASK, tpm=True), replace(HOST, tpm=True)), Fit)


def test_devices_free_and_in_use_are_counted() -> None:
    hardware = replace(HOST, pci=(gpu(1, 1), gpu(2, 2)))
    busy = claim(replace(ASK, pci=(GPU,)), hardware)
    reason = only(replace(ASK, pci=(replace(GPU, quantity=2),)), hardware, [busy])
    assert (reason.resource, reason.asked) == ("pci 10de:24b0", "2")
    assert reason.has == "2 in all, 1 free, 1 in use by other VMs"
    assert reason.edit == "pci.0.quantity=1"


def test_the_edit_names_the_ask_that_can_be_lowered() -> None:
    hardware = replace(HOST, pci=(gpu(1, 1), gpu(2, 2)))
    nic = PciAsk("8086", "1572", 1)
    by_kind = {r.resource: r for r in reasons(replace(ASK, pci=(nic, GPU, replace(GPU, quantity=2))), hardware)}
    assert by_kind["pci 10de:24b0"].asked == "3"
    assert by_kind["pci 10de:24b0"].edit == "pci.2.quantity=1"
    assert (by_kind["pci 8086:1572"].has, by_kind["pci 8086:1572"].edit) == ("none here", "pci-=8086:1572")


@pytest.mark.parametrize(
    ("asked", "edit"),
    [
        (PciAsk("", "", 1, "03"), "pci-=gpu"),
        (PciAsk("", "", 1, "0c8000"), "pci-=0c8000"),
        (PciAsk("10de", "", 1, "03"), ""),
        (PciAsk("10de", "24b0", 1, "", "nvidia-63"), "pci-=nvidia-63"),
    ],
)
def test_the_edit_does_without_a_device_by_the_name_that_its_entry_has(asked: PciAsk, edit: str) -> None:
    here = {reason.resource: reason.edit for reason in reasons(replace(ASK, pci=(asked, GPU)), HOST)}
    assert here == {f"pci {device_kind(*wish_of(asked))}": edit, "pci 10de:24b0": "pci-=10de:24b0"}


def test_no_edit_takes_away_what_another_entry_names_as_well() -> None:
    by_kind = {r.resource: r for r in reasons(replace(ASK, pci=(GPU, replace(GPU, device_class="0302"))), HOST)}
    assert {kind: reason.edit for kind, reason in by_kind.items()} == {
        "pci 10de:24b0": "",
        "pci 10de:24b0 class 0302": "",
    }


def test_a_device_of_an_unknown_vendor_is_not_here() -> None:
    reason = only(replace(ASK, pci=(PciAsk("dead", "beef", 1),)), replace(HOST, pci=(gpu(1, 1),)))
    assert (reason.resource, reason.asked, reason.has) == ("pci dead:beef", "1", "none here")
    assert reason.hint == "no such device is in this machine"


def test_devices_of_a_class_are_counted_whatever_they_are() -> None:
    other = replace(gpu(2, 2), vendor="1002", model="73bf", device_class="038000")
    hardware = replace(HOST, pci=(gpu(1, 1), other), pci_refused=(gpu(3, 3, "drives the console"),))
    any_gpu = PciAsk("", "", 3, "03")
    reason = only(replace(ASK, pci=(any_gpu,)), hardware)
    assert (reason.resource, reason.has) == ("pci class 03", "3 in all, 2 free, 1 not assignable")
    assert (reason.hint, reason.edit) == ("0000:03:00.0: drives the console", "pci.0.quantity=2")
    of_vendor = PciAsk("1002", "", 2, "03")
    assert only(replace(ASK, pci=(of_vendor,)), hardware).resource == "pci 1002 class 03"


def test_a_device_that_would_serve_two_entries_serves_one() -> None:
    ask = replace(ASK, pci=(GPU, PciAsk("", "", 1, "03")))
    reason = only(ask, replace(HOST, pci=(gpu(1, 1),)))
    assert (reason.resource, reason.asked, reason.edit) == ("pci", "2 devices", "")
    assert "too few for all" in reason.has
    assert isinstance(answer(ask, replace(HOST, pci=(gpu(1, 1), gpu(2, 2)))), Fit)


def test_no_edit_is_offered_where_another_entry_would_want_what_it_frees() -> None:
    asks = (replace(GPU, quantity=2), PciAsk("", "", 1, "03"))
    (reason,) = reasons(replace(ASK, pci=asks), replace(HOST, pci=(gpu(1, 1),)))
    assert (reason.resource, reason.edit) == ("pci 10de:24b0", "")


def test_devices_that_the_host_keeps_come_with_the_reason() -> None:
    kept = replace(HOST, pci_refused=(gpu(1, 1, "drives the console"),))
    reason = only(replace(ASK, pci=(GPU,)), kept)
    assert reason.has == "1 in all, 0 free, 1 not assignable"
    assert reason.hint == "0000:01:00.0: drives the console"
    disk = PciDevice("0000:09:00.0", "8086", "0a54", "010802", 0, 1, "nvme", False, "holds the root filesystem")
    reason = only(replace(ASK, pci=(GPU,)), replace(HOST, pci=(gpu(1, 1),), pci_refused=(disk,)))
    assert reason.hint == "0000:01:00.0 shares IOMMU group 1 with 0000:09:00.0, which the host keeps"


def test_every_reason_comes_at_once() -> None:
    ask = VmAsk(9, False, 1, (Arch.ARM_8,), ("avx2",), 1 << 20, True, (GPU,), Firmware.UEFI, False)
    found = [reason.resource for reason in reasons(ask, replace(HOST, accelerator=Accelerator.TCG))]
    assert found == ["accelerator", "arch", "flags", "ecc", "firmware", "slots", "ram", "pci 10de:24b0"]


def test_more_reasons_than_a_message_holds_end_with_the_number_of_the_rest() -> None:
    kinds = tuple(PciAsk("ffff", f"{number:04x}", 1) for number in range(PCI_ASKS_MAX))
    found = reasons(replace(ASK, pci=kinds, ecc=True, slots=9), HOST)
    assert len(found) == REASONS_MAX
    assert found[-1].asked == "3 of pci"


def test_groups_too_many_to_name_are_refused_with_a_reason() -> None:
    pci = tuple(replace(gpu(n, n // 3), model="24b0" if n % 3 == 0 else "228b") for n in range(90))
    reason = only(replace(ASK, pci=(replace(GPU, quantity=30),)), replace(HOST, pci=pci))
    assert reason.resource == "pci"
    assert "64" in reason.has


# ---- USB


TOKEN = UsbAsk("1050", "0407", 1)


def token(port: str, controller: str | None = None, why_not: str | None = None) -> UsbDevice:
    bus, number = (int(part) for part in port.split("-"))
    return UsbDevice(port, "1050", "0407", "000000", "", bus, number, controller, None, why_not is None, why_not)


def test_a_token_is_given_to_one_vm_and_the_next_one_reads_who_has_it() -> None:
    ask, host = replace(ASK, usb=(TOKEN,)), replace(HOST, usb=(token("1-1"),))
    has = claim(ask, host)
    assert has.usb == ("1-1",)
    (reason,) = reasons(ask, host, [has], BOB)
    assert (reason.resource, reason.asked, reason.has) == (
        "usb 1050:0407",
        "1",
        "1 in all, 0 free, 1 in use by other VMs",
    )
    assert reason.edit == "usb-=1050:0407"


def test_fewer_tokens_are_told_and_why_the_host_keeps_one() -> None:
    kept = token("1-2", why_not="types, as the host's console may")
    host = replace(HOST, usb=(token("1-1"),), usb_refused=(kept,))
    (reason,) = reasons(replace(ASK, usb=(replace(TOKEN, quantity=2),)), host)
    assert reason.has == "2 in all, 1 free, 1 not assignable"
    assert reason.hint == "1-2: types, as the host's console may"
    assert reason.edit == "usb.0.quantity=1"


def test_a_device_that_is_not_plugged_in_is_not_there() -> None:
    (reason,) = reasons(replace(ASK, usb=(TOKEN,)), HOST)
    assert (reason.has, reason.hint) == ("none here", "no such device is plugged into this machine")


def test_a_controller_goes_with_what_is_plugged_into_it_and_stays_for_it() -> None:
    controller, other = gpu(3), gpu(4)
    host = replace(HOST, pci=(controller,), usb=(token("1-1", controller.address),))
    whole, single = replace(ASK, pci=(GPU,)), replace(ASK, usb=(TOKEN,))
    (reason,) = reasons(single, host, [claim(whole, host)])
    assert reason.resource == "usb 1050:0407"
    (reason,) = reasons(whole, host, [claim(single, host)])
    assert reason.resource == "pci 10de:24b0"
    both = replace(ASK, pci=(GPU,), usb=(TOKEN,))
    (reason,) = reasons(both, host)
    assert reason.has == "not beside the PCI devices: a USB controller goes whole, with what is plugged into it"
    assert claim(both, replace(host, pci=(controller, other))).pci == (other.address,)


def test_a_token_is_taken_where_it_leaves_a_controller_to_others() -> None:
    controller = gpu(3)
    host = replace(HOST, pci=(controller,), usb=(token("1-1", controller.address), token("2-1")))
    assert claim(replace(ASK, usb=(TOKEN,)), host).usb == ("2-1",)


def test_the_judge_gives_a_usb_device_to_one_vm_and_none_whose_controller_somebody_has() -> None:
    controller = gpu(3)
    host = replace(HOST, pci=(controller,), usb=(token("1-1", controller.address), token("2-1")))
    one = replace(claim(ASK, host), usb=("2-1",))
    other = replace(claim(ASK, host, [one]), vm_id=VmId("2" * 32))
    assert admits(host, [one], replace(other, usb=("1-1",)))
    assert not admits(host, [one], replace(other, usb=("2-1",)))
    assert not admits(host, [], replace(one, usb=("2-1", "2-1")))
    assert not admits(host, [], replace(one, usb=("9-9",)))
    assert not admits(host, [], replace(one, usb=("1-1",), pci=(controller.address,)))
    assert not admits(host, [replace(one, pci=(controller.address,))], replace(other, usb=("1-1",)))
    assert not admits(host, [replace(one, usb=("1-1",))], replace(other, pci=(controller.address,)))
