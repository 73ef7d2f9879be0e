"""Jobs are remembered for those who repeat a request, and not without bound."""

import trio
from trio.testing import MockClock

from matcher.wire.messages import Reason, Refused
from matcher.wire.volumes import RemoveVolume
from specs.ids import UserId
from storaged.jobs import ENDED_OF_USER_MAX, LINGER_S, Job, Jobs, Order
from storaged.testing import ALICE, BOB, vid_of

NO = Refused("not-done", (Reason("volume", "to be removed", "it is not here", ""),))


def order(number: int, user_id: UserId = ALICE, request: str | None = None) -> Order:
    name = f"r{number}" if request is None else request
    return Order(user_id, vid_of(number), "removed", RemoveVolume(), changes=(vid_of(number),), request=name)


async def at_once(_: Job) -> Refused:
    return NO


async def done(jobs: Jobs, wanted: Order) -> Job:
    job = jobs.start(wanted, at_once)
    assert isinstance(job, Job)
    await job.ended.wait()
    return job


async def test_who_asks_for_much_pushes_out_their_own_oldest_alone(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        jobs = Jobs(nursery)
        bobs = await done(jobs, order(0, BOB))
        for number in range(1, ENDED_OF_USER_MAX + 2):
            await done(jobs, order(number))
        assert jobs.same(order(1)) is None
        assert jobs.same(order(2)) is not None
        assert jobs.same(order(0, BOB)) is bobs
        nursery.cancel_scope.cancel()


async def test_an_answer_is_given_again_for_a_while(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        jobs = Jobs(nursery)
        job = await done(jobs, order(1))
        await trio.sleep(LINGER_S - 1)
        assert jobs.same(order(1)) is job
        assert jobs.same(order(1, BOB)) is None, "another user's name for something"
        await trio.sleep(2)
        assert jobs.same(order(1)) is None


async def test_a_request_without_a_name_is_never_the_same(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        jobs = Jobs(nursery)
        await done(jobs, order(1, request=""))
        assert jobs.same(order(1, request="")) is None
        nursery.cancel_scope.cancel()
