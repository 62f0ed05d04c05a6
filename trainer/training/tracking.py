"""Tracking: a run's trackers, and the steps already logged to them before a resume."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from trainer.callbacks.callback import Callback
from trainer.callbacks.trackers.comet import Comet
from trainer.callbacks.trackers.mlflow import MLflow
from trainer.callbacks.trackers.tensorboard import TensorBoard
from trainer.callbacks.trackers.tracker import ID, Tracker
from trainer.callbacks.trackers.trackio import Trackio
from trainer.callbacks.trackers.wandb import WandB
from trainer.checkpoint import files

LOGGED = "logged.json"
"""The file in the trackers' folder with the last logged step of each quantity, across resumes."""
TRACKERS: dict[str, type[Tracker]] = {
    kind.key(): kind for kind in (TensorBoard, WandB, MLflow, Trackio, Comet)
}
"""The accepted names in `trainer.trackers`."""


def trackers_of(names: Sequence[str], callbacks: Sequence[Callback]) -> list[Tracker]:
    """Trackers for the names in `trainer.trackers`, except those already in `callbacks`.

    Raises InputError if the package of any tracker is not installed.
    """
    missing = [
        name
        for name in dict.fromkeys(names)
        if not any(isinstance(each, TRACKERS[name]) for each in callbacks)
    ]
    added = [TRACKERS[name]() for name in missing]
    check_trackers([*callbacks, *added])
    return added


def check_trackers(callbacks: Iterable[Callback]) -> None:
    """Raise InputError if the package of one of these trackers is not installed."""
    for callback in callbacks:
        if isinstance(callback, Tracker):
            callback.check_installed()


def restore_earlier_ids(callbacks: Sequence[Callback], saved: object) -> None:
    """Restore the trackers' run ids from a checkpoint of an earlier version.

    Such checkpoints store the ids as {name: id}, outside of the callbacks' state. A tracker without
    a valid id opens a new run.
    """
    runs = saved if isinstance(saved, dict) else {}
    for tracker in callbacks:
        if isinstance(tracker, Tracker) and not tracker.run_id:
            run = runs.get(tracker.key())
            if isinstance(run, str) and ID.fullmatch(run):
                tracker.run_id = run


def logged_before(folder: Path, rows: Path) -> dict[str, int]:
    """The last step at which each quantity was logged to trackers before this run was resumed.

    `rows` is metrics.jsonl before a resume truncates it; the trackers have all its rows. Rows that
    earlier resumes removed are recorded in `folder`, the trackers' folder.
    """
    logged = _read_logged(folder / LOGGED)
    for row in _read_rows(rows):
        for name in row:
            logged[name] = max(logged.get(name, -1), row["step"])
    if logged:
        files.make_folder(folder)
        files.write_json(folder / LOGGED, logged)
    return logged


def forget_logged(folder: Path) -> None:
    """Delete the record, since the run starts from the beginning."""
    if (folder / LOGGED).exists():
        files.remove_file(folder / LOGGED)


def _read_logged(path: Path) -> dict[str, int]:
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
