"""trackio: logs a run's numbers to a local database, which trackio's dashboard shows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from trainer.callbacks.callback import RunFacts
from trainer.callbacks.trackers.tracker import Tracker


@dataclass
class Trackio(Tracker):
    """Logs a run to trackio; a resumed run continues its trackio run.

    `options` are arguments of trackio.init.
    """

    name: ClassVar[str] = "trackio"
    package: ClassVar[str] = "trackio"

    def arguments(self, facts: RunFacts, folder: Path, resumed: bool) -> dict[str, Any]:
        return {"name": f"{self.name_of_run(facts)}-{self.run_id}", "resume": "allow"}
