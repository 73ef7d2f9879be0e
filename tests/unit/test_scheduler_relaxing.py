"""What each host has and lacks, and the smallest changes with which some host would fit."""

from dataclasses import replace

from matcher.scheduler.outcomes import HostReasons
from matcher.scheduler.relaxing import (
    EMULATE,
    EQUAL_MAX,
    RELAXATIONS_MAX,
    Cell,
    State,
    asked,
    matrix,
    relaxations,
    words,
)
from matcher.wire.messages import Arch, Firmware, PciAsk, Reason, VmAsk
from specs.ids import HostId, Vid

ASK = VmAsk(4, False, 1, (Arch.X86_64,), ("avx512f",), 65536, True, (PciAsk("10de", "24b0", 2),), Firmware.BIOS, False)
FLAGS = Reason("flags", "avx512f", "not on this CPU", "", "cpu.flags-=avx512f")
ECC = Reason("ecc", "ECC memory", "unknown", "", "ram.reqECC=false", unknown=True)
SLOTS = Reason("slots", "4", "0 free", "wait")
TCG = Reason("accelerator", "KVM", "emulation only (TCG)", "")
CUT = Reason("more", "2 more", "no room", "")


def ram(mib: int) -> Reason:
    return Reason("ram", "64 GiB", "less", "", f"ram.ramsize={mib}")


def unfit(name: str, *reasons: Reason) -> HostReasons:
    return HostReasons(HostId(name * 32), name, reasons)


def ways(*unfits: HostReasons) -> list[tuple[tuple[str, ...], list[str]]]:
    return [(way.edits, [name for _, name in way.hosts]) for way in relaxations(unfits)]


def test_what_a_host_does_not_speak_of_it_has_but_for_one_that_could_not_say_all() -> None:
    names = asked(ASK, (Vid("b" * 32),), ())
    assert names == ("slots", "ram", "arch", "accelerator", "flags", "ecc", "pci 10de:24b0", f"volume {'b' * 32}")
    whole, cut = matrix(names, (), [unfit("h1", ECC, FLAGS), unfit("h2", FLAGS, CUT)])
    assert [cell.state for cell in whole.cells[3:7]] == [State.HAS, State.LACKS, State.UNKNOWN, State.HAS]
    assert whole.cells[4] == Cell(State.LACKS, FLAGS)
    assert {cell.state for name, cell in zip(names, cut.cells, strict=True) if name != "flags"} == {State.UNKNOWN}


def test_a_host_that_fits_has_all_and_stands_first() -> None:
    rows = matrix(("slots", "ram"), [(HostId("c" * 64), "h3")], [unfit("h1", ram(100))])
    assert [(row.host, row.fits) for row in rows] == [("h3", True), ("h1", False)]
    assert {cell.state for cell in rows[0].cells} == {State.HAS}


def test_a_device_said_by_its_class_is_one_column_and_of_alternatives_the_last() -> None:
    gpu = PciAsk("", "", 2, "03")
    ask = replace(ASK, pci=(PciAsk("10de", "24b0", 1),), pci_else=((gpu,),))
    lacking = Reason("pci class 03", "2", "none here", "")
    names = asked(ask, (), [unfit("h1", lacking)])
    assert [name for name in names if name.startswith("pci")] == ["pci class 03"]
    assert words("pci class 03", ask) == "2"


def test_reasons_that_no_ask_foresees_are_columns_of_their_own() -> None:
    grant = Reason("grant ram", "64 GiB", "8 GiB left", "")
    assert asked(ASK, (), [unfit("h1", grant, CUT)])[-1] == "grant ram"


def test_each_ask_is_told_in_words() -> None:
    told = {name: words(name, ASK) for name in asked(ASK, (), ())}
    assert (told["slots"], told["ram"], told["flags"]) == ("4 cores", "65536 MiB", "avx512f")
    assert told["pci 10de:24b0"] == "2"
    assert words("slots", replace(ASK, slots=1, smt=True)) == "1 thread"


def test_less_serves_also_those_who_need_less_of_less() -> None:
    assert ways(unfit("h1", ram(48000)), unfit("h2", ram(41000))) == [
        (("ram.ramsize=41000",), ["h1", "h2"]),
        (("ram.ramsize=48000",), ["h1"]),
    ]


def test_a_harder_change_that_serves_nobody_more_is_not_told() -> None:
    both = unfit("h1", ram(48000), FLAGS)
    found = ways(both, unfit("h2", ram(48000)), unfit("h3", ram(40000), FLAGS))
    assert found == [
        (("ram.ramsize=48000",), ["h2"]),
        (("ram.ramsize=40000", "cpu.flags-=avx512f"), ["h1", "h2", "h3"]),
        (("ram.ramsize=48000", "cpu.flags-=avx512f"), ["h1", "h2"]),
    ]


def test_fewest_edits_come_first_then_less_of_something_before_something_done_without() -> None:
    device = Reason("pci 10de:24b0", "2", "none here", "", "pci-=10de:24b0")
    fewer = replace(device, has="1 free", edit="pci.0.quantity=1")
    hosts = [unfit("h1", device), unfit("h2", FLAGS), unfit("h3", fewer), unfit("h4", ram(9), FLAGS), unfit("h5", TCG)]
    assert [edits for edits, _ in ways(*hosts)] == [
        ("pci.0.quantity=1",),
        ("cpu.flags-=avx512f",),
        ("pci-=10de:24b0",),
        (EMULATE,),
        ("ram.ramsize=9", "cpu.flags-=avx512f"),
    ]


def test_a_host_that_misses_one_flag_more_needs_that_one_dropped_too() -> None:
    two = replace(FLAGS, edit="cpu.flags-=amx-tile,avx512f")
    assert ways(unfit("h1", FLAGS), unfit("h2", two)) == [
        (("cpu.flags-=avx512f",), ["h1"]),
        (("cpu.flags-=amx-tile,avx512f",), ["h1", "h2"]),
    ]


def test_what_no_edit_helps_is_in_no_relaxation() -> None:
    wicked = replace(FLAGS, edit="cpu.flags-=a --relay evil")
    assert ways(unfit("h1", wicked), unfit("h2", replace(FLAGS, edit="cpu.flags-=$(id)"))) == []
    assert ways(unfit("h1", SLOTS), unfit("h2", FLAGS, SLOTS), unfit("h3", FLAGS, CUT), unfit("h4")) == []


def test_of_two_edits_for_one_field_the_stricter_holds() -> None:
    grant = Reason("grant ram", "64 GiB", "8 GiB left", "", "ram.ramsize=8192")
    assert ways(unfit("h1", ram(48000), grant)) == [(("ram.ramsize=8192",), ["h1"])]
    uefi = Reason("firmware", "uefi", "bios", "", "misc.firmware=bios")
    assert ways(unfit("h1", uefi, replace(uefi, edit="misc.firmware=uefi"))) == []


def test_another_firmware_is_not_said_to_suit_who_did_not_ask_for_it() -> None:
    bios = Reason("firmware", "uefi", "bios", "", "misc.firmware=bios")
    assert ways(unfit("h1", bios, ram(100)), unfit("h2", ram(200)))[-1] == (
        ("misc.firmware=bios", "ram.ramsize=100"),
        ["h1"],
    )


def test_without_secure_boot_and_without_a_tpm_are_edits_and_the_milder_comes_first() -> None:
    ask = replace(ASK, firmware=Firmware.UEFI_SECURE, tpm=True)
    assert {"firmware", "tpm"} <= set(asked(ask, (), ()))
    assert [words(name, ask) for name in ("firmware", "tpm")] == ["uefi-secure", "TPM 2.0"]
    secure = Reason("firmware", "uefi-secure", "bios, uefi", "", "misc.firmware=uefi")
    tpm = Reason("tpm", "TPM 2.0", "no TPM for guests", "", "misc.tpm=false")
    assert ways(unfit("h1", secure), unfit("h2", tpm), unfit("h3", tpm), unfit("h4", secure, tpm)) == [
        (("misc.firmware=uefi",), ["h1"]),
        (("misc.tpm=false",), ["h2", "h3"]),
        (("misc.firmware=uefi", "misc.tpm=false"), ["h1", "h4"]),
    ]


def test_many_amounts_are_told_by_three_and_all_is_bounded() -> None:
    found = ways(*(unfit(f"h{n}", ram(1000 + n)) for n in range(40)))
    assert len(found) == EQUAL_MAX
    assert found[0][0] == ("ram.ramsize=1000",)
    assert len(found[0][1]) == 40
    assert found[-1][1] == ["h39"]
    flags = (replace(FLAGS, edit=f"cpu.flags-=f{n}") for n in range(200))
    assert len(ways(*(unfit(f"h{n}", flag) for n, flag in enumerate(flags)))) == RELAXATIONS_MAX
