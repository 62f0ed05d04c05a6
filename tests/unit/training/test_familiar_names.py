"""Names of transformers' Trainer work, or the error names ours."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.training.plain_runs import rows, trainer
from trainer.callbacks.callback import Callback
from trainer.callbacks.early_stopping import EarlyStopping
from trainer.callbacks.progress import Progress
from trainer.errors import InputError
from trainer.peer_names import PEER_NAMES
from trainer.peer_reasons import NOT_HERE, NOTHING_TO_SET
from trainer.settings import TrainSettings
from trainer.training.familiar_names import ARGUMENTS, ATTRIBUTES, OPTIONS


def test_train_returns_the_training_loss(tmp_path: Path) -> None:
    run = trainer(rows(), tmp_path)
    assert run.state.log_history == [] and run.state.step == 0
    results = run.train(None)
    losses = [row["loss"] for row in run.state.log_history if "loss" in row]
    assert results["train_loss"] == pytest.approx(sum(losses) / len(losses)) and len(losses) == 6
    run.save_model(tmp_path / "saved")
    assert (tmp_path / "saved" / "model.safetensors").is_file()


def test_the_log_of_a_resumed_run_begins_with_the_run(tmp_path: Path) -> None:
    trainer(rows(), tmp_path, settings={"max_steps": 2, "save_steps": 1}).fit()
    run = trainer(rows(), tmp_path, settings={"max_steps": 4, "save_steps": 1})
    run.fit()
    assert [row["step"] for row in run.state.log_history] == [1, 2, 3, 4]


def test_callbacks_come_and_go() -> None:
    class Own(Callback):
        pass

    run, one = trainer(rows()), Own()
    run.add_callback(one)
    run.add_callback(Own)
    assert [type(each) for each in run.callbacks] == [Progress, Own, Own]
    assert run.pop_callback(one) is one
    run.remove_callback(Own)
    run.remove_callback(Progress)
    assert run.callbacks == [] and run.pop_callback(Own) is None
    with pytest.raises(InputError, match="^callbacks: found int; accepted"):
        run.add_callback(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="found the class EarlyStopping; accepted: EarlyS"):
        run.add_callback(EarlyStopping)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_other_attributes_are_answered(name: str) -> None:
    run = trainer(None)
    with pytest.raises(AttributeError, match="has no attribute .*; here: "):
        getattr(run, name)
    assert not hasattr(run, name) and not hasattr(run, "nonsense")


@pytest.mark.parametrize("name", ARGUMENTS)
def test_other_arguments_are_answered(name: str) -> None:
    with pytest.raises(InputError, match=f"^Trainer: no argument '{name}'; here it is "):
        trainer(None, **{name: 1})


@pytest.mark.parametrize("name", [*OPTIONS, "anything"])
def test_other_options_of_train_are_answered(name: str) -> None:
    with pytest.raises(InputError, match=f"^train: no argument '{name}'; here it is "):
        trainer(None).train(**{name: True})
    with pytest.raises(InputError, match="^train: no argument 'resume_from_checkpoint'"):
        trainer(None).train(True)  # as the first argument of transformers' Trainer.train
    assert trainer(rows()).train(resume_from_checkpoint=False)["steps"] == 6


def test_other_settings_are_answered() -> None:
    for name in {**PEER_NAMES, **NOTHING_TO_SET, **NOT_HERE}:
        given: dict[str, Any] = {name: 1}
        with pytest.raises(InputError, match=f"^settings: no setting '{name}'; .*here"):
            TrainSettings(**given)
    with pytest.raises(InputError, match="no setting 'learning_rat'; did you mean 'learning_rate'"):
        TrainSettings(learning_rat=1)  # type: ignore[call-arg]
