"""What a person is told of a change that is refused is whole, and helps."""

from matcher.wire.codec import decode, encode
from matcher.wire.messages import Reason, Refused
from storaged.images.formats import decide_format
from storaged.metadata import Bad
from storaged.shelf import HAS_MAX, HINT_MAX, no
from storaged.testing import vid_of

LONG = "the volume has 10 GB and only grows; " + "make a smaller one and copy the files in a VM, " * 2 + "all of them"


def reason(has: str, hint: str = "") -> Reason:
    refused = no("not-done", vid_of(1), "change it", has, hint)
    assert decode(Refused, encode(refused)) == refused, "as its limits allow"
    return refused.reasons[0]


def test_a_sentence_that_fits_stays_one() -> None:
    assert (reason("x" * HAS_MAX).has, reason("x" * HAS_MAX).hint) == ("x" * HAS_MAX, "")


def test_a_long_sentence_goes_on_where_the_hint_would_be() -> None:
    said = reason(LONG)
    assert said.has == "the volume has 10 GB and only grows"
    assert f"{said.has}; {said.hint}" == LONG


def test_the_word_that_makes_an_image_raw_is_never_cut_off() -> None:
    why = decide_format(b"KDMV" + bytes(508), None)
    assert isinstance(why, Bad)
    said = reason(f"{'x' * 60}: {why.reason}")
    assert "Say --image-format raw if it is a raw disk that begins so" in said.hint


def test_what_is_still_too_long_shows_that_it_is_cut() -> None:
    assert reason("x" * 500).has.endswith("…")
    both = reason(" ".join(["words"] * 200))
    assert len(both.has) <= HAS_MAX
    assert both.hint.endswith("…")
    assert len(both.hint) == HINT_MAX
    assert reason(LONG, "run it again").has.endswith("…")
