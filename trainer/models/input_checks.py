"""Checks that ids are in the vocabulary and that sequences fit the model's positions."""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from trainer.errors import InputError
from trainer.models.blocks.rope import read_rope
from trainer.models.config import ModelConfig
from trainer.models.inputs import Call, FlatInputs

UNLIMITED = 1 << 24
"""The maximum sequence length if the number of positions does not limit it."""
log_pads = logging.getLogger("trainer.pads")
"""A logger that prints only its first warning, that pads are treated as tokens."""
log_lengths = logging.getLogger("trainer.lengths")
"""A logger that prints only its first warning, about a sequence longer than in training."""


def require_tensors(given: Mapping[str, object], call: str = "model") -> None:
    """Raise InputError, naming the argument, for one that is neither a tensor nor None.

    A call under torch.jit.trace is refused, since a trace would hard-code the batch's lengths.
    """
    if torch.jit.is_tracing():
        raise InputError(
            "torch.jit.trace: not supported; accepted: torch.export.export, or job=export, "
            "which writes programs of torch.export and ONNX"
        )
    for name, value in given.items():
        if value is None or isinstance(value, Tensor):
            continue
        accepted = "a tensor, as the tokenizer's return_tensors='pt' gives"
        if hasattr(value, "keys"):
            accepted = f"a tensor ({call}(**batch) passes the parts of a batch by name)"
        raise InputError(f"{name}: found {type(value).__name__}; accepted: {accepted}")


def max_sequence_length(config: ModelConfig) -> int:
    """The length of the longest sequence that a model has positions for."""
    after_pad = config.family.positions_after_pad
    return _num_positions(config) - (config.pad_token_id + 1 if after_pad else 0)


def _num_positions(config: ModelConfig) -> int:
    """The number of position embeddings, or of positions that rotary embeddings support."""
    flag = config.family.absolute_positions
    if flag is not None and not getattr(config, flag):
        return UNLIMITED
    if "rope_scaling" in config.family.defaults:
        return max(read_rope(config).longest, config.max_position_embeddings)
    return config.max_position_embeddings


def _is_rotary(config: ModelConfig) -> bool:
    """Whether positions are rotations, which can be computed for any position."""
    family = config.family
    return any("rope_parameters" in table for table in (family.defaults, family.optional))


def check_values(
    inputs: FlatInputs, config: ModelConfig, own_positions: bool, num_types: int
) -> None:
    """Raise InputError for indices outside an embedding table, if they are on the CPU.

    Sequences longer than the position embeddings are refused on every device. Rotary positions have
    no table, so positions beyond the trained ones only cause a warning.
    """
    layout, types = inputs.layout, num_types
    after_pad = config.family.positions_after_pad
    length = layout.longest if layout.width is None or after_pad else layout.width
    length += 0 if inputs.cache is None else inputs.cache.width
    most = max_sequence_length(config)
    rotary = _is_rotary(config)
    if own_positions and length > most:
        found = f"input_ids: found a sequence of {length} tokens; accepted: up to {most}"
        if not rotary:
            raise InputError(f"{found} (the tokenizer's truncation=True cuts there)")
        _warn_of_length(
            f"{found} without this warning, since the model was not trained on longer ones"
        )
    _check_range("input_ids", inputs.input_ids, config.vocab_size)
    _check_range("position_ids", inputs.position_ids, None if rotary else _num_positions(config))
    _check_range("token_type_ids", inputs.token_type_ids, types)


def check_shapes(call: Call, width: int | None, num_heads: int) -> None:
    """Raise InputError for embeddings of another width than the model's, or a mask of other heads.

    `width` is that of the token embeddings; None: it is not known, and any width is accepted.
    """
    embeds, mask = call.inputs_embeds, call.attention_mask
    dimensions = 2 if call.is_flat else 3
    unfit = embeds is not None and width is not None and embeds.shape[-1] != width
    if embeds is not None and (embeds.dim() != dimensions or unfit):
        size = "size" if width is None else width
        accepted = f"[T, {size}]" if call.is_flat else f"[batch, length, {size}]"
        raise InputError(f"inputs_embeds: found shape {tuple(embeds.shape)}; accepted: {accepted}")
    if mask is not None and mask.dim() == 4 and mask.shape[1] not in (1, num_heads):
        found = f"found {mask.shape[1]} heads"
        raise InputError(f"attention_mask: {found}; accepted: 1 or {num_heads}")


def no_token_types(types: Tensor | None, config: ModelConfig) -> None:
    """Raise InputError if a call to a model without token types has nonzero token types."""
    if types is None or torch.compiler.is_compiling():
        return
    if bool(types.any()):
        raise InputError(
            f"token_type_ids: found {int(types.max())}; accepted: zeros, since a "
            f"{config.model_type} model has no token types"
        )


def _warn_of_length(message: str) -> None:
    if not torch.compiler.is_compiling():
        log_lengths.warning(message)


def warn_of_pads(input_ids: Tensor, config: ModelConfig) -> None:
    """Warn if a call without a mask looks padded; only CPU tensors are checked."""
    pad = config.pad_token_id
    if pad is None or input_ids.device.type != "cpu" or torch.compiler.is_compiling():
        return
    ends = input_ids[..., [0, -1]] if input_ids.ndim and input_ids.shape[-1] else input_ids
    meant = (config.bos_token_id, config.eos_token_id)  # the pad id may equal one of these
    if pad not in meant and bool((ends == pad).any()):
        log_pads.warning(
            "input_ids: found pads (%d) and no attention_mask, so each counts as a token; "
            "accepted: the attention_mask that the tokenizer gives",
            pad,
        )


class _Once(logging.Filter):
    """A filter that passes only the first record."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = False

    def filter(self, record: logging.LogRecord) -> bool:
        first, self.passed = not self.passed, True
        return first


log_pads.addFilter(_Once())
log_lengths.addFilter(_Once())


def _check_range(name: str, ids: Tensor | None, size: int | None) -> None:
    """Raise InputError for an id below 0 or, unless `size` is None, not below `size`."""
    if ids is not None and size is not None and ids.is_floating_point():
        raise InputError(f"{name}: found {ids.dtype}; accepted: int64 or int32")
    if ids is None or ids.device.type != "cpu" or torch.compiler.is_compiling():
        return
    lowest, highest = (int(bound) for bound in ids.aminmax())
    if lowest < 0 or (size is not None and highest >= size):
        found = lowest if lowest < 0 else highest
        accepted = "0 or more" if size is None else f"0 to {size - 1}"
        raise InputError(f"{name}: found {found}; accepted: {accepted}")
