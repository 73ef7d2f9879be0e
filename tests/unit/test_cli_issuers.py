"""What several issuers know of one member, as one entry."""

from matcher.cli.issuers import merged
from matcher.wire.realm import Grant, Member

OLD, NEW = Grant(slots=1), Grant(slots=2)


def member(state: str = "member", *, since_s: int = 10, ends_s: int = 100, grant: Grant = OLD) -> Member:
    return Member("user", "a" * 64, "ada", state, since_s, ends_s, grant)


def test_the_leaf_that_reaches_furthest_is_todays() -> None:
    older, newer = member("expired"), member(since_s=50, ends_s=200, grant=NEW)
    for both in ((older, newer), (newer, older)):
        assert merged(both) == (member(since_s=10, ends_s=200, grant=NEW),)


def test_revoked_is_revoked_whoever_says_so() -> None:
    older, newer = member("revoked"), member(ends_s=200)
    for both in ((older, newer), (newer, older)):
        assert [each.state for each in merged(both)] == ["revoked"]


def test_members_of_today_stand_first() -> None:
    gone, here = Member("user", "b" * 64, "abe", "revoked", 1, 2), Member("user", "c" * 64, "zoe", "member", 1, 2)
    assert [each.name for each in merged((gone, here))] == ["zoe", "abe"]
