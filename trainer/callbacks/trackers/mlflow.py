"""MLflow: logs a run's numbers to the tracking store that MLFLOW_TRACKING_URI names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from trainer.callbacks.callback import RunFacts
from trainer.callbacks.trackers.tracker import Opened, Tracker


@dataclass
class MLflow(Tracker):
    """Logs a run to MLflow; a resumed run continues its MLflow run.

    `options` are arguments of Accelerate's MLflowTracker.
    """

    name: ClassVar[str] = "mlflow"
    package: ClassVar[str] = "mlflow"

    def arguments(self, facts: RunFacts, folder: Path, resumed: bool) -> dict[str, Any]:
        return {"run_id": self.run_id} if resumed else {"run_name": self.name_of_run(facts)}

    def id_of(self, opened: Opened) -> str:
        return str(opened.tracker.info.run_id)
