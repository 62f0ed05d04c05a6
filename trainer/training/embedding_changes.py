"""Embedding changes: adds noise (NEFTune) or adversarial steps (FGM) to embeddings in training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trainer.data.batch import Batch, FlatBatch
from trainer.data.entries import owners
from trainer.errors import InputError
from trainer.models.blocks.dropout_hash import all_draws, site_hash
from trainer.models.inputs import FlatInputs
from trainer.models.pretrained import PretrainedModel
from trainer.settings import TrainSettings
from trainer.tasks.recipe import Recipe

SITE = -1
"""The site number of the noise. It is unique, since a model numbers its dropouts from 0."""


def embedding_changes(
    recipe: Recipe, model: nn.Module, settings: TrainSettings
) -> "EmbeddingChanges | None":
    """The changes to embeddings that the recipe's options request; None if there are none.

    Raises InputError if the model or the settings do not support them.
    """
    options = {"neftune": recipe.embedding_noise, "adversarial": recipe.embedding_step}
    for name, value in options.items():
        if not 0 <= value < float("inf"):
            raise InputError(f"recipe.{name}: found {value}; accepted: 0 or more")
    found = [name for name, value in options.items() if value]
    if not found:
        return None
    name = found[0]
    if not isinstance(model, PretrainedModel) or model.family.kind == "encoder_decoder":
        what = f"found {options[name]} for {type(model).__name__}"
        accepted = "accepted: 0, or a model with one stack of layers over token embeddings"
        raise InputError(f"recipe.{name}: {what}; {accepted}")
    if settings.compile:
        raise InputError(f"trainer.compile: found true with recipe.{name}; accepted: false")
    return EmbeddingChanges(model, options["neftune"], options["adversarial"])


class EmbeddingChanges:
    """The changes to the token embeddings [T, D]; `trainer/training/step.py` applies them.

    NEFTune (Jain et al. 2023): uniform noise of at most alpha / sqrt(L * D) on each component,
    where L is the length of the sequence. The noise is a hash of the token's dropout key (seed,
    step, sample, sequence, token) and the channel, so that it does not depend on how a global batch
    is split.

    FGM (Miyato et al. 2017, "Adversarial Training Methods for Semi-Supervised Text
    Classification"): a second pass over the batch adds epsilon * g / |g| to the embeddings of each
    sample, where g is their gradient in the first pass.
    """

    def __init__(self, model: PretrainedModel, alpha: float, epsilon: float) -> None:
        self.alpha, self.epsilon = alpha, epsilon
        self._batch: FlatBatch | None = None
        self._perturbed = False
        self._probe: Tensor | None = None
        self._inputs: FlatInputs | None = None
        self._body, self._table = model.body, model.body.embed.token

    @contextmanager
    def applied(self, batch: Batch, perturbed: bool) -> Iterator[None]:
        """Context manager for one pass over a batch; `perturbed` marks FGM's second pass."""
        assert isinstance(batch, FlatBatch), "only models of text have embeddings to change"
        assert isinstance(self._table, nn.Module)
        self._batch, self._perturbed = batch, perturbed
        hooks = (
            self._body.register_forward_pre_hook(self._record_inputs),
            self._table.register_forward_hook(self._change),
        )
        try:
            yield
        finally:
            for hook in hooks:  # those that stayed would keep the last inputs in memory
                hook.remove()
            self._batch = self._inputs = None
            if perturbed:
                self._probe = None

    def _record_inputs(self, body: nn.Module, arguments: tuple[Any, ...]) -> None:
        self._inputs = arguments[0]

    def _change(self, module: nn.Module, arguments: object, embedded: Tensor) -> Tensor:
        if self._batch is None or self._inputs is None:
            return embedded
        if self.alpha and self._inputs.dropout_keys is not None:
            embedded = embedded + noise(self._inputs, embedded, self.alpha)
        if not self.epsilon:
            return embedded
        if self._perturbed:
            return embedded + self._step(self._batch).to(embedded.dtype)
        self._probe = torch.zeros_like(embedded, requires_grad=True)
        return embedded + self._probe

    @torch.no_grad()
    def _step(self, batch: FlatBatch) -> Tensor:
        """[T, D], each sample's gradient scaled to the norm epsilon; 0 for gradients of 0."""
        assert self._probe is not None, "there was no first pass"
        gradient = self._probe.grad
        if gradient is None:  # the batch was a placeholder
            return torch.zeros_like(self._probe)
        gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        owner = owners(batch, len(gradient), gradient.device)
        assert owner is not None
        # scale by the maximum first, since squares of small gradients may underflow
        largest = gradient.new_zeros(batch.num_samples)
        largest.scatter_reduce_(0, owner, gradient.abs().amax(1), "amax")
        gradient = gradient / torch.where(largest > 0, largest, 1.0)[owner].unsqueeze(1)
        squares = gradient.new_zeros(batch.num_samples).index_add_(
            0, owner, gradient.square().sum(1)
        )
        length = torch.where(squares > 0, squares, 1.0).sqrt()
        return gradient * (self.epsilon / length)[owner].unsqueeze(1)


def noise(inputs: FlatInputs, embedded: Tensor, alpha: float) -> Tensor:
    """[T, D], NEFTune's noise for the tokens of a training pass, in the dtype of `embedded`."""
    assert inputs.dropout_keys is not None
    channels = embedded.shape[1]
    draws = all_draws(inputs.dropout_keys ^ site_hash(SITE), channels)
    uniform = (draws.to(torch.promote_types(embedded.dtype, torch.float32)) + 0.5) / 32768
    lengths = inputs.layout.device_lengths[inputs.layout.sequence_of_tokens]
    bound = alpha / (lengths.to(uniform.dtype) * channels).sqrt()
    return (uniform * bound.unsqueeze(1)).to(embedded.dtype)
