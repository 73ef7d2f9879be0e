"""What users are said to have elsewhere: as good as the newest word, and gone when nobody repeats it."""

from atomd.capacity import uses
from atomd.capacity.quota import Quota
from atomd.capacity.uses import FORGET_S, Uses, uses_here
from matcher.wire.realm import HostUse, Use, UserUse
from specs.ids import HostId, UserId
from tests.fakes.one_host import OneHost

ANN, BOB = UserId("a" * 64), UserId("b" * 64)
H2, H3 = HostId("2" * 64), HostId("3" * 64)
NOW_S = 1000.0


def said(user_id: UserId, slots: int) -> UserUse:
    return UserUse(user_id[:16], slots, slots * 100, 1 if slots else 0)


def test_what_all_hosts_say_of_a_user_adds_up_and_they_are_named() -> None:
    heard = Uses()
    heard.eat(H2, "h2", [said(ANN, 2), said(BOB, 7)], NOW_S)
    heard.eat(H3, "h3", [said(ANN, 3)], NOW_S)
    found = heard.elsewhere(ANN, NOW_S)
    assert found.use == Use(5, 500, 2)
    assert found.hosts == ("h2", "h3")
    assert heard.elsewhere(UserId("c" * 64), NOW_S).hosts == ()


def test_an_admin_is_told_host_by_host() -> None:
    heard = Uses()
    heard.eat(H3, "h3", [said(ANN, 3)], NOW_S)
    heard.eat(H2, "h2", [said(ANN, 2), said(BOB, 7)], NOW_S)
    assert heard.told(ANN, NOW_S) == (HostUse("h2", H2, 2, 200, 1), HostUse("h3", H3, 3, 300, 1))
    assert heard.told(ANN, NOW_S + FORGET_S) == ()


def test_a_newer_word_takes_the_place_of_the_older_and_nothing_is_a_word_too() -> None:
    heard = Uses()
    heard.eat(H2, "h2", [said(ANN, 2)], NOW_S)
    heard.eat(H2, "h2", [said(ANN, 1)], NOW_S + 1)
    assert heard.elsewhere(ANN, NOW_S + 1).use.slots == 1
    heard.eat(H2, "h2", [said(ANN, 0)], NOW_S + 2)
    assert heard.elsewhere(ANN, NOW_S + 2).hosts == ()
    assert len(heard) == 0


def test_a_host_that_says_nothing_more_is_forgotten() -> None:
    heard = Uses()
    heard.eat(H2, "h2", [said(ANN, 2)], NOW_S)
    heard.eat(H3, "h3", [said(ANN, 3)], NOW_S + 50)
    assert heard.elsewhere(ANN, NOW_S + FORGET_S - 1).hosts == ("h2", "h3")
    assert heard.elsewhere(ANN, NOW_S + FORGET_S).hosts == ("h3",)
    heard.eat(H3, "h3", [said(ANN, 3)], NOW_S + FORGET_S)
    assert heard.elsewhere(ANN, NOW_S + FORGET_S + 50).hosts == ("h3",), "it was said again"


def test_a_flood_of_users_is_bounded_and_what_was_heard_first_stays() -> None:
    heard = Uses()
    heard.eat(H2, "h2", [UserUse(f"{number:016x}", 1, 1, 1) for number in range(uses.ENTRIES_MAX + 5)], NOW_S)
    assert len(heard) == uses.ENTRIES_MAX
    heard.eat(H2, "h2", [UserUse("0" * 16, 9, 9, 9)], NOW_S)
    assert heard.elsewhere(UserId("0" * 64), NOW_S).use.slots == 9


def test_a_host_knows_what_its_users_have() -> None:
    host = OneHost()
    host.running()
    host.stopped()
    quota = Quota(host="h1", kinds={}, vms=host.compute.ids_of)
    found = uses_here(quota, host.compute.vms.values(), host.ledger.committed())
    assert found == (UserUse(ANN[:16], slots=1, ram_mib=512, vms=2),)
