"""EvaluationProgress: shows the progress of a long evaluation."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.callbacks.callback import Callback
from trainer.terminal import activity

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

BAR_DELAY = 1.0
"""Seconds until the bar of an evaluation is shown."""
SECONDS_BETWEEN_LINES = 30.0
"""Without a terminal, the seconds before the first line and between two lines."""


@dataclass
class EvaluationProgress(Callback):
    """Shows a progress bar, which disappears at the end; without a terminal, a few plain lines."""

    console: "Console"
    training: "Bar | None" = None
    """The bar of training, which is hidden during the evaluation: rich shows only one at a time."""
    before: int = 0
    """The number of samples in earlier evaluations of the same group, which are already done."""
    total: int | None = None
    """The number of samples in all evaluations of the group; None: there is only this one."""

    def __post_init__(self) -> None:
        self._bar: Bar | None = None
        self._began = self._last_line = 0.0

    def on_evaluation_batch(self, done: int, total: int, share: float) -> None:
        from trainer.terminal.bars import can_show_bar

        now = time.monotonic()
        if done == 0 and self.before == 0:
            self._began = self._last_line = now
        elif done == total:
            self.on_close()
        elif can_show_bar(self.console):
            if now - self._began >= BAR_DELAY:
                self._show(*self._whole(done, total, share), now - self._began)
        elif now - self._last_line >= SECONDS_BETWEEN_LINES:
            from trainer.rendering.lines import evaluating_line
            from trainer.terminal.console import show

            self._last_line, whole = now, self._whole(done, total, share)
            show(self.console, evaluating_line(*whole, now - self._began))

    def _show(self, done: int, total: int, share: float, seconds: float) -> None:
        from trainer.rendering.bar import evaluation_bar
        from trainer.rendering.figures import pace

        if self._bar is None:
            activity.done()
            if self.training:
                self.training.stop()
            self._bar = evaluation_bar(self.console, total)
            self._bar.start()
        speed, left = pace(done, share, seconds)
        self._bar.update(self._bar.task_ids[0], completed=done, speed=speed, left=left)

    def _whole(self, done: int, total: int, share: float) -> tuple[int, int, float]:
        """Convert the progress of this evaluation to that of the whole group of evaluations."""
        whole = total if self.total is None else self.total
        return self.before + done, whole, (self.before + share * total) / whole

    def on_close(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None
            if self.training:
                self.training.start()
