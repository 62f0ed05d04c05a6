"""Trackers over a run that is killed and resumes: one run, each point once.

TensorBoard is always tested; W&B, MLflow and trackio if they are installed (`pip install wandb
mlflow trackio`), offline.
"""

import json
import struct
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_trainer import KillAt, Killed, rows, trainer
from trainer.callbacks.trackers.tensorboard import TensorBoard
from trainer.callbacks.trackers.tracker import ID
from trainer.callbacks.trackers.wandb import WandB
from trainer.checkpoint.resume import choose
from trainer.errors import EnvironmentFault, InputError
from trainer.settings import TRACKERS as settings_trackers
from trainer.training.tracking import (
    LOGGED,
    TRACKERS,
    logged_before,
    restore_earlier_ids,
    trackers_of,
)

SETTINGS: dict[str, Any] = {"num_epochs": 3, "save_steps": 3, "eval_steps": 3, "logging_steps": 1}


def run_with_kills(folder: Path, name: str, kills: tuple[int, ...] = (8, 5)) -> None:
    """Killed after step 8, and again after step 5 (of 9), which is before the first kill."""
    for kill in (*kills, None):
        run = trainer(folder, trackers=[name], **SETTINGS)
        if kill is None:
            run.fit()
            return
        run.callbacks.append(KillAt(kill))
        with pytest.raises(Killed):
            run.fit()
        for checkpoint in folder.glob("checkpoint-[6-9]"):  # as if it had not been saved yet
            for path in sorted(checkpoint.rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()
            checkpoint.rmdir()


def test_tensorboard_shows_each_step_once_in_one_run(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_with_kills(tmp_path / "run", "tensorboard")
    folder = tmp_path / "run" / "trackers" / "tempering"
    found = EventAccumulator(str(folder)).Reload()
    for name, steps in (
        ("loss", range(1, 10)),
        ("eval_loss", (3, 6, 9)),
        ("samples", range(1, 10)),
    ):
        points = found.Scalars(name)
        assert [point.step for point in points] == list(steps)
        logged = {row["step"]: row[name] for row in rows(tmp_path / "run") if name in row}
        assert [p.value for p in points] == pytest.approx([*logged.values()], rel=1e-6)
    settings = [path for path in folder.rglob("hparams.yml")]
    assert len(settings) == 1, "a resume opens no second run for its settings"


def test_a_run_that_begins_anew_hides_what_a_crash_left(tmp_path: Path, monkeypatch: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.summary.writer import event_file_writer

    # The names of the two files end in 9 and 10, which sort in the wrong order.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(9))
    run_with_kills(tmp_path, "tensorboard", kills=(2,))
    found = EventAccumulator(str(tmp_path / "trackers" / "tempering")).Reload()
    assert [point.step for point in found.Scalars("loss")] == list(range(1, 10))


def installed(name: str) -> None:
    if find_spec(name) is None:
        pytest.skip(f"pip install {name}")


def test_mlflow_goes_on_in_its_run(tmp_path: Path, monkeypatch: Any) -> None:
    installed("mlflow")
    import mlflow

    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    mlflow.set_tracking_uri(store)
    run_with_kills(tmp_path / "run", "mlflow")
    client = mlflow.MlflowClient()
    (experiment,) = client.search_experiments(filter_string="name = 'tempering'")
    (only,) = client.search_runs([experiment.experiment_id])
    assert only.info.status == "FINISHED" and only.info.run_name == "run"
    for name, steps in (
        ("loss", range(1, 10)),
        ("eval_loss", (3, 6, 9)),
        ("samples", range(1, 10)),
    ):
        history = client.get_metric_history(only.info.run_id, name)
        assert sorted(point.step for point in history) == list(steps)


def records_of(log: bytes) -> Iterator[bytes]:
    """The records of W&B's offline file: LevelDB's log format after a header of 7 bytes."""
    place, parts = 7, b""
    while place + 7 <= len(log):
        if 32768 - place % 32768 < 7:  # no header fits into the rest of a block
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", log[place : place + 7])
        parts += log[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def test_wandb_goes_on_in_its_run(tmp_path: Path, monkeypatch: Any) -> None:
    """Offline, each part is a folder; all have the same id, and no step is logged twice."""
    installed("wandb")
    import wandb
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run_with_kills(tmp_path / "run", "wandb")
    wandb.teardown()  # its service writes files in the background until it ends
    parts = sorted((tmp_path / "run" / "trackers").rglob("run-*.wandb"))
    assert len(parts) == 3 and len({part.name for part in parts}) == 1
    steps: Counter[int] = Counter()
    for part in parts:
        for data in records_of(part.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            keys = {item.key or ".".join(item.nested_key) for item in record.history.item}
            if "loss" in keys:
                steps[record.history.step.num] += 1
    assert steps == Counter(range(1, 10))


def test_trackio_goes_on_in_its_run(tmp_path: Path, monkeypatch: Any) -> None:
    installed("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    from trackio import sqlite_storage

    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", tmp_path / "store", raising=False)
    run_with_kills(tmp_path / "run", "trackio")
    storage = sqlite_storage.SQLiteStorage
    (name,) = storage.get_runs("tempering")
    assert name.startswith("run-")
    logs = storage.get_logs("tempering", name)
    assert sorted(row["step"] for row in logs if "loss" in row) == list(range(1, 10))
    assert sorted(row["step"] for row in logs if "eval_loss" in row) == [3, 6, 9]


def test_the_checkpoint_keeps_the_ids_of_the_runs(tmp_path: Path) -> None:
    settings = {"max_steps": 2, "save_steps": 1, "logging_steps": 1}
    run = trainer(tmp_path, trackers=["tensorboard"], **settings)
    run.fit()
    newest = choose(tmp_path)
    assert newest is not None
    kept = json.loads((newest / "state" / "callbacks.json").read_text())["TensorBoard"]
    (tracker,) = [each for each in run.callbacks if isinstance(each, TensorBoard)]
    assert kept == {"run": tracker.run_id} and ID.fullmatch(tracker.run_id)
    with pytest.raises(ValueError, match="run id is"):
        TensorBoard().load_state({"run": "../../x"})


def test_ids_of_older_checkpoints_are_taken_if_they_look_like_some() -> None:
    for saved, found in (({"tensorboard": "ok-1"}, "ok-1"), ({"tensorboard": "../x"}, "")):
        tracker = TensorBoard()
        restore_earlier_ids([tracker], saved)
        assert tracker.run_id == found
    for odd in ([1], None, {"tensorboard": 3}):
        restore_earlier_ids([tracker := TensorBoard()], odd)
        assert tracker.run_id == ""


def test_the_setting_and_the_callback_are_one_tracker() -> None:
    own = TensorBoard(project="mine")
    assert trackers_of(["tensorboard", "tensorboard"], [own]) == []
    assert trackers_of(["tensorboard"], []) == [TensorBoard()]

    class Quiet(TensorBoard):
        """A user's own kind of the tracker."""

    assert trackers_of(["tensorboard"], [Quiet()]) == []
    assert TRACKERS.keys() == settings_trackers.keys()
    for name, kind in TRACKERS.items():
        assert kind.package == settings_trackers[name]


def test_steps_that_were_logged_are_remembered_over_several_resumes(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 5, "loss": 1}\n{"step": 4, "eval_loss": 1}\n{"step": 6, "lo')
    assert logged_before(tmp_path, path) == {"step": 5, "loss": 5, "eval_loss": 4}
    path.write_text('{"step": 2, "loss": 1}\n')
    assert logged_before(tmp_path, path)["loss"] == 5
    assert (tmp_path / LOGGED).is_file()


def test_a_tracker_that_cannot_be_opened_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: TensorBoard, *_: Any) -> dict[str, Any]:
        raise KeyError("no key\nwas configured")

    monkeypatch.setattr(TensorBoard, "arguments", fails)
    run = trainer(tmp_path / "run", trackers=["tensorboard"])
    text = r"^callbacks.tensorboard: the tracker cannot be opened: .*no key.*was configured"
    with pytest.raises(EnvironmentFault, match=text) as caught:
        run.fit()
    assert "\n" not in str(caught.value).replace("\\n", "")


def test_a_tracker_without_a_folder_or_its_package_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = trainer(None)
    run.callbacks.append(TensorBoard())
    with pytest.raises(InputError, match="^callbacks.tensorboard: needs an output_dir"):
        run.fit()
    monkeypatch.setattr(WandB, "package", "no_such_package")
    with pytest.raises(InputError, match="^callbacks.wandb: no_such_package is not installed"):
        trackers_of([], [WandB()])
