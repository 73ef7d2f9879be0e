"""The fuzzer's targets, for some seconds; `python -m tests.fuzz --inputs 1000000` is the whole of it."""

from random import Random

import pytest

from matcher.wire.codec import BadBytes
from tests.fakes.realms import Realm, make_realm
from tests.fuzz.front_door import fuzz_door
from tests.fuzz.mutating import mutated
from tests.fuzz.running import fuzz, fuzz_one
from tests.fuzz.targets import Target, targets

INPUTS = 20_000
DOOR_INPUTS = 60
SEED = 7


@pytest.fixture(scope="module")
def realm(tmp_path_factory: pytest.TempPathFactory) -> Realm:
    return make_realm(tmp_path_factory.mktemp("home"), "ann", "h1", "h2")


def test_no_reader_raises_anything_but_its_refusal(realm: Realm) -> None:
    reports = fuzz(targets(realm, SEED), INPUTS, SEED, lambda _: None)
    assert not [find for report in reports for find in report.finds]
    assert sum(report.inputs for report in reports) == INPUTS


def test_no_body_or_path_is_a_fault_of_the_front_door(realm: Realm) -> None:
    report = fuzz_door(realm, DOOR_INPUTS, SEED)
    assert not report.finds
    assert report.inputs == DOOR_INPUTS


def test_every_input_has_its_target(realm: Realm) -> None:
    assert sum(target.share for target in targets(realm, SEED)) == 1000


def test_what_a_reader_should_not_raise_is_a_find_and_a_refusal_is_none() -> None:
    def read(data: bytes, _: Random) -> None:
        raise IndexError if b"\xff" in data else BadBytes("shape")

    report = fuzz_one(Target("planted", 1000, [b"valid sample"], read), 2000, SEED)
    assert 0 < report.raised < report.inputs
    assert "IndexError" in report.finds[0]


def test_the_same_seed_gives_the_same_inputs() -> None:
    one, other = ([mutated([b"abc", b"defg"], random) for _ in range(50)] for random in (Random(3), Random(3)))
    assert one == other
    assert len({*one}) > 25
