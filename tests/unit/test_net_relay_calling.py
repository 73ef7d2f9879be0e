"""Which relay a client calls: the first that answers, another one where that is lost, and a silent one again."""

from pathlib import Path

import pytest

from matcher.net.https import Door
from matcher.net.relay import calling
from matcher.net.relay.calling import Calling, NoRelay
from tests.attacks.test_relay import relay
from tests.fakes.realms import Realm, make_realm

NOBODY = Door("h9", "9" * 64, "127.0.0.1", 1)


@pytest.fixture(scope="module")
def realm(tmp_path_factory: pytest.TempPathFactory) -> Realm:
    return make_realm(tmp_path_factory.mktemp("realm"), "ann", "h1", "h2")


def test_the_first_that_answers_is_the_relay_and_who_it_is_is_known_then(realm: Realm) -> None:
    told: list[str] = []
    with relay(realm["h1"], lambda *_: []) as door:
        calls = Calling(realm["ann"], lambda: [NOBODY, door], tell=told.append)
        calls.open()
        assert calls.relay is not None
        assert (calls.relay.host, calls.relay.host_id) == ("h1", realm["h1"].principal.id)
        calls.close()
    assert told == ["asking through h1 (127.0.0.1), a relay"]


def test_one_that_is_lost_at_once_is_not_tried_again_and_another_is(realm: Realm) -> None:
    with relay(realm["h1"], lambda *_: []) as first, relay(realm["h2"], lambda *_: []) as second:
        calls = Calling(realm["ann"], lambda: [first], look=lambda: [second])
        calls.open()
        calls.lost("it is gone")
        calls.open()
        assert calls.relay is not None
        assert calls.relay.host == "h2"
        calls.lost("this too")
        with pytest.raises(NoRelay):
            calls.open()


def test_one_that_has_ended_a_silent_line_is_taken_again(realm: Realm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling, "SOON_S", 0.0)
    with relay(realm["h1"], lambda *_: []) as door:
        calls = Calling(realm["ann"], lambda: [door], is_only=True)
        calls.open()
        calls.lost("silent for too long")
        calls.open()
        calls.close()


def test_where_nobody_is_known_that_is_said(realm: Realm, tmp_path: Path) -> None:
    with pytest.raises(NoRelay, match="no host is known"):
        Calling(realm["ann"], list).open()
    with pytest.raises(NoRelay, match="none of h9 answers"):
        Calling(realm["ann"], lambda: [NOBODY]).open()
