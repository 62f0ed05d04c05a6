"""Growing and cutting a model's vocabulary without changing the remaining rows."""

import torch
from torch import Tensor, nn

from trainer.errors import InputError
from trainer.foreign.counts import whole
from trainer.models.adapters.token_rows import modules_with_rows, restore_plain_module
from trainer.models.family_model import FamilyModel
from trainer.models.formats import keys
from trainer.models.lazy_values import read_now
from trainer.models.model import Model


def resize_vocabulary(
    model: FamilyModel,
    new_size: int | None,
    pad_to_multiple_of: int | None,
    near_mean: bool = False,
) -> nn.Embedding:
    """Resize as described at `PretrainedModel.resize_token_embeddings`."""
    read_now(model, vocabulary_parameters(model))
    embeddings = model.get_input_embeddings()
    before = embeddings.num_embeddings
    size = _rounded(embeddings.num_embeddings if new_size is None else new_size, pad_to_multiple_of)
    model.config.vocab_size = size  # refuses an invalid size and one that drops the pad token
    for module in modules_with_rows(model).values():
        restore_plain_module(module)  # after a resize all rows are trained
    spread = model.config.initializer_range
    embeddings.weight = _resized(embeddings.weight, size, None if near_mean else spread)
    embeddings.num_embeddings = size
    for name in model.output_parameters:
        in_layer = "." in model.plain_name(name).removeprefix(keys.HEAD)
        _resize_in_head(model, name, size, None if near_mean else spread, in_layer)
    model.resized = model.resized or size != before
    return embeddings


def _resize_in_head(
    model: FamilyModel, name: str, size: int, spread: float | None, in_layer: bool
) -> None:
    """Resize a parameter with a row per token; `spread` as in `_resized`.

    `in_layer`: the head has a layer with output weights of its own. A bias on tied output weights
    is extended with zeros, as in transformers. The bias of untied output weights is drawn around
    its mean if `spread` is None, and otherwise extended with zeros.
    """
    parent, _, leaf = name.rpartition(".")
    owner = model.get_submodule(parent)
    old = getattr(owner, leaf)
    draws_bias = in_layer and spread is None
    as_row = old.shape[0] == 1  # a bias [1, V]
    of_bias = None if draws_bias else 0.0
    new = _resized(old.T if as_row else old, size, of_bias if leaf == "bias" else spread)
    if as_row:
        new = nn.Parameter(new.detach().T.contiguous(), requires_grad=new.requires_grad)
    setattr(owner, leaf, new)
    if isinstance(owner, nn.Linear):
        owner.out_features = size


def vocabulary_parameters(model: Model) -> list[str]:
    """The names of the parameters with a row per token."""
    embeddings = model.get_input_embeddings().weight
    name = next(name for name, parameter in model.named_parameters() if parameter is embeddings)
    return [name, *model.output_parameters]


def _rounded(size: int, multiple: int | None) -> int:
    for name, number in {"new_size": size, "pad_to_multiple_of": multiple}.items():
        if number is not None and (whole(number) or 0) < 1:
            raise InputError(f"{name}: found {number!r}; accepted: an integer of at least 1")
    return int(size if multiple is None else -(-size // multiple) * multiple)


@torch.no_grad()
def _resized(old: Tensor, size: int, spread: float | None) -> nn.Parameter:
    """Resize a parameter to `size` rows; new rows are normal with std `spread`.

    If `spread` is None, new rows are drawn around the mean of the old rows with 1e-9 of their
    covariance.
    """
    kept = min(size, len(old))
    new = old.new_empty(size, *old.shape[1:])
    if spread is None:
        mean = old.float().mean(0)
        mixed = torch.randn(size - kept, len(old), device=old.device) @ (old.float() - mean)
        new[kept:] = mean + mixed * (1e-9 / len(old)) ** 0.5
    else:
        new.normal_(0.0, spread)
    new[:kept] = old[:kept]
    return nn.Parameter(new, requires_grad=old.requires_grad)
