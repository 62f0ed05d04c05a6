"""What a checkpoint's state/ says, checked against the run that is about to use it.

A checkpoint may come from a stranger, and its manifest then verifies whatever it holds. Fused
kernels trust the shapes and types of an optimizer's moments, so all of it is checked before use.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.checkpoint.verify import CorruptCheckpoint
from trainer.errors import InputError
from trainer.foreign_numbers import is_number

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    Layout = dict[str, tuple[tuple[int, ...], Any]]

MAX_COUNT = 2**63


def check_moments(
    name: str,
    moments: "Mapping[str, Tensor]",
    parameter: "Tensor",
    layout: "Layout | None",
) -> None:
    """Refuse moments that the optimizer does not keep for this parameter, or that are not finite.

    `layout` is what `moment_layout` found; None skips the check of names and types. Moments are
    absent before the first step. Raises InputError naming the moment.
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
    """A function of a parameter and its group: moment name -> (shape, dtype) after one step.

    It steps an optimizer of the same class on a parameter of at most 2 entries along each axis,
    once for each kind of parameter. It returns None for an optimizer that does not take such a
    step; then only the shapes are known.
    """
    known: dict[Any, Any] = {}

    def layout(parameter: "Tensor", group: Mapping[str, Any]) -> "Layout | None":
        small = tuple(min(size, 2) for size in parameter.shape)
        key = (small, parameter.dtype, id(group))
        if key not in known:
            known[key] = _stepped(type(optimizer), small, parameter.dtype, group)
        if known[key] is None:
            return None
        return {
            moment: (_scaled(shape, small, tuple(parameter.shape)), dtype)
            for moment, (shape, dtype) in known[key].items()
        }

    return layout


def check_average(
    tensors: "Mapping[str, Tensor]", wanted: "Mapping[str, Tensor]", stem: str
) -> None:
    """Refuse an average that has not exactly the names, shapes and types of what is trained."""
    check_weights(Path(f"{stem}.safetensors"), tensors, wanted)


def check_weights(
    path: Path, found: "Mapping[str, Tensor]", wanted: "Mapping[str, Tensor]"
) -> None:
    """Refuse tensors that have other names, shapes or types than wanted, or are not finite.

    Raises InputError naming the tensor.
    """
    if found.keys() != wanted.keys():
        odd = min(found.keys() ^ wanted.keys())
        told = f"found {len(found)} tensors for {len(wanted)} weights ({odd})"
        raise InputError(f"{path}: {told}; accepted: one for each weight")
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape or tensor.dtype != wanted[name].dtype:
            told = f"found {list(tensor.shape)} {tensor.dtype}"
            accepted = f"{list(wanted[name].shape)} {wanted[name].dtype}"
            raise InputError(f"{path}: {name}: {told}; accepted: {accepted}")
        _check_numbers(path, name, tensor)


def check_facts(path: Path, facts: Any) -> dict[str, Any]:
    """The counters of optimizer.json, each of its type and range. Raises CorruptCheckpoint."""
    if not isinstance(facts, dict):
        raise CorruptCheckpoint(path, "facts is not an object")
    for name, (holds, accepted) in FACTS.items():
        if name not in facts:
            raise CorruptCheckpoint(path, f"facts has no {name}")
        if not holds(facts[name]):
            raise CorruptCheckpoint(path, f"{name} is {facts[name]!r:.60}, not {accepted}")
    return facts


def check_best(path: Path, facts: Mapping[str, Any], best_step: int | None) -> None:
    """Raise CorruptCheckpoint where trainer.json has a best step and no metric is named."""
    if best_step is not None and facts["best"] is None:
        raise CorruptCheckpoint(path, f"best is null, but trainer.json has best_step {best_step}")


def load_callback_state(path: Path, name: str, load: Callable[[Any], None], state: Any) -> None:
    """Give a callback its saved state. Raises CorruptCheckpoint where it cannot read it."""
    if not isinstance(state, dict):
        raise CorruptCheckpoint(path, f"the state of {name} is not an object")
    try:
        load(state)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"the state of {name} cannot be read ({type(error).__name__}: {error})"
        raise CorruptCheckpoint(path, " ".join(reason.split())) from None


def _stepped(
    kind: "type[Optimizer]", shape: tuple[int, ...], dtype: Any, group: Mapping[str, Any]
) -> "Layout | None":
    """What one step makes an optimizer of this kind keep; None where it takes no such step."""
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
    """A moment's shape, for a parameter of the shape `full` instead of `small`."""
    if len(found) != len(small):
        return found
    return tuple(b if a == s else a for a, s, b in zip(found, small, full, strict=True))


def _check_numbers(path: Path, where: str, tensor: "Tensor", least: float | None = None) -> None:
    if tensor.is_floating_point() and not tensor.isfinite().all():
        raise InputError(f"{path}: {where}: found numbers that are not finite")
    if least is not None and tensor.numel() and tensor.min().item() < least:
        raise InputError(f"{path}: {where}: found {tensor.min().item()}; accepted: from 0")


def _refused(text: str) -> InputError:
    return InputError(f"optimizer.safetensors: {text}")


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_COUNT


def _seconds(value: Any) -> bool:
    return is_number(value) and value >= 0


def _window(value: Any) -> bool:
    """What `Throughput.state` gives."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("losses"), list)
        and all(loss is None or is_number(loss) for loss in value["losses"])
        and all(_count(value.get(name)) for name in ("samples", "tokens"))
        and all(_seconds(value.get(name)) for name in ("seconds", "before"))
    )


def _scaler(value: Any) -> bool:
    """What torch's GradScaler keeps, or nothing."""
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


FACTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "tokens": (_count, "a whole number from 0"),
    "skipped": (_count, "a whole number from 0"),
    "skipped_in_a_row": (_count, "a whole number from 0"),
    "stopped": (lambda v: isinstance(v, str), "a text"),
    "throughput": (_window, "the losses, samples, tokens and seconds of a window"),
    "best": (lambda v: v is None or isinstance(v, str), "the name of a metric, or null"),
    "scaler": (_scaler, "the state of a gradient scaler, or null"),
}
"""Entry of optimizer.json's facts -> (what it must hold, in words)."""
