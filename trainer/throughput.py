"""Throughput: what happened since the last logged row."""

import math
import time
from dataclasses import dataclass, field

from trainer.step import StepFacts


@dataclass
class Throughput:
    """Adds up steps between two log rows; time spent evaluating and saving is not counted."""

    losses: list[float] = field(default_factory=list)
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    _since: float = field(default_factory=time.perf_counter)

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
