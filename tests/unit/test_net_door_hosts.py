"""A host's list of all hosts, at its front door: whole, in parts, and for whoever may ask for resources."""

import json
from dataclasses import replace

import pytest
import trio

from matcher.net.door.openapi import document
from matcher.net.door.routes import ROUTES
from matcher.net.https import LINE_MAX_BYTES, Connection, Door
from matcher.net.local import FRAME_MAX_BYTES
from matcher.trust.realm import EVERYTHING
from matcher.wire.codec import encode, from_json, to_json
from matcher.wire.gossip import HostState, Says
from matcher.wire.hosts import (
    ACCUSATIONS_MAX,
    MEMBERS_MAX,
    PAGE_MAX,
    Accusation,
    HostViews,
    MemberRow,
    MemberRows,
)
from matcher.wire.realm import Verb
from tests.fakes.door import open_door
from tests.fakes.neighbours import FakeNeighbours, digest, host
from tests.fakes.realms import FOUNDER, Realm, make_realm


@pytest.fixture(scope="module")
def realm(tmp_path_factory: pytest.TempPathFactory) -> Realm:
    made = make_realm(tmp_path_factory.mktemp("realm"), "ann")
    made.add("eve", replace(EVERYTHING, verbs=(Verb.RUN,)))
    return made


@pytest.mark.parametrize("count", [0, 1, PAGE_MAX, 3 * PAGE_MAX + 1])
async def test_the_list_comes_whole_in_parts(realm: Realm, count: int) -> None:
    hosts = tuple(map(host, range(count)))
    async with open_door(realm, neighbours=FakeNeighbours(*hosts, listens_s=7)) as door:
        where = Door(FOUNDER, realm[FOUNDER].principal.id, "127.0.0.1", door.port)
        parts = await trio.to_thread.run_sync(_listed, realm, where)
    assert tuple(each for part in parts for each in part.hosts) == hosts
    assert {(part.total, part.listens_s) for part in parts} == {(count, 7)}


def _listed(realm: Realm, door: Door) -> list[HostViews]:
    with Connection(realm["ann"], door, timeout_s=10) as connection:
        first = connection.first("GET", "/v1/hosts", HostViews)
        assert isinstance(first, HostViews)
        return [first, *connection.rest(HostViews, 10)]


async def test_who_may_not_ask_for_resources_is_not_told_who_is_there(realm: Realm) -> None:
    async with open_door(realm, neighbours=FakeNeighbours(host(1))) as door:
        to = await door.connect(realm["eve"])
        status, body = await to.ask("GET", "/v1/hosts")
        assert (status, json.loads(body)["code"]) == (403, "denied")


async def test_a_door_with_no_view_behind_it_has_no_such_path(realm: Realm) -> None:
    async with open_door(realm) as door:
        to = await door.connect(realm["ann"])
        assert (await to.ask("GET", "/v1/hosts"))[0] == 404


def test_it_is_described() -> None:
    assert document(ROUTES)["paths"]["/v1/hosts"]["get"]["responses"]["200"]["content"].keys() == {
        "application/x-ndjson"
    }


def test_the_largest_part_fits_a_line_and_the_largest_page_of_members_a_frame() -> None:
    addresses = host(1).addresses[0]
    wide = replace(addresses, ip="f" * 45)
    largest = host(
        1, HostState.DOWN, name="\U0001f600" * 64, addresses=(wide, wide), told_s=2**31 - 1, state_s=2**31 - 1
    )
    largest = replace(largest, digest=replace(digest(), arch="X" * 64, level="x" * 64, like="x" * 64, vms=2**31 - 1))
    assert len(to_json(HostViews(9, 9, (largest,) * PAGE_MAX)).encode()) < LINE_MAX_BYTES
    accusation = Accusation("\U0001f600" * 64, Says.REFUSED)
    row = MemberRow(largest, (accusation,) * ACCUSATIONS_MAX, 2**31 - 1, 2**53, False)
    page = encode(MemberRows(9, (row,) * MEMBERS_MAX, True))
    assert len(page) < FRAME_MAX_BYTES


def test_a_part_comes_back_as_it_went() -> None:
    part = HostViews(600, 2, (host(1), host(2, HostState.GONE, name="\x1b[2J")))
    assert from_json(HostViews, to_json(part)) == part
