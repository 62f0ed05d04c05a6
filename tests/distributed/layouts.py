"""What every rank of `test_layouts.py` runs: all cases in one start, the results in a folder."""

import json
import sys
from pathlib import Path

import torch

from tests.distributed.stopping import leave
from tests.unit.test_exactness import RECIPES, ragged_table, tiny_model
from trainer.callbacks.callback import Callback
from trainer.metrics.classification import Accuracy
from trainer.settings import TrainSettings
from trainer.trainer import Trainer


class Killed(BaseException):
    """Stands for a kill: nothing below catches it."""


class KillAt(Callback):
    """Ends the run after a step, on every rank, before anything is saved for it."""

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


def build(folder: Path | None, recipe: str, **settings: object) -> Trainer:
    """45 ragged samples in global batches of 11, the last with fewer samples than 2 ranks."""
    problem = recipe.replace("weighted", "single_label")
    return Trainer(
        tiny_model(num_labels=1 if problem == "regression" else 5),
        RECIPES[recipe],
        TrainSettings(
            global_batch_size=11, num_epochs=2, precision="fp32", weight_decay=0.0, **settings
        ),
        train_dataset=ragged_table(45, problem),
        eval_dataset=ragged_table(13, problem, seed=1),
        metrics={"accuracy": Accuracy()} if problem == "single_label" else {},
        output_dir=folder,
    )


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(trainer.model.parameters()).detach()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave()
