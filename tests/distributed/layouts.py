"""The program of every rank in `test_layouts.py`: all cases in one start, results in a folder."""

import json
from pathlib import Path
from typing import Any

import torch

from tests.unit.data.test_stacked_samples import counted, pad
from tests.unit.test_exactness import RECIPES, ragged_table, tiny_model
from tests.unit.training import plain_runs
from tests.unit.training.plain_runs import Line, ragged, rows
from trainer.callbacks.callback import Callback
from trainer.metrics.classification import Accuracy
from trainer.settings import TrainSettings
from trainer.trainer import Trainer


class Killed(BaseException):
    """Simulates a kill: nothing catches it."""


class KillAt(Callback):
    """Ends the run after a step, on every rank, before a checkpoint of it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, step: int, total_steps: int) -> None:
        if step == self.step:
            raise Killed


def main(folder: Path) -> None:
    results: dict[str, object] = {}
    for recipe in RECIPES:
        trainer = build(None, recipe, optimizer="sgd", learning_rate=0.1, micro_batch_size=3)
        trainer.fit()
        results[recipe] = [weights(trainer).tolist(), trainer.evaluate()]
    results |= {f"plain {name}": plain(name) for name in PLAIN}
    world_size = trainer.ranks.world_size
    whole, cut = folder / f"whole{world_size}", folder / f"cut{world_size}"
    adam = {"save_steps": 2, "ema_decay": 0.9, "load_best_model_at_end": True}
    undisturbed = build(whole, "single_label", **adam)
    undisturbed.fit()
    for step in (3, 5):
        run = build(cut, "single_label", **adam)
        run.callbacks.append(KillAt(step))
        try:
            run.fit()
        except Killed:
            run.ranks.barrier()
    resumed = build(cut, "single_label", **adam)
    resumed.fit()
    results["resumed"] = torch.equal(weights(resumed), weights(undisturbed))
    resumed.save(folder / f"saved{world_size}")
    if resumed.ranks.is_main:
        (folder / f"{world_size}.json").write_text(json.dumps(results))


PLAIN: dict[str, dict[str, Any]] = {
    "ragged rows": {"rows": ragged(23)},
    "a stream": {"rows": rows(24) * 2, "settings": {"max_steps": 5}},
    "a collator": {"rows": ragged(23), "data_collator": pad, "loss": counted},
    "its own loss": {"rows": rows(23), "model": Line, "loss": None},
}
"""Runs of plain modules, with a new model for each number of processes."""


def plain(name: str) -> list[Any]:
    """Weights, training loss and metrics of a run with compute_metrics."""
    given = dict(PLAIN[name])
    train = given.pop("rows")
    model = given.pop("model", None)
    run = plain_runs.trainer(
        iter(train) if name == "a stream" else train,
        model=Line() if model is None else model("dict"),
        eval_dataset=train if name == "its own loss" else ragged(9),
        compute_metrics=lambda p: {"sum": float((p.predictions * (p.predictions != -100)).sum())},
        **given,
    )
    results = run.fit()
    return [plain_runs.weights(run), {"loss": results["train_loss"], **results["metrics"]}]


def build(folder: Path | None, recipe: str, **settings: object) -> Trainer:
    """23 ragged samples in global batches of 11; the last batch has a single sample."""
    problem = recipe.replace("weighted", "single_label")
    return Trainer(
        tiny_model(num_labels=1 if problem == "regression" else 5),
        RECIPES[recipe],
        TrainSettings(
            global_batch_size=11, num_epochs=2, precision="fp32", weight_decay=0.0, **settings
        ),
        train_dataset=ragged_table(23, problem),
        eval_dataset=ragged_table(13, problem, seed=1),
        metrics={"accuracy": Accuracy()} if problem == "single_label" else {},
        output_dir=folder,
    )


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(trainer.model.parameters()).detach()
