"""Traces: attention probabilities and hidden states of generated texts, step by step.

Dimensions: N texts of n tokens each.
"""

from typing import Any

import torch
from torch import Tensor

from trainer.generation.eval_mode import eval_mode
from trainer.generation.plan import Plan
from trainer.models.outputs import Outputs


@torch.no_grad()
def traces(plan: Plan, ids: Tensor, copies: int) -> dict[str, Any]:
    """The requested attention and hidden states of texts, ids [N, n], by field of `GenerateOutput`.

    They come from one call to the model on the finished texts. This is exact, since later tokens do
    not change the hidden states of earlier tokens.
    """
    settings, source = plan.settings, plan.source
    wanted = {
        "output_attentions": settings.output_attentions,
        "output_hidden_states": settings.output_hidden_states,
    }
    if not any(wanted.values()):
        return {}
    read, width = ids[:, :-1], plan.ids.shape[1]  # the last token of a text is never an input
    mask = plan.mask.repeat_interleave(copies, 0)
    mask = torch.cat((mask, mask.new_ones(len(read), read.shape[1] - width)), 1).long()
    inputs = {"input_ids": read, "attention_mask": mask}
    if source is not None:
        inputs = {
            "input_ids": source.ids.repeat_interleave(copies, 0),
            "attention_mask": source.mask.long().repeat_interleave(copies, 0),
            **{f"decoder_{name}": value for name, value in inputs.items()},
        }
    with eval_mode(plan.model):
        outputs = plan.model(**inputs, **wanted)
    return _by_name(outputs, width, "" if source is None else "decoder_")


def _by_name(outputs: Outputs, width: int, side: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        f"{side}attentions": _steps(getattr(outputs, f"{side}attentions"), width, "square"),
        f"{side}hidden_states": _steps(getattr(outputs, f"{side}hidden_states"), width, "rows"),
    }
    if side:
        found["cross_attentions"] = _steps(outputs.cross_attentions, width, "crossed")
        found["encoder_attentions"] = outputs.encoder_attentions
        found["encoder_hidden_states"] = outputs.encoder_hidden_states
    return {name: value for name, value in found.items() if value is not None}


def _steps(layers: Any, width: int, shape: str) -> tuple[Any, ...] | None:
    """Cut the tensors of whole texts into steps: of `width` tokens, then of one token each."""
    if layers is None:
        return None
    axis = 1 if shape == "rows" else 2
    length = layers[0].shape[axis]
    bounds = [(0, width), *((place, place + 1) for place in range(width, length))]
    return tuple(
        tuple(
            rows[..., :end] if shape == "square" else rows
            for rows in (layer.narrow(axis, start, end - start) for layer in layers)
        )
        for start, end in bounds
    )
