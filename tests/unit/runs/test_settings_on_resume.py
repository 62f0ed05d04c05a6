"""A resumed run treats each changed setting as the metadata of its field says."""

from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.unit.test_trainer import SETTINGS, KillAt, Killed, trainer
from trainer.config.assemble import _digest
from trainer.errors import InputError
from trainer.jobs.train import config_digest
from trainer.runs.folder import _has_same_length_settings, length_settings
from trainer.settings import OnResume, TrainSettings, names_of
from trainer.training.process_state import process_as_found

BEFORE: dict[str, Any] = {**SETTINGS, "save_steps": 2, "early_stopping_patience": 50}
OTHER: dict[str, Any] = {
    "num_epochs": 4,
    "max_steps": 11,
    "global_batch_size": 15,
    "micro_batch_size": 3,
    "max_tokens_per_micro_batch": 99,
    "learning_rate": 2e-3,
    "lr_scheduler": "cosine",
    "lr_scheduler_options": {"power": 2.0},
    "min_learning_rate": 1e-5,
    "warmup_steps": 1,
    "optimizer": "sgd",
    "optimizer_options": {"betas": [0.8, 0.9]},
    "weight_decay": 0.5,
    "parameter_groups": {"*": {"lr_scale": 0.5}},
    "layer_decay": 0.9,
    "max_grad_norm": 0.5,
    "label_smoothing": 0.1,
    "precision": "bf16",
    "gradient_checkpointing": True,
    "activation_offload": True,
    "compile": True,
    "eval_steps": 1,
    "save_steps": 1,
    "logging_steps": 2,
    "save_total_limit": 9,
    "async_save": False,
    "metric_for_best_model": "loss",
    "greater_is_better": True,
    "load_best_model_at_end": True,
    "early_stopping_patience": 60,
    "early_stopping_threshold": 0.1,
    "ema_decay": 0.5,
    "resume": "must",
    "allow_changes": ["seed"],
    "deterministic": True,
    "non_finite": "skip",
    "time_limit": 1000.0,
    "trackers": ["tensorboard"],
    "report": False,
}
"""Another value of every setting."""
ALSO: dict[str, dict[str, Any]] = {"lr_scheduler_options": {"lr_scheduler": "polynomial"}}
"""Values of other settings, before and after, that the changed value requires."""


def kind_of(name: str) -> OnResume:
    return TrainSettings.__dataclass_fields__[name].metadata["on_resume"]


def test_every_setting_has_a_kind_and_another_value_here() -> None:
    names = [each.name for each in fields(TrainSettings)]
    assert sorted(OTHER) == sorted(names)
    assert all(kind_of(name) in get_args(OnResume) for name in names)
    assert names_of("kept") == ("global_batch_size",)


def resumes(folder: Path, **settings: Any) -> str:
    """Why a run in the folder cannot continue; empty: it can. Takes no step."""
    run = trainer(folder, **settings)
    try:
        with process_as_found(), run._started():
            assert run.state.step == 2
    except InputError as refused:
        return str(refused)
    return ""


def killed(folder: Path, **settings: Any) -> None:
    run = trainer(folder, **settings)
    run.callbacks.append(KillAt(3))
    with pytest.raises(Killed):
        run.fit()


def test_a_resumed_run_refuses_what_its_weights_depend_on(tmp_path: Path) -> None:
    killed(tmp_path / "", **BEFORE)
    for name, value in OTHER.items():
        folder, before = tmp_path, {**BEFORE, **ALSO.get(name, {})}
        if name in ALSO:
            folder = tmp_path / name
            killed(folder, **before)
        said = resumes(folder, **{**before, name: value})
        kind = kind_of(name)
        assert bool(said) == (kind in ("kept", "repeated")), (name, said)
        if said:
            assert said.startswith(f"trainer.{name}: found "), (name, said)
            allowed = resumes(folder, **{**before, name: value}, allow_changes=[f"trainer.{name}"])
            assert bool(allowed) == (kind == "kept"), (name, allowed)


def test_the_same_run_is_known_by_what_changes_its_results() -> None:
    before = {"trainer": {each.name: 0 for each in fields(TrainSettings)}, "seed": 1}
    for name in OTHER:
        now = {**before, "trainer": {**before["trainer"], name: 1}}  # type: ignore[dict-item]
        another = kind_of(name) in ("kept", "repeated", "free")
        assert (config_digest(now) != config_digest(before)) == another, name
        assert (_digest(now) == _digest(before)) == (kind_of(name) == "command"), name


def test_a_stopped_run_continues_if_it_is_asked_for_more() -> None:
    usual = TrainSettings()
    asked = length_settings(usual)
    for name, value in OTHER.items():
        same = _has_same_length_settings(
            asked, TrainSettings(**{name: value, **ALSO.get(name, {})})
        )
        assert same == (kind_of(name) not in ("length", "stopping")), name
    asked.pop("early_stopping_threshold")  # results.json of an earlier version
    assert _has_same_length_settings(asked, usual)
    assert not _has_same_length_settings(asked, TrainSettings(early_stopping_threshold=0.1))
