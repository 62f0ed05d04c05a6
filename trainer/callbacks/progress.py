"""Progress: what a person sees of a run while it runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from trainer.callbacks.callback import Ask, Callback, RunFacts
from trainer.rendering.evaluation_progress import EvaluationProgress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar


@dataclass
class Progress(Callback):
    """Summaries, a line for each evaluation, and bars; a line for each row without a terminal."""

    def __post_init__(self) -> None:
        self._facts: RunFacts | None = None
        self._bar: Bar | None = None
        self._evaluation: EvaluationProgress | None = None

    @cached_property
    def _console(self) -> "Console":
        from trainer.console import make_console

        return make_console()

    def on_start(self, facts: RunFacts) -> None:
        from trainer.console import show
        from trainer.rendering.bar import training_bar
        from trainer.rendering.start import start_summary

        self._facts = facts
        show(self._console, start_summary(facts))
        if self._console.is_interactive:
            self._bar = training_bar(self._console, facts.first_step, facts.total_steps)
            self._bar.start()
        self._evaluation = EvaluationProgress(self._console, self._bar)

    def on_step_end(self, step: int, total_steps: int) -> Ask | None:
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=step)
        return None

    def on_log(self, row: Mapping[str, Any]) -> None:
        if self._facts is None or "loss" not in row:
            return  # evaluation rows are shown by on_evaluate, which knows what was best
        from trainer.console import show
        from trainer.rendering.figures import data_wait, measure, speed
        from trainer.rendering.lines import training_line

        if self._bar:
            task = self._bar.task_ids[0]
            figures = f"{speed(row)}  {data_wait(row)}".strip()
            self._bar.update(task, loss=measure(row["loss"]), speed=figures)
        else:
            show(self._console, training_line(row, self._facts.total_steps))

    def on_evaluation_batch(self, done: int, total: int, share: float) -> None:
        if self._evaluation:
            self._evaluation.on_evaluation_batch(done, total, share)

    def on_evaluate(self, step: int, metrics: Mapping[str, float], improved: bool) -> Ask | None:
        if self._facts is None:
            return None  # not the main process
        from trainer.console import show
        from trainer.rendering.lines import evaluation_lines

        show(self._console, evaluation_lines(step, self._facts, metrics, improved))
        return None

    def on_end(self, summary: Mapping[str, Any]) -> None:
        from trainer.console import show
        from trainer.rendering.end import end_summary

        self.on_close()
        console = self._console
        show(console, end_summary(summary, console.width, report=console.is_terminal))

    def on_close(self) -> None:
        if self._evaluation:
            self._evaluation.on_close()
        if self._bar:
            self._bar.stop()
            self._bar = self._evaluation = None
