"""Saving in the background: a thread writes and publishes a checkpoint while training continues."""

import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from trainer.checkpoint.publish import Ranks, together
from trainer.devices.host_memory import available_bytes
from trainer.errors import LostRank

logger = logging.getLogger("trainer")

NICENESS = 10
"""The nice value of the thread on Linux, so that training gets the cores first."""
LARGEST_SHARE = 0.5
"""The largest share of the available host memory that copies may take."""


class Gathering(Protocol):
    """Ranks that exchange JSON values."""

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank, in order, on every rank."""


class BackgroundSave:
    """Writes at most one checkpoint at a time, in a thread of this rank.

    The main thread starts a save and checks after each step whether it failed. `finish` is the only
    method that all ranks have to call: before the next save, and at the end of the run.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "checkpoint", _lower_priority)
        self._save: Future[Path] | None = None
        self._reported = True

    def start(self, work: Callable[[], Path]) -> None:
        """Run `work` in the thread; it returns the checkpoint that it has published."""
        assert self._save is None, "the save before this one was not finished"
        self._save, self._reported = self._pool.submit(work), False

    @property
    def failed(self) -> bool:
        """Whether the save has failed; `finish` raises the reason."""
        return self._save is not None and self._save.done() and bool(self._save.exception())

    def take_published(self) -> Path | None:
        """The published checkpoint, at the first call after it was published; otherwise None."""
        if self._reported or self._save is None or not self._save.done() or self._save.exception():
            return None
        self._reported = True
        return self._save.result()

    def wait(self) -> None:
        """Wait for this rank's save to end; only `finish` raises its failure."""
        if self._save is not None:
            self._save.exception()

    def finish(self, ranks: Ranks) -> Path | None:
        """Wait for every rank's save; returns the checkpoint, unless `take_published` returned it.

        Raises the failure of any rank on every rank. Every rank calls it.
        """
        if self._save is None:
            return None
        save, self._save = self._save, None
        checkpoint = Path(together(ranks, lambda: str(save.result()))[0])
        return None if self._reported else checkpoint

    def close(self) -> None:
        """Wait for the thread to end. A failure not reported yet is logged as a warning."""
        self._pool.shutdown()
        failure = self._save.exception() if self._save is not None else None
        if failure is not None and not isinstance(failure, LostRank):  # a lost rank ends the run
            logger.warning("a checkpoint was not saved: %s", failure)
        self._save = None


def fits_in_memory(size: int, ranks: Gathering) -> bool:
    """Whether every machine has memory for its ranks' copies; this rank's copy takes `size` bytes.

    The result is the same on all ranks.
    """
    needed: dict[str, int] = {}
    left: dict[str, int] = {}
    for host, bytes_of_rank, available in ranks.gather(
        [socket.gethostname(), size, available_bytes()]
    ):
        needed[host] = needed.get(host, 0) + bytes_of_rank
        left[host] = min(left.get(host, available), available)
    return all(needed[host] <= LARGEST_SHARE * left[host] for host in needed)


def _lower_priority() -> None:
    """Lower the priority of this thread and of those that it starts."""
    if sys.platform == "linux":  # only Linux has a priority for each thread
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
