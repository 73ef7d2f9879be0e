"""Who asks for alternatives waits for the first of them, as long as somebody may still offer it."""

from dataclasses import replace
from random import Random

import pytest

from matcher.scheduler.listening import OFFERS_DEADLINE_S, PEERS, Listening
from matcher.wire.messages import Accelerator, Arch, Firmware, PciAsk, Pledge, Policy, VmAsk, VmOffer
from matcher.wire.seal import Seal
from matcher.wire.slots import CLASSES, slot_begins_s
from specs.ids import HostId

GPU = PciAsk("10de", "24b0", 1)
ASK = VmAsk(1, True, 1, (Arch.X86_64,), (), 512, False, (GPU,), Firmware.BIOS, False, pci_else=((),))
LARGE = 10_000


def listening(ask: VmAsk = ASK, hosts: int = 10) -> Listening:
    pledge = Pledge("a" * 32, 0, (), False, "b" * 32, 1, ask, (), b"s" * 32, 3000, hosts, Policy.PACK)
    return Listening(pledge, Seal.new(Random(1)), 100.0, hosts_asked=hosts)


def hear(client: Listening, number: int, choice: int, after_s: float, hosts: int = 10) -> None:
    offer = VmOffer(
        "a" * 32, f"{number:032x}", f"h{number}", 7766, hosts, 3000, 0.9, (0,), 1, 0, (), Arch.X86_64,
        Accelerator.KVM, choice=choice,
    )  # fmt: skip
    client.heard_vm(offer, HostId(f"{number:064x}"), "10.0.0.1", 100.0 + after_s)


def test_in_a_small_realm_all_are_heard_until_one_has_the_first() -> None:
    client = listening()
    hear(client, 1, 1, 0.002)
    assert client.content_s == 100.0 + OFFERS_DEADLINE_S
    hear(client, 2, 0, 0.004)
    assert client.content_s is not None
    content_s = client.content_s
    assert content_s < 100.05
    hear(client, 3, 0, 0.006)
    assert client.content_s == content_s, "it is not put off by each that comes"


def test_without_alternatives_those_as_near_as_the_first_are_enough() -> None:
    client = listening(replace(ASK, pci_else=()))
    hear(client, 1, 0, 0.002)
    assert client.content_s is not None
    assert client.content_s < 100.05


def test_in_a_large_realm_many_with_a_later_one_are_not_enough_before_their_slot_has_passed() -> None:
    client = listening(hosts=LARGE)
    for number in range(1, PEERS + 3):
        hear(client, number, 1, slot_begins_s(CLASSES - 1) + 0.001, LARGE)
    assert client.content_s == pytest.approx(100.0 + slot_begins_s(CLASSES))
