"""LoRA (Hu et al., 2021): frozen linear layers, each with two narrow ones that are trained."""

import hashlib
import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trainer import hub
from trainer.errors import InputError, nearest
from trainer.models import keys
from trainer.models.dropout import Dropout, number_sites
from trainer.models.gpt2 import Projection
from trainer.models.linear import Linear, linear
from trainer.models.lora_settings import LoRASettings
from trainer.models.resizing import vocabulary_parameters
from trainer.precision import in_float64

if TYPE_CHECKING:
    from trainer.models.pretrained import PretrainedModel

log = logging.getLogger("trainer")

MATRICES = ("lora_A", "lora_B")
SAMPLED = 64
"""Numbers of a weight that go into the digest of a base."""


@dataclass(frozen=True)
class Adapter:
    """What is known of a model's adapters beside their weights."""

    rank: int
    scaling: float
    """What the adapters' outputs are multiplied by: alpha / rank. Layers may have their own."""
    dropout: float
    base: str
    """The path of the model that is adapted, as `from_pretrained` takes it; may be empty."""
    revision: str | None
    base_digest: str
    """Of some numbers of each adapted weight, in bf16, so that the type they are in says nothing"""
    base_name: str | None = None
    """What an adapter's folder calls its base, where that is not `base`."""
    bias: str = "none"
    """PEFT's word for the biases among `whole`: none, lora_only or all."""
    whole: tuple[str, ...] = ()
    """Parameters that are trained and saved beside the adapters: heads, and what was fresh."""
    merge: bool = False
    """Whether the model that a run ships is a whole one."""


def add_lora(
    model: "PretrainedModel", settings: LoRASettings, base: str, revision: str | None
) -> None:
    """What `PretrainedModel.add_lora` promises; what is drawn comes of torch's generator."""
    if settings.rank is None:
        raise InputError("model.lora.rank: found null; accepted: 1 or more")
    if model.lora is not None:
        raise InputError("model.lora: the model has adapters; accepted: one that has none")
    if settings.base_name is None:
        _tell_unreachable_base(model, base)
    alpha = 2 * settings.rank if settings.alpha is None else settings.alpha
    attach(
        model,
        _chosen(model, settings.targets),
        rank=settings.rank,
        scaling=alpha / settings.rank,
        dropout=settings.dropout,
        base=base,
        revision=revision,
        whole=_head(model) | fresh_parameters(model) | resized_parameters(model),
        merge=settings.merge,
    )
    assert model.lora is not None
    model.lora = replace(model.lora, base_name=settings.base_name)


def _tell_unreachable_base(model: "PretrainedModel", base: str) -> None:
    """Log how others find a base that only this package can name."""
    if base.startswith(hub.PACKAGE) or base.endswith(".gguf"):
        kind = f"AutoModel{model.class_suffix.removeprefix('Model')}"
        log.warning(
            "model.lora: peft and transformers cannot load the base '%s'; model.lora.base_name "
            "says where they find it: a hub id, or the folder BASE that this command writes: "
            'python -c "from trainer import %s as M; '
            "M.from_pretrained('%s').save_pretrained('BASE')\"",
            base,
            kind,
            base,
        )


def attach(
    model: "PretrainedModel",
    layers: Sequence[str],
    *,
    rank: int,
    scaling: float,
    dropout: float,
    base: str,
    revision: str | None,
    whole: Collection[str],
    merge: bool = False,
    own: Mapping[str, tuple[int, float]] = MappingProxyType({}),
) -> None:
    """Put adapters beside the layers of these names, and train them and `whole` alone.

    `own`: rank and scaling of layers that have others than `rank` and `scaling`.
    """
    digest = hashlib.sha256()
    for name in sorted(layers):
        layer = model.get_submodule(name)
        digest.update(_sample(layer.weight))  # type: ignore[arg-type]
        _adapt(layer, *own.get(name, (rank, scaling)), dropout)
    number_sites(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith(MATRICES))
    model.lora = Adapter(rank, scaling, dropout, base, revision, digest.hexdigest(), merge=merge)
    train_whole(model, whole)
    if dropout:
        model.body.register_forward_pre_hook(_keys_of_sequences)
        for layer in model.body.layers:
            layer.register_forward_pre_hook(_keys_of_tokens)


def train_whole(model: "PretrainedModel", names: Collection[str]) -> None:
    """Train and save these parameters too, as they are, beside the adapters."""
    assert model.lora is not None
    both = {*names, *model.lora.whole}
    kept = tuple(name for name, _ in model.named_parameters() if name in both)
    model.lora = replace(model.lora, whole=kept)
    for name in kept:
        model.get_parameter(name).requires_grad_(True)


def merge_lora(model: "PretrainedModel") -> None:
    """Add the adapters to the weights: a plain model with the same outputs, to the rounding."""
    for layer in adapted_layers(model).values():
        layer.weight.data = layer.merged(layer.weight, layer.lora_A, layer.lora_B)
        del layer.lora_A, layer.lora_B, layer.lora_dropout
        layer.__class__ = PLAIN[type(layer)]
    model.lora = None
    model.requires_grad_(True)


def adapted_layers(model: nn.Module) -> dict[str, "LoRALayer"]:
    """The layers that have an adapter, by their names."""
    return {name: m for name, m in model.named_modules() if isinstance(m, LoRALayer)}


def merged_parameters(
    model: nn.Module, weights: Mapping[str, Tensor] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """The parameters that the model without adapters would have, by name; nothing is changed.

    `weights`, by name, are taken in place of the model's own.
    """
    layers = {f"{name}.weight": layer for name, layer in adapted_layers(model).items()}
    values = dict(model.named_parameters()) if weights is None else weights
    for name, value in values.items():
        if name in layers:
            a, b = (values[f"{name.removesuffix('weight')}{each}"] for each in MATRICES)
            yield name, layers[name].merged(value, a, b)
        elif not (layers and name.endswith(MATRICES)):
            yield name, value.detach()


class LoRALayer(nn.Module):
    """A linear layer plus `scaling` times the product of two matrices, [rank, in] and [out, rank].

    A layer becomes one in its place, so that its own parameters keep their names.
    """

    weight: Any
    lora_A: nn.Parameter
    lora_B: nn.Parameter
    lora_dropout: Dropout
    scaling: float
    transposed = False
    """Whether the weight is [in, out]."""
    keys: Tensor | None = None
    """The dropout keys of the next input's rows."""

    def forward(self, x: Tensor) -> Tensor:
        narrow = linear(self.lora_dropout(x, self.keys), self.lora_A)
        return torch.add(super().forward(x), linear(narrow, self.lora_B), alpha=self.scaling)

    @torch.no_grad()
    def merged(self, weight: Tensor, lora_A: Tensor, lora_B: Tensor) -> Tensor:
        """A weight of this layer's shape with such an adapter in it."""
        added = self.scaling * (in_float64(lora_B) @ in_float64(lora_A))
        wide = in_float64(weight) + (added.T if self.transposed else added)
        return wide.to(weight)


class LoRALinear(LoRALayer, Linear):
    """A linear layer with an adapter."""


class LoRAProjection(LoRALayer, Projection):
    """GPT-2's projection with an adapter."""

    transposed = True


KINDS: Mapping[type[nn.Module], type[LoRALayer]] = {
    nn.Linear: LoRALinear,
    Linear: LoRALinear,
    Projection: LoRAProjection,
}
PLAIN: Mapping[type[nn.Module], Any] = {adapted: plain for plain, adapted in KINDS.items()}


def _adapt(layer: Any, rank: int, scaling: float, dropout: float) -> None:
    layer.__class__ = kind = KINDS[type(layer)]
    outputs, inputs = layer.weight.T.shape if kind.transposed else layer.weight.shape
    layer.lora_A = nn.Parameter(layer.weight.new_empty(rank, inputs))
    layer.lora_B = nn.Parameter(layer.weight.new_zeros(outputs, rank))
    nn.init.kaiming_uniform_(layer.lora_A, a=math.sqrt(5))  # as a linear layer begins
    layer.lora_dropout = Dropout(dropout)
    layer.scaling = scaling


def _chosen(model: "PretrainedModel", targets: Sequence[str]) -> list[str]:
    """The layers that `targets` name, in our names or the hub's."""
    linear = {
        name: model.hub_name(f"{name}.weight").removesuffix(".weight")
        for name, module in model.named_modules()
        if type(module) in KINDS and name.startswith(keys.BODY)
    }
    if not targets:
        return [name for name in linear if name.startswith(f"{keys.BODY}layers.")]
    chosen = set()
    for target in targets:
        ends = f".{target}"
        found = {
            n for n, hub in linear.items() if f".{n}".endswith(ends) or f".{hub}".endswith(ends)
        }
        if not found:
            leaves = sorted({name.rpartition(".")[2] for name in linear.values()})
            hint = nearest(target.rpartition(".")[2], leaves)
            raise InputError(
                f"model.lora.targets: '{target}' is no linear layer of the body; accepted: "
                f"{', '.join(leaves)}{hint}"
            )
        chosen |= found
    return sorted(chosen)


def fresh_parameters(model: "PretrainedModel") -> set[str]:
    """What started with random weights."""
    names = (name for name, _ in model.named_parameters())
    return {name for name in names if name.rpartition(".")[0] in model.fresh}


def resized_parameters(model: "PretrainedModel") -> set[str]:
    """The embeddings and output weights of a model whose vocabulary is not its base's."""
    return set(vocabulary_parameters(model)) if model.resized else set()


def _head(model: "PretrainedModel") -> set[str]:
    """The head's parameters, unless it writes tokens."""
    writes = model.task in ("causal_lm", "masked_lm")
    names = (name for name, _ in model.named_parameters())
    return set() if writes else {name for name in names if name.startswith(keys.HEAD)}


def _sample(weight: Tensor) -> bytes:
    numbers = weight.detach().flatten()[:: max(1, weight.numel() // SAMPLED)]
    return numbers.to(torch.bfloat16).view(torch.int16).cpu().numpy().tobytes()


def _keys_of_tokens(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
    """Hand the keys of the tokens, which a layer of a body is called with, to its adapters."""
    for adapted in adapted_layers(layer).values():
        adapted.keys = arguments[-2]


def _keys_of_sequences(body: nn.Module, arguments: tuple[Any, ...]) -> None:
    """Those of first tokens, to what is applied to sequences: the pooler."""
    inputs = arguments[0]
    first = inputs.dropout_keys
    if first is not None:
        first = first[inputs.layout.first_tokens]
    for name, adapted in adapted_layers(body).items():
        if not name.startswith("layers."):
            adapted.keys = first
