"""Who gets which device, where one would serve several entries."""

from collections import Counter

import pytest

from atomd.capacity.devices import DeviceKind, Wish, chosen_kinds, serves
from matcher.wire.naming import device_kind

ONE: DeviceKind = ("10de", "24b0", "030000", "")
TWO: DeviceKind = ("10de", "2230", "030200", "")
SLICE: DeviceKind = ("10de", "2230", "030200", "nvidia-63")
OTHER: DeviceKind = ("1002", "73bf", "030200", "")


@pytest.mark.parametrize(
    ("wish", "kinds"),
    [
        (("10de", "24b0", "", ""), [ONE]),
        (("10de", "", "03", ""), [ONE, TWO]),
        (("", "", "0302", ""), [TWO, OTHER]),
        (("10de", "24b0", "0302", ""), []),
        (("", "", "02", ""), []),
        (("", "", "", "nvidia-63"), [SLICE]),
        (("10de", "2230", "", "nvidia-63"), [SLICE]),
        (("10de", "24b0", "", "nvidia-63"), []),
        (("", "", "03", "nvidia-6"), []),
    ],
)
def test_what_is_left_open_is_served_by_any(wish: Wish, kinds: list[DeviceKind]) -> None:
    assert [kind for kind in (ONE, TWO, SLICE, OTHER) if serves(kind, wish)] == kinds


def test_one_entry_makes_way_for_another_that_has_no_choice() -> None:
    wanted: Counter[Wish] = Counter({("", "", "0302", ""): 1, ("10de", "", "03", ""): 2})
    cheap = {ONE: 1, TWO: 1, OTHER: 2}
    free = {ONE: 1, TWO: 1, OTHER: 1}
    assert chosen_kinds(wanted, free, cheap) == Counter([ONE, TWO, OTHER])
    assert chosen_kinds(wanted, {ONE: 1, TWO: 1}, cheap) is None


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (("10de", "24b0", "", ""), "10de:24b0"),
        (("", "", "03", ""), "class 03"),
        (("10de", "", "03", ""), "10de class 03"),
        (("10de", "24b0", "0302", ""), "10de:24b0 class 0302"),
        (("", "", "", ""), "*:*"),
        (("", "", "", "nvidia-63"), "nvidia-63"),
        (("10de", "2230", "", "nvidia-63"), "10de:2230 nvidia-63"),
        (("", "", "03", "nvidia-63"), "class 03 nvidia-63"),
    ],
)
def test_reasons_name_what_was_asked_for(wish: Wish, words: str) -> None:
    assert device_kind(*wish) == words
