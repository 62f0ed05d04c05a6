"""Optimizers: find them by name, build them, and set their learning rates."""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from trainer.checkpoint.state_checks import Layout, moment_layouts
from trainer.errors import InputError
from trainer.registry import OPTIMIZERS, Entry, entries, load, locate, own_names, unknown
from trainer.settings import TrainSettings
from trainer.training import torch_optimizers
from trainer.training.parameter_groups import NamedParameters


@dataclass(frozen=True)
class OptimizerKind:
    """An optimizer that `trainer.optimizer` may name."""

    name: str
    build: Callable[[NamedParameters, TrainSettings], torch.optim.Optimizer]
    elementwise: bool = False
    """Whether updates are elementwise. Only elementwise optimizers can update the rows that a rank
    of a sharded model holds."""
    package: str | None = None
    """The package that the optimizer needs in addition to torch."""
    needs_accelerator: bool = False
    """Whether the optimizer cannot train on a CPU."""


def build_optimizer(
    parameters: Sequence[tuple[str, nn.Parameter]],
    settings: TrainSettings,
    model: nn.Module | None = None,
) -> torch.optim.Optimizer:
    """Build the optimizer that the settings name, for these trained parameters.

    `model` is needed to find a parameter's layer and its name in files on the hub. Raises
    InputError for an invalid name, option or pattern.
    """
    kind = find_optimizer(settings.optimizer)
    check_installed(kind)
    for reserved in ("lr", "weight_decay", "params"):
        if reserved in settings.optimizer_options:
            accepted = "trainer.learning_rate and trainer.weight_decay"
            raise InputError(f"trainer.optimizer_options: found {reserved}; accepted: {accepted}")
    try:
        return kind.build(NamedParameters(parameters, model), settings)
    except InputError:
        raise
    except (TypeError, LookupError) as error:
        raise InputError(f"trainer.optimizer_options: {settings.optimizer}: {error}") from error
    except (ValueError, RuntimeError) as error:
        raise InputError(f"trainer.optimizer: {settings.optimizer}: {error}") from error


def find_optimizer(name: str) -> OptimizerKind:
    """The optimizer with this name: from this package, a trusted or installed package, or torch.

    Raises InputError for an unknown name, and for a name that two packages define.
    """
    entry = locate(OPTIMIZERS, name)
    if entry is None:
        raise unknown(OPTIMIZERS, name, "trainer.optimizer")
    return _kind(entry)


def own_optimizers() -> dict[str, str]:
    """Name -> import path of this package's and torch.optim's optimizers, for the registry."""
    found = {name: f"{OPTIMIZERS.home}.{name}" for name in own_names(OPTIMIZERS)}
    for name, cls in torch_optimizers.classes().items():
        if name not in found:
            found[cls.__name__] = f"{torch.optim.__name__}:{cls.__name__}"
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def elementwise_optimizers() -> list[str]:
    """The names of the optimizers that a sharded model can train with."""
    # those of installed packages are left out, since they would have to be imported
    known = [each for each in entries(OPTIMIZERS) if not each.installed]
    return sorted(each.name.lower() for each in known if _kind(each).elementwise)


def check_installed(kind: OptimizerKind) -> None:
    """Raise InputError, which names the extra to install, if an optimizer's package is missing."""
    if kind.package is not None and importlib.util.find_spec(kind.package) is None:
        raise InputError(
            f"trainer.optimizer: {kind.name} needs {kind.package}, which is not installed; "
            "pip install 'tempering[optimizers]'"
        )


def check_device(name: str, device: torch.device) -> None:
    """Raise InputError for an optimizer that cannot train on this device."""
    if device.type == "cpu" and find_optimizer(name).needs_accelerator:
        plain = name.lower().removeprefix("paged_")
        other = f", or trainer.optimizer={plain}" if plain != name.lower() else ""
        accepted = f"accepted: a GPU{other}"
        raise InputError(f"trainer.optimizer: {name} needs a GPU, and this is a CPU; {accepted}")


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of every group to `value` times the group's `lr_scale`."""
    for group in optimizer.param_groups:
        rate = value * group.get("lr_scale", 1.0)
        if isinstance(group["lr"], Tensor):  # capturable optimizers keep the rate on the device
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def bytes_of_state(optimizer: torch.optim.Optimizer) -> int:
    """The bytes that the next step allocates for parameters without optimizer state."""
    layout = moment_layouts(optimizer)
    return sum(
        _bytes(layout(parameter, group), parameter)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if not optimizer.state.get(parameter)
    )


def moments_per_weight(settings: TrainSettings) -> float:
    """The number of fp32 values that an optimizer keeps per weight of a large matrix."""
    weight = nn.Parameter(torch.zeros(256, 256))
    uniform = replace(settings, parameter_groups={}, layer_decay=None)
    optimizer = build_optimizer([("weight", weight)], uniform)
    group = optimizer.param_groups[0]
    return _bytes(moment_layouts(optimizer)(weight, group), weight) / weight.nbytes


def _bytes(layout: Layout | None, parameter: nn.Parameter) -> int:
    """The bytes of moments with this layout, without counters."""
    if layout is None:  # unknown, since a trial step failed; assume two moments
        return 2 * parameter.nbytes
    return sum(
        torch.Size(shape).numel() * dtype.itemsize for shape, dtype in layout.values() if shape
    )


def _kind(entry: Entry) -> OptimizerKind:
    name = entry.name.lower()
    if entry.module == torch.optim.__name__:
        elementwise = name in torch_optimizers.ELEMENTWISE
        build = torch_optimizers.builder(torch_optimizers.classes()[name])
        return OptimizerKind(name, build, elementwise)
    module = importlib.import_module(entry.module)
    elementwise = bool(getattr(module, "ELEMENTWISE", False))
    build = load(OPTIMIZERS, entry)
    needs_accelerator = bool(getattr(module, "NEEDS_ACCELERATOR", False))
    package = getattr(module, "PACKAGE", None)
    return OptimizerKind(entry.name, build, elementwise, package, needs_accelerator)
