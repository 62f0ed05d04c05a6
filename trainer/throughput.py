"""Throughput: what happened since the last logged row."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from trainer.step import StepFacts


@dataclass
class Throughput:
    """Adds up steps between two log rows; time spent evaluating and saving is not counted."""

    losses: list[float] = field(default_factory=list)
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    """Of these seconds, those in which training waited for a batch to be made."""
    before: float = 0.0
    """Seconds that the run took before it was resumed."""
    _started: float = field(default_factory=time.perf_counter)
    _since: float = field(default_factory=time.perf_counter)

    @property
    def elapsed(self) -> float:
        """Seconds of the whole run, resumed ones added up."""
        return self.before + time.perf_counter() - self._started

    def state(self) -> dict[str, Any]:
        """The open window and the seconds so far: a resumed run's rows are those of one run."""
        window = {"losses": self.losses, "samples": self.samples, "tokens": self.tokens}
        seconds = {"seconds": self.seconds, "waited": self.waited, "before": self.elapsed}
        return {**window, **seconds}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave; a loss that was not finite was saved as null."""
        self.losses = [math.nan if loss is None else loss for loss in state["losses"]]
        self.samples, self.tokens = state["samples"], state["tokens"]
        self.seconds, self.before = state["seconds"], state["before"]
        self.waited = state.get("waited", 0.0)  # checkpoints of earlier versions have none

    def restart_clock(self) -> None:
        """Training goes on from now."""
        self._since = time.perf_counter()

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Within it training waits for a batch."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.waited += time.perf_counter() - started

    def add(self, facts: StepFacts, samples: int, tokens: int) -> None:
        """One optimizer step of the global batch."""
        now = time.perf_counter()
        self.seconds += now - self._since
        self._since = now
        self.losses.append(facts.loss)
        self.samples += samples
        self.tokens += tokens

    def row(self) -> dict[str, float]:
        """The mean loss, the speeds and the share of time spent on waiting for data.

        Starts a new window.
        """
        losses = [loss for loss in self.losses if math.isfinite(loss)]
        row = {
            "loss": sum(losses) / len(losses) if losses else math.nan,
            "samples_per_second": self.samples / self.seconds,
            "tokens_per_second": self.tokens / self.seconds,
            "data_wait": self.waited / self.seconds,
        }
        self.losses, self.samples, self.tokens = [], 0, 0
        self.seconds = self.waited = 0.0
        return row
