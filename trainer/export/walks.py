"""Compares an exported graph with its model, on whole batches and on texts generated in steps."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from trainer.export.differences import Worst, ragged_batches
from trainer.export.graphs import past_of
from trainer.models.heads.causal_lm import CausalLMModel
from trainer.models.outputs import Outputs
from trainer.models.pretrained import PretrainedModel

Runner = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""A function that runs an exported graph: it takes tensors by name and returns tensors by name."""

STEPS = (5, 1, 3, 1)
"""The number of new tokens in each call with a cache; the first call has an empty cache."""
ROWS = 3
"""The number of texts in a batch."""


def compare(run: Runner, model: PretrainedModel, has_types: bool) -> tuple[Worst, str]:
    """The largest difference from the model's outputs, and a description of the batches."""
    if isinstance(model, CausalLMModel):
        return compare_continued(run, model)
    worst, shapes = Worst(), []
    for batch in ragged_batches(model, has_types):
        with torch.no_grad():
            wanted: Outputs = model(**batch)
        worst.compare(run(batch), dict(wanted.items()))
        shapes.append("x".join(str(size) for size in batch["input_ids"].shape))
    return worst, f"ragged batches of {', '.join(shapes)} tokens"


def compare_continued(run: Runner, model: CausalLMModel) -> tuple[Worst, str]:
    """Compare the logits of growing texts, first padded on the left and then on the right.

    The model itself processes the whole texts again in each call, without a cache.
    """
    worst = Worst()
    for left in (True, False):
        _compare_growing(run, model, left, worst)
    shown = ", ".join(map(str, STEPS))
    return worst, f"{ROWS} ragged texts, continued by {shown} tokens with the cache"


def _compare_growing(run: Runner, model: CausalLMModel, left: bool, worst: Worst) -> None:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(model.config.vocab_size, (ROWS, sum(STEPS)), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, ROWS):
        pads = slice(0, 2 * row) if left else slice(STEPS[0] - 2 * row, STEPS[0])
        mask[row, pads] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    names = [f"{n}.{kind}" for n in range(len(model.body.layers)) for kind in ("key", "value")]
    past, done = past_of(model, ROWS, 0), 0
    for step in STEPS:
        end = done + step
        inputs = {"input_ids": ids[:, done:end], "attention_mask": mask[:, :end]}
        cached = {f"past_key_values.{name}": t for name, t in zip(names, past, strict=True)}
        found = run({**inputs, **cached})
        with torch.no_grad():
            whole = model(
                ids[:, :end], mask[:, :end], position_ids=positions[:, :end], use_cache=False
            )
        worst.compare({"logits": found["logits"]}, {"logits": whole.logits[:, done:]})
        past, done = [found[f"present.{name}"] for name in names], end
