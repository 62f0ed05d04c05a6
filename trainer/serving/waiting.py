"""Waits for answers until the client leaves or the time limit is reached."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request

from trainer.serving.faults import RequestFault
from trainer.serving.openai_answers import event
from trainer.serving.scheduler import Channel

T = TypeVar("T")

PING = 15.0
"""Seconds without an event after which a stream sends a comment, so that proxies keep it open."""
COMMENT = ": waiting\n\n"


class ClientLeft(Exception):
    """The client has closed its connection before it received the whole answer."""


@dataclass(frozen=True)
class Deadline:
    """The time limit of a request."""

    seconds: float
    """The total number of seconds that the request may take."""
    end: float
    """The deadline on the clock of `time.monotonic`."""

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """The deadline for a request that arrives now."""
        return cls(seconds, time.monotonic() + seconds)

    @property
    def left(self) -> float:
        """The number of seconds until the deadline, at least 0."""
        return max(0.0, self.end - time.monotonic())

    @property
    def missed(self) -> RequestFault:
        """The fault for a request that has taken too long."""
        text = f"not answered within {self.seconds:g} s, the limit of serve.request_timeout"
        return RequestFault(504, text)


def deadline_of(request: Request) -> Deadline:
    """The deadline of a request, which the server's middleware (`guard.py`) has set."""
    found = request.state.deadline
    assert isinstance(found, Deadline)
    return found


def channel_of(request: Request) -> Channel:
    """Make a channel for the answers to a request.

    The middleware (`guard.py`) closes the channel when the request ends. Without this, the channel
    of a stream that the client has left would stay open until garbage collection.
    """
    channel = Channel()
    request.state.channels.append(channel)
    return channel


async def answer_of(answer: Awaitable[T], channel: Channel, request: Request) -> T:
    """Like `in_time`, but closes the channel at the end, so that the model drops the request."""
    try:
        return await in_time(answer, request)
    finally:
        channel.closed = True


async def in_time(answer: Awaitable[T], request: Request) -> T:
    """Wait for an answer, and return it.

    Raises RequestFault (504) at the request's deadline, and ClientLeft if the client leaves.
    """
    deadline = deadline_of(request)
    wanted = asyncio.ensure_future(answer)
    left = asyncio.ensure_future(_client_leaves(request))
    try:
        done, _ = await asyncio.wait(
            {wanted, left}, timeout=deadline.left, return_when=asyncio.FIRST_COMPLETED
        )
        if wanted in done:
            return wanted.result()
        if left in done:
            raise ClientLeft
        raise deadline.missed
    finally:
        wanted.cancel()
        left.cancel()


async def stream_of(
    events: AsyncIterator[str], channel: Channel, deadline: Deadline
) -> AsyncIterator[str]:
    """Yield the events, and comments during pauses; a RequestFault becomes the last event."""
    pending = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait({pending}, timeout=min(deadline.left, PING))
            if not done and not deadline.left:
                raise deadline.missed
            if not done:
                yield COMMENT
                continue
            found, pending = pending.result(), None
            yield found
    except StopAsyncIteration:
        return
    except RequestFault as fault:
        yield event(fault.openai)
    finally:
        channel.closed = True
        if pending is not None:
            pending.cancel()


async def _client_leaves(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
