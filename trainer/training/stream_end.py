"""StreamEnd: ends training when its stream has no more rows, and saves its position."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.callbacks.callback import Ask, Callback
from trainer.data.streams import StreamSamples


@dataclass
class StreamEnd(Callback):
    """Asks the run to stop if no row is left for the next step; all ranks read the same stream."""

    samples: StreamSamples
    global_batch_size: int
    step: int = 0
    """Completed steps."""

    def on_step_end(self, step: int, total_steps: int) -> Ask | None:
        self.step = step
        if step == total_steps or self.samples.has(step * self.global_batch_size):
            return None
        return Ask(stop=True, reason=f"the stream of training rows ended at step {step}")

    def state(self) -> dict[str, Any]:
        """The position of the next sample in the stream, so that a resumed run can skip to it."""
        place = self.samples.state_at(self.step * self.global_batch_size)
        return {"step": self.step, **place} if place else {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        if state:
            self.step = int(state["step"])
            self.samples.seek(state)

    def on_close(self) -> None:
        self.samples.close()
