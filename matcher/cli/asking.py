"""The options that `pledge`, `run` and `start` share, and the errand that they make."""

import os
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from matcher.cli.failures import Exit, Failure
from matcher.wire.messages import Policy
from specs.units import duration_s

if TYPE_CHECKING:
    from matcher.scheduler.choosing import Value

Edits = Annotated[
    list[str] | None,
    Parameter(
        name="--set", help="change the specfile on the way, such as ram.ramsize=1024; may be repeated", negative=""
    ),
]
Volumes = Annotated[str | None, Parameter(help="volumespec: the volumes that the VM gets, the boot volume first")]
PolicyName = Annotated[Policy, Parameter(help="pack: least waste; spread: most room left")]
Rank = Annotated[str | None, Parameter(help="rank the offers by an expression of your own, such as 'score - numa'")]
Emulation = Annotated[
    bool | None,
    Parameter(help="accept hosts that can only emulate (slow); ATOMOS_ALLOW_EMULATION=1 says so always"),
]
Lease = Annotated[
    str | None,
    Parameter(help="how long it is to live, such as 90m, 12h or 2d; without it, as long as your grant allows"),
]
LEASE_MIN_S, LEASE_MAX_S = 60, 2**31 - 1  # as in grants


def lease_seconds(given: str | None) -> int:
    """The lease in seconds; 0 where none was given. Raises `Failure`."""
    if given is None:
        return 0
    seconds = duration_s(given)
    if seconds is None or not LEASE_MIN_S <= seconds <= LEASE_MAX_S:
        helps = "a number and s, m, h or d: --lease 90m; from one minute on"
        raise Failure(Exit.USAGE, f"{given[:40]!r} is no lease", helps=helps)
    return seconds


def allows_emulation(given: bool | None) -> bool:
    return os.environ.get("ATOMOS_ALLOW_EMULATION", "") in ("1", "true", "yes") if given is None else given


def ranking(text: str | None) -> "Value | None":
    """The person's expression, compiled. Raises `Failure` with the place of the mistake."""
    if text is None:
        return None
    from matcher.scheduler.ranking import RankingError, compile_ranking

    try:
        return compile_ranking(text).value
    except RankingError as error:
        raise Failure(Exit.USAGE, f"--rank: {error}") from None
