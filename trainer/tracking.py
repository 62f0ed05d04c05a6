"""Tracking: experiment trackers that go on in the same run, at the same step, after a resume."""

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trainer.checkpoint import files
from trainer.errors import EnvironmentFault
from trainer.outcome import flat

PROJECT = "tempering"
TOLD = "told.json"
"""In the trackers' folder: the last step of each quantity that trackers have, across resumes."""
ID = re.compile("[A-Za-z0-9_.-]{1,128}")


class Tracking:
    """The trackers of `trainer.trackers`, as Accelerate's `accelerator` opens them.

    A crashed run has told its trackers of steps that it repeats once it resumes. TensorBoard hides
    these (`purge_step`) and is told again. The others cannot take points back: they go on in their
    run, by its id, and are not told twice; the repeated steps have the same numbers.
    """

    def __init__(self, accelerator: Any, folder: Path | None) -> None:
        self.accelerator = accelerator
        self.folder = folder
        self.runs: dict[str, str] = {}
        """Tracker -> the id of its run, which a checkpoint keeps."""
        self._told: dict[str, dict[str, int]] = {}

    def start(
        self,
        config: Mapping[str, Any],
        first_step: int,
        runs: Mapping[str, str],
        told: Mapping[str, int],
    ) -> None:
        """Open the trackers; `runs` are the ids that a resumed run has, if it has any.

        `told` is the last step of each quantity that they were told before. Raises EnvironmentFault
        where a tracker cannot be opened.
        """
        if not self.accelerator.log_with:
            return
        names = [str(getattr(each, "value", each)) for each in self.accelerator.log_with]
        self.runs = {**{name: f"{secrets.token_hex(4)}" for name in names}, **runs}
        known = {name for name in names if name in runs}
        again = {name for name in names if name == "tensorboard" or name not in known}
        self._told = {name: {} if name in again else dict(told) for name in names}
        try:
            self.accelerator.init_trackers(PROJECT, init_kwargs=self._options(known, first_step))
            for tracker in self.accelerator.trackers:
                if tracker.name not in known:
                    tracker.store_init_configuration(flat(config))
                if tracker.name == "mlflow" and self.accelerator.is_main_process:
                    self.runs["mlflow"] = tracker.tracker.info.run_id
        except Exception as error:  # each tracker has exceptions of its own
            reason = " ".join(str(error).split()) or type(error).__name__
            text = f"trainer.trackers: cannot be opened ({', '.join(names)}): {reason}"
            raise EnvironmentFault(text) from error

    def track(self, row: Mapping[str, Any]) -> None:
        """Tell the numbers of a row of metrics.jsonl, each once a step."""
        step = row["step"]
        numbers = {
            name: value
            for name, value in row.items()
            if name != "step" and isinstance(value, (int, float))
        }
        for tracker in self.accelerator.trackers:
            told = self._told[tracker.name]
            new = {name: value for name, value in numbers.items() if told.get(name, -1) < step}
            if new:
                told |= dict.fromkeys(new, step)
                tracker.log(new, step=step)

    def finish(self) -> None:
        """Close the trackers; Accelerate's `end_training` would end the process group too."""
        for tracker in self.accelerator.trackers:
            tracker.finish()

    def _options(self, known: set[str], first_step: int) -> dict[str, dict[str, Any]]:
        """What each tracker is opened with, in its own words for going on with a run."""
        assert self.folder is not None, "trainer.agreement refuses trackers without an output_dir"
        name = self.folder.parent.name
        files.make_folder(self.folder)
        wandb = {"id": self.runs.get("wandb"), "resume": "allow", "name": name}
        trackio = {"name": f"{name}-{self.runs.get('trackio')}", "resume": "allow"}
        run = {"run_id": self.runs["mlflow"]} if "mlflow" in known else {"run_name": name}
        options: dict[str, dict[str, Any]] = {
            "tensorboard": {"purge_step": first_step + 1},
            "wandb": {**wandb, "dir": str(self.folder)},
            "mlflow": run,
            "trackio": trackio,
        }
        return {name: options[name] for name in self._told}


def tracker_runs(saved: Any) -> dict[str, str]:
    """The ids of trackers' runs that a checkpoint holds; nothing that does not look like one."""
    if not isinstance(saved, Mapping):
        return {}
    return {
        name: value
        for name, value in saved.items()
        if isinstance(name, str) and isinstance(value, str) and ID.fullmatch(value)
    }


def told_before(folder: Path, rows: Path) -> dict[str, int]:
    """The last step of each quantity that trackers were told, by an earlier part of this run.

    `rows` is metrics.jsonl before a resume cuts it back: each row in it was told. What was cut off
    by earlier resumes is remembered in the trackers' `folder`.
    """
    told = _remembered(folder / TOLD)
    for row in _read_rows(rows):
        for name in row:
            told[name] = max(told.get(name, -1), row["step"])
    if told:
        files.make_folder(folder)
        files.write_json(folder / TOLD, told)
    return told


def forget_told(folder: Path) -> None:
    """The run begins anew, and so do its trackers."""
    if (folder / TOLD).exists():
        files.remove_file(folder / TOLD)


def _remembered(path: Path) -> dict[str, int]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    entries = found.items() if isinstance(found, dict) else ()
    return {name: step for name, step in entries if isinstance(step, int)}


def _read_rows(path: Path) -> Iterable[dict[str, Any]]:
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            yield row
