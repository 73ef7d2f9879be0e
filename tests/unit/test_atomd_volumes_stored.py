"""atomd knows which volumes its own storaged has, by the socket between them."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from atomd.volumes import stored as module
from atomd.volumes.stored import Stored
from matcher.net import local
from matcher.wire.messages import ImageFormat, Message
from matcher.wire.volumes import VIDS_TOLD_MAX, AskVolumesHere, VolumesHere
from specs.ids import Vid
from storaged.here import tell_volumes, volumes_here
from storaged.volume import Snapshot, Volume

A, B = Vid("a" * 32), Vid("b" * 32)


def snapshot(*vids: Vid) -> Snapshot:
    return Snapshot({vid: _volume(vid) for vid in vids})


def _volume(vid: Vid) -> Volume:
    return Volume(vid, "v", 1024, ImageFormat.RAW, True, False, False, False, None, "/srv", "/srv/v", "data.img", None)


class Shelf:
    """What is seen, as `Catalogue` has it."""

    def __init__(self, *vids: Vid) -> None:
        self._now, self._renewed = snapshot(*vids), trio.Event()

    def snapshot(self) -> Snapshot:
        return self._now

    async def renewed(self) -> None:
        await self._renewed.wait()

    def becomes(self, *vids: Vid) -> None:
        self._now = snapshot(*vids)
        self._renewed.set()
        self._renewed = trio.Event()


async def until_known(stored: Stored, vid: Vid, *, is_here: bool) -> None:
    with trio.fail_after(5):
        while (vid in stored) is not is_here:  # noqa: ASYNC110  it tells nobody
            await trio.sleep(0.01)


async def test_what_comes_and_goes_is_known_and_nothing_where_no_storaged_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.01)
    path, shelf = tmp_path / "storaged.sock", Shelf(A)
    stored = Stored(path)

    async def answer(question: Message, _: local.Peer) -> Message:
        assert isinstance(question, AskVolumesHere)
        return await tell_volumes(shelf, question.known)

    async with trio.open_nursery() as outer:
        outer.start_soon(stored.follow)
        async with trio.open_nursery() as nursery:
            await nursery.start(local.serve, path, answer)
            await until_known(stored, A, is_here=True)
            assert B not in stored
            shelf.becomes(B)
            await until_known(stored, B, is_here=True)
            assert A not in stored
            nursery.cancel_scope.cancel()
        await until_known(stored, B, is_here=False)
        outer.cancel_scope.cancel()


async def test_where_nothing_changes_the_same_is_said_again_after_a_while(autojump_clock: MockClock) -> None:
    shelf = Shelf(A)
    here = volumes_here([A])
    begun_s = trio.current_time()
    assert await tell_volumes(shelf, b"") == here
    assert trio.current_time() == begun_s
    assert await tell_volumes(shelf, here.digest) == here
    assert trio.current_time() > begun_s


def test_where_there_are_more_than_can_be_told_any_may_be_here() -> None:
    many = volumes_here([Vid(f"{number:08x}" + "0" * 24) for number in range(VIDS_TOLD_MAX + 1)])
    assert many.more
    stored = Stored(Path("/nowhere"))
    stored._take(many)
    assert A in stored
    stored._take(VolumesHere(b"", b"", False))
    assert A not in stored
