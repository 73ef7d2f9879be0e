"""A specfile becomes an ask with nothing left implicit, and an errand becomes a new pledge each time."""

from random import Random

from matcher.scheduler.pledging import Errand, make_pledge, vm_ask
from matcher.wire.codec import decode, encode
from matcher.wire.messages import Address, Arch, Firmware, PciAsk, Pledge, Policy, VmAsk
from matcher.wire.seal import opens
from specs.ids import Vid, VmId
from specs.specfile import parse_specfile

SMALL = VmAsk(2, False, 1, (Arch.X86_64,), (), 2048, False, (), Firmware.BIOS, False)
RICH = """{"cpu": {"slots": 4, "allowSMT": true, "overprovision": 3, "archs": ["ARM_8", "X86_64"],
 "flags": ["SSE4_2", "avx2", "AVX2"]}, "ram": {"ramsize": 4096, "reqECC": true},
 "pci": [{"vendor": "10DE", "model": "24b0", "quantity": 2}], "misc": {"firmware": "uefi"}}"""


def test_a_short_specfile_gets_its_defaults() -> None:
    assert vm_ask(parse_specfile('{"slots": 2, "ramsize": 2048}'), allow_emulation=False) == SMALL


def test_a_rich_specfile_keeps_every_need() -> None:
    ask = vm_ask(parse_specfile(RICH), allow_emulation=True)
    pci = (PciAsk("10de", "24b0", 2),)
    archs = (Arch.ARM_8, Arch.X86_64)
    assert ask == VmAsk(4, True, 3, archs, ("avx2", "sse4_2"), 4096, True, pci, Firmware.UEFI, True)


def test_a_pledge_says_what_the_errand_says_and_survives_the_wire() -> None:
    errand = Errand(
        VmId("a" * 32), 3, SMALL, (Vid("b" * 32),), (Address("10.0.0.9", 999),), Policy.SPREAD, hosts_known=4
    )
    pledge, seal = make_pledge(errand, random=Random(1), wall_ms=1_700_000_000_000, dry=True, hosts_known=9)
    assert (pledge.vm_id, pledge.generation, pledge.vm, pledge.volumes) == ("a" * 32, 3, SMALL, ("b" * 32,))
    assert (pledge.dry, pledge.sent_at_ms, pledge.policy, pledge.hosts_known) == (
        True,
        1_700_000_000_000,
        Policy.SPREAD,
        9,
    )
    assert opens(pledge.seal, seal.done) == "done"
    assert decode(Pledge, encode(pledge)) == pledge


def test_each_pledge_has_an_id_and_a_seal_of_its_own() -> None:
    random, errand = Random(1), Errand(VmId("a" * 32), 1, SMALL)
    first, second = (make_pledge(errand, random=random, wall_ms=1, dry=False)[0] for _ in range(2))
    assert first.pledge_id != second.pledge_id
    assert first.seal != second.seal
