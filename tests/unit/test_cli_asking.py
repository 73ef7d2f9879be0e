"""The options that `run` and `start` share."""

import pytest

from matcher.cli.asking import lease_seconds
from matcher.cli.failures import Exit, Failure


def test_a_lease_is_read_and_none_is_as_long_as_the_grant_allows() -> None:
    assert lease_seconds("2h") == 7200
    assert lease_seconds(None) == 0


@pytest.mark.parametrize("given", ["soon", "0", "59s", "99999999999", "-2h"])
def test_what_is_no_lease_is_a_usage_error(given: str) -> None:
    with pytest.raises(Failure) as failed:
        lease_seconds(given)
    assert failed.value.exit_code is Exit.USAGE
