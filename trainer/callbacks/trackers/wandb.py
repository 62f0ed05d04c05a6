"""W&B: logs a run's numbers to Weights & Biases, or offline to files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from trainer.callbacks.callback import RunFacts
from trainer.callbacks.trackers.tracker import Tracker


@dataclass
class WandB(Tracker):
    """Logs a run to Weights & Biases; a resumed run continues its W&B run.

    `options` are arguments of wandb.init.
    """

    name: ClassVar[str] = "wandb"
    package: ClassVar[str] = "wandb"

    def arguments(self, facts: RunFacts, folder: Path, resumed: bool) -> dict[str, Any]:
        own = {"id": self.run_id, "resume": "allow", "name": self.name_of_run(facts)}
        return {**own, "dir": str(folder)}
