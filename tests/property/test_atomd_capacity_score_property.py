"""What people and hosts rely on when a hole is judged, whatever its size and whatever the VM's."""

from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from atomd.capacity.hardware import Hardware
from atomd.capacity.ladder import kept, worth
from atomd.capacity.placement import place
from atomd.capacity.score import fill
from matcher.wire.messages import Policy, VmAsk
from specs.ids import UserId, VmId
from tests.property.test_atomd_capacity_placement_rules import asks, machines

units = st.integers(0, 256)
mib = st.integers(0, 2 << 20) | st.integers(0, 64).map(lambda gib: gib * 1024)


@st.composite
def fits(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """(slots, MiB) of a VM, (units, MiB) of a hole that it fits."""
    slots, size = draw(st.integers(1, 64)), draw(st.integers(129, 1 << 20))
    return slots, size, slots + draw(units), size + draw(mib)


@given(units, mib, units, mib)
def test_a_larger_hole_is_worth_no_less_and_two_no_more_than_both_as_one(c: int, m: int, more: int, mebi: int) -> None:
    assert worth(c + more, m + mebi) >= worth(c, m) + worth(more, mebi)


@given(fits())
def test_a_hole_loses_the_vms_own_worth_at_least(fit: tuple[int, int, int, int]) -> None:
    slots, size, open_units, free = fit
    assert worth(open_units, free) - worth(open_units - slots, free - size) >= worth(slots, size)
    assert 0 < kept(*fit) <= 1


@given(fits())
def test_an_exact_fit_is_the_best_and_nothing_else_is_as_good(fit: tuple[int, int, int, int]) -> None:
    slots, size, open_units, free = fit
    assert fill(slots, size, slots, size) == 1.0
    assert 0 < fill(*fit) <= 1
    if (open_units, free) != (slots, size):
        assert fill(*fit) < 1.0


@given(fits(), st.floats(0.01, 0.99))
def test_of_alike_holes_the_one_that_keeps_more_devices_free_is_better(
    fit: tuple[int, int, int, int], share: float
) -> None:
    assert fill(*fit, (share,)) < fill(*fit, (1.0,))


@given(fits(), units, mib)
def test_of_holes_that_lose_equally_much_the_tighter_one_is_better(
    fit: tuple[int, int, int, int], more: int, mebi: int
) -> None:
    slots, size, open_units, free = fit
    larger = (slots, size, open_units + more, free + mebi)
    assume(more or mebi)
    if kept(*larger) <= kept(*fit):
        assert fill(*larger) < fill(*fit)


@given(asks(), machines())
def test_the_score_is_the_same_for_whoever_asks_and_lies_between_0_and_1(ask: VmAsk, machine: Hardware) -> None:
    scores = set()
    for letter in "ab":
        placed = place(ask, machine, (), vm_id=VmId("1" * 32), user_id=UserId(letter * 64), policy=Policy.PACK)
        scores.add(placed.score if placed is not None else None)
    assert len(scores) == 1
    (score,) = scores
    assert score is None or 0 <= score <= 1


@given(asks(), machines())
def test_a_host_with_something_scarce_comes_after_its_like_without_it(ask: VmAsk, machine: Hardware) -> None:
    ask = replace(ask, pci=())
    scores = []
    for hardware in (machine, replace(machine, pci=(), ecc=False)):
        placed = place(ask, hardware, (), vm_id=VmId("1" * 32), user_id=UserId("a" * 64), policy=Policy.PACK)
        scores.append(placed.score if placed is not None else -1.0)
    if machine.ecc:
        assert scores[0] < scores[1] or scores[1] == -1.0
    assert scores[0] <= scores[1]
