"""Comet: logs a run's numbers at comet.com, or offline in an archive."""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from trainer.callbacks.callback import RunFacts
from trainer.callbacks.trackers.tracker import Tracker


@dataclass
class Comet(Tracker):
    """Logs a run to Comet; a resumed run continues its experiment.

    `options` are arguments of comet_ml.start.
    """

    name: ClassVar[str] = "comet_ml"
    package: ClassVar[str] = "comet_ml"

    def arguments(self, facts: RunFacts, folder: Path, resumed: bool) -> dict[str, Any]:
        from comet_ml import ExperimentConfig

        config = ExperimentConfig(name=self.name_of_run(facts), offline_directory=str(folder))
        own = {"experiment_key": self.run_id, "experiment_config": config}
        return {**own, "mode": "get" if resumed else "create"}

    def new_id(self) -> str:
        return secrets.token_hex(16)  # Comet accepts keys of 32 to 50 characters
