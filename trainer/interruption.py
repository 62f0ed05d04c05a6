"""Interruption: signals and the time limit, noticed between two steps."""

import os
import signal
import time
from types import FrameType
from typing import Any

from trainer.errors import Interrupted

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}


class Interruption:
    """A context that remembers signals instead of dying; a second SIGINT leaves at once."""

    def __init__(self, time_limit: float | None = None) -> None:
        self.time_limit = time_limit
        self.signal: signal.Signals | None = None
        self.interrupts = 0
        self.started = time.monotonic()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interruption":
        for number in EXIT_CODES:
            try:
                self._before[number] = signal.signal(number, self._remember)
            except ValueError:  # not in the main thread: the signals are someone else's
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    @property
    def code(self) -> int:
        """The exit code to leave with; 0 while nothing asks to leave."""
        if self.signal is not None:
            return EXIT_CODES[self.signal]
        return 143 if self._over else 0

    @property
    def _over(self) -> bool:
        seconds = time.monotonic() - self.started
        return self.time_limit is not None and seconds > 60 * self.time_limit

    def error(self, code: int, checkpoint: Any) -> Interrupted:
        """The exception that carries `code` out of the run."""
        other = "the time limit" if self._over else "a signal on another rank"
        cause = self.signal.name if self.signal else other
        kept = (
            f"saved {checkpoint}; the same command continues there" if checkpoint else "not saved"
        )
        return Interrupted(f"stopped by {cause}: {kept}", code)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self.interrupts += 1
        if self.interrupts > 1:
            os._exit(130)  # what is published stays; what is staged is swept by the next run
        self.signal = self.signal or signal.Signals(number)
