import asyncio

import pytest

from fiscus.api.deadlines import Deadlines


async def inside(deadlines: Deadlines, waiting: asyncio.Future[None]) -> str:
    task = deadlines.enter()
    try:
        await waiting
    except asyncio.CancelledError:
        if not deadlines.is_over(task):
            raise
        return "over"
    finally:
        deadlines.leave(task)
    return "done"


async def test_a_task_that_stays_too_long_is_told_and_goes_on():
    deadlines = Deadlines(0.02)
    task = asyncio.create_task(inside(deadlines, asyncio.get_running_loop().create_future()))
    assert await asyncio.wait_for(task, 10) == "over"
    assert task.cancelling() == 0
    assert deadlines.count == 0


async def test_a_task_that_leaves_in_time_is_left_alone():
    deadlines, waiting = Deadlines(10), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(inside(deadlines, waiting))
    await asyncio.sleep(0)
    assert deadlines.count == 1
    waiting.set_result(None)
    assert await task == "done"
    assert deadlines.count == 0


async def test_a_cancellation_by_somebody_else_is_not_taken_for_the_end_of_the_time():
    deadlines = Deadlines(10)
    task = asyncio.create_task(inside(deadlines, asyncio.get_running_loop().create_future()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert deadlines.count == 0


async def test_only_those_that_are_late_are_told():
    deadlines, loop = Deadlines(0.1), asyncio.get_running_loop()
    early = asyncio.create_task(inside(deadlines, loop.create_future()))
    waiting = loop.create_future()
    async with asyncio.timeout(10):
        while deadlines._tick < 3:
            await asyncio.sleep(0.001)
        late = asyncio.create_task(inside(deadlines, waiting))
        assert await early == "over"
    assert not late.done()
    waiting.set_result(None)
    assert await late == "done"


async def test_no_timer_runs_while_nobody_is_inside():
    deadlines, waiting = Deadlines(0.02), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(inside(deadlines, waiting))
    await asyncio.sleep(0)
    assert deadlines._timer is not None
    waiting.set_result(None)
    await task
    async with asyncio.timeout(10):
        while deadlines._timer is not None:
            await asyncio.sleep(0.001)
