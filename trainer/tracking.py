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
LOGGED = "logged.json"
"""In the trackers' folder: the last step at which each quantity was logged, across resumes."""
ID = re.compile("[A-Za-z0-9_.-]{1,128}")


class Tracking:
    """The trackers of `trainer.trackers`, as Accelerate's `accelerator` opens them.

    After a crash a resumed run repeats steps that its trackers have already. TensorBoard hides the
    old points (`purge_step`), and these steps are logged again. The others cannot take points back:
    they go on in the same run, found by its id, and a repeated step, which has the same numbers, is
    not logged twice.
    """

    def __init__(self, accelerator: Any, folder: Path | None) -> None:
        self.accelerator = accelerator
        self.folder = folder
        self.runs: dict[str, str] = {}
        """Tracker -> the id of its run, which a checkpoint keeps."""
        self._logged: dict[str, dict[str, int]] = {}

    def start(
        self,
        config: Mapping[str, Any],
        first_step: int,
        runs: Mapping[str, str],
        logged: Mapping[str, int],
    ) -> None:
        """Open the trackers; `runs` are the ids that a resumed run has, if it has any.

        `logged` is the last step of each quantity that was logged before. Raises EnvironmentFault
        where a tracker cannot be opened.
        """
        if not self.accelerator.log_with:
            return
        names = [str(getattr(each, "value", each)) for each in self.accelerator.log_with]
        self.runs = {**{name: secrets.token_hex(4) for name in names}, **runs}
        known = {name for name in names if name in runs}
        again = {name for name in names if name == "tensorboard" or name not in known}
        self._logged = {name: {} if name in again else dict(logged) for name in names}
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
        """Log the numbers of a row of metrics.jsonl, each at most once a step."""
        step = row["step"]
        numbers = {
            name: value
            for name, value in row.items()
            if name != "step" and isinstance(value, (int, float))
        }
        for tracker in self.accelerator.trackers:
            logged = self._logged[tracker.name]
            new = {name: value for name, value in numbers.items() if logged.get(name, -1) < step}
            if new:
                logged |= dict.fromkeys(new, step)
                tracker.log(new, step=step)

    def finish(self) -> None:
        """Close the trackers; Accelerate's `end_training` would end the process group too."""
        for tracker in self.accelerator.trackers:
            tracker.finish()

    def _options(self, known: set[str], first_step: int) -> dict[str, dict[str, Any]]:
        """The arguments with which each tracker opens a run, or goes on with one."""
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
        return {name: options[name] for name in self._logged}


def tracker_runs(saved: Any) -> dict[str, str]:
    """The ids of trackers' runs that a checkpoint holds, as far as they look like ids."""
    if not isinstance(saved, Mapping):
        return {}
    return {
        name: value
        for name, value in saved.items()
        if isinstance(name, str) and isinstance(value, str) and ID.fullmatch(value)
    }


def logged_before(folder: Path, rows: Path) -> dict[str, int]:
    """The last step at which each quantity was logged to trackers, by earlier parts of this run.

    `rows` is metrics.jsonl before a resume cuts it back: each row in it was logged. What earlier
    resumes cut off is remembered in the trackers' `folder`.
    """
    logged = _remembered(folder / LOGGED)
    for row in _read_rows(rows):
        for name in row:
            logged[name] = max(logged.get(name, -1), row["step"])
    if logged:
        files.make_folder(folder)
        files.write_json(folder / LOGGED, logged)
    return logged


def forget_logged(folder: Path) -> None:
    """Let trackers begin anew, as the run does."""
    if (folder / LOGGED).exists():
        files.remove_file(folder / LOGGED)


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
