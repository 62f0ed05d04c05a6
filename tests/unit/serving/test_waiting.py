"""Waiting: one deadline for all that a request waits for."""

import asyncio

import pytest
from starlette.requests import Request
from starlette.types import Message

from trainer.serving.faults import RequestFault
from trainer.serving.waiting import Deadline, in_time


def test_the_deadline_does_not_start_again() -> None:
    async def silent() -> Message:
        return await asyncio.Future()

    async def ask() -> None:
        state = {"deadline": Deadline.after(0.3)}
        request = Request({"type": "http", "state": state}, silent)
        await in_time(asyncio.sleep(0.2), request)
        with pytest.raises(RequestFault, match=r"not answered within 0\.3 s"):
            await in_time(asyncio.sleep(0.25), request)

    asyncio.run(ask())
