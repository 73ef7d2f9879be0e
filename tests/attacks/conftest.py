"""A lab of its own for those who attack it: two hosts and a client, raised once for the session."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lab.conftest import Lab, raised, until


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    with raised("attacks", "-n", "2") as lab:
        yield lab


@pytest.fixture(name="until", scope="session")
def until_fixture() -> Callable[..., Any]:
    return until
