"""Progress: shows the progress of a run in the terminal."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from trainer.callbacks.callback import Ask, Callback, RunFacts
from trainer.rendering.evaluation_progress import EvaluationProgress
from trainer.terminal import activity

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress as Bar

LOSSES = 20
"""The progress bar shows the mean loss of this many latest steps."""


@dataclass
class Progress(Callback):
    """Shows summaries, a line for each evaluation and, in a terminal, progress bars."""

    stream: Literal["stdout", "stderr"] = "stdout"
    """The stream to which progress is written. A notebook shows it below the cell."""

    def __post_init__(self) -> None:
        self._facts: RunFacts | None = None
        self._bar: Bar | None = None
        self._evaluation: EvaluationProgress | None = None
        self._losses: deque[float] = deque(maxlen=LOSSES)

    @cached_property
    def _console(self) -> "Console":
        from trainer.terminal.console import make_console

        return make_console(stderr=self.stream == "stderr")

    def on_start(self, facts: RunFacts) -> None:
        from trainer.rendering.bar import training_bar
        from trainer.rendering.start import start_summary
        from trainer.terminal.bars import can_show_bar
        from trainer.terminal.console import columns_of

        activity.done()
        self._facts = facts
        self._losses.clear()
        self._show(start_summary(facts, columns_of(self._console)))
        if can_show_bar(self._console):
            self._bar = training_bar(self._console, facts.first_step, facts.total_steps)
            self._bar.start()
        self._evaluation = EvaluationProgress(self._console, self._bar)

    def on_step_end(self, step: int, total_steps: int) -> Ask | None:
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=step)
        return None

    def on_step_measured(self, row: Mapping[str, float]) -> None:
        if self._bar is None or self._facts is None:
            return
        from trainer.rendering.figures import data_wait, measure, speed

        if math.isfinite(row["loss"]):
            self._losses.append(row["loss"])
        fields: dict[str, Any] = {"speed": speed(row), "wait": data_wait(row)}
        if self._losses:
            fields["loss"] = f"loss {measure(sum(self._losses) / len(self._losses))}"
        if per_epoch := self._facts.steps_per_epoch:
            fields["epoch"] = f"epoch {row['step'] / per_epoch:.2f}"
        self._bar.update(self._bar.task_ids[0], **fields)

    def on_log(self, row: Mapping[str, Any]) -> None:
        if self._facts is None:
            return
        from trainer.rendering.lines import memory_figures, skipped_line, training_line

        if "skipped_loss" in row:
            self._show(skipped_line(row))
        elif "loss" not in row:
            return  # on_evaluate shows the rows of evaluations, and marks the best one
        elif self._bar:
            used, peak = memory_figures(row)
            self._bar.update(self._bar.task_ids[0], memory=used, peak=peak)
        else:
            self._show(training_line(row, self._facts.total_steps))

    def on_evaluation_batch(self, done: int, total: int, share: float) -> None:
        if self._evaluation is None:  # an evaluation outside of training
            self._evaluation = EvaluationProgress(self._console)
        self._evaluation.on_evaluation_batch(done, total, share)

    def end_evaluation(self) -> None:
        """Remove the bar of an evaluation, whether it has ended or failed."""
        if self._evaluation:
            self._evaluation.on_close()

    def on_evaluate(self, step: int, metrics: Mapping[str, float], improved: bool) -> Ask | None:
        if self._facts is None:
            return None  # not the main process
        from trainer.rendering.lines import evaluation_lines
        from trainer.terminal.console import columns_of

        width = columns_of(self._console)
        self._show(evaluation_lines(step, self._facts, metrics, improved, width))
        return None

    def on_end(self, summary: Mapping[str, Any]) -> None:
        from trainer.rendering.end import end_summary
        from trainer.terminal.console import is_watched

        self.on_close()
        console = self._console
        self._show(end_summary(summary, console.width, report=is_watched(console)))

    def on_close(self) -> None:
        if self._evaluation:
            self._evaluation.on_close()
        if self._bar:
            self._bar.stop()
        self._bar = self._evaluation = None

    def _show(self, renderable: "RenderableType") -> None:
        from trainer.terminal.console import show

        show(self._console, renderable)
