"""Only the maker of a seal can open it, one step at a time."""

from random import Random

import pytest

from matcher.wire.seal import SECRET_BYTES, Seal, opens

SEAL = Seal.new(Random(1))


def test_the_two_secrets_open_the_seal_each_in_its_way() -> None:
    assert opens(SEAL.sealed, SEAL.enough) == "enough"
    assert opens(SEAL.sealed, SEAL.done) == "done"


@pytest.mark.parametrize("secret", [b"", SEAL.sealed, Seal.new(Random(2)).done, SEAL.done[:-1], SEAL.done + b"\0"])
def test_nothing_else_opens_it(secret: bytes) -> None:
    assert opens(SEAL.sealed, secret) is None


def test_a_seal_that_is_none_is_opened_by_nothing() -> None:
    assert opens(b"", SEAL.enough) is None


def test_secrets_are_long_and_stay_out_of_logs() -> None:
    assert len(SEAL.done) == len(SEAL.enough) == len(SEAL.sealed) == SECRET_BYTES
    assert SEAL.done.hex() not in repr(SEAL)
    assert repr(SEAL.done) not in repr(SEAL)
