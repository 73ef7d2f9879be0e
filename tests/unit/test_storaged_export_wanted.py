"""What is wanted and what there is: which exports have to go, and which are missing."""

import dataclasses

import pytest

from matcher.wire.messages import ImageFormat
from storaged.export import wanted as wanted_module
from storaged.export.description import Export, Image, Kind, Observed, chap_of
from storaged.export.wanted import Wanted
from storaged.testing import H1, vid_of
from storaged.volume import Epoch


def export_of(number: int, counter: int = 1) -> Export:
    image = Image(vid_of(number), "/srv", f"/srv/{number}.elimg", "data.img", ImageFormat.RAW)
    epoch = Epoch(counter, f"{counter:016x}")
    return Export(image, epoch, Kind.ISCSI, H1, chap_of(bytes(32), image.vid, epoch))


def seen(export: Export) -> Observed:
    assert export.chap is not None
    who, file = frozenset({export.admitted}), export.image.file
    return Observed(export.image.vid, export.epoch, who, frozenset({export.chap.user}), file, False, 1)


ONE, TWO = export_of(1), export_of(2)


def test_until_it_is_told_nothing_is_too_many() -> None:
    wanted = Wanted()
    assert not [*wanted.too_many([seen(ONE)])]
    wanted.want(TWO)
    assert not [*wanted.too_many([seen(ONE)])]
    wanted.tell([TWO])
    assert [*wanted.too_many([seen(ONE), seen(TWO)])] == [seen(ONE)]


def test_what_is_not_there_or_not_as_it_should_be_is_missing() -> None:
    wanted = Wanted()
    wanted.tell([ONE, TWO])
    assert wanted.missing([]) == [ONE, TWO]
    assert wanted.missing([seen(ONE), dataclasses.replace(seen(TWO), whole=False)]) == [TWO]
    assert wanted.missing([seen(ONE), seen(TWO)]) == []


def test_what_is_wanted_while_others_are_ended_is_left_alone() -> None:
    wanted = Wanted()
    wanted.tell([])
    ends = wanted.too_many([seen(ONE), seen(TWO)])
    assert next(ends) == seen(ONE)
    wanted.want(TWO)
    assert not [*ends]


def test_a_volume_is_let_go_of_in_one_epoch_or_in_all() -> None:
    wanted, next_one = Wanted(), export_of(1, 2)
    wanted.tell([ONE, next_one, TWO])
    wanted.let_go(ONE.image, ONE.epoch)
    assert [*wanted] == [next_one.target, TWO.target]
    wanted.let_go(ONE.image, None)
    assert [*wanted] == [TWO.target]
    wanted.forget(TWO)
    assert TWO.target not in wanted


def test_one_beyond_the_limit_is_refused_and_the_same_again_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wanted_module, "EXPORTS_MAX", 1)
    wanted = Wanted()
    assert wanted.want(ONE) is None
    assert wanted.want(ONE) is None
    refusal = wanted.want(TWO)
    assert refusal is not None
    assert refusal.code == "too-many-exports"
    assert TWO.target not in wanted
