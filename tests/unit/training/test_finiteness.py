"""A non-finite evaluation reports its samples, is never the best, and ends with exit code 4."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.test_exactness import RECIPES, ragged_table, tiny_model
from tests.unit.test_trainer import rows, trainer
from trainer.callbacks.callback import Callback
from trainer.data.batch import StackedBatch
from trainer.errors import NonFiniteSamples, NumericsError
from trainer.metrics.classification import Accuracy
from trainer.metrics.regression import Pearson
from trainer.runs.outcome import evaluation_results
from trainer.settings import TrainSettings
from trainer.trainer import Trainer
from trainer.training.finiteness import non_finite_samples

SINGLE = RECIPES["single_label"]


def poisoned(run: Trainer, token: int, value: float) -> set[int]:
    """Make one token's embedding non-finite; returns the evaluation samples with this token."""
    table: Any = run.eval_samples[""]
    with torch.no_grad():
        run.model.get_input_embeddings().weight[token] = value
    return {n for n in range(len(table)) if token in table.collate([n]).input_ids}


@dataclass
class OverflowAt(Callback):
    """Makes weights so large at the end of a step that logits overflow, but files can hold them."""

    step: int
    model: torch.nn.Module

    def on_step_end(self, step: int, total_steps: int) -> None:
        if step == self.step:
            with torch.no_grad():
                next(self.model.parameters()).fill_(3e38)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_exactly_the_samples_that_are_not_finite_are_counted(value: float) -> None:
    run = trainer(None)
    expected = poisoned(run, 50, value)
    assert 0 < len(expected) < 20
    with pytest.raises(NumericsError, match=f"{len(expected)} of 20 samples") as error:
        run.evaluate()
    assert isinstance(error.value, NonFiniteSamples)
    assert set(error.value.samples) == expected
    found = run.evaluations[""].metrics
    assert found["non_finite_samples"] == len(expected)
    assert np.isnan(found["accuracy"]) and not np.isfinite(found["loss"])
    assert evaluation_results(run.evaluations, None)["report"] is None
    with pytest.raises(NonFiniteSamples) as error:
        run.predict(ragged_table(20, seed=1))
    assert set(error.value.samples) == expected


def test_metrics_that_refuse_nan_are_not_asked() -> None:
    run = Trainer(
        tiny_model("regression", 1).float(),
        RECIPES["regression"],
        TrainSettings(precision="fp32"),
        eval_dataset=ragged_table(20, "regression", seed=1),
        metrics={"pearson": Pearson()},
    )
    poisoned(run, 50, float("nan"))
    with pytest.raises(NonFiniteSamples):
        run.evaluate()


def test_a_run_ends_at_an_evaluation_that_is_not_finite(tmp_path: Path) -> None:
    """Checkpoints before the evaluation remain; no later one, and no model, is published."""
    run = trainer(tmp_path, eval_steps=2, save_steps=1, load_best_model_at_end=True)
    run.callbacks.append(OverflowAt(4, run.model))
    with pytest.raises(NumericsError, match=r"step 4; last good checkpoint: .*checkpoint-2$"):
        run.fit()
    last = rows(tmp_path)[-1]
    assert last["step"] == 4 and last["eval_non_finite_samples"] == 20
    assert last["eval_loss"] is None and last["eval_accuracy"] is None
    assert run.state.best is not None and run.state.best.step == 2
    assert not (tmp_path / "checkpoint-4").exists()
    assert not (tmp_path / "model").exists() and not (tmp_path / "results.json").exists()


def test_skip_goes_on_but_ships_nothing_that_is_not_finite(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "non_finite": "skip",
        "eval_steps": 2,
        "save_steps": 2,
        "num_epochs": 2,
    }
    run = trainer(tmp_path / "last", **settings)
    run.callbacks.append(OverflowAt(4, run.model))
    with pytest.raises(NumericsError, match="step 6; last good checkpoint: .*checkpoint-2"):
        run.fit()
    assert not (tmp_path / "last" / "model").exists()
    run = trainer(tmp_path / "best", **settings, load_best_model_at_end=True)
    run.callbacks.append(OverflowAt(4, run.model))
    results = run.fit()
    assert results["model_step"] == results["best"]["step"] == 2
    assert np.isfinite(results["metrics"]["eval_loss"])
    text = (tmp_path / "best" / "results.json").read_text()
    json.loads(text, parse_constant=pytest.fail)


@pytest.mark.parametrize("settings", [{}, {"non_finite": "skip", "num_epochs": 20}])
def test_a_checkpoint_whose_weights_overflow_is_not_called_good(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    run = trainer(tmp_path, save_steps=1, eval_steps=0, save_total_limit=50, **settings)
    run.callbacks.append(OverflowAt(4, run.model))
    with pytest.raises(NumericsError, match=r"last good checkpoint: .*checkpoint-3$"):
        run.fit()
    assert (tmp_path / "checkpoint-4").exists()


def test_numbers_of_a_whole_batch_mark_all_its_samples() -> None:
    batch = StackedBatch({}, np.arange(3), [])
    sums = torch.tensor([float("inf")])
    assert non_finite_samples(None, batch, {"sums": sums}).tolist() == [True] * 3
    each = torch.tensor([0.0, float("nan"), 1.0])
    assert non_finite_samples(None, batch, {"sums": each}).tolist() == [False, True, False]
    unknown = {"prediction.references": each}
    assert non_finite_samples(None, batch, unknown).tolist() == [False] * 3


def test_tokens_and_sequences_belong_to_their_samples() -> None:
    table = ragged_table(4)
    batch = table.collate([2, 0, 3])
    for place, length in enumerate(batch.sequence_lengths.tolist()):
        logits = torch.zeros(batch.num_tokens, 2)
        start = int(batch.sequence_lengths[:place].sum())
        logits[start + length - 1, 1] = float("-inf")
        found = non_finite_samples({"start_logits": logits}, batch, {})
        assert found.tolist() == [number == place for number in range(3)]


def test_a_finite_evaluation_costs_no_result() -> None:
    run = trainer(None)
    assert run.metrics == {"accuracy": Accuracy()}
    assert set(run.evaluate()) == {"eval_loss", "eval_accuracy"}
    assert len(run.evaluations[""].non_finite) == 0
