"""Adding adapters to a model: LoRA (Hu et al., 2021) and its variants, or (IA)^3."""

import hashlib
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from trainer import hub
from trainer.errors import InputError
from trainer.models.adapters import ia3
from trainer.models.adapters.adapted_layer import adapted_layers
from trainer.models.adapters.adapter import Adapter, absolute_base, divisor
from trainer.models.adapters.base_digest import sample
from trainer.models.adapters.lora_layers import (
    LoRALayer,
    adapt,
    start_with_largest_singular_values,
    start_with_rounding_errors,
)
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.models.adapters.merging import PARTS
from trainer.models.adapters.targets import check_experts, chosen_layers, scaled_layers
from trainer.models.adapters.token_rows import ROWS, train_rows
from trainer.models.adapters.whole_modules import parameters_of_modules, refuse_both
from trainer.models.blocks.dropout import number_sites
from trainer.models.body import Body, ReadsOtherTokens
from trainer.models.lazy_values import values_of
from trainer.models.model import Model
from trainer.models.quantization.quantized_linear import QuantizedLinear
from trainer.models.resizing import vocabulary_parameters

log = logging.getLogger("trainer")

RSLORA_ALPHA = 8
"""The default alpha of rsLoRA, whose scaling is alpha / sqrt(rank): 2 for rank 16."""


def add_lora(model: Model, settings: LoRASettings, base: str, revision: str | None) -> None:
    """Add adapters as `PretrainedModel.add_lora` describes.

    Initial values are drawn from torch's global generator.
    """
    if not settings.adds_adapters:
        raise InputError("model.lora.rank: found null; accepted: 1 or more, or ia3")
    if model.lora is not None:
        raise InputError(
            "model.lora: the model already has adapters; accepted: a model without adapters"
        )
    base = absolute_base(base)
    if settings.base_name is None:
        _warn_of_unreachable_base(model, base)
    saved = parameters_of_modules(model, settings.modules_to_save)
    whole = _head_parameters(model) | fresh_parameters(model) | resized_parameters(model) | saved
    if settings.ia3:
        scaled = scaled_layers(model, settings)
        check_experts(model, list(scaled), settings)
        kept = refuse_both(model, list(scaled), saved, settings.targets)
        layers = {name: scaled[name] for name in kept}
        attach_ia3(model, layers, base=base, revision=revision, whole=whole, merge=settings.merge)
    else:
        _add_matrices(model, settings, base, revision, saved, whole)
    assert model.lora is not None
    model.lora = replace(model.lora, base_name=settings.base_name, rslora=settings.rslora)


def _add_matrices(
    model: Model,
    settings: LoRASettings,
    base: str,
    revision: str | None,
    saved: set[str],
    whole: set[str],
) -> None:
    """Add LoRA's matrices. `saved` are the parameters of `modules_to_save`."""
    chosen = chosen_layers(model, settings.targets)
    check_experts(model, chosen, settings)
    assert settings.rank is not None
    rank, alpha = int(settings.rank), settings.alpha
    if alpha is None:
        alpha = RSLORA_ALPHA if settings.rslora else 2 * rank
    attach(
        model,
        refuse_both(model, chosen, saved, settings.targets),
        rank=rank,
        scaling=alpha / divisor(rank, settings.rslora),
        dropout=float(settings.dropout),
        base=base,
        revision=revision,
        whole=whole,
        merge=settings.merge,
        rows=_rows(model, settings.trainable_tokens, saved),
        dora=settings.dora,
        init=settings.init,
    )
    if settings.init == "loftq":
        start_with_rounding_errors(model)


def _warn_of_unreachable_base(model: Model, base: str) -> None:
    """Warn if PEFT and transformers cannot load the base from this path."""
    if base.startswith(hub.PACKAGE) or base.endswith(".gguf"):
        kind = f"AutoModel{model.class_suffix.removeprefix('Model')}"
        log.warning(
            "model.lora: peft and transformers cannot load the base '%s'; set "
            "model.lora.base_name to a hub id, or to the folder BASE that this command writes: "
            'python -c "from tempering import %s as M; '
            "M.from_pretrained('%s').save_pretrained('BASE')\"",
            base,
            kind,
            base,
        )


def attach(
    model: Model,
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
    rows: Mapping[str, Sequence[int]] = MappingProxyType({}),
    dora: bool = False,
    init: str = "default",
) -> None:
    """Add adapters to the named layers. Only the adapters, `whole` and `rows` are trained.

    `whole` names parameters that are trained in full. `own` maps some layers to a (rank, scaling)
    that replaces `rank` and `scaling`. `rows` maps modules with a row per token, such as
    embeddings, to the ids of the tokens whose rows are trained.
    """
    digest = hashlib.sha256()
    for name in sorted(layers):
        with _values(model, name, digest) as layer:
            adapt(layer, *own.get(name, (rank, scaling)), dropout, dora)
            if init == "pissa":
                assert isinstance(layer, LoRALayer)
                start_with_largest_singular_values(layer)
    number_sites(model)
    for name, token_ids in rows.items():
        module = model.get_submodule(name)
        with values_of(model, module):
            train_rows(module, token_ids, "model.lora.trainable_tokens")
    _freeze(model)
    found = digest.hexdigest()
    model.lora = Adapter(rank, scaling, dropout, base, revision, found, init=init, merge=merge)
    train_whole(model, whole)
    if dropout and isinstance(model.body, Body):
        model.body.register_forward_pre_hook(_keys_outside_of_layers)
        for _, layer in model.body.units:
            layer.register_forward_pre_hook(_keys_of_tokens)
            for module in layer.modules():
                if isinstance(module, ReadsOtherTokens):
                    module.register_forward_pre_hook(_keys_of_tokens)


def attach_ia3(
    model: Model,
    layers: Mapping[str, bool],
    *,
    base: str,
    revision: str | None,
    whole: Collection[str],
    merge: bool = False,
) -> None:
    """Add scales to layers. Only the scales and `whole` are trained.

    `layers` maps a layer's name to True if its inputs are scaled, and to False if its outputs are.
    The other arguments are as in `attach`.
    """
    digest = hashlib.sha256()
    for name in sorted(layers):
        with _values(model, name, digest) as layer:
            ia3.scale(layer, layers[name])
    _freeze(model)
    found = digest.hexdigest()
    model.lora = Adapter(0, 1.0, 0.0, base, revision, found, kind="ia3", merge=merge)
    train_whole(model, whole)


@contextmanager
def _values(model: Model, name: str, digest: "hashlib._Hash") -> Iterator[nn.Module]:
    """Context manager that yields a layer with its weights loaded, and updates the digest.

    The digest identifies the base model; it covers some values of each layer's original weight.
    """
    layer = model.get_submodule(name)
    with values_of(model, layer):
        digest.update(_sample(layer))
        yield layer


def _freeze(model: Model) -> None:
    """Freeze all parameters except those that adapters have added."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith((*PARTS, ROWS)))


def train_whole(model: Model, names: Collection[str]) -> None:
    """Train and save these parameters in full, in addition to the adapters."""
    assert model.lora is not None
    both = {*names, *model.lora.whole}
    both -= {*model.fixed}
    kept = tuple(name for name, _ in model.named_parameters() if name in both)
    model.lora = replace(model.lora, whole=kept)
    for name in kept:
        model.get_parameter(name).requires_grad_(True)


def _rows(
    model: Model, tokens: Sequence[int | str], saved: Collection[str]
) -> dict[str, list[int]]:
    """Name of a module with a row per token -> the ids of the tokens whose rows are trained.

    Raises InputError for tokens that are not ids, and if these rows are trained in full anyway.
    """
    where = "model.lora.trainable_tokens"
    if not tokens:
        return {}
    others = [token for token in tokens if not isinstance(token, Integral)]
    if others:
        raise InputError(
            f"{where}: found {others[0]!r:.80}; accepted without a tokenizer: token ids"
        )
    ids = list(dict.fromkeys(map(int, tokens)))
    # heads are trained in full, even the language modeling heads of a multi-task model
    heads = _head_parameters(model)
    names = [n for n in vocabulary_parameters(model) if n.endswith(".weight") and n not in heads]
    if both := sorted({*saved}.intersection(names)):
        found = f"found {len(ids)} tokens, and {both[0]} is among model.lora.modules_to_save"
        raise InputError(f"{where}: {found}; accepted: one of them")
    if whole := sorted((fresh_parameters(model) | resized_parameters(model)).intersection(names)):
        raise InputError(
            f"{where}: found {len(ids)} tokens, and {whole[0]} is new or has another size than the "
            "base's, so that all its rows are trained; accepted: []"
        )
    return {name.removesuffix(".weight"): ids for name in names}


def fresh_parameters(model: Model) -> set[str]:
    """The names of the parameters that were initialized at random."""
    names = (name for name, _ in model.named_parameters())
    return {name for name in names if name.rpartition(".")[0] in model.fresh}


def resized_parameters(model: Model) -> set[str]:
    """The names of the embeddings and output weights if the vocabulary was resized, else none."""
    return set(vocabulary_parameters(model)) if model.resized else set()


def _head_parameters(model: Model) -> set[str]:
    """The names of the head's parameters; none for a language modeling head."""
    names = (name for name, _ in model.named_parameters())
    return set() if model.vocabulary else {name for name in names if not model.in_body(name)}


def _sample(layer: nn.Module) -> bytes:
    """Some values of a layer's original weight, as bytes for the digest of the base model."""
    if isinstance(layer, QuantizedLinear):
        return layer.original_sample
    assert isinstance(layer.weight, Tensor)
    return sample(layer.weight)


def _keys_of_tokens(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
    """Pass the dropout keys of a layer's call to the layer's adapters."""
    for adapted in adapted_layers(layer).values():
        if isinstance(adapted, LoRALayer):  # the hook outlives merged adapters
            adapted.keys = arguments[-2]


def _keys_outside_of_layers(body: nn.Module, arguments: tuple[Any, ...]) -> None:
    """Pass tokens' dropout keys to adapted embeddings, and first tokens' keys to the pooler."""
    inputs = arguments[0]
    keys = first = inputs.dropout_keys
    if keys is not None:
        first = keys[inputs.layout.first_tokens]
    assert isinstance(body, Body)
    units = tuple(f"{name}." for name, _ in body.units)
    embedding = set(adapted_layers(body.embed).values())
    for name, adapted in adapted_layers(body).items():
        if isinstance(adapted, LoRALayer) and not name.startswith(units):
            adapted.keys = keys if adapted in embedding else first
