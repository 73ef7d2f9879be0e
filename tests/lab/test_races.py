"""Many want the same at the same moment: one gets it, the others are told, and placed elsewhere where that can be."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.vms import Ended, Vms, domains, electros

pytestmark = pytest.mark.lab

HOSTS = ("h1", "h2", "h3")
WHOLE_HOST = {"slots": 2, "ramsize": 64}
ROUNDS = 2


@pytest.fixture
def vms(lab: Any, tmp_path: Path) -> Iterator[Vms]:
    mine = Vms(lab, tmp_path)
    yield mine
    mine.remove_all()


def race(lab: Any, *clients: list[str]) -> list[Ended]:
    """All of these `electros` commands at the same moment."""
    running = [lab.popen("client", "electros", *words, "-o", "json") for words in clients]
    ended = []
    for each in running:
        out, err = each.communicate(timeout=90)
        ended.append(Ended(each.returncode, out, err))
    return ended


def test_two_clients_race_for_the_last_slot_and_exactly_one_wins(lab: Any, vms: Vms) -> None:
    vms.run("fills-2", WHOLE_HOST, host="h2")
    vms.run("fills-3", WHOLE_HOST, host="h3")
    vms.run("fills-1", host="h1")
    for number in range(ROUNDS):
        names = [f"racer-{number}{side}" for side in "ab"]
        ended = race(lab, *(vms.arguments(name) for name in names))
        assert sorted(end.code for end in ended) == [0, 3], ended
        loser = next(end for end in ended if end.code == 3)
        told = {refusal["host"] for refusal in loser.error["refusals"]}
        assert told == set(HOSTS)
        winner = next(end for end in ended if end.code == 0).document["vm"]
        assert len(domains(lab, "h1")) == 2
        electros(lab, "rm", "--force", winner["id"])


def test_the_loser_is_placed_elsewhere_where_there_is_room(lab: Any, vms: Vms) -> None:
    vms.run("fills-1", host="h1")
    vms.run("fills-2", WHOLE_HOST, host="h2")
    for number in range(ROUNDS):
        names = [f"racer-{number}{side}" for side in "ab"]
        ended = race(lab, *(vms.arguments(name, host="h1") for name in names))
        assert [end.code for end in ended] == [0, 0], ended
        assert sorted(end.document["vm"]["host"] for end in ended) == ["h1", "h3"]
        electros(lab, "rm", "--force", *names)


def test_two_clients_race_for_one_volume_and_exactly_one_gets_it(lab: Any, vms: Vms) -> None:
    volume = [lab.volumes("h2")["h2-data"]]
    for number in range(ROUNDS):
        names = [f"racer-{number}{side}" for side in "ab"]
        ended = race(lab, *(vms.arguments(name, volumes=volume) for name in names))
        winners = [end for end in ended if end.code == 0]
        assert len(winners) == 1, ended
        loser = next(end for end in ended if end.code != 0)
        assert loser.code in (1, 3)
        assert any("volume" in reason["resource"] for each in loser.error["refusals"] for reason in each["reasons"])
        electros(lab, "rm", "--force", winners[0].document["vm"]["id"])


def test_two_vms_of_one_name_on_one_host_are_one(lab: Any, vms: Vms) -> None:
    for _ in range(ROUNDS):
        ended = race(lab, vms.arguments("same", host="h1"), vms.arguments("same", host="h1"))
        codes = Counter(end.code for end in ended)
        assert codes in (Counter({0: 1, 1: 1}), Counter({0: 2})), ended
        if codes[0] == 2:  # names are one's own on a host; over hosts, both are listed
            assert len({end.document["vm"]["host"] for end in ended}) == 2
        vms.remove_all()


def test_eight_clients_race_for_six_slots_and_whoever_asks_again_gets_what_is_left(lab: Any, vms: Vms) -> None:
    """While they choose, they hold what others would need, so that a slot may be left over: never one too many."""
    clients = [vms.arguments(f"racer-{number}") for number in range(8)]
    ended = race(lab, *clients)
    won = sum(end.code == 0 for end in ended)
    assert 3 <= won <= 6, [end.err for end in ended]
    for end in ended:
        assert end.code == 0 or end.error["refusals"], end
    for words, end in zip(clients, ended, strict=True):
        if end.code:
            electros(lab, *words, code=0 if won < 6 else 3)
            won = min(6, won + 1)
    assert [len(domains(lab, host)) for host in HOSTS] == [2, 2, 2]
