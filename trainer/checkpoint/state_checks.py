"""Checks of a checkpoint's state/ against the run that is about to use it.

A checkpoint may come from an untrusted source, which can also write a matching manifest. Fused
kernels trust the shapes and types of an optimizer's moments, so everything is checked before use.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.checkpoint.verify import CorruptCheckpoint
from trainer.errors import InputError
from trainer.foreign.numbers import is_number

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.optim import Optimizer

Layout = dict[str, tuple[tuple[int, ...], Any]]
"""Name of an optimizer's moment (such as exp_avg) -> its (shape, dtype) for one parameter."""

MAX_COUNT = 2**63


def check_moments(
    name: str,
    moments: "Mapping[str, Tensor]",
    parameter: "Tensor",
    layout: "Layout | None",
) -> None:
    """Refuse moments that the optimizer does not have for this parameter, or that are not finite.

    `layout` comes from the function that `moment_layouts` returns; None skips the checks of names,
    shapes and types. An empty `moments` is accepted, since there are no moments before the first
    step. Raises InputError naming the moment.
    """
    for moment, tensor in moments.items():
        least = 0 if moment == "step" else None
        _check_numbers(Path("optimizer.safetensors"), f"{moment} of {name}", tensor, least)
    if layout is None or not moments:
        return
    if moments.keys() != layout.keys():
        found, accepted = ", ".join(sorted(moments)) or "none", ", ".join(sorted(layout)) or "none"
        raise _refused(f"moments of {name}: found {found}; accepted: {accepted}")
    for moment, tensor in moments.items():
        shape, dtype = layout[moment]
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            found = f"found {list(tensor.shape)} {tensor.dtype}"
            raise _refused(f"{moment} of {name}: {found}; accepted: {list(shape)} {dtype}")


def moment_layouts(
    optimizer: "Optimizer",
) -> "Callable[[Tensor, Mapping[str, Any]], Layout | None]":
    """Return a function that maps (parameter, group) to the layout of the moments after a step.

    To find the layout, an optimizer of the same class takes one step with a small parameter, which
    has at most 2 entries along each axis. The parameter has full size if the optimizer's state
    depends on it (`state_depends_on_size`). The function returns None if the optimizer cannot take
    this step.
    """
    known: dict[Any, Any] = {}
    most = sys.maxsize if getattr(optimizer, "state_depends_on_size", False) else 2

    def layout(parameter: "Tensor", group: Mapping[str, Any]) -> "Layout | None":
        reduced = tuple(min(size, most) for size in parameter.shape)
        key = (reduced, parameter.dtype, id(group))
        if key not in known:
            known[key] = _stepped(type(optimizer), reduced, parameter.dtype, group)
        if known[key] is None:
            return None
        return {
            moment: (_scaled(shape, reduced, tuple(parameter.shape)), dtype)
            for moment, (shape, dtype) in known[key].items()
        }

    return layout


def check_average(
    tensors: "Mapping[str, Tensor]", wanted: "Mapping[str, Tensor]", stem: str
) -> None:
    """Refuse averaged weights whose names, shapes or types differ from those of trained weights."""
    check_weights(Path(f"{stem}.safetensors"), tensors, wanted)


def check_weights(
    path: Path, found: "Mapping[str, Tensor]", wanted: "Mapping[str, Tensor]"
) -> None:
    """Refuse tensors whose names, shapes or types differ from `wanted`, or that are not finite.

    Raises InputError naming the tensor.
    """
    if found.keys() != wanted.keys():
        odd = min(found.keys() ^ wanted.keys())
        shown = f"found {len(found)} tensors for {len(wanted)} weights ({odd})"
        raise InputError(f"{path}: {shown}; accepted: one for each weight")
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape or tensor.dtype != wanted[name].dtype:
            shown = f"found {list(tensor.shape)} {tensor.dtype}"
            accepted = f"{list(wanted[name].shape)} {wanted[name].dtype}"
            raise InputError(f"{path}: {name}: {shown}; accepted: {accepted}")
        _check_numbers(path, name, tensor)


def check_facts(path: Path, facts: object) -> dict[str, Any]:
    """The `facts` of optimizer.json, with defaults. Raises CorruptCheckpoint for invalid values."""
    if not isinstance(facts, dict):
        raise CorruptCheckpoint(path, "facts is not an object")
    facts = {**MISSING_IN_EARLIER_VERSIONS, **facts}
    for name, (is_valid, accepted) in FACTS.items():
        if name not in facts:
            raise CorruptCheckpoint(path, f"facts has no {name}")
        if not is_valid(facts[name]):
            raise CorruptCheckpoint(path, f"{name} is {facts[name]!r:.60}, not {accepted}")
    return facts


def check_best(path: Path, facts: Mapping[str, Any], best_step: int | None) -> None:
    """Raise CorruptCheckpoint if trainer.json has a best step, but `facts` names no metric."""
    if best_step is not None and facts["best"] is None:
        raise CorruptCheckpoint(path, f"best is null, but trainer.json has best_step {best_step}")


def load_callback_state(path: Path, name: str, load: Callable[[Any], None], state: object) -> None:
    """Restore a callback's state. Raises CorruptCheckpoint if the state cannot be read."""
    if not isinstance(state, dict):
        raise CorruptCheckpoint(path, f"the state of {name} is not an object")
    try:
        load(state)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"the state of {name} cannot be read ({type(error).__name__}: {error})"
        raise CorruptCheckpoint(path, " ".join(reason.split())) from None


def _stepped(
    kind: "type[Optimizer]", shape: tuple[int, ...], dtype: "torch.dtype", group: Mapping[str, Any]
) -> "Layout | None":
    """The layout of an optimizer's state after one step; None if it cannot take the step."""
    import torch

    parameter = torch.nn.Parameter(torch.zeros(shape, dtype=dtype))
    parameter.grad = torch.zeros_like(parameter)
    options = {k: v for k, v in group.items() if k not in ("params", "param_names")}
    options["lr"] = float(options.get("lr", 0.0))
    options |= {name: False for name in ("capturable", "fused") if name in options}
    try:
        optimizer = kind([{"params": [parameter], **options}])  # type: ignore[call-arg]
        optimizer.step()
    except (RuntimeError, ValueError, TypeError):
        return None
    state = optimizer.state[parameter]
    tensors = {key: value for key, value in state.items() if value is not None}
    if not all(hasattr(value, "dtype") for value in tensors.values()):
        return None
    return {key: (tuple(value.shape), value.dtype) for key, value in tensors.items()}


def _scaled(
    found: tuple[int, ...], small: tuple[int, ...], full: tuple[int, ...]
) -> tuple[int, ...]:
    """The shape that a moment would have if its parameter had the shape `full`, not `small`."""
    if len(found) != len(small):
        return found
    return tuple(b if a == s else a for a, s, b in zip(found, small, full, strict=True))


def _check_numbers(path: Path, where: str, tensor: "Tensor", least: float | None = None) -> None:
    if tensor.is_floating_point() and not tensor.isfinite().all():
        raise InputError(f"{path}: {where}: found numbers that are not finite")
    if least is not None and tensor.numel() and tensor.min().item() < least:
        raise InputError(f"{path}: {where}: found {tensor.min().item()}; accepted: 0 or more")


def _refused(text: str) -> InputError:
    return InputError(f"optimizer.safetensors: {text}")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < MAX_COUNT


def _is_seconds(value: Any) -> bool:
    return is_number(value) and value >= 0


def _is_window(value: object) -> bool:
    """Whether this is a valid result of `Throughput.state`."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("losses"), list)
        and all(loss is None or is_number(loss) for loss in value["losses"])
        and _are_figures(value.get("figures", {}))
        and all(_is_count(value.get(name)) for name in ("samples", "tokens"))
        and all(_is_seconds(value.get(name)) for name in ("seconds", "before"))
        and _is_seconds(value.get("waited", 0.0))  # checkpoints of earlier versions have none
    )


def _are_figures(value: object) -> bool:
    """Whether this is a mapping of names to lists of numbers and nulls."""
    return isinstance(value, dict) and all(
        isinstance(numbers, list) and all(each is None or is_number(each) for each in numbers)
        for numbers in value.values()
    )


def _is_scaler(value: object) -> bool:
    """Whether this is the state of torch's GradScaler, or no state."""
    if value is None or value == {}:
        return True
    factors = ("scale", "growth_factor", "backoff_factor")
    counts = ("growth_interval", "_growth_tracker")
    return (
        isinstance(value, dict)
        and value.keys() == {*factors, *counts}
        and all(is_number(value[name]) and 0 < value[name] < 2**127 for name in factors)
        and all(type(value[name]) is int and 0 <= value[name] < 2**31 for name in counts)
    )


def _are_losses(value: Any) -> bool:
    numbers = isinstance(value, list) and len(value) == 2 and all(map(is_number, value))
    return bool(numbers) and value[1] >= 0


MISSING_IN_EARLIER_VERSIONS = {"losses": [0.0, 0.0]}
"""Defaults of entries that checkpoints of earlier versions lack."""
FACTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "tokens": (_is_count, "a whole number of at least 0"),
    "skipped": (_is_count, "a whole number of at least 0"),
    "skipped_in_a_row": (_is_count, "a whole number of at least 0"),
    "stopped": (lambda v: isinstance(v, str), "a text"),
    "throughput": (_is_window, "the losses, figures, samples, tokens and seconds of a window"),
    "losses": (_are_losses, "the sum of the losses, and their number"),
    "best": (lambda v: v is None or isinstance(v, str), "the name of a metric, or null"),
    "scaler": (_is_scaler, "the state of a gradient scaler, or null"),
}
"""Entry of optimizer.json -> (check of its value, description of the accepted values)."""
