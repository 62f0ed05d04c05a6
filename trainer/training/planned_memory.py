"""The memory of a training step, computed from a model on the meta device."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from trainer.devices.precision import DTYPES
from trainer.models.inputs import FlatInputs
from trainer.models.packing import Layout
from trainer.models.pretrained import PretrainedModel
from trainer.models.quantization.quantized_linear import unpacked_bytes
from trainer.settings import TrainSettings
from trainer.training.optim import moments_per_weight

FP32 = 4


@dataclass(frozen=True)
class StepMemory:
    """Bytes on one device in a step, without activations."""

    weights: int
    """The device's share of the weights."""
    gradients: int
    """The device's share of the gradients; with ddp, also the communication buckets."""
    optimizer: int
    """The optimizer's moments, and the average of the weights."""
    compute: int
    """Copies of weights in the precision of the computation, and gathered layers."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.compute


def replicated(
    model: nn.Module, settings: TrainSettings, precision: str, devices: int
) -> StepMemory:
    """The memory of a device that holds the whole model (ddp), counted as in `bytes_of_ddp`."""
    own = _sizes(model)
    buckets = 2 if devices > 1 else 1
    cast = 0 if precision == "fp32" else 2 * own.values
    return StepMemory(
        weights=FP32 * own.values + own.packed,
        gradients=FP32 * own.trained * buckets,
        optimizer=int(FP32 * own.trained * _optimizer_values(settings)),
        compute=cast + unpacked_bytes(model),
    )


def sharded(
    model: PretrainedModel,
    settings: TrainSettings,
    precision: str,
    devices: int,
    whole_gradients: bool = False,
    on_host: bool = False,
) -> StepMemory:
    """The memory of a device that holds a share of the model (fsdp).

    In addition to its share, the device holds gathered parameters and their gradients: those
    outside of layers, and those of two layers, since the next layer is gathered while one computes.
    With `whole_gradients`, gradients are not sharded between micro batches. With `on_host` the
    shares are in host memory.
    """
    whole, layers = _sizes(model), [_sizes(unit) for _, unit in model.body.units]
    largest = max(layers, key=lambda layer: FP32 * layer.values + layer.packed)
    outside = whole.values - sum(layer.values for layer in layers)
    trained_outside = whole.trained - sum(layer.trained for layer in layers)
    width, held = DTYPES[precision].itemsize, min(2, len(layers))
    gathered = width * (outside + held * largest.values) + held * largest.packed
    gathered += unpacked_bytes(model)
    unreduced = FP32 * (whole.trained if whole_gradients else trained_outside + largest.trained)
    if on_host:
        return StepMemory(0, unreduced, 0, gathered)
    own = ceil(whole.trained / devices)
    return StepMemory(
        weights=FP32 * ceil(whole.values / devices) + ceil(whole.packed / devices),
        gradients=FP32 * own + unreduced,
        optimizer=int(FP32 * own * _optimizer_values(settings)),
        compute=gathered,
    )


def activations(
    build: Callable[[], PretrainedModel], lengths: Tensor, precision: str, recompute: bool
) -> int | None:
    """The bytes that the body saves for the backward pass, plus those that a layer recomputes.

    `build` makes the model on the meta device; `lengths` [B] are the sequence lengths. The body
    runs on fake CPU tensors, which have shapes but no values. On a CPU, attention saves its
    probabilities only if dropout applies to them. Returns None if a family's code needs values.
    """
    layout = Layout(lengths, torch.device("cpu"))
    _ = (layout.slots, layout.length_groups, layout.cumulative_lengths, layout.device_lengths)
    _ = (layout.sequence_of_tokens, layout.first_tokens, layout.last_tokens)
    try:
        saved = _saved_bytes(build, layout, precision, recompute)
        if not recompute:
            return saved
        whole = _saved_bytes(build, layout, precision, False)
    except (DataDependentOutputException, RuntimeError, AssertionError, TypeError):
        return None
    return saved + (whole - saved) // max(1, len(build().body.units))


def _saved_bytes(
    build: Callable[[], PretrainedModel], layout: Layout, precision: str, recompute: bool
) -> int:
    saved: dict[int, tuple[int, Tensor]] = {}
    model = build().train()
    with FakeTensorMode(allow_non_fake_inputs=True):
        _make_fake(model)
        model.body.gradient_checkpointing = recompute
        weights = {p.untyped_storage()._cdata for p in model.parameters()}

        def record(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                saved[storage._cdata] = (storage.nbytes(), tensor)
            return tensor

        tokens = torch.zeros(layout.num_tokens, dtype=torch.long)
        step = torch.zeros(1, dtype=torch.int32)
        inputs = FlatInputs(tokens, tokens, layout, tokens, tokens, step_key=step)
        cast = torch.autocast("cpu", DTYPES[precision], enabled=precision != "fp32")
        with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor), cast:
            model.body(inputs, False, False)
        return sum(size for size, _ in saved.values())


def _make_fake(model: nn.Module) -> None:
    """Replace tensors on the meta device by fake tensors on the CPU."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                module._parameters[name] = nn.Parameter(empty, parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _optimizer_values(settings: TrainSettings) -> float:
    """The number of fp32 values per trained weight, besides the weight and its gradient."""
    return moments_per_weight(settings) + bool(settings.ema_decay)


@dataclass(frozen=True)
class _Sizes:
    trained: int
    """The number of values in trained parameters."""
    frozen: int
    """The number of values in frozen parameters that are not packed."""
    packed: int
    """The bytes of packed weights."""

    @property
    def values(self) -> int:
        return self.trained + self.frozen


def _sizes(module: nn.Module) -> _Sizes:
    floats = [p for p in module.parameters() if p.is_floating_point()]
    trained = sum(p.numel() for p in floats if p.requires_grad)
    packed = sum(p.nbytes for p in module.parameters() if not p.is_floating_point())
    return _Sizes(trained, sum(p.numel() for p in floats) - trained, packed)
