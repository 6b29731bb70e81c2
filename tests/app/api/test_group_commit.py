"""Group commit: who shares a group with whom, and who waits for whom."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest

from app.api.http.group_commit import Grouped


def grouped(work: Callable[[list[str]], Sequence[str | Exception]], **options: object) -> Grouped[str, str]:
    return Grouped("test", work, **options)  # type: ignore[arg-type]


def test_what_waits_while_a_group_is_worked_on_is_the_next_group_in_its_order() -> None:
    groups: list[list[str]] = []

    def work(group: list[str]) -> list[str]:
        groups.append(group)
        return [task.upper() for task in group]

    async def main() -> list[str]:
        found = grouped(work, most=3)
        replies = await asyncio.gather(*(found.submit(task) for task in "abcdefg"))
        found.close()
        return list(replies)

    assert asyncio.run(main()) == list("ABCDEFG")
    assert groups == [["a", "b", "c"], ["d", "e", "f"], ["g"]]


def test_those_who_come_one_pass_of_the_loop_after_the_other_share_a_group() -> None:
    groups: list[list[str]] = []

    def work(group: list[str]) -> list[str]:
        groups.append(group)
        return group

    async def main() -> None:
        found = grouped(work, most=3)
        waited = []
        for task in "abcd":
            waited.append(found.submit(task))
            await asyncio.sleep(0)
        await asyncio.gather(*waited)
        found.close()

    asyncio.run(main())
    assert groups == [["a", "b", "c"], ["d"]]


def test_a_lane_that_waits_holds_no_other_up() -> None:
    stuck = threading.Event()

    def work(group: list[str]) -> list[str]:
        if "slow" in group:
            assert stuck.wait(60)
        return group

    async def main() -> None:
        found = grouped(work, threads=2)
        slow, behind = found.submit("slow", "one"), found.submit("behind", "one")
        assert await asyncio.wait_for(found.submit("quick", "two"), 60) == "quick"
        later = found.submit("later", "one")
        assert await asyncio.wait_for(found.submit("quick", "two"), 60) == "quick"
        assert not slow.done()
        assert not later.done()
        stuck.set()
        assert await asyncio.gather(slow, behind, later) == ["slow", "behind", "later"]
        found.close()

    asyncio.run(main())


def test_a_group_is_closed_once_it_is_heavy() -> None:
    sizes: list[int] = []

    def work(group: list[str]) -> list[str]:
        sizes.append(len(group))
        return group

    async def main() -> None:
        found = grouped(work, weigh=len, heaviest=4)
        await asyncio.gather(*(found.submit(task) for task in ("x" * 9, "x", "xx", "xx", "x", "x")))
        found.close()

    asyncio.run(main())
    assert sizes == [1, 3, 2]


def test_a_failure_of_all_is_each_ones_and_a_failure_of_one_its_own() -> None:
    def work(group: list[str]) -> list[str | Exception]:
        if "all" in group:
            raise OSError("gone")
        return [ValueError(task) if task == "wrong" else task for task in group]

    async def main() -> None:
        found = grouped(work)
        one, wrong, two = (found.submit(task) for task in ("one", "wrong", "two"))
        assert (await one, await two) == ("one", "two")
        with pytest.raises(ValueError, match="wrong"):
            await wrong
        lost = [found.submit(task) for task in ("all", "other")]
        for each in lost:
            with pytest.raises(OSError, match="gone"):
                await each
        assert await found.submit("again") == "again"
        found.close()

    asyncio.run(main())


def test_a_stray_stop_iteration_reaches_its_client_too() -> None:
    """As seen: a future takes none, so that the caller waited for ever."""

    def work(_group: list[str]) -> list[str | Exception]:
        return [next(iter([]))]

    async def main() -> None:
        found = grouped(work)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.wait_for(found.submit("one"), 5)
        found.close()

    asyncio.run(main())
