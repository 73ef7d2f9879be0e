"""The states of a VM: what may follow what, and what the sets of states promise."""

import itertools

import pytest

from atomd.vms.lifecycle import FOLLOWS, PROMISED, RUNS, State
from tests.fakes.one_host import a_vm


@pytest.mark.parametrize(("before", "after"), list(itertools.product(State, State)))
def test_a_vm_goes_where_the_diagram_allows_and_nowhere_else(before: State, after: State) -> None:
    one = a_vm(before)
    if after in FOLLOWS[before]:
        assert one.to(after, "why").state is after
        assert one.to(after, "why").why == "why"
    else:
        with pytest.raises(AssertionError, match=f"{before} -> {after}"):
            one.to(after)


def test_every_state_has_its_row_and_can_end_in_removing() -> None:
    assert FOLLOWS.keys() == set(State)
    for state in State:
        assert state is State.REMOVING or State.REMOVING in FOLLOWS[state]


def test_what_runs_is_promised_and_what_is_not_promised_does_not_run() -> None:
    assert RUNS < PROMISED
    assert {State.PREPARED, State.REMOVING} == set(State) - PROMISED


def test_only_the_commit_point_leads_from_prepared_to_a_promise() -> None:
    assert FOLLOWS[State.PREPARED] & PROMISED == {State.COMMITTED}


def test_a_vm_is_named_by_its_confirm() -> None:
    one = a_vm(State.RUNNING, generation=7)
    assert (one.vm_id, one.generation, one.offer_id) == ("d" * 32, 7, "2" * 32)
