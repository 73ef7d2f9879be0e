"""Fits a second on one core, on machines full of residents. Run: `python -m tests.bench.bench_placement`.

*same*: nobody comes or goes between two fits. *changing*: before each of them one resident goes or comes back. *anew*:
the same, and all residents are counted for each fit, as they were before the count was kept up. They take turns, each
with the same asks, which all differ; a second is one of the process, since the machine has other things to do. Last
what one answer takes: the median of a fit with all reasons against it, and of `admits`, which the ledger asks before it
holds what was found. Prints a table and judges nothing: times drift with the machine.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from random import Random
from statistics import median
from time import perf_counter, process_time
from typing import Any

from atomd.capacity.fit import Fit, fit, fit_on
from atomd.capacity.hardware import Claim, Hardware
from atomd.capacity.occupancy import LastOccupancy, Occupancy
from atomd.capacity.placement import admits, place_on
from atomd.inventory.facts import Core, PciDevice
from matcher.wire.messages import Accelerator, Arch, Firmware, PciAsk, Policy, VmAsk
from specs.ids import UserId, VmId

FITS = 400  # in each turn
TURNS = 5
USER = UserId("a" * 64)
WHOSE: dict[str, Any] = {"vm_id": VmId("f" * 32), "user_id": USER, "policy": Policy.PACK}
SHAPES = (  # cores, threads of each, NUMA nodes, last-level caches, residents
    (2, 1, 1, 1, 1),
    (16, 2, 1, 1, 10),
    (48, 2, 8, 16, 40),
    (32, 8, 4, 4, 20),
    (128, 2, 2, 16, 100),
    (128, 2, 64, 64, 100),
    (256, 1, 64, 64, 100),  # as large as the largest that was recorded
)
Claims = tuple[Claim, ...]


def machine(cores: int, smt: int, nodes: int, caches: int) -> Hardware:
    per_node, per_cache = cores // nodes, cores // caches
    threads = [tuple(n + k * cores for k in range(smt)) for n in range(cores)]
    return Hardware(
        archs=frozenset({Arch.X86_64}),
        accelerator=Accelerator.KVM,
        cpu_model="bench",
        guest_flags=frozenset({"sse2", "avx2"}),
        cores=tuple(Core(threads[n], 0, n // per_node) for n in range(cores)),
        ram_mib=tuple((node, 1 << 20) for node in range(nodes)),
        ecc=True,
        pci=tuple(
            PciDevice(f"0000:{n:02x}:00.0", "10de", "24b0", "030000", n % nodes, n, None, True, None) for n in range(8)
        ),
        pci_refused=(),
        firmwares=frozenset({Firmware.BIOS}),
        caches=tuple(tuple(sum(threads[n : n + per_cache], ())) for n in range(0, cores, per_cache)),
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


def comings_and_goings(claims: Sequence[Claim], random: Random) -> Iterator[tuple[Claim, ...]]:
    """Who is there: all, without one, all, without another one. Who comes back sits at the end, as in a ledger."""
    here = list(claims)
    while here:
        gone = here.pop(random.randrange(len(here)))
        yield tuple(here)
        here.append(gone)
        yield tuple(here)


def fits_per_s(counted: Callable[[Claims], Occupancy], asks: Sequence[VmAsk], whos: Sequence[Claims]) -> float:
    start = process_time()
    for ask, residents in zip(asks, whos, strict=True):
        place_on(ask, counted(residents), **WHOSE)
    return len(asks) / (process_time() - start)


def answer_ms(hardware: Hardware, asks: Sequence[VmAsk], whos: Sequence[Claims]) -> tuple[float, float]:
    fits, judged, last = [], [], LastOccupancy(hardware)
    for ask, residents in zip(asks, whos, strict=True):
        start = perf_counter()
        answer = fit_on(ask, last.of(residents), **WHOSE)
        fits.append(perf_counter() - start)
        if isinstance(answer, Fit):
            start = perf_counter()
            assert admits(hardware, residents, answer.placed.claim)
            judged.append(perf_counter() - start)
    return median(fits) * 1e3, median(judged or [0.0]) * 1e3


def measure(cores: int, smt: int, nodes: int, caches: int, residents: int) -> None:
    random = Random(7)
    hardware = machine(cores, smt, nodes, caches)
    claims = tuple(settle(hardware, residents, random))
    kept_up, changes = LastOccupancy(hardware), comings_and_goings(claims, random)
    turns: list[tuple[float, float, float]] = []
    for _ in range(TURNS):
        asks = [an_ask(random, slots_max=8) for _ in range(FITS)]
        changing = list(islice(changes, FITS))
        same = [changing[-1]] * FITS
        turns.append(
            (
                fits_per_s(kept_up.of, asks, same),
                fits_per_s(kept_up.of, asks, changing),
                fits_per_s(lambda residents: Occupancy(hardware, residents), asks, changing),
            )
        )
    each = [median(turn[way] for turn in turns) for way in range(3)]
    row = [cores * smt, nodes, caches, len(claims), *each, *answer_ms(hardware, asks, changing)]
    print("{:>7} {:>5} {:>6} {:>9} {:>8.0f} {:>9.0f} {:>8.0f} {:>8.3f} {:>10.3f}".format(*row))


if __name__ == "__main__":
    print("                               fits/s:                      median, ms:")
    print("threads nodes caches residents     same  changing     anew      fit     admits")
    for shape in SHAPES:
        measure(*shape)
