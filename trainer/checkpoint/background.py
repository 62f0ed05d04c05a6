"""Saving in the background: a thread writes and publishes a checkpoint while training goes on."""

import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from trainer.checkpoint.publish import together
from trainer.errors import LostRank
from trainer.host_memory import available_bytes

logger = logging.getLogger("trainer")

NICENESS = 10
"""How far the thread stands back where training needs all cores (nice, on Linux)."""
LARGEST_SHARE = 0.5
"""Of the available host memory: copies that need more are not made."""


class Gathering(Protocol):
    """Ranks that tell each other JSON values."""

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank, in order, on every rank."""


class BackgroundSave:
    """At most one checkpoint that a thread of this rank is writing.

    The main thread starts it, and asks after each step whether it has failed. `finish` is the only
    method that other ranks have to call too: before the next save, and at the end of the run.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "checkpoint", _stand_back)
        self._save: Future[Path] | None = None
        self._told = True

    def start(self, work: Callable[[], Path]) -> None:
        """Have the thread do `work`, which gives the checkpoint that it has published."""
        assert self._save is None, "the save before this one was not finished"
        self._save, self._told = self._pool.submit(work), False

    @property
    def failed(self) -> bool:
        """Whether the save is over and came to nothing; `finish` raises why."""
        return self._save is not None and self._save.done() and bool(self._save.exception())

    def news(self) -> Path | None:
        """The checkpoint, once: when this is first called after it was published."""
        if self._told or self._save is None or not self._save.done() or self._save.exception():
            return None
        self._told = True
        return self._save.result()

    def wait(self) -> None:
        """Wait for this rank's part. It raises nothing: `finish` does."""
        if self._save is not None:
            self._save.exception()

    def finish(self, ranks: Any) -> Path | None:
        """Wait for the save on every rank; gives the checkpoint unless `news` has.

        Raises what made it fail, on every rank. Every rank calls it.
        """
        if self._save is None:
            return None
        save, self._save = self._save, None
        checkpoint = Path(together(ranks, lambda: str(save.result()))[0])
        return None if self._told else checkpoint

    def close(self) -> None:
        """Wait for the thread's end. A failure that nobody has heard of costs a warning."""
        self._pool.shutdown()
        failure = self._save.exception() if self._save is not None else None
        if failure is not None and not isinstance(failure, LostRank):  # which ends the run anyway
            logger.warning("a checkpoint was not saved: %s", failure)
        self._save = None


def fits_in_memory(size: int, ranks: Gathering) -> bool:
    """Whether every machine has host memory for the copies of its ranks, `size` bytes of this one.

    All ranks get the same answer.
    """
    needed: dict[str, int] = {}
    left: dict[str, int] = {}
    for host, bytes_of_rank, available in ranks.gather(
        [socket.gethostname(), size, available_bytes()]
    ):
        needed[host] = needed.get(host, 0) + bytes_of_rank
        left[host] = min(left.get(host, available), available)
    return all(needed[host] <= LARGEST_SHARE * left[host] for host in needed)


def _stand_back() -> None:
    """Give this thread, and those that it starts, the cores that training leaves."""
    if sys.platform == "linux":  # elsewhere a thread has no priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
