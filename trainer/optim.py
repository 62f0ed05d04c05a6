"""What turns gradients into new weights: parameter groups, optimizers, learning rate, EMA."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trainer.checkpoint.state_checks import check_average
from trainer.errors import InputError, nearest
from trainer.settings import TrainSettings

NamedParameters = Sequence[tuple[str, nn.Parameter]]


def trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that training changes, by name, each once even where it is tied."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def build_optimizer(parameters: NamedParameters, settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimizer that the settings name, over matrices with decay and vectors without."""
    optimizer_class = _optimizer_class(settings.optimizer)
    for own in ("lr", "weight_decay", "params"):
        if own in settings.optimizer_options:
            accepted = "trainer.learning_rate and trainer.weight_decay"
            raise InputError(f"trainer.optimizer_options: found {own}; accepted: {accepted}")
    options = {"lr": settings.learning_rate, **settings.optimizer_options}
    fusible = optimizer_class in (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD)
    if fusible and not options.keys() & {"foreach", "fused", "differentiable"}:
        options["fused"] = True
    try:
        return optimizer_class(_decay_groups(parameters, settings.weight_decay), **options)
    except TypeError as error:
        raise InputError(f"trainer.optimizer_options: {settings.optimizer}: {error}") from error
    except (ValueError, RuntimeError) as error:
        raise InputError(f"trainer.optimizer: {settings.optimizer}: {error}") from error


def _optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    classes = {
        key.lower(): value
        for key, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer)
    }
    for closure_or_sparse in ("optimizer", "lbfgs", "sparseadam"):
        classes.pop(closure_or_sparse, None)
    if name.lower() not in classes:
        accepted = ", ".join(sorted(cls.__name__ for cls in classes.values()))
        hint = nearest(name.lower(), classes)
        raise InputError(f"trainer.optimizer: found '{name}'; accepted: {accepted}{hint}")
    return classes[name.lower()]


def _decay_groups(parameters: NamedParameters, weight_decay: float) -> list[dict]:
    """Biases and norms are vectors: they get no decay (as in BERT's own optimizer)."""
    matrices = [p for _, p in parameters if p.ndim >= 2]
    vectors = [p for _, p in parameters if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def learning_rate(step: int, total_steps: int, settings: TrainSettings) -> float:
    """The learning rate of optimizer step `step` (from 0): a function, so nothing to restore."""
    warmup = settings.resolved_warmup(total_steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total_steps - warmup)  # 0 .. below 1
    return settings.learning_rate * _decayed(settings.lr_scheduler, progress)


def _decayed(scheduler: str, progress: float) -> float:
    """The share of the peak that is left after `progress` (0 to 1) of the steps past warm-up."""
    left = max(0.0, 1.0 - progress)
    match scheduler:
        case "linear":
            return left
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        case "wsd":  # warm-up, stable, decay (arXiv:2404.06395): linear over the last tenth
            return min(1.0, 10 * left)
        case "constant":
            return 1.0
    raise AssertionError(f"no schedule {scheduler}")


MOMENTS = {"sgd": 0, "adagrad": 1, "asgd": 1, "rmsprop": 1, "muon": 1, "adafactor": 0}
"""Tensors of a parameter's size that an optimizer keeps, where they are not two as Adam's."""


def num_moments(optimizer: str, options: Mapping[str, Any]) -> int:
    """How many tensors of each parameter's size an optimizer keeps from its first step on."""
    name = optimizer.lower()
    extra = {"sgd": ["momentum"], "rmsprop": ["momentum", "centered"]}.get(name, ["amsgrad"])
    return MOMENTS.get(name, 2) + sum(bool(options.get(each)) for each in extra)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Give every group of the optimizer this learning rate."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):  # capturable optimizers keep it on the device
            group["lr"].fill_(value)
        else:
            group["lr"] = value


def freeze(model: nn.Module, patterns: Sequence[str]) -> int:
    """Stop training what the name patterns match, in our names or the hub's; how many tensors.

    Raises InputError for a pattern that matches nothing, and where nothing is left to train.
    """
    hub_name = getattr(model, "hub_name", lambda name: name)
    frozen = set()
    for pattern in patterns:
        meant = name_pattern(pattern)
        matched = {
            name
            for name, _ in model.named_parameters()
            if meant.fullmatch(name) or meant.fullmatch(hub_name(name))
        }
        if not matched:
            names = [hub_name(name) for name, _ in model.named_parameters()]
            raise InputError(
                f"model.freeze: '{pattern}' matches no parameter; accepted: patterns of names "
                f"such as {names[0]}{nearest(pattern, names)}"
            )
        frozen |= matched
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name not in frozen)
    if not trainable(model):
        raise InputError(f"model.freeze: {list(patterns)} leaves nothing to train")
    return len(frozen)


def name_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern of names: * is any text, ? a character, [2-11] and [0,3] whole numbers.

    Raises InputError for other brackets. In shells they mean single characters, so [01] could be
    read as 0 and 1 or as 1.
    """
    pieces = []
    for part in re.split(r"(\*|\?|\[[^\]]*\]?)", pattern):
        if part in ("*", "?"):
            pieces.append({"*": ".*", "?": "."}[part])
        elif part.startswith("["):
            pieces.append(f"(?:{'|'.join(map(str, _numbers(part, pattern)))})")
        else:
            pieces.append(re.escape(part))
    return re.compile("".join(pieces))


def _numbers(brackets: str, pattern: str) -> list[int]:
    found: list[int] = []
    several_digits = re.fullmatch(r"\[\d{2,}\]", brackets)
    for each in brackets.removeprefix("[").removesuffix("]").split(","):
        ends = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", each)
        wrong = ends is None or not brackets.endswith("]") or several_digits
        if ends is None or wrong or int(ends[2] or ends[1]) < int(ends[1]):
            accepted = "whole numbers in brackets, such as [0-11] or [0,1]"
            raise InputError(f"model.freeze: '{pattern}': found {brackets}; accepted: {accepted}")
        found += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
    return found


class ExponentialMovingAverage:
    """A moving average of the trained weights, in their own type: `shadow` holds it by name."""

    def __init__(self, parameters: NamedParameters, decay: float) -> None:
        self.decay = decay
        self.parameters = dict(parameters)
        self.shadow = {name: p.detach().clone() for name, p in parameters}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights by 1 - decay."""
        weights = [self.parameters[name].detach() for name in self.shadow]
        torch._foreach_lerp_(list(self.shadow.values()), weights, 1 - self.decay)

    def weights(self) -> dict[str, Tensor]:
        """The weights as they are now: what an average begins with."""
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back a saved average. Raises InputError for one of other weights."""
        check_average(tensors, self.shadow, "ema")
        for name, tensor in tensors.items():
            self.shadow[name].copy_(tensor)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the context the model has the averaged weights; after it, its own again."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, average in self.shadow.items():
            weight = self.parameters[name]
            kept = weight.clone()  # in place: a sharded model knows its weights by their memory
            weight.copy_(average)
            average.copy_(kept)
