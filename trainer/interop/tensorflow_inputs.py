"""Checks the inputs of a Keras model: names, types, shapes and, in eager mode, values."""

from typing import Any

import numpy as np
import tensorflow as tf

from trainer.errors import InputError, nearest
from trainer.interop.tensorflow_types import TfTensor
from trainer.models.config import ModelConfig
from trainer.tasks.losses import IGNORED

INTEGERS = (tf.int64, tf.int32)


def check_inputs(
    inputs: dict[str, Any], config: ModelConfig, labels: tuple[str, ...], choices: bool
) -> None:
    """Raise InputError, which names the argument, for inputs that do not fit this config.

    `labels` are the names of the inputs with labels. `choices` says whether the inputs have an axis
    of choices. Values are checked only in eager mode.
    """
    known = ("input_ids", "attention_mask", "token_type_ids", "position_ids", *labels)
    for name in inputs:
        if name not in known:
            accepted = f"{', '.join(known)}{nearest(name, known)}"
            raise InputError(f"{name}: not an input of this model; accepted: {accepted}")
    needed = ("input_ids", *(labels if set(labels) & inputs.keys() else ()))
    for name in needed:
        if name not in inputs:
            raise InputError(f"{name}: missing; accepted: {' and '.join(needed)}")
    if "token_type_ids" in inputs and not config.type_vocab_size:
        raise InputError(f"token_type_ids: a {config.model_type} model has no token types")
    _check_shapes(inputs, choices)
    _check_length(inputs["input_ids"], config, own_positions="position_ids" in inputs)
    if tf.executing_eagerly():
        _check_values(inputs, config)


def check_integers(name: str, labels: TfTensor, shape: tuple[Any, ...], size: int | None) -> None:
    """Raise InputError unless labels have this shape, and each is -100 or in [0, size).

    If the shape is [B], labels [B, 1] are accepted too. If `size` is None, there is no upper limit.
    """
    shapes = (shape, (*shape, 1)) if len(shape) == 1 else (shape,)
    if labels.dtype not in INTEGERS or not _fits(labels, *shapes):
        raise InputError(
            f"{name}: found {labels.dtype.name} {tuple(labels.shape)}; "
            f"accepted: int64 or int32 {shape}"
        )
    if not tf.executing_eagerly():
        return
    values = labels.numpy()
    beyond = np.zeros_like(values, bool) if size is None else values >= size
    outside = values[(values != IGNORED) & (beyond | (values < 0))]
    if outside.size:
        accepted = "0 or more" if size is None else f"0 to {size - 1}"
        raise InputError(f"{name}: found {outside[0]}; accepted: {accepted}, or {IGNORED}")


def check_numbers(labels: TfTensor, shape: tuple[Any, ...]) -> None:
    """Raise InputError unless labels have the shape [B, C], or [B] if C is 1."""
    if not _fits(labels, shape, *([shape[:1]] if shape[1] == 1 else [])):
        raise InputError(f"labels: found shape {tuple(labels.shape)}; accepted: {shape}")


def _fits(tensor: TfTensor, *shapes: tuple[Any, ...]) -> bool:
    return any(tensor.shape.is_compatible_with(shape) for shape in shapes)


def _check_shapes(inputs: dict[str, Any], choices: bool) -> None:
    ids = inputs["input_ids"]
    axes = "[batch, choices, length]" if choices else "[batch, length]"
    if ids.dtype not in INTEGERS or ids.shape.rank != (3 if choices else 2):
        raise InputError(
            f"input_ids: found {ids.dtype.name} {tuple(ids.shape)}; accepted: int64 or int32 {axes}"
        )
    for name in ("attention_mask", "token_type_ids", "position_ids"):
        if name in inputs and not _fits(inputs[name], ids.shape):
            raise InputError(
                f"{name}: found shape {tuple(inputs[name].shape)}; "
                f"accepted: the shape of input_ids, {tuple(ids.shape)}"
            )


def _check_length(ids: TfTensor, config: ModelConfig, own_positions: bool) -> None:
    after_pad = config.family.positions_after_pad
    if own_positions or (after_pad and not tf.executing_eagerly()):
        return
    length = ids.shape[-1]
    if after_pad:
        length = int((ids.numpy() != config.pad_token_id).sum(-1).max())
    most = config.max_position_embeddings - (config.pad_token_id + 1 if after_pad else 0)
    if length is not None and length > most:
        raise InputError(
            f"input_ids: found a sequence of {length} tokens; accepted: up to {most} "
            "(truncation=True makes the tokenizer cut longer texts)"
        )


def _check_values(inputs: dict[str, Any], config: ModelConfig) -> None:
    sizes = {
        "input_ids": config.vocab_size,
        "token_type_ids": config.type_vocab_size,
        "position_ids": config.max_position_embeddings,
    }
    for name, size in sizes.items():
        values = inputs[name].numpy() if name in inputs else None
        if values is not None and values.size and not 0 <= values.min() <= values.max() < size:
            found = values.min() if values.min() < 0 else values.max()
            raise InputError(f"{name}: found {found}; accepted: 0 to {size - 1}")
    if "attention_mask" in inputs:
        seen = (inputs["attention_mask"].numpy() != 0).any(-1).reshape(-1)
        if not seen.all():
            raise InputError(
                f"attention_mask: row {int(seen.argmin())} masks every token; "
                "accepted: at least one token a row"
            )
