"""A model's vocabulary grown or cut: rows that stay keep their bits."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from trainer.errors import InputError
from trainer.models.head_layers import MaskedLMHead

if TYPE_CHECKING:
    from trainer.models.pretrained import PretrainedModel


def resize_vocabulary(
    model: "PretrainedModel", new_size: int | None, pad_to_multiple_of: int | None
) -> nn.Embedding:
    """What `PretrainedModel.resize_token_embeddings` promises."""
    embeddings = model.get_input_embeddings()
    before = embeddings.num_embeddings
    size = _rounded(embeddings.num_embeddings if new_size is None else new_size, pad_to_multiple_of)
    model.config.vocab_size = size  # refuses a size that no model has, or that drops the pad token
    embeddings.weight = _resized(embeddings.weight, size, model.config.initializer_range)
    embeddings.num_embeddings = size
    if isinstance(model.head, MaskedLMHead):
        model.head.bias = _resized(model.head.bias, size, 0.0)
    elif model.task == "causal_lm" and model.head is not None:
        model.head.weight = _resized(model.head.weight, size, model.config.initializer_range)
        model.head.out_features = size
    model.resized = model.resized or size != before
    return embeddings


def vocabulary_parameters(model: "PretrainedModel") -> list[str]:
    """The names of the parameters that have a row for each token."""
    names = ["body.embeddings.token.weight"]
    if isinstance(model.head, MaskedLMHead):
        names.append("head.bias")
    elif model.task == "causal_lm" and model.head is not None:
        names.append("head.weight")
    return names


def _rounded(size: int, multiple: int | None) -> int:
    for name, number in {"new_size": size, "pad_to_multiple_of": multiple}.items():
        if number is not None and (not isinstance(number, int) or number < 1):
            raise InputError(f"{name}: found {number!r}; accepted: an integer from 1")
    return size if multiple is None else -(-size // multiple) * multiple


@torch.no_grad()
def _resized(old: Tensor, size: int, spread: float) -> nn.Parameter:
    """The first `size` rows of a parameter; those that it lacks are normal of width `spread`."""
    new = old.new_empty(size, *old.shape[1:]).normal_(0.0, spread)
    kept = min(size, len(old))
    new[:kept] = old[:kept]
    return nn.Parameter(new, requires_grad=old.requires_grad)
