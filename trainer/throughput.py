"""Throughput: what happened since the last logged row."""

import math
import time
from collections.abc import Mapping
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
        return {**window, "seconds": self.seconds, "before": self.elapsed}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave; a loss that was not finite was saved as null."""
        self.losses = [math.nan if loss is None else loss for loss in state["losses"]]
        self.samples, self.tokens = state["samples"], state["tokens"]
        self.seconds, self.before = state["seconds"], state["before"]

    def restart_clock(self) -> None:
        """Training goes on from now."""
        self._since = time.perf_counter()

    def add(self, facts: StepFacts, samples: int, tokens: int) -> None:
        """One optimizer step of the global batch."""
        now = time.perf_counter()
        self.seconds += now - self._since
        self._since = now
        self.losses.append(facts.loss)
        self.samples += samples
        self.tokens += tokens

    def row(self) -> dict[str, float]:
        """The mean of the optimised losses and the speeds; starts a new window."""
        losses = [loss for loss in self.losses if math.isfinite(loss)]
        row = {
            "loss": sum(losses) / len(losses) if losses else math.nan,
            "samples_per_second": self.samples / self.seconds,
            "tokens_per_second": self.tokens / self.seconds,
        }
        self.losses, self.samples, self.tokens, self.seconds = [], 0, 0, 0.0
        return row
