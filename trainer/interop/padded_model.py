"""PaddedModel: a transformers model that accepts flat batches, like this package's models."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.errors import InputError
from trainer.interop.foreign_batches import Packed, Padded, costs_less_packed, packed, padded
from trainer.interop.foreign_cache import ForeignCache, WholeTexts
from trainer.interop.foreign_layers import layers_in, make_linears_plain
from trainer.interop.foreign_names import PEFT_TASKS, ForeignNames
from trainer.interop.foreign_types import ForeignModule
from trainer.interop.self_saving import read_saved, write_self_saving
from trainer.interop.shared_embeddings import check_settings
from trainer.models.adapters.adapter_files import load_adapter_weights
from trainer.models.adapters.adapter_saving import save_adapter
from trainer.models.adapters.lora import add_lora
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.models.adapters.merging import merge_lora, merged_parameters
from trainer.models.configured import ConfiguredModel
from trainer.models.heads.causal_lm import CausalLMOutput
from trainer.models.heads.projection import Projection
from trainer.models.heads.sequence_classification import SequenceClassifierOutput
from trainer.models.heads.token_classification import TokenClassifierOutput
from trainer.models.input_checks import UNLIMITED
from trainer.models.packing import Layout
from trainer.models.sequence_lengths import SequenceLengths, host_lengths
from trainer.models.sharded import local, own_rows
from trainer.stores.url import local_folder

log = logging.getLogger("trainer")
AUTO_CLASSES = {
    "sequence_classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "causal_lm": "AutoModelForCausalLM",
    "seq2seq_lm": "AutoModelForSeq2SeqLM",
}
"""Task of the head -> transformers' class that loads a model with this head."""
WRITERS = ("causal_lm", "seq2seq_lm")
"""The tasks of heads that generate text."""


class PaddedModel(ConfiguredModel, ForeignNames):
    """A transformers model with one of the heads in `AUTO_CLASSES`.

    Batches are padded, or packed into one row if the model's attention keeps packed texts apart and
    that row costs less. In training, dropout draws from torch's generator, which is seeded for
    each call from the dropout keys. So a resumed run draws the same masks, but another split of a
    global batch into micro batches draws other masks.
    """

    def __init__(self, inner: nn.Module, task: str) -> None:
        """`inner` is a model, loaded by the class in `AUTO_CLASSES` for this task."""
        super().__init__(inner.config)
        make_linears_plain(inner)
        self.inner = inner
        self.task = task  # type: ignore[misc]  # one class serves all tasks
        self.peft_task = PEFT_TASKS[task]  # type: ignore[misc]
        self.vocabulary = ("weight",) * (task in WRITERS)  # type: ignore[misc,assignment]
        self.body = layers_in(inner)
        self.packs = False
        """Whether texts can be packed: the model then tells them apart by their positions."""
        self._argument_names = frozenset(signature(self._called_module.forward).parameters)

    def forward(
        self,
        input_ids: Tensor,
        sequence_lengths: Tensor | SequenceLengths,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        dropout_keys: Tensor | None = None,
        cache: ForeignCache | WholeTexts | None = None,
    ) -> SequenceClassifierOutput | TokenClassifierOutput | CausalLMOutput:
        """Compute the outputs for a flat batch: input_ids [T] and sequence_lengths [B].

        `position_ids` are ignored, because the model computes its positions. With a cache from
        `new_cache`, the call continues the cached texts.
        """
        layout = Layout(host_lengths(sequence_lengths), input_ids.device)
        if cache is not None:
            return self._next_tokens(cache.extend(self._states, input_ids, layout.lengths), layout)
        batch = self._batch(input_ids, layout, token_type_ids)
        with self._seeded(dropout_keys):
            if self.task == "causal_lm":
                return self._next_tokens(batch.rows(self._states(batch.inputs)), layout)
            logits = self._called_module(**batch.inputs).logits
        if self.task == "sequence_classification":
            return SequenceClassifierOutput(logits=logits)
        return TokenClassifierOutput(logits=batch.rows(logits))

    @property
    def longest(self) -> int | None:
        """The number of tokens for which the model has positions; None if it is unknown."""
        found = getattr(self.config, "max_position_embeddings", None)
        for name, module in self.inner.named_modules():
            is_table = isinstance(module, nn.Embedding) and module.padding_idx is not None
            if name.endswith("position_embeddings") and is_table:
                # positions start after padding_idx
                return module.num_embeddings - module.padding_idx - 1
        return found if isinstance(found, int) and found > 0 else None

    @property
    def longest_sequence(self) -> int:
        return self.longest or UNLIMITED

    def new_cache(self, num_sequences: int) -> ForeignCache | WholeTexts:
        """Create transformers' cache; if that changes outputs, a cache that recomputes texts."""
        if self._cache_works:
            return self._foreign_cache(num_sequences)
        return WholeTexts(num_sequences, self._padded)

    @torch.no_grad()
    def check_packing(self, ids: Tensor, lengths: Tensor) -> None:
        """Set `packs` if packing does not change a language model's outputs for this batch."""
        if self.task != "causal_lm" or "position_ids" not in self._argument_names:
            return
        layout = Layout(lengths, ids.device)
        one, rows = (
            packed(ids, layout, self._argument_names),
            padded(ids, layout, self._pad, self._argument_names),
        )
        try:
            found, wanted = (each.rows(self._states(each.inputs)) for each in (one, rows))
        except (RuntimeError, ValueError, TypeError, IndexError):
            return  # this model does not accept packed texts
        self.packs = bool((found - wanted).norm() <= 1e-4 * wanted.norm())

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """Recompute layers in the backward pass. Raises InputError if the model cannot do this."""
        if not self.inner.supports_gradient_checkpointing:
            found = f"found true, and {self.architecture} cannot recompute activations"
            raise InputError(f"trainer.gradient_checkpointing: {found}; accepted: false")
        enable = getattr(self.inner, "activation_checkpointing_enable", None)  # since release 5.20
        (enable or self.inner.gradient_checkpointing_enable)(gradient_checkpointing_kwargs)

    def compile(self, *arguments: object, **options: object) -> None:
        """Raise InputError, because each shape of a padded batch would be compiled separately."""
        raise InputError(
            "trainer.compile: found true with a model of transformers; accepted: false"
        )

    def add_lora(
        self, settings: LoRASettings, base: str | None = None, revision: str | None = None
    ) -> None:
        """Like `Model.add_lora`. `trainable_tokens` need embeddings of the class nn.Embedding.

        Embeddings that an encoder and a decoder share cannot be trained with adapters.
        """
        check_settings(self, settings)
        if settings.trainable_tokens and type(self.body.embed) is not nn.Embedding:
            found = f"found tokens, but the embeddings are a {type(self.body.embed).__name__}"
            accepted = "accepted: [], or model.lora.modules_to_save"
            raise InputError(f"model.lora.trainable_tokens: {found}; {accepted}")
        path, revision = (self.base_path, self.source[1]) if base is None else (base, revision)
        add_lora(self, settings, path, revision)

    def merge_lora(self) -> None:
        """Like `Model.merge_lora`."""
        merge_lora(self)

    def save_pretrained(
        self,
        directory: str | Path,
        state_dict: Mapping[str, Tensor] | None = None,
        merge: bool = False,
    ) -> None:
        """Write the files that the model's own `save_pretrained` or, with adapters, PEFT writes."""
        folder = local_folder(directory)
        if self.lora is not None and not merge:
            save_adapter(self, folder, state_dict)
            return
        weights = state_dict
        if self.lora is not None:
            weights = dict(merged_parameters(self, state_dict))
        own = None if weights is None else self._inner_state(weights)
        ends = self.generation_config.get("eos_token_id")
        saved = getattr(self.inner, "generation_config", None)  # if it generates text
        if ends is not None and saved is not None:
            saved.eos_token_id = ends
        write_self_saving(folder, self.inner, own)

    def load_weights(self, directory: str | Path) -> None:
        """Overwrite all weights, including the head's, with those of a model of the same shape."""
        if self.lora is not None:
            load_adapter_weights(self, Path(directory))
            return
        saved = read_saved(Path(directory), self.inner)
        with torch.no_grad():
            for name, tensor in (*self.inner.named_parameters(), *self.inner.named_buffers()):
                if name in saved:
                    _overwrite(tensor, saved[name], Path(directory), name)

    def config_entries(self) -> dict[str, Any]:
        entries: dict[str, Any] = self.config.to_dict()
        return entries

    def _inner_state(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict of `inner` with these `weights`, which have this package's names.

        It includes the buffers of `inner`, and tied weights under each of their names. Parameters
        that are not among `weights` are left out.
        """
        parameters = dict(self.inner.named_parameters(remove_duplicate=False))
        by_id = {id(self.get_parameter(name)): tensor for name, tensor in weights.items()}
        return {
            name: by_id[id(value)] if name in parameters else value
            for name, value in self.inner.state_dict(keep_vars=True).items()
            if name not in parameters or id(value) in by_id
        }

    def _batch(self, ids: Tensor, layout: Layout, types: Tensor | None = None) -> Packed | Padded:
        channels = self.get_input_embeddings().embedding_dim
        if self.packs and costs_less_packed(layout, channels):
            return packed(ids, layout, self._argument_names)
        return padded(ids, layout, self._pad, self._argument_names, types)

    def _padded(self, ids: Tensor, layout: Layout) -> dict[str, Any]:
        return padded(ids, layout, self._pad, self._argument_names).inputs

    @property
    def _called_module(self) -> ForeignModule:
        """The module to call: the whole model, but for a language model only the body."""
        return self.inner.base_model if self.task == "causal_lm" else self.inner

    @property
    def _pad(self) -> int:
        return getattr(self.config.get_text_config(), "pad_token_id", None) or 0

    def _states(self, inputs: dict[str, Any]) -> Tensor:
        """The last hidden states [B, L, D] of a language model."""
        found: Tensor = self._called_module(**inputs).last_hidden_state
        return found

    def _next_tokens(self, hidden: Tensor, layout: Layout) -> CausalLMOutput:
        """Make the output, which computes logits only when they are read."""
        bias = getattr(self.inner.get_output_embeddings(), "bias", None)
        return CausalLMOutput(logits=Projection(hidden, self.output_weight, layout, bias))

    def _foreign_cache(self, num_sequences: int) -> ForeignCache:
        takes = "position_ids" in self._argument_names
        return ForeignCache(num_sequences, self.config, self._pad, takes)

    @cached_property
    def _cache_works(self) -> bool:
        """Whether the model accepts transformers' cache, and gives the same outputs with it."""
        was_training = self.training
        self.eval()
        works = "past_key_values" in self._argument_names and self._cache_agrees()
        self.train(was_training)
        if not works:
            text = "%s: its cache cannot be used: each new token recomputes the whole text"
            log.warning(text, self.architecture)
        return works

    def _cache_agrees(self) -> bool:
        """Whether transformers' cache gives about the same outputs as recomputing the texts."""
        try:
            wanted = _extended_by_one(self, WholeTexts(2, self._padded), self.device)
            found = _extended_by_one(self, self._foreign_cache(2), self.device)
        except (TypeError, AttributeError, ValueError, RuntimeError):
            return False  # the model's cache or its layers have another interface
        return float((found - wanted).norm()) <= 1e-2 * float(wanted.norm())

    @contextmanager
    def _seeded(self, keys: Tensor | None) -> Iterator[None]:
        """Context manager in which torch's generators are seeded from the dropout keys."""
        if keys is None or not self.training:
            yield
            return
        devices = [keys.device] if keys.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int(keys.long().sum()) % 2**63)
            yield


def _overwrite(tensor: Tensor, saved: Tensor, directory: Path, name: str) -> None:
    """Copy a saved tensor into a model's tensor; a sharded one gets only this rank's rows."""
    if tensor.shape != saved.shape:
        found = f"found shape {tuple(saved.shape)}; accepted: {tuple(tensor.shape)}"
        raise InputError(f"{directory}: tensor {name}: {found}")
    rows = own_rows(tensor)
    local(tensor).copy_(saved if rows is None else saved[rows.start : rows.stop])


@torch.no_grad()
def _extended_by_one(
    model: PaddedModel, cache: ForeignCache | WholeTexts, device: torch.device
) -> Tensor:
    """The logits of two texts with 5 and 3 tokens, and of one more token after each text."""
    ids = torch.arange(2, 12, device=device) % model.config.get_text_config().vocab_size
    first = model(ids[:8], torch.tensor([5, 3]), cache=cache).projection.rows()
    return torch.cat((first, model(ids[8:], torch.tensor([1, 1]), cache=cache).projection.rows()))
