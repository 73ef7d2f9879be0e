"""Cells of a guest: true to the claim, or none."""

from hypothesis import given
from hypothesis import strategies as st

from atomd.hypervisor.cells import Cell, by_node, cells_of, sockets

NODE_OF = {0: 0, 1: 0, 2: 1, 3: 1, 4: 0, 5: 0, 6: 1, 7: 1}


def test_vcpus_of_a_node_stand_side_by_side_and_cores_stay_whole() -> None:
    assert by_node((2, 6, 0, 4, 3, 7, 1, 5), NODE_OF) == (0, 4, 1, 5, 2, 6, 3, 7)


def test_each_node_of_the_claim_is_a_cell_and_the_guest_gets_its_ram_in_the_charged_proportions() -> None:
    assert cells_of((0, 1, 2, 3), NODE_OF, ((0, 3300), (1, 1100)), 4001) == (
        Cell(0, 0, 2, 3001),
        Cell(1, 2, 2, 1000),
    )


def test_ram_on_a_further_node_is_a_cell_without_vcpus_behind_the_others() -> None:
    assert cells_of((2, 3), NODE_OF, ((0, 100), (1, 300)), 400) == (Cell(1, 0, 2, 300), Cell(0, 2, 0, 100))


def test_where_cells_could_not_be_true_there_are_none() -> None:
    assert cells_of((0, 1), NODE_OF, ((0, 500),), 400) == (), "one node"
    assert cells_of((0, 2), NODE_OF, ((0, 500),), 400) == (), "vCPUs on a node without RAM"
    assert cells_of((0, 2, 4), NODE_OF, ((0, 250), (2, 250)), 400) == (), "and with RAM on two others"
    assert cells_of((0, 99), NODE_OF, ((0, 250), (1, 250)), 400) == (), "a thread of nobody knows where"
    assert cells_of((0, 2), NODE_OF, ((0, 5000), (1, 1)), 64) == (), "a share of no MiB"


def test_no_socket_lies_in_two_cells() -> None:
    assert sockets((), 2) == 1
    assert sockets((Cell(0, 0, 8, 1), Cell(1, 8, 8, 1)), 2) == 2
    assert sockets((Cell(0, 0, 6, 1), Cell(1, 6, 2, 1)), 2) == 4
    assert sockets((Cell(1, 0, 4, 1), Cell(0, 4, 0, 1)), 2) == 1


@given(
    st.lists(st.sampled_from(sorted(NODE_OF)), min_size=1, unique=True),
    st.lists(st.integers(1, 5000), min_size=1, max_size=3),
    st.integers(1, 9000),
)
def test_cells_hold_every_vcpu_once_and_all_the_ram(taken: list[int], charged: list[int], ram_mib: int) -> None:
    threads = by_node(taken, NODE_OF)
    cells = cells_of(threads, NODE_OF, tuple(enumerate(charged)), ram_mib)
    if cells:
        assert sum(cell.ram_mib for cell in cells) == ram_mib
        inside = [(thread, c.node) for c in cells for thread in threads[c.first : c.first + c.vcpus]]
        assert inside == [(thread, NODE_OF[thread]) for thread in threads]
