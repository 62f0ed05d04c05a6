"""TensorBoard: logs a run's numbers to files that `tensorboard --logdir` shows."""

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from trainer.callbacks.callback import RunFacts
from trainer.callbacks.trackers.tracker import Tracker


@dataclass
class TensorBoard(Tracker):
    """Logs a run to TensorBoard files in <output_dir>/trackers.

    `options` are arguments of SummaryWriter.
    """

    name: ClassVar[str] = "tensorboard"
    package: ClassVar[str] = "tensorboard"
    hides_repeated_steps: ClassVar[bool] = True  # because of purge_step

    def arguments(self, facts: RunFacts, folder: Path, resumed: bool) -> dict[str, Any]:
        _wait_for_a_later_name(folder / self.project)
        return {"purge_step": facts.first_step + 1}


def _wait_for_a_later_name(folder: Path) -> None:
    """Wait, at most a second, until the name of a new event file sorts after those in `folder`.

    TensorBoard reads the event files of a run in the order of their names, which contain the second
    in which each file was opened, then the process id and a counter. Names are compared as text, so
    for files of the same second 10 sorts before 9.
    """
    pattern = re.compile(r"events\.out\.tfevents\.(\d+)\.")
    seconds = [int(m[1]) for path in folder.glob("events.*") if (m := pattern.match(path.name))]
    if int(time.time()) in seconds:
        time.sleep(1 - time.time() % 1)
