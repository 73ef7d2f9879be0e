"""Looks at pools: one that hangs is told to, and takes nothing from the others."""

from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest
import trio

from matcher.wire.messages import ImageFormat
from storaged.beneath import Unusable
from storaged.export.description import Image
from storaged.looking import AT_ONCE, Hangs, Looks
from storaged.testing import make_volume, vid_of

A, B = "/srv/a", "/srv/b"


@pytest.fixture
def hanging() -> Iterator[Event]:
    """A look that waits for it goes on until the test has ended."""
    event = Event()
    yield event
    event.set()


async def test_a_pool_that_hangs_is_told_to(hanging: Event) -> None:
    with pytest.raises(Hangs):
        await Looks(look_s=0.01).at(A, hanging.wait)


async def test_however_many_look_at_a_pool_that_hangs_the_others_are_seen(hanging: Event) -> None:
    looks = Looks(look_s=0.01)
    for _ in range(2 * AT_ONCE):
        with pytest.raises(Hangs):
            await looks.at(A, hanging.wait)
    assert await Looks().at(A, lambda: 1) == 1, "the threads of others are not taken"
    looks._look_s = 5.0
    assert await looks.at(B, lambda: 2) == 2


async def test_what_a_look_raises_is_raised() -> None:
    def look() -> None:
        raise Unusable("it is a link")

    with pytest.raises(Unusable, match="it is a link") as problem:
        await Looks().at(A, look)
    assert not isinstance(problem.value, Hangs)


async def test_a_pool_that_answers_is_seen_whatever_it_says(tmp_path: Path) -> None:
    make_volume(tmp_path, vid_of(1), size_mib=1)
    for name in (f"{vid_of(1)}.elimg", "gone.elimg"):
        await Looks().see(Image(vid_of(1), str(tmp_path), f"{tmp_path}/{name}", "data.img", ImageFormat.RAW, False))


async def test_a_look_that_is_called_off_is_not_said_to_hang(hanging: Event) -> None:
    with trio.move_on_after(0.01) as scope:
        await Looks(look_s=60).at(A, hanging.wait)
    assert scope.cancelled_caught
