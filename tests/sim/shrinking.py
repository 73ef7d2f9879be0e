"""A run with a violation, made smaller for as long as the same invariant is violated: fewer hosts, clients and pledges,
fewer kinds of faults, and of what is left less often. What remains is told as the command that runs it again.

After Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", 2002 (ddmin), for the kinds of faults;
numbers are halved towards the least. Each trial is a whole run of its own, so that what is told was seen. Whatever is
taken out, other chances are drawn: a smaller run need not have the violation by the same seed, and some that follow are
tried as well. Pledges come last, as few of them leave the rest no choice.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

from tests.sim.faults import NONE, Faults

TRIALS_MAX = 200
SEEDS = 3  # tried for each smaller run

Violated = Callable[["Plan"], str | None]  # the name of the invariant


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a run depends on."""

    seed: int
    hosts: int
    clients: int
    pledges: int
    faults: Faults

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of faults that may happen."""
        return tuple(field.name for field in fields(Faults) if getattr(self.faults, field.name) > 0)

    @property
    def size(self) -> tuple[int, int, int, int]:
        return self.hosts, len(self.kinds), self.clients, self.pledges

    def only(self, kinds: Sequence[str]) -> "Plan":
        return replace(self, faults=replace(NONE, **{kind: getattr(self.faults, kind) for kind in kinds}))

    def command(self) -> str:
        faults = ",".join(["none", *(f"{kind}={getattr(self.faults, kind)!r}" for kind in self.kinds)])
        numbers = f"--hosts {self.hosts} --clients {self.clients} --pledges {self.pledges}"
        return f"python -m tests.sim --seed {self.seed} {numbers} --faults {faults}"


def shrunk(plan: Plan, violated: Violated, *, trials_max: int = TRIALS_MAX) -> Plan:
    """The smallest found that violates what `plan` does."""
    wanted = violated(plan)
    assert wanted is not None, "there is something to shrink"
    trials = _Trials(wanted, violated, trials_max)
    before = None
    while before != plan:
        before = plan
        plan = _fewer(_fewer(plan, "hosts", trials), "clients", trials)
        plan = _fewer(_fewer_kinds(plan, trials), "pledges", trials)
    return plan


class _Trials:
    """So many runs, and no more."""

    def __init__(self, wanted: str, violated: Violated, left: int) -> None:
        self._wanted, self._violated, self._left = wanted, violated, left
        self._seen: set[Plan] = set()

    def keeps(self, plan: Plan) -> Plan | None:
        """It, or one by another seed, if the violation is still there."""
        for seed in range(plan.seed, plan.seed + SEEDS):
            tried = replace(plan, seed=seed)
            if self._left <= 0 or tried in self._seen:
                continue
            self._left -= 1
            self._seen.add(tried)
            if self._violated(tried) == self._wanted:
                return tried
        return None


def _fewer(plan: Plan, noun: str, trials: _Trials) -> Plan:
    """By half at first, and by ever less where that is too much."""
    step = getattr(plan, noun) // 2
    while step > 0:
        kept = trials.keeps(_with(plan, noun, getattr(plan, noun) - step))
        plan = kept or plan
        step = min(step, getattr(plan, noun) - 1) if kept else step // 2
    return plan


def _with(plan: Plan, noun: str, number: int) -> Plan:
    return replace(plan, **{noun: number})  # type: ignore[arg-type]


def _fewer_kinds(plan: Plan, trials: _Trials) -> Plan:
    """ddmin: without each part of the kinds, the parts smaller and smaller."""
    parts = 2
    while kinds := plan.kinds:
        kept = next(filter(None, (trials.keeps(plan.only(rest)) for rest in _complements(kinds, parts))), None)
        if kept is not None:
            plan, parts = kept, max(parts - 1, 2)
        elif parts >= len(kinds):
            return plan
        else:
            parts = min(2 * parts, len(kinds))
    return plan


def _complements(kinds: Sequence[str], parts: int) -> Iterator[list[str]]:
    length = -(-len(kinds) // parts)
    for start in range(0, len(kinds), length):
        yield [*kinds[:start], *kinds[start + length :]]
