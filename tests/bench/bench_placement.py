"""How long one answer takes: `fit` on machines full of residents. Run: `python tests/bench/bench_placement.py`.

Prints a table and judges nothing: times drift with the machine.
"""

import sys
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from atomd.capacity.fit import Fit, fit
from atomd.capacity.hardware import Claim, Hardware
from atomd.capacity.placement import admits
from atomd.inventory.facts import Core, PciDevice
from matcher.wire.messages import Accelerator, Arch, Firmware, PciAsk, Policy, VmAsk
from specs.ids import UserId, VmId

ROUNDS = 200
USER = UserId("a" * 64)


def machine(cores: int, smt: int, nodes: int) -> Hardware:
    per_node = cores // nodes
    return Hardware(
        archs=frozenset({Arch.X86_64}),
        accelerator=Accelerator.KVM,
        cpu_model="bench",
        guest_flags=frozenset({"sse2", "avx2"}),
        cores=tuple(Core(tuple(n + k * cores for k in range(smt)), 0, n // per_node) for n in range(cores)),
        ram_mib=tuple((node, 1 << 20) for node in range(nodes)),
        ecc=True,
        pci=tuple(
            PciDevice(f"0000:{n:02x}:00.0", "10de", "24b0", "030000", n % nodes, n, None, True, None) for n in range(8)
        ),
        pci_refused=(),
        firmwares=frozenset({Firmware.BIOS}),
    )


def an_ask(random: Random, *, slots_max: int) -> VmAsk:
    return VmAsk(
        slots=random.randint(1, slots_max),
        smt=random.random() < 0.5,
        overprovision=random.choice([1, 2, 4]),
        archs=(Arch.X86_64,),
        flags=("avx2",),
        ram_mib=random.choice([512, 2048, 8192]),
        ecc=False,
        pci=(PciAsk("10de", "24b0", 1),) if random.random() < 0.05 else (),
        firmware=Firmware.BIOS,
        allow_emulation=False,
    )


def settle(hardware: Hardware, residents: int, random: Random) -> list[Claim]:
    claims: list[Claim] = []
    for number in range(residents * 2):
        answer = fit(
            an_ask(random, slots_max=2),
            hardware,
            claims,
            vm_id=VmId(f"{number:032x}"),
            user_id=USER,
            policy=Policy.PACK,
        )
        if isinstance(answer, Fit) and len(claims) < residents:
            claims.append(answer.placed.claim)
    return claims


def measure(cores: int, smt: int, nodes: int, residents: int) -> None:
    random = Random(7)
    hardware = machine(cores, smt, nodes)
    claims = settle(hardware, residents, random)
    fits, judged = [], []
    for _ in range(ROUNDS):
        ask = an_ask(random, slots_max=8)
        start = perf_counter()
        answer = fit(ask, hardware, claims, vm_id=VmId("f" * 32), user_id=USER, policy=Policy.PACK)
        fits.append(perf_counter() - start)
        if isinstance(answer, Fit):
            start = perf_counter()
            assert admits(hardware, claims, answer.placed.claim)
            judged.append(perf_counter() - start)
    row = [cores * smt, nodes, len(claims), median(fits) * 1e3, max(fits) * 1e3, median(judged or [0.0]) * 1e3]
    print("{:>7} {:>5} {:>9} {:>9.3f} {:>9.3f} {:>11.3f}".format(*row))


if __name__ == "__main__":
    print("threads nodes residents  fit, ms   max, ms  admits, ms")
    for shape in ((2, 1, 1, 1), (16, 2, 1, 10), (48, 2, 8, 40), (128, 2, 2, 100), (128, 2, 64, 100), (32, 8, 4, 20)):
        measure(*shape)
