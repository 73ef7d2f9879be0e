"""A lease is taken from another server only where losing it has ended the old writer, or on a person's word."""

import pytest

from storaged.leases.takeover import NOT_FENCED, Ground, Member, incoherent, why_not
from storaged.leases.words import Leader
from storaged.testing import H1, H2, vid_of

ONE = vid_of(1)
OCFS2, EXT4 = Ground("ocfs2"), Ground("ext4")
HELD, FREE = Leader(2, 5, is_free=False), Leader(2, 5, is_free=True)
WATCHED = (Member(1, H1, watched=False), Member(2, H2, watched=True))
UNWATCHED = (Member(1, H1, watched=True), Member(2, H2, watched=False))


def lacking(leader: Leader, members: tuple[Member, ...], ground: Ground) -> list[str]:
    refused = why_not(ONE, leader, members, ground, me=1)
    if refused is None:
        return []
    assert refused.code == NOT_FENCED
    assert all(reason.hint for reason in refused.reasons)
    return [reason.has for reason in refused.reasons[1:]]


def test_what_nobody_has_is_no_takeover() -> None:
    assert why_not(ONE, FREE, (), EXT4, me=1) is None
    assert why_not(ONE, HELD, (), EXT4, me=2) is None


def test_a_server_whose_watchdog_ends_it_is_taken_over_from_by_itself() -> None:
    assert why_not(ONE, HELD, WATCHED, OCFS2, me=1) is None


def test_the_watchdog_that_counts_is_that_of_the_server_which_has_the_lease() -> None:
    assert lacking(HELD, UNWATCHED, OCFS2) == ["no watchdog ends it"]


def test_a_server_that_nobody_knows_is_taken_for_one_without_a_watchdog() -> None:
    assert lacking(HELD, WATCHED[:1], OCFS2) == ["nobody knows whether a watchdog ends it"]


def test_every_reason_is_said_at_once() -> None:
    assert lacking(HELD, UNWATCHED, EXT4) == [
        "ext4 is not known to show servers each other's writes",
        "no watchdog ends it",
    ]


def test_where_nothing_can_fence_a_persons_word_can() -> None:
    assert why_not(ONE, HELD, UNWATCHED, EXT4, me=1) is not None
    assert why_not(ONE, HELD, UNWATCHED, EXT4, me=1, is_said_dead=True) is None


@pytest.mark.parametrize("filesystem", ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "nfs", "9p", "fuse.sshfs", ""])
def test_a_filesystem_that_is_not_known_to_be_coherent_is_not(filesystem: str) -> None:
    assert incoherent(Ground(filesystem))


@pytest.mark.parametrize("filesystem", ["ceph", "gfs2", "nfs4", "ocfs2"])
def test_those_made_for_many_servers_are(filesystem: str) -> None:
    assert not incoherent(Ground(filesystem, frozenset({"rw", "hard", "local_lock=none"})))


@pytest.mark.parametrize("option", ["soft", "softerr", "nolock", "local_lock=all"])
def test_nfs_that_gives_up_or_locks_for_itself_is_not(option: str) -> None:
    assert incoherent(Ground("nfs4", frozenset({"rw", option}))) == f"nfs4 is mounted with {option}"
