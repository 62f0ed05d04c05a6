"""Throughput: means and speeds since the last logged row."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from trainer.training.step import StepFacts


@dataclass
class Throughput:
    """Adds up steps between two log rows; time spent evaluating and saving is not counted."""

    losses: list[float] = field(default_factory=list)
    figures: dict[str, list[float]] = field(default_factory=dict)
    """Name -> the values of one of the recipe's figures, one for each step."""
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    """The part of `seconds` in which training waited for a batch."""
    before: float = 0.0
    """Seconds of the run before it was resumed."""
    _started: float = field(default_factory=time.perf_counter)
    _since: float = field(default_factory=time.perf_counter)

    @property
    def elapsed(self) -> float:
        """Seconds of the whole run, including those before resumes."""
        return self.before + time.perf_counter() - self._started

    def state(self) -> dict[str, Any]:
        """The sums since the last row and the seconds so far, to continue with on resume."""
        window: dict[str, Any] = {"losses": self.losses, "figures": self.figures}
        window |= {"samples": self.samples, "tokens": self.tokens}
        seconds = {"seconds": self.seconds, "waited": self.waited, "before": self.elapsed}
        return {**window, **seconds}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore `state`; a loss that was not finite was saved as null."""
        self.losses = [math.nan if loss is None else loss for loss in state["losses"]]
        saved = state.get("figures", {})  # checkpoints of earlier versions have none
        self.figures = {
            name: [math.nan if value is None else value for value in values]
            for name, values in saved.items()
        }
        self.samples, self.tokens = state["samples"], state["tokens"]
        self.seconds, self.before = state["seconds"], state["before"]
        self.waited = state.get("waited", 0.0)  # checkpoints of earlier versions have none

    def restart_clock(self) -> None:
        """Start the clock again, when training continues after a pause."""
        self._since = time.perf_counter()

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Context manager whose time counts as waiting for a batch."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.waited += time.perf_counter() - started

    def add(self, facts: StepFacts, samples: int, tokens: int) -> None:
        """Add one optimizer step."""
        now = time.perf_counter()
        self.seconds += now - self._since
        self._since = now
        self.losses.append(facts.loss)
        for name, value in facts.figures.items():
            self.figures.setdefault(name, []).append(value)
        self.samples += samples
        self.tokens += tokens

    def rates(self) -> dict[str, float]:
        """The speeds and the share of time spent waiting for data since the last row."""
        return {
            "samples_per_second": self.samples / self.seconds,
            "tokens_per_second": self.tokens / self.seconds,
            "data_wait": self.waited / self.seconds,
        }

    def row(self) -> dict[str, float]:
        """The mean loss and figures, the speeds and the share of time spent waiting for data.

        Resets the sums for the next row.
        """
        row = {
            "loss": _mean(self.losses),
            **{name: _mean(values) for name, values in self.figures.items()},
            **self.rates(),
        }
        self.losses, self.figures, self.samples, self.tokens = [], {}, 0, 0
        self.seconds = self.waited = 0.0
        return row


def _mean(values: list[float]) -> float:
    """The mean of the finite values; NaN if none is finite."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
