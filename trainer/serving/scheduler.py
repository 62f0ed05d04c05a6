"""Scheduler: runs the model in a single thread, with a queue of work."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Protocol

from trainer.errors import InputError, NumericsError, allocation_failure
from trainer.serving.faults import RequestFault

log = logging.getLogger("trainer")


class Channel:
    """Passes events about one HTTP request from the model's thread to the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Any] = asyncio.Queue()
        self.closed = False
        """True if nothing reads the events any more; the model's thread then drops the request."""

    def put(self, event: object) -> None:
        """Add an event, from any thread. If it is a RequestFault, `get` raises it."""
        if not self.closed:
            with suppress(RuntimeError):  # the event loop has ended
                self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def get(self) -> object:
        """Wait for the next event and return it; a RequestFault is raised instead."""
        event = await self._events.get()
        if isinstance(event, RequestFault):
            raise event
        return event


class Work(Protocol):
    """A part of a request that the model must process."""

    @property
    def channel(self) -> Channel:
        """The channel for the answers."""


class Worker(Protocol):
    """Processes many requests at the same time, in the model's thread."""

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do."""

    @property
    def running(self) -> int:
        """The number of texts in progress."""

    def admit(self, waiting: deque[Any]) -> None:
        """Remove work from the left of `waiting` and start it, as much as possible."""

    def step(self) -> None:
        """Call the model once."""

    def fail(self, fault: RequestFault) -> None:
        """Drop all work in progress, and answer it with the fault."""


class Scheduler:
    """Runs a worker in a thread."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._waiting: deque[Any] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, works: Iterable[Work]) -> None:
        """Add work to the queue; the answers are put into the channels of the work."""
        with self._changed:
            self._waiting.extend(works)
            self._changed.notify()

    def stop(self) -> None:
        """End the thread after the current call to the model; remaining work is not answered."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self.alive:
            self._thread.join()

    @property
    def waiting(self) -> int:
        """The number of parts of requests in the queue."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping:
            try:
                if self._admitted():
                    self.worker.step()
            except Exception as error:
                self._give_up(fault_of(error))

    def _admitted(self) -> bool:
        """Start work, or wait if there is none; returns whether there is work in progress."""
        with self._changed:
            self.worker.admit(self._waiting)
            if not self.worker.busy and not self._stopping:
                self._changed.wait()
        return self.worker.busy

    def _give_up(self, fault: RequestFault) -> None:
        """Answer all work in progress with a fault; if there is none, answer the waiting work."""
        if not self.worker.busy:
            with self._changed:
                waiting = list(self._waiting)
                self._waiting.clear()
            for work in waiting:
                work.channel.put(fault)
        self.worker.fail(fault)


def fault_of(error: Exception, status: int = 400) -> RequestFault:
    """The fault for requests whose processing raised an error.

    `status` is the HTTP status for invalid input; other errors have the status 500 or 503 and are
    logged.
    """
    if isinstance(error, (InputError, NumericsError)):
        return RequestFault(status if isinstance(error, InputError) else 500, str(error))
    if isinstance(error, RecursionError):
        return RequestFault(status, "found too many levels; accepted: fewer nested lists, objects")
    if (line := allocation_failure(error)) is not None:
        log.error("serve: %s", line)
        return RequestFault(503, "out of memory; accepted: fewer or shorter texts")
    log.error("serve: the model failed", exc_info=error)
    return RequestFault(500, "the model failed; the server's log says why")
