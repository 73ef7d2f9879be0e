"""sanlock's answers are read strictly: what is not the whole answer about the lease that was asked for is none."""

import pytest

from specs.ids import Vid
from storaged.leases.words import (
    Code,
    Leader,
    Lease,
    Lockspace,
    code_of,
    held_of,
    is_speakable,
    is_watched,
    leader_of,
)
from storaged.testing import vid_of

POOL = "a" * 32
LEASE = Lease(POOL, vid_of(1), "/srv/pool/.leases/one")


def said(lease: Lease = LEASE, **changed: object) -> str:
    """As `sanlock direct read_leader` of 3.8.5 says it."""
    fields = {
        "magic": "0x6152010",
        "sector_size": 512,
        "owner_id": 2,
        "owner_generation": 1,
        "lver": 7,
        "space_name": lease.pool_id,
        "resource_name": lease.vid,
        "timestamp": 37240,
        "checksum": "0x4ae71816",
        **changed,
    }
    return "read_leader done 0\n" + "".join(f"{name} {value}\n" for name, value in fields.items())


def test_a_lease_says_who_has_it_and_how_often_it_was_had() -> None:
    assert leader_of(said(), LEASE) == Leader(2, 7, is_free=False)
    assert leader_of(said(timestamp=0), LEASE) == Leader(2, 7, is_free=True)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "read_leader done -2\n" + said().partition("\n")[2],
        said().partition("\n")[2],
        said(lver="seven"),
        said(owner_id=""),
        said(Lease(POOL, vid_of(2), LEASE.file)),
        said(Lease("b" * 32, vid_of(1), LEASE.file)),
        said().partition("timestamp")[0],
    ],
)
def test_a_lease_that_is_not_read_whole_has_no_leader(answer: str) -> None:
    assert leader_of(answer, LEASE) is None


def test_the_result_is_found_among_what_else_is_said() -> None:
    assert code_of("acquire pid 31584\nacquire done -243\n") == Code.LIVE
    assert code_of("add_lockspace_timeout 1\nadd_lockspace_timeout done 0\n") == Code.DONE
    assert code_of("register\n") is None


def test_a_watchdog_counts_only_where_the_daemon_says_so() -> None:
    assert is_watched("daemon host1\n    our_host_name=host1\n    use_watchdog=1\n")
    assert not is_watched("daemon host1\n    use_watchdog=0\n")
    assert not is_watched("")


def test_a_colon_in_a_path_is_no_end_of_it() -> None:
    assert Lease(POOL, vid_of(1), "/a:b/c").word == f"{POOL}:{vid_of(1)}:/a\\:b/c:0"
    assert Lease(POOL, vid_of(1), "/a").at(3) == f"{POOL}:{vid_of(1)}:/a:0:3"
    assert Lockspace(POOL, "/a").member(9) == f"{POOL}:9:/a:0"


@pytest.mark.parametrize("path", ["/a b", "/a\\b", "/a\nb", "/" + "a" * 1000])
def test_what_sanlock_would_read_as_something_else_is_not_said(path: str) -> None:
    assert not is_speakable(path)
    with pytest.raises(AssertionError):
        _ = Lease(POOL, Vid("c" * 32), path).word


def test_what_a_process_holds_is_told_by_pool_whatever_its_paths_look_like() -> None:
    other = "b" * 32
    said = (
        f'inquire pid 5\ninquire done 0 res_count 3\n"{POOL}:{vid_of(1)}:/a:0:7 '
        f'{POOL}:{vid_of(2)}:/{other}:{vid_of(9)}:/a:0:1 {other}:{vid_of(3)}:/b:0:1"\n'
    )
    assert held_of(said, POOL) == {vid_of(1), vid_of(2)}
    assert held_of(said, other) == {vid_of(3)}
    assert held_of('inquire done 0 res_count 0\n"(null)"\n', POOL) == frozenset()
