"""One host is asked for the realm; where that is not enough, all are, and nobody's words reach the terminal raw."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from matcher.cli import folders
from matcher.cli import hosts_views as views
from matcher.cli.failures import Exit, Failure
from matcher.cli.hosts import hosts
from matcher.cli.hosts_asking import LATELY_S, look, look_again
from matcher.cli.hosts_seen import Host
from matcher.cli.known import Known
from matcher.cli.session import session
from matcher.wire.codec import to_json
from matcher.wire.gossip import Digest, HostState
from matcher.wire.hosts import HostView, HostViews
from matcher.wire.messages import Reason, Refused, Role
from tests.fakes.hosts import Link, keyboard
from tests.fakes.neighbours import BOTH, host
from tests.unit.test_cli_output import HOSTILE

PATH = "GET /v1/hosts"


@pytest.fixture
def link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Link]:
    """ada is at the keyboard; h0 and h1 are on her link."""
    with keyboard(tmp_path, monkeypatch, "h1") as link:
        yield link


def views_of(link: Link, *more: HostView) -> tuple[HostView, ...]:
    return tuple(host(number, id=each.id, name=each.name) for number, each in enumerate(link.hosts)) + more


def tell(link: Link, *told: HostView, listens_s: int = 600, by: str = "h0 h1", total: int | None = None) -> None:
    """From now on these hosts give this list."""
    for name in by.split():
        link[name].answers[PATH] = HostViews(listens_s, len(told) if total is None else total, told)


def hear_of_all(link: Link) -> None:
    """An earlier command, after which both are known."""
    with session() as mine:
        assert len(mine.query().answers) == 2


def shown(capsys: pytest.CaptureFixture[str], *names: str, **options: Any) -> tuple[dict[str, Any], str]:
    hosts(*names, output="json", **options)
    out, err = capsys.readouterr()
    return json.loads(out), err


def count_queries(link: Link, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    asked = list[int]()
    real = link.client

    def client(*words: Any, **options: Any) -> Any:
        made = real(*words, **options)
        ask = made.ask
        made.ask = lambda question: (asked.append(1), ask(question))
        return made

    monkeypatch.setattr("matcher.cli.session.Client", client)
    return asked


def test_one_host_is_asked_and_nobody_by_multicast_where_its_list_is_whole(
    link: Link, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hear_of_all(link)
    asked = count_queries(link, monkeypatch)
    tell(link, *views_of(link, host(7, HostState.GONE)))
    document, err = shown(capsys)
    assert len(link.asked(PATH)) == 1
    assert asked == []
    assert err == ""
    assert [(each["name"], each["state"], each["told_by"]) for each in document["hosts"]] == [
        ("h0", "alive", "gossip"),
        ("h1", "alive", "gossip"),
        ("h7", "gone", "gossip"),
    ]
    assert document["asked"] in ("h0", "h1")
    assert (document["listens_s"], document["silent"]) == (600, [])


def test_where_nobody_is_known_yet_a_door_is_looked_for_first(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    tell(link, *views_of(link))
    document, _ = shown(capsys)
    assert [each["name"] for each in document["hosts"]] == ["h0", "h1"]
    assert len(link.asked(PATH)) == 1


def test_the_next_host_is_asked_where_one_is_silent_and_that_one_last_the_next_time(
    link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    hear_of_all(link)
    tell(link, *views_of(link))
    link["h0"].close()
    errors = [shown(capsys)[1] for _ in range(12)]
    assert sum("h0 can't be reached" in err for err in errors) <= 1
    assert link["h1"].asked.count(PATH) == 12


def test_one_who_has_just_started_is_made_up_for_by_those_who_answer_for_themselves(
    link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    hear_of_all(link)
    mine, _ = views_of(link)
    tell(link, mine, listens_s=1)
    document, err = shown(capsys)
    assert {each["name"]: each["told_by"] for each in document["hosts"]} == {"h0": "gossip", "h1": "itself"}
    assert document["hosts"][1]["devices"] is document["hosts"][1]["disk_gb"] is None
    assert "has listened for 1 s" in err


def test_who_has_just_started_is_made_up_for_also_by_hosts_that_were_not_heard_of_lately(
    link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    hear_of_all(link)
    long_ago(link["h1"].name)
    mine, _ = views_of(link)
    tell(link, mine, listens_s=1)
    assert [each["name"] for each in shown(capsys)[0]["hosts"]] == ["h0", "h1"]


def long_ago(name: str) -> None:
    """This one was heard of for the last time more than a day ago."""
    cache = folders.cache_folder() / "hosts.json"
    entries = json.loads(cache.read_text())
    for entry in entries.values():
        entry["seen"] -= (LATELY_S + 60) * (entry["name"] == name)
    cache.write_text(json.dumps(entries))


def test_a_host_heard_of_lately_that_the_list_lacks_is_asked_for(
    link: Link, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hear_of_all(link)
    asked = count_queries(link, monkeypatch)
    mine, _ = views_of(link)
    tell(link, mine)
    document, _ = shown(capsys)
    assert [each["name"] for each in document["hosts"]] == ["h0", "h1"]
    assert asked
    asked.clear()
    long_ago("h1")
    assert [each["name"] for each in shown(capsys)[0]["hosts"]] == ["h0"]
    assert asked == [], "one that was not heard of for a day is not waited for"


def test_a_host_that_answers_is_alive_whatever_one_that_is_cut_off_says(
    link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    hear_of_all(link)
    mine, other = views_of(link)
    lost = replace(other, state=HostState.GONE)
    tell(link, mine, lost, replace(host(8, HostState.GONE)), replace(host(9, HostState.GONE)))
    document, _ = shown(capsys)
    assert {each["name"]: each["state"] for each in document["hosts"]} == {
        "h0": "alive",
        "h1": "alive",
        "h8": "gone",
        "h9": "gone",
    }


def test_without_any_list_those_are_shown_that_answer_and_who_is_silent_is_said(
    link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    hear_of_all(link)
    tell(link, *views_of(link), total=99)  # lists that break off
    link["h1"].close()
    link.hosts.remove(link["h1"])
    document, err = shown(capsys)
    assert document["asked"] is None
    assert {each["name"]: each["told_by"] for each in document["hosts"]} == {"h0": "itself"}
    assert document["silent"] == ["h1"]
    assert "silent: h1" in err
    assert "breaks off after 2 of 99" in err
    assert "answered for themselves" in err


def test_where_nobody_answers_it_is_said_so(link: Link) -> None:
    for each in link.hosts:
        each.close()
    link.hosts.clear()
    with pytest.raises(Failure) as failed:
        hosts()
    assert failed.value.exit_code is Exit.UNREACHABLE


def test_one_that_gives_no_list_does_not_keep_others_from_it(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    hear_of_all(link)
    tell(link, *views_of(link))
    link["h0"].answers[PATH] = Refused("odd", (Reason("path", PATH, "no such path", ""),))
    for _ in range(6):
        assert shown(capsys)[0]["asked"] == "h1"


def test_a_no_is_not_asked_for_twice(link: Link) -> None:
    hear_of_all(link)
    for each in link.hosts:
        each.answers[PATH] = Refused("denied", (Reason("grant", PATH, "your grant lacks the verb pledge", ""),))
    with pytest.raises(Failure) as failed:
        hosts()
    assert failed.value.exit_code is Exit.DENIED
    assert len(link.asked(PATH)) == 1


def test_a_host_that_our_own_bundle_has_removed_is_not_shown_whoever_tells_of_it(
    link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    hear_of_all(link)
    tell(link, *views_of(link))
    with session() as mine:
        mine.client.identity.learn([link.realm.issuer.revoke("host", "h1", "", wall_s=time.time())], time.time())
        found = look(mine, as_seen_by="h0")
    assert [each.view.name for each in found.hosts] == ["h0"]


def test_a_host_that_was_removed_is_not_shown_once_the_asked_one_knows_of_it(
    link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its gossip may not have let go of it yet, and our bundle not have heard."""
    hear_of_all(link)
    told = views_of(link)
    link["h0"].learn(link.realm.issuer.revoke("host", "h1", "", wall_s=time.time()))
    for each in link.hosts:
        each.answers[PATH] = HostViews(600, 2, told, each.identity.short_digest)
    document, _ = shown(capsys, as_seen_by="h0")
    assert [each["name"] for each in document["hosts"]] == ["h0"]


def test_one_host_is_asked_by_name(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    hear_of_all(link)
    tell(link, *views_of(link))
    for _ in range(4):
        assert shown(capsys, as_seen_by="h1")[0]["asked"] == "h1"
    assert link["h0"].asked == []
    with pytest.raises(Failure) as failed:
        hosts(as_seen_by="h7")
    assert failed.value.exit_code is Exit.NOT_FOUND


def test_top_goes_on_with_the_same_host_until_that_one_is_silent(link: Link) -> None:
    tell(link, *views_of(link))
    with session() as mine:
        first = look(mine, as_seen_by="h0")
        again = look_again(mine, first)
        assert again.asked == first.asked
        link["h0"].close()
        assert look_again(mine, again).asked == "h1"


def test_lists_are_filtered_by_name_and_state_and_none_is_not_found(
    link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    hear_of_all(link)
    rack = [host(n, state, name=f"rack3-{n}") for n, state in ((10, HostState.ALIVE), (2, HostState.DOWN))]
    tell(link, *views_of(link, *rack))
    assert [each["name"] for each in shown(capsys, "rack3-*")[0]["hosts"]] == ["rack3-2", "rack3-10"]
    assert [each["name"] for each in shown(capsys, state=["daemon-down", "gone"])[0]["hosts"]] == ["rack3-2"]
    assert shown(capsys, state=["left"])[0]["hosts"] == []
    with pytest.raises(Failure) as failed:
        hosts("rack4-*")
    assert failed.value.exit_code is Exit.NOT_FOUND


@pytest.mark.parametrize("form", ["table", "json", "yaml", "name"])
def test_hostile_names_reach_no_terminal_in_any_form(link: Link, capsys: pytest.CaptureFixture[str], form: Any) -> None:
    hear_of_all(link)
    name = HOSTILE.replace("\0", "")  # with one, the list would be no JSON of ours
    tell(link, *views_of(link, host(3, name=name, digest=replace(host(3).digest, drained=True))))
    hosts(output=form)
    out, err = capsys.readouterr()
    assert "owned" in out
    assert err == ""
    assert not {*"\x1b\x07\x9b\r\x00"} & {*out, *err}


def test_a_list_that_goes_on_for_ever_is_given_up(
    link: Link, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("matcher.cli.hosts_asking.HOSTS_MAX", 3)
    hear_of_all(link)
    page = HostViews(600, 99, views_of(link))
    lines = [replace(page, hosts=(host(n), host(n + 1))) for n in range(0, 40, 2)]
    for each in link.hosts:
        each.answers[PATH] = "".join(f"{to_json(line)}\n" for line in lines).encode()  # type: ignore[assignment]
    document, err = shown(capsys)
    assert "a list without end" in err
    assert document["asked"] is None


def test_who_is_doubted_is_asked_last_and_not_forgotten(link: Link) -> None:
    hear_of_all(link)
    known = Known()
    before = known.seen()
    known.doubt(link["h0"].id)
    after = Known().seen()
    assert after[link["h0"].id] < before[link["h0"].id] - 3000
    assert after[link["h1"].id] == before[link["h1"].id]


# ---- as documents and rows


def of(number: int = 1, state: HostState = HostState.ALIVE, **changed: Any) -> Host:
    return Host(host(number, state, **changed))


def test_what_a_host_has_no_role_for_is_unknown_and_not_nothing() -> None:
    storage = of(digest=Digest((Role.STORAGE,), disk_gb=100, disk_free_gb=40))
    shown = views.document(storage)
    assert (shown["slots"], shown["ram_mib"], shown["devices"], shown["accelerator"]) == (None,) * 4
    assert shown["disk_gb"] == {"total": 100, "free": 40}
    assert views.cells(storage)[2:6] == ("-", "-", "-", "40/100 GB")


def test_nothing_is_free_on_a_host_that_is_gone() -> None:
    assert set(views.cells(of(1, HostState.GONE))[2:6]) == {"-"}
    assert "-" not in views.cells(of(1, HostState.DOWN))[2:6]


@pytest.mark.parametrize(
    ("digest", "ram", "disk"),
    [
        (Digest(BOTH, ram_mib=900, ram_free_mib=100, disk_gb=9, disk_free_gb=1), "100/900 MiB", "1/9 GB"),
        (Digest(BOTH, ram_mib=7642, ram_free_mib=6991), "6.8/7.5 GiB", "0/0 GB"),
        (Digest(BOTH, ram_mib=2**20, ram_free_mib=2**19, disk_gb=40_000), "512/1024 GiB", "0.0/40.0 TB"),
    ],
)
def test_amounts_have_one_unit(digest: Digest, ram: str, disk: str) -> None:
    assert views.cells(of(digest=digest))[3] == ram
    assert views.cells(of(digest=digest))[5] == disk


def test_hosts_are_sorted_as_people_count_and_by_what_they_have() -> None:
    few, many, gone = of(1, digest=Digest(BOTH, slots=8, slots_free=1)), of(10), of(2, HostState.GONE)
    many = Host(replace(many.view, digest=Digest(BOTH, slots=64, slots_free=60)))
    assert [each.view.name for each in views.by_room([many, gone, few], "name")] == ["h1", "h2", "h10"]
    assert [each.view.name for each in views.by_room([gone, few, many], "slots")] == ["h10", "h1", "h2"]
    assert [each.view.name for each in views.by_use([gone, many, few], "slots")] == ["h1", "h10", "h2"]
    assert [each.view.name for each in views.by_room([few, many, gone], "state")] == ["h2", "h1", "h10"]


def test_sums_are_of_those_that_live() -> None:
    found = views.sums([of(1), of(2, HostState.SUSPECT), of(3, HostState.DOWN), of(4, HostState.GONE)])
    assert found.amounts["slots"].total == 128
    assert views.counted(found.states) == "1 alive, 1 suspect, 1 daemon-down, 1 gone"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1, "-"), (0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_ages_are_short(seconds: int, said: str) -> None:
    assert views.age(seconds) == said
