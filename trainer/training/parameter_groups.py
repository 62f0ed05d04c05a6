"""Parameter groups: the learning rate and the weight decay of each parameter."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from trainer.errors import InputError
from trainer.models.layered import Layered, layers_of
from trainer.settings import TrainSettings
from trainer.training.name_patterns import matching_names

Group = dict[str, Any]
"""A parameter group of torch's optimizers: `params`, `lr_scale`, `weight_decay` and options."""


@dataclass(frozen=True)
class NamedParameters:
    """The parameters to train, by name, and the model that they belong to.

    The parameters of a sharded model are this rank's rows, under the model's own names.
    """

    pairs: Sequence[tuple[str, nn.Parameter]]
    model: nn.Module | None = None
    """None if unknown; then patterns match only names in `pairs`, and layers have no depth."""

    def __iter__(self) -> Iterator[tuple[str, nn.Parameter]]:
        return iter(self.pairs)

    def matching(self, pattern: str, where: str) -> set[str]:
        """The names that a pattern matches. Raises InputError for a pattern that matches none."""
        return matching_names(pattern, [name for name, _ in self.pairs], self.model, where)

    def is_hidden_matrix(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether a parameter is a matrix of a layer: not an embedding, a head, a bias or a norm.

        In a model without a body, any matrix other than an embedding counts.
        """
        in_a_layer = self.num_units == 0 or 0 < self.depths[name] <= self.num_units
        return parameter.ndim == 2 and in_a_layer and not self.is_embedding(name)

    def is_embedding(self, name: str) -> bool:
        """Whether a parameter is an embedding's weight, with a row for each token or position."""
        return name in self._embeddings

    @cached_property
    def num_units(self) -> int:
        """The number of layers in the body; 0 for a model without a body."""
        return len(self._body.units) if self._body is not None else 0

    @cached_property
    def depths(self) -> Mapping[str, int]:
        """By name: 0 for embeddings, 1 to `num_units` for layers, `num_units + 1` for the rest."""
        body = self._body
        parts = [] if body is None else [body.embed, *(unit for _, unit in body.units)]
        inside = dict(_names_in(parts, self.model))
        return {name: inside.get(name, self.num_units + 1) for name, _ in self.pairs}

    @property
    def _body(self) -> Layered | None:
        return layers_of(self.model)

    @cached_property
    def _embeddings(self) -> set[str]:
        modules = self.model.named_modules() if self.model is not None else ()
        return {f"{name}.weight" for name, each in modules if isinstance(each, nn.Embedding)}


def parameter_groups(
    named: NamedParameters,
    settings: TrainSettings,
    options_of: Callable[[str, nn.Parameter], Mapping[str, Any]] = lambda name, parameter: {},
) -> list[Group]:
    """Group parameters by `trainer.parameter_groups`, `layer_decay` and `weight_decay`.

    Each group has `lr_scale`, the factor of the schedule's learning rate, and `weight_decay`.
    Unless a pattern sets it, weight decay applies to matrices and not to vectors (biases and
    norms), as in BERT's optimizer. `options_of` returns further optimizer options for a
    parameter. Raises InputError for a pattern that matches nothing.
    """
    chosen = _by_pattern(named, settings)
    scales = _layer_scales(named, settings)
    groups: dict[Any, Group] = {}
    for name, parameter in named:
        default_decay = settings.weight_decay if parameter.ndim >= 2 else 0.0
        matched = chosen.get(name, {})
        group = {
            "weight_decay": matched.get("weight_decay", default_decay),
            "lr_scale": matched.get("lr_scale", 1.0) * scales.get(name, 1.0),
            **options_of(name, parameter),
        }
        key = tuple(sorted(group.items()))
        groups.setdefault(key, {"params": [], **group})["params"].append(parameter)
    return list(groups.values())


def describe_rates(groups: Sequence[Group]) -> str:
    """A description of how the groups' learning rates differ; empty if they are all equal."""
    scales = sorted({group.get("lr_scale", 1.0) for group in groups})
    if scales == [1.0]:
        return ""
    shown = ", ".join(f"{scale:.3g}" for scale in scales)
    return f"parameters have {shown} times the learning rate"


def _by_pattern(named: NamedParameters, settings: TrainSettings) -> dict[str, Mapping[str, float]]:
    """The settings of the first pattern that matches each name."""
    found: dict[str, Mapping[str, float]] = {}
    for pattern, values in settings.parameter_groups.items():
        for name in named.matching(pattern, "trainer.parameter_groups"):
            found.setdefault(name, values)
    return found


def _layer_scales(named: NamedParameters, settings: TrainSettings) -> dict[str, float]:
    """Layer-wise decay (arXiv:1801.06146, 2003.10555): earlier layers have lower learning rates.

    Parameters after the last layer have the full learning rate, embeddings the lowest.
    """
    decay = settings.layer_decay
    if decay is None:
        return {}
    if not named.num_units:
        accepted = "accepted: null"
        raise InputError(f"trainer.layer_decay: the layers of this model are not known; {accepted}")
    last = named.num_units + 1
    return {name: decay ** (last - depth) for name, depth in named.depths.items()}


def _names_in(parts: Sequence[nn.Module], model: nn.Module | None) -> Iterator[tuple[str, int]]:
    """Yield the name of each parameter in `parts`, with the index of the part that contains it."""
    if model is None:
        return
    places = {id(part): number for number, part in enumerate(parts)}
    for prefix, module in model.named_modules():
        if id(module) in places:
            for name, _ in module.named_parameters():
                yield f"{prefix}.{name}", places[id(module)]
