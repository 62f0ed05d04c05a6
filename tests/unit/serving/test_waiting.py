"""Waiting: one deadline for all that a request waits for."""

import asyncio

import pytest
from starlette.requests import Request
from starlette.types import Message

from trainer.serving import waiting
from trainer.serving.faults import RequestFault
from trainer.serving.waiting import Deadline, in_time


class Clock:
    """Seconds that pass only where a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    async def passes(self, seconds: float) -> None:
        self.now += seconds


def test_the_deadline_does_not_start_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two waits that are each shorter than the deadline."""
    clock = Clock()
    monkeypatch.setattr(waiting, "time", clock)

    async def silent() -> Message:
        return await asyncio.Future()

    async def ask() -> None:
        request = Request({"type": "http", "state": {"deadline": Deadline.after(50)}}, silent)
        await in_time(clock.passes(30), request)
        clock.now += 30
        with pytest.raises(RequestFault, match=r"not answered within 50 s"):
            await in_time(asyncio.sleep(5), request)

    asyncio.run(ask())
