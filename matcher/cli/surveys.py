"""A dry pledge to all hosts, and what came of it: `pledge`, `why` and `capacity` ask so."""

from matcher.cli.failures import Exit, Failure
from matcher.cli.session import no_host_in_reach, session
from matcher.scheduler.choosing import Value
from matcher.scheduler.outcomes import Surveyed
from matcher.scheduler.pledging import Errand
from matcher.scheduler.surveying import Surveying
from matcher.wire.messages import Policy, VmAsk
from specs.ids import Vid, VmId, new_id


def survey(
    ask: VmAsk,
    volumes: tuple[Vid, ...] = (),
    *,
    policy: Policy = Policy.PACK,
    value: Value | None = None,
    counts: bool = False,
) -> tuple[str, Surveyed]:
    """The pledge's id and all answers; `counts`: with how many such VMs fit. Raises `Failure` where there is none."""
    with session() as mine:
        if not mine.client.known:  # a long pledge has to be taken to each host
            mine.query()
        errand = Errand(VmId(new_id(mine.random)), 1, ask, volumes, policy=policy, counts=counts)
        surveying = Surveying(errand, random=mine.random, value=value)
        outcome = mine.client.drive(surveying)
    if not isinstance(outcome, Surveyed):
        raise Failure(Exit.INTERRUPTED, "interrupted")
    if not (outcome.choices or outcome.unfits):
        raise no_host_in_reach()
    return surveying.answers.pledge.pledge_id, outcome
