"""Whoever asks for too much, too often or for nonsense, by their own signature: they get no more than is theirs."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.attacks.attacking import attack, attack_each, attackers, audit, pids
from tests.lab.vms import domains, electros, free_threads

pytestmark = pytest.mark.lab

HOLDS_OF_ONE_USER = 3
HOSTS = ("h1", "h2")
WHOLE_HOST = {"slots": 2, "overprovision": 1}


@pytest.fixture(autouse=True)
def all_free(lab: Any, until: Any) -> Iterator[None]:
    """Every test begins and ends with all that the hosts have; daemons live, and the audit can be read."""
    before = pids(lab)
    until(lambda: set(free_threads(lab).values()) == {2})
    yield
    if left := [vm["id"] for vm in electros(lab, "ps").document["vms"]]:
        electros(lab, "rm", "--force", *left)
    until(lambda: len(attack(lab, dry=True, vm=WHOLE_HOST)["offers"]) == len(HOSTS), within_s=40)
    assert pids(lab) == before
    for host in HOSTS:
        audit(lab, host)


def test_a_thousand_pledges_of_one_user_hold_three_offers_on_each_host_at_most(lab: Any) -> None:
    said = attack(lab, pledges=1000, hold_ms=10_000)
    held = Counter(host for host, _, _ in said["offers"])
    assert held, "else nothing was shown"
    assert max(held.values()) <= HOLDS_OF_ONE_USER
    assert any("holds" in unfit for unfit in said["unfit"])
    assert domains(lab, "h1") == domains(lab, "h2") == []


def test_numbers_that_are_none_are_no_pledge(lab: Any) -> None:
    device = {"vendor": "10de", "model": "24b0"}
    fields: list[dict[str, Any]] = [
        *({"slots": count} for count in (0, -1, 10**9, 1.0, True, "2")),
        *({"ram_mib": count} for count in (0, -1, 10**9)),
        *({"overprovision": count} for count in (0, -1, 65)),
        *({"pci": [device | {"quantity": count}]} for count in (0, -1, 10**9)),
        {"lease_s": -1},
    ]
    for each, said in zip(fields, attack_each(lab, [{"vm": each} for each in fields]), strict=True):
        assert (said["offers"], said["unfit"]) == ([], []), each
    assert domains(lab, "h1") == domains(lab, "h2") == []


def test_one_kind_of_device_named_twice_gets_no_offer(lab: Any) -> None:
    twice = [{"vendor": "10de", "model": "24b0", "quantity": 1}] * 2
    assert attack(lab, vm={"pci": twice})["offers"] == []


def test_what_was_not_offered_is_not_confirmed(lab: Any) -> None:
    """A pledge for little, and a confirm for much."""
    much = {"slots": 2, "overprovision": 1, "ram_mib": 4096}
    for field, value in much.items():
        said = attack(lab, host="h1", confirm_vm={field: value})
        assert said["answer"]["event"] == "refused", (field, said)
    assert domains(lab, "h1") == []


def test_ram_that_a_host_keeps_for_itself_is_not_offered(lab: Any) -> None:
    offered = {host["name"]: host["ram_mib"]["free"] for host in electros(lab, "hosts").document["hosts"]}
    said = attack(lab, vm={"ram_mib": max(offered.values()) + 1}, dry=True)
    assert said["offers"] == []
    assert {host for host, *_ in said["unfit"]} == {*HOSTS}
    assert all("ram" in reasons for _, *reasons in said["unfit"])


def test_of_two_who_want_one_hosts_all_at_once_exactly_one_has_it(lab: Any) -> None:
    for _ in range(3):
        said = attackers(lab, *[{"host": "h1", "vm": WHOLE_HOST}] * 2)
        events = Counter(each["answer"]["event"] for each in said)
        assert events["running"] == 1, said
        assert len(domains(lab, "h1")) == 1
        electros(lab, "rm", "--force", *(vm["id"] for vm in electros(lab, "ps").document["vms"]))
