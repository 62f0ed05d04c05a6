"""EvaluationProgress: how far a long evaluation is."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.callbacks.callback import Callback

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

INSTANT = 1.0
"""Seconds of an evaluation before its bar shows."""
SECONDS_BETWEEN_LINES = 30.0
"""Without a terminal, from the evaluation's beginning to a first line, and from line to line."""


@dataclass
class EvaluationProgress(Callback):
    """A bar that leaves nothing behind; plain lines, and few, where there is no terminal."""

    console: "Console"
    training: "Bar | None" = None
    """A bar that makes room while this one shows: two do not get along."""
    before: int = 0
    """Samples of earlier evaluations that count as done: of many, this is one."""
    total: int | None = None
    """Samples of all these evaluations; None: it is the only one."""

    def __post_init__(self) -> None:
        self._bar: Bar | None = None
        self._began = self._last_line = 0.0

    def on_evaluation_batch(self, done: int, total: int, share: float) -> None:
        now = time.monotonic()
        if done == 0 and self.before == 0:
            self._began = self._last_line = now
        elif done == total:
            self.on_close()
        elif self.console.is_interactive:
            if now - self._began >= INSTANT:
                self._show(*self._whole(done, total, share), now - self._began)
        elif now - self._last_line >= SECONDS_BETWEEN_LINES:
            from trainer.console import show
            from trainer.rendering.lines import evaluating_line

            self._last_line, whole = now, self._whole(done, total, share)
            show(self.console, evaluating_line(*whole, now - self._began))

    def _show(self, done: int, total: int, share: float, seconds: float) -> None:
        from trainer.rendering.bar import evaluation_bar
        from trainer.rendering.figures import pace

        if self._bar is None:
            if self.training:
                self.training.stop()
            self._bar = evaluation_bar(self.console, total)
            self._bar.start()
        speed, left = pace(done, share, seconds)
        self._bar.update(self._bar.task_ids[0], completed=done, speed=speed, left=left)

    def _whole(self, done: int, total: int, share: float) -> tuple[int, int, float]:
        """The same of all evaluations that this is one of."""
        whole = total if self.total is None else self.total
        return self.before + done, whole, (self.before + share * total) / whole

    def on_close(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None
            if self.training:
                self.training.start()
