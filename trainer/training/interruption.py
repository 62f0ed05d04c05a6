"""Interruption: signals and the time limit, checked between steps."""

import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from trainer.errors import Interrupted
from trainer.terminal.activity import is_first_rank
from trainer.terminal.standard_streams import show_cursor

logger = logging.getLogger("trainer")

Handler = Callable[[int, FrameType | None], object] | int | None
"""The type of the handlers that `signal.signal` takes and returns."""
STOPPING = "stopping after this step; a second Ctrl-C stops at once, without saving"
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}


class Interruption:
    """Context manager: records signals instead of ending the process; a second SIGINT ends it.

    `time_limit` is in minutes.
    """

    def __init__(self, time_limit: float | None = None) -> None:
        self.time_limit = time_limit
        self.signal: signal.Signals | None = None
        self.interrupts = 0
        self.started = time.monotonic()
        self._before: dict[signal.Signals, Handler] = {}

    def __enter__(self) -> "Interruption":
        for number in EXIT_CODES:
            try:
                self._before[number] = signal.signal(number, self._record)
            except ValueError:  # Python sets signal handlers only in the main thread
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    @property
    def code(self) -> int:
        """The exit code of a requested exit, or 0 if none was requested."""
        if self.signal is not None:
            return EXIT_CODES[self.signal]
        return 143 if self._time_is_over else 0

    @property
    def _time_is_over(self) -> bool:
        seconds = time.monotonic() - self.started
        return self.time_limit is not None and seconds > 60 * self.time_limit

    def error(self, code: int, checkpoint: str | None) -> Interrupted:
        """The exception that ends the run with exit code `code`.

        `checkpoint` is the path of the checkpoint that was saved, if any.
        """
        other = "the time limit" if self._time_is_over else "a signal on another rank"
        cause = self.signal.name if self.signal else other
        saved = "not saved"
        if checkpoint:
            saved = f"saved {checkpoint}; the same command continues from it"
        return Interrupted(f"stopped by {cause}: {saved}", code)

    def _record(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self.interrupts += 1
        if self.interrupts > 1:
            show_cursor()
            os._exit(130)  # published files stay; the next run removes the staged ones
        if self.interrupts and self.signal is None and is_first_rank():
            with suppress(RuntimeError):  # the signal arrived during a write to the same stream
                logger.warning(STOPPING)
        self.signal = self.signal or signal.Signals(number)
