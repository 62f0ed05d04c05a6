"""Own-loss check: tests whether a model's own loss is a mean over labels, as training assumes."""

import logging

import torch

from trainer.data.batch import Samples
from trainer.data.row_seeds import preserve_rng_state
from trainer.devices.precision import autocast
from trainer.devices.sharding import calls_outside_training
from trainer.tasks.plain_recipes import OwnLoss
from trainer.training.setup import Setup

log = logging.getLogger("trainer")

NUM_SAMPLES = 8
"""The number of samples in the batch that is run as a whole and in halves."""
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 1e-2}
"""The relative tolerance of the comparison."""


def check_own_loss(setup: Setup, samples: Samples) -> None:
    """Warn unless the loss of a batch is the mean of its halves' losses, weighted by label counts.

    Otherwise the gradient of a global batch depends on how it is split. Every rank calls it, since
    a sharded model runs on all of them. Raises InputError if the model returns no loss.
    """
    recipe = setup.recipe
    if not isinstance(recipe, OwnLoss):
        return
    kinds = getattr(samples, "kinds", None)
    number = min(NUM_SAMPLES, len(samples))
    ids = [n for n in range(number) if kinds is None or kinds[n] == kinds[0]]
    whole = _mean(setup, recipe, samples, [ids])
    halves = [part for part in (ids[::2], ids[1::2]) if part]
    split = _mean(setup, recipe, samples, halves)
    if whole is None or split is None or not setup.ranks.is_main:
        return
    if abs(whole - split) > TOLERANCE[setup.placement.precision] * max(abs(whole), 1e-6):
        log.warning(
            "the model's own loss is not the mean over its labels: it is %.6g on %d rows, and "
            "%.6g on their two halves together; so gradients depend on the size of micro batches "
            "(they would not with a loss= that returns (sum, count))",
            whole,
            len(ids),
            split,
        )


def _mean(setup: Setup, recipe: OwnLoss, samples: Samples, parts: list[list[int]]) -> float | None:
    """The mean loss over all parts, as a step computes it; None if it is not finite."""
    training = setup.model.training
    total, count = 0.0, 0.0
    setup.model.eval()
    try:
        for ids in parts:
            with preserve_rng_state(), torch.no_grad(), calls_outside_training(setup.model):
                batch = samples.collate(ids).to(setup.ranks.device)
                with autocast(setup.placement.precision, setup.ranks.device):
                    outputs = setup.model(**batch.inputs())
                part, number = recipe.loss(outputs, batch)
            total, count = total + float(part), count + float(number)
    finally:
        setup.model.train(training)
    mean = total / count if count else float("nan")
    return mean if torch.isfinite(torch.tensor(mean)) else None
