"""Quantize a model's weights while they are read."""

import logging
from importlib import import_module

import torch
from torch import nn

from trainer.devices.allocator import give_back_freed_memory
from trainer.errors import InputError
from trainer.models.blocks.experts import Experts
from trainer.models.family_model import FamilyModel
from trainer.models.formats.loading import Pending
from trainer.models.quantization.code import Code
from trainer.models.quantization.integers import Int4, Int8
from trainer.models.quantization.normal_float import NormalFloat4
from trainer.models.quantization.quantized_linear import QUANTIZED, quantize_layer, shape_of

WHERE = "model.quantization"
NOISY = ("torchao", "torch.utils._pytree", "bitsandbytes")
"""Loggers of packages that report, when imported, on kernels that this package does not use."""
CODES: dict[str, Code] = {code.name: code for code in (Int8(), Int4(), NormalFloat4())}


def find_code(name: str) -> Code:
    """Find a format by name. Raises InputError if it is unknown or its package is missing."""
    if name not in CODES:
        raise InputError(f"{WHERE}: found {name!r:.60}; accepted: {', '.join(CODES)}, null")
    code = CODES[name]
    _import_quietly(code)
    return code


def _import_quietly(code: Code) -> None:
    """Import the package of a quantization format without its log messages.

    Raises InputError if the package is missing or broken.
    """
    loggers = [logging.getLogger(name) for name in NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        import_module(code.package)
    except ImportError as error:
        found = f"{code.name} needs {code.package}, which cannot be imported ({error})"
        accepted = "accepted: after pip install 'tempering[quantization]'"
        raise InputError(f"{WHERE}: {found}; {accepted}") from None
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@torch.no_grad()
def read_quantized(model: FamilyModel, name: str) -> None:
    """Read a model's pending weights and quantize the linear layers of its blocks.

    The original weights of at most one block are in memory. Embeddings, norms, the pooler and the
    head are not quantized. Raises InputError for a linear layer that cannot be quantized.
    """
    code = find_code(name)
    assert isinstance(model.pending, Pending)
    _check(model, code)
    model.originals = model.pending
    for _, unit in model.body.units:
        model.pending.fill(model, unit)
        _quantize(unit, code)
        give_back_freed_memory()
    model.pending.fill(model, model)


def quantize_without_values(model: FamilyModel, name: str) -> None:
    """Convert the layers of a model on the meta device like `read_quantized`."""
    code = find_code(name)
    _check(model, code)
    for _, unit in model.body.units:
        _quantize(unit, code)


def _quantize(unit: nn.Module, code: Code) -> None:
    for layer in unit.modules():
        if type(layer) in QUANTIZED:
            quantize_layer(layer, code)


def refuse_quantization(name: str | None, beside: str) -> None:
    """Raise InputError if quantization is set; `beside` names the setting that forbids it."""
    if name is not None:
        raise InputError(f"{WHERE}: found {name} with {beside}; accepted: one of them")


def _check(model: FamilyModel, code: Code) -> None:
    for number, unit in model.body.units:
        for name, layer in unit.named_modules():
            if isinstance(layer, Experts):
                found = f"{code.name} for a mixture of experts"
                raise InputError(f"{WHERE}: found {found}; accepted: null, or a dense model")
            if type(layer) in QUANTIZED and (why := code.obstacle(shape_of(layer))):
                raise InputError(f"{WHERE}: {code.name}: the layer {number}.{name} has {why}")
