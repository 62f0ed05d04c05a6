"""Reading adapters in PEFT's format, and PEFT's tensor names."""

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from trainer import hub
from trainer.errors import InputError
from trainer.models.adapters.adapted_layer import adapted_layers
from trainer.models.adapters.adapter import absolute_base
from trainer.models.adapters.adapter_config import FILE as CONFIG
from trainer.models.adapters.adapter_config import AdapterConfig, no_base, read_adapter_config
from trainer.models.adapters.expert_adapters import (
    HOME,
    PARAMETERS,
    joined_shape,
    number_of_experts,
    plain_name,
    separated,
    wrapped_name,
)
from trainer.models.adapters.ia3 import KINDS as SCALED_KINDS
from trainer.models.adapters.ia3 import SCALES, IA3Layer
from trainer.models.adapters.lora import attach, attach_ia3, fresh_parameters, train_whole
from trainer.models.adapters.lora_layers import KINDS as LORA_KINDS
from trainer.models.adapters.lora_layers import (
    MAGNITUDE,
    MATRICES,
    START,
    LoRALayer,
    adapted_experts,
)
from trainer.models.adapters.merging import PARTS
from trainer.models.adapters.peft_layout import JoinedFiles, joined_size
from trainer.models.adapters.token_rows import ROWS, modules_with_rows
from trainer.models.family import find_family
from trainer.models.formats.loading import finite
from trainer.models.formats.weight_files import WeightFiles
from trainer.models.lazy_values import read_now
from trainer.models.model import Model
from trainer.models.quantization.quantized_linear import (
    quantization_of,
    quantized_layers,
    weight_name,
)
from trainer.models.sharded import local, own_rows

log = logging.getLogger("trainer")

DELTA = ".trainable_tokens_delta"
"""The suffix that PEFT adds to a module's name for the rows of trainable_token_indices."""
PREFIX = "base_model.model."
ADAPTED = "model_config.json"
"""The name of the file with the base model's config. It is not called config.json, because
transformers would then expect a whole model.
"""


class AdapterWeights(JoinedFiles):
    """The tensors of an adapter's folder."""

    single = pattern = "adapter_model.safetensors"
    index = "adapter_model.safetensors.index.json"

    @property
    def base_digest(self) -> str | None:
        """The digest of the base model's weights, if the adapter was trained with this package."""
        return self._metadata.get("base_digest")

    @property
    def base(self) -> str | None:
        """The base model's path during training, if PEFT's config has a different path."""
        return self._metadata.get("base")

    @property
    def base_name(self) -> str | None:
        """The base model's name in adapter_config.json at the time the adapter was saved."""
        return self._metadata.get("base_name")

    @property
    def quantization(self) -> str | None:
        """The quantization of the base model's weights during training, if any."""
        return self._metadata.get("quantization")

    @property
    def needs_rounding(self) -> bool:
        """Whether the adapters compensate for quantization errors (LoftQ)."""
        return self._metadata.get("init") == "loftq"

    @property
    def _metadata(self) -> dict[str, str]:
        opened = next(iter(self._source.values()), None)
        return {} if opened is None else opened.metadata() or {}


@dataclass(frozen=True)
class SavedAdapter:
    """An adapter's folder with its checked config."""

    folder: Path
    config: AdapterConfig
    base: str
    """The base model's path during training if recorded, otherwise the path in PEFT's config"""
    needs_rounding: bool = False
    """Whether the adapters compensate for quantization errors (LoftQ)"""

    def base_folder(self, **options: Any) -> Path:
        """The folder or GGUF file of the base model; `options` are passed to `hub.find`.

        Raises InputError if the base is not found or is itself an adapter.
        """
        return self.found_base(**options)[1]

    def found_base(self, **options: Any) -> tuple[str, Path]:
        """The path of the base model, and its folder or GGUF file, as for `base_folder`.

        If the path from training can no longer be found, the path in PEFT's config is used.
        """
        where = f"{self.folder / CONFIG}: base_model_name_or_path"
        options = {**options, "revision": self.config.revision}
        base = self.base
        try:
            found = hub.find(base, **options, what=where)
        except InputError:
            if base == self.config.base:
                raise
            base = self.config.base
            found = hub.find(base, **options, what=where)
        if (found / CONFIG).is_file():
            raise InputError(f"{where}: '{base}' is itself an adapter; accepted: a whole model")
        return base, found

    def described(self, home: Path) -> Path:
        """The file or folder with the base model's config; `home` if this folder has no config.

        `home` is the base model's folder.
        """
        own = self.folder / ADAPTED
        if own.is_file():
            return own
        return self.folder if (self.folder / "config.json").is_file() else home

    def vocabulary(self, entries: Mapping[str, Any]) -> dict[str, int]:
        """The vocabulary size of this folder, as an entry of the base model's config.

        {"vocab_size": n} if the folder stores n embeddings and `entries` has another size, else {}.
        """
        family = find_family(entries.get("model_type"))
        name, known = f"{family.keys['embeddings.token']}.weight", entries.get("vocab_size")
        with AdapterWeights(self.folder) as found:
            named = _short_names(found, family.prefix)
            if name not in named or (rows := found.shape(named[name])[0]) == known:
                return {}
        return {"vocab_size": rows}

    def whole(self, model: Model) -> set[str]:
        """The hub's short names of the model's tensors that this folder stores in full."""
        with AdapterWeights(self.folder, model.peft_names, model.stored_experts) as found:
            names = _short_names(found, model.prefix)
        return {n for n in names if not _is_part(n) and not n.endswith(DELTA)}

    def load_into(self, model: Model, without_head: bool) -> None:
        """Add this folder's adapters to a base model.

        Randomly initialized parameters of the model become trainable too. Raises InputError if the
        adapters do not fit the model.
        """
        if self.config.kind == "IA3":
            self._add_scales(model, without_head)
        else:
            self._add_matrices(model, without_head)
        assert model.lora is not None
        named = None if self.base == self.config.base else self.config.base
        model.lora = replace(
            model.lora, base_name=named, bias=self.config.bias, rslora=self.config.rslora
        )
        read_now(model, model.lora.whole)
        overwrite_adapter(model, self.folder)
        train_whole(model, fresh_parameters(model))

    def _add_scales(self, model: Model, without_head: bool) -> None:
        """Add the scales of (IA)^3; their values are read later."""
        with AdapterWeights(self.folder, model.peft_names, model.stored_experts) as found:
            _check_quantization(model, found)
            layers, whole, _ = _adapted(model, found)
            scaled = _scales(model, found)
        attach_ia3(
            model,
            {name: scaled[name] for name in layers},
            base=absolute_base(self.base),
            revision=self.config.revision,
            whole={n for n in whole if not without_head or model.in_body(n)},
        )

    def _add_matrices(self, model: Model, without_head: bool) -> None:
        """Add LoRA's matrices; their values are read later."""
        with AdapterWeights(self.folder, model.peft_names, model.stored_experts) as found:
            _check_quantization(model, found)
            layers, whole, with_rows = _adapted(model, found)
            rows = {name: _listed(model, name, self.config) for name in with_rows}
            sizes = _sizes(model, found, layers, self.config)
            _check_ranks(model, found, sizes, self.config)
            _check_magnitudes(found, self.config)
        rank = self.config.rank
        attach(
            model,
            layers,
            rank=rank,
            scaling=AdapterConfig.size_of(replace(self.config, ranks={}, alphas={}), "")[1],
            dropout=self.config.dropout,
            base=absolute_base(self.base),
            revision=self.config.revision,
            whole={n for n in whole if not without_head or model.in_body(n)},
            own=sizes,
            rows=rows,
            dora=self.config.dora,
            init="loftq" if self.needs_rounding else "default",
        )


def read_adapter(folder: Path) -> SavedAdapter | None:
    """Read adapter_config.json; None if there is none. Raises InputError if it is invalid."""
    file = folder / CONFIG
    if not file.is_file():
        return None
    config = read_adapter_config(file)
    with AdapterWeights(folder) as found:
        renamed = found.base is not None and found.base_name == config.base
        base = found.base if renamed else config.base
        needs_rounding = found.needs_rounding
    if not base:
        raise no_base(file)
    return SavedAdapter(folder, config, base, needs_rounding)


def _check_quantization(model: Model, found: AdapterWeights) -> None:
    """Warn if the base was quantized in training and is now quantized differently or not at all.

    For LoftQ adapters, any difference raises InputError.
    """
    kind, now = found.quantization, quantization_of(model)
    if found.needs_rounding and kind != now:
        raise InputError(
            f"{found.folder}: its adapters compensate for the rounding of base weights in {kind} "
            f"(model.lora.init=loftq); accepted: model.quantization={kind}"
        )
    if kind is not None and kind != now:
        log.warning(
            "%s: its adapters were trained with base weights in %s, but this model has them in %s; "
            "model.quantization=%s computes as in training",
            found.folder,
            kind,
            now or "full precision",
            kind,
        )


def _sizes(
    model: Model, found: AdapterWeights, layers: list[str], config: AdapterConfig
) -> dict[str, tuple[int, float]]:
    """Our name of each layer -> (rank, scaling)."""
    named = _short_names(found, model.prefix)
    sizes = {}
    for layer in layers:
        short, full = (each.removesuffix(".weight") for each in (
            model.short_name(f"{layer}.weight"), model.hub_name(f"{layer}.weight")
        ))  # fmt: skip
        first = named.get(f"{short}.{MATRICES[0]}.weight", "")
        module = first.removesuffix(f".{MATRICES[0]}.weight")
        sizes[layer] = joined_size(config, found, module, PREFIX) or config.size_of(full)
    return sizes


def _check_ranks(
    model: Model,
    found: AdapterWeights,
    sizes: Mapping[str, tuple[int, float]],
    config: AdapterConfig,
) -> None:
    """Refuse matrices whose rank differs from the config's, before allocating memory."""
    ranks = {
        model.short_name(f"{n}.weight").removesuffix(".weight"): (
            s[0],
            number_of_experts(model.get_submodule(n)),
        )
        for n, s in sizes.items()
    }
    for short, name in _short_names(found, model.prefix).items():
        if short.endswith(f".{SCALES}"):
            accepted = "accepted with peft_type LORA: lora_A and lora_B"
            raise InputError(f"{found.folder}: tensor {name}: scales of IA3; {accepted}")
        if not _is_matrix(short):
            continue
        rank, experts = ranks[short.rpartition(".lora_")[0]]
        shape, axis = found.shape(name), 0 if name.endswith(".lora_A.weight") else 1
        if len(shape) != 2 or shape[axis] != rank * experts:
            entry = "r" if rank == config.rank else "rank_pattern"
            raise InputError(
                f"{config.file}: {entry}: found {rank}; accepted: the rank of tensor {name}, of "
                f"shape {list(shape)}"
            )


def _scales(model: Model, found: AdapterWeights) -> dict[str, bool]:
    """Our name of each layer with scales -> whether the scales multiply its inputs.

    PEFT stores scales of inputs as [1, in], and those of outputs as [out, 1].
    """
    layers = {
        model.short_name(f"{name}.weight").removesuffix(".weight"): name
        for name, module in model.named_modules()
        if type(module) in SCALED_KINDS
    }
    scaled = {}
    for short, name in _short_names(found, model.prefix).items():
        if not _is_part(short):
            continue
        layer, shape = layers.get(_layer_of(short)), found.shape(name)
        if not short.endswith(f".{SCALES}") or layer is None or len(shape) != 2 or 1 not in shape:
            accepted = "accepted: scales of linear layers (ia3_l), [out, 1] or [1, in]"
            raise InputError(f"{found.folder}: tensor {name} of shape {list(shape)}; {accepted}")
        scaled[layer] = shape[0] == 1
    return scaled


def _check_magnitudes(found: AdapterWeights, config: AdapterConfig) -> None:
    """Refuse DoRA's magnitudes if the config does not declare DoRA, since they would be ignored."""
    extra = [name for name in found.names if name.endswith(f".{MAGNITUDE}")]
    if extra and not config.dora:
        accepted = f"accepted: true, since tensor {extra[0]} is a part of DoRA"
        raise InputError(f"{config.file}: use_dora: found false; {accepted}")


def _adapted(model: Model, found: AdapterWeights) -> tuple[list[str], set[str], set[str]]:
    """Find the layers with adapters, the tensors stored in full, and the modules with trained rows.

    All of them are returned under our names.
    """
    names = (weight_name(name) for name, _ in model.named_parameters())
    ours = {model.short_name(name).removesuffix(".weight"): name for name in names}
    named = _short_names(found, model.prefix)
    _refuse_adapted_outputs(model, found, named)
    _check_ties(model, found, named)
    layers: set[str] = set()
    whole: set[str] = set()
    rows: set[str] = set()
    for short, name in named.items():
        home = _layer_of(short) if _is_part(short) else short.removesuffix(DELTA)
        home = home.removesuffix(".weight")
        if home in ours:
            if _is_part(short):
                _check_kind(model, ours[home].removesuffix(".weight"), name, found.folder)
            kind = rows if short.endswith(DELTA) else layers if _is_part(short) else whole
            kind.add(ours[home])
        elif f"{home}.weight" not in model.tied:
            raise InputError(f"{found.folder}: tensor {name}: {_why_unknown(short)}")
    _refuse_packed(model, found, whole)
    modules = {name.removesuffix(".weight") for name in rows - whole}
    return [name.removesuffix(".weight") for name in layers], whole, modules


def _check_kind(model: Model, layer: str, name: str, folder: Path) -> None:
    """Refuse an adapter on a layer that cannot have one, such as a norm."""
    kind = SCALED_KINDS if name.endswith(f".{SCALES}") else LORA_KINDS
    if type(found := model.get_submodule(layer)) not in kind:
        what = f"an adapter on {layer}, which is {type(found).__name__}"
        accepted = "accepted: adapters on linear layers of the body (target_modules)"
        raise InputError(f"{folder}: tensor {name}: {what}; {accepted}")


def _refuse_packed(model: Model, found: AdapterWeights, whole: set[str]) -> None:
    """Refuse tensors that were trained in full but are quantized in this model."""
    for name in quantized_layers(model):
        if f"{name}.weight" in whole:
            raise InputError(
                f"{found.folder}: {name}.weight was trained whole, and this model has it in "
                f"{quantization_of(model)}; accepted: model.quantization=null"
            )


def _why_unknown(short: str) -> str:
    """Explain why the model has no parameter for a tensor."""
    if re.search(r"\.experts\.\d+\.", short):
        return (
            "an adapter of one expert, as in transformers 4; accepted: such adapters of a family "
            "that this package implements, or of all experts together (target_parameters)"
        )
    if f"{HOME}." in short:
        return (
            "an adapter on experts; accepted: those that target_parameters of adapter_config.json "
            "lists"
        )
    for mark in (".lora_embedding_", ".base_layer."):  # adapted embeddings
        layer, adapter, _ = short.rpartition(mark)
        if adapter:
            return (
                f"an adapter on {layer}, an embedding; accepted: adapters on linear layers "
                "(target_modules), and embeddings trained whole (modules_to_save)"
            )
    return "this model has no such tensor (an adapter of another base?)"


def _refuse_adapted_outputs(model: Model, found: AdapterWeights, named: Mapping[str, str]) -> None:
    """Refuse adapters on output weights: the loss would bypass them."""
    for weight in (name for name in model.known_ties if name.endswith(".weight")):
        layer = weight.removesuffix(".weight")
        for short, name in named.items():
            if short.startswith((f"{layer}.lora_", f"{layer}.base_layer.")):
                raise InputError(
                    f"{found.folder}: tensor {name}: an adapter on {layer}, the output weights; "
                    "accepted: adapters on layers of the body"
                )


def _check_ties(model: Model, found: AdapterWeights, named: Mapping[str, str]) -> None:
    """Refuse tied weights that differ, or of which one is missing.

    PEFT would take the missing one from the base.
    """
    for second, first in tied_weights(model).items():
        rows = [name.removesuffix(".weight") + DELTA for name in (second, first)]
        stored = [named[name] for name in rows if name in named]
        alone = rows[0] in named and rows[1] not in named
        same = len(stored) < 2 or torch.equal(found.read(stored[0]), found.read(stored[1]))
        if alone or not same:
            raise InputError(
                f"{found.folder}: tensor {stored[0]}: {first} and {second} are one tensor in this "
                "model (tie_word_embeddings); accepted: the same rows for both"
            )
        stored = [named[name] for name in (second, first) if name in named]
        if not stored:
            continue
        if len(stored) == 1 or not torch.equal(found.read(stored[0]), found.read(stored[1])):
            raise InputError(
                f"{found.folder}: tensor {stored[0]}: {first} and {second} are one tensor in this "
                "model (tie_word_embeddings); accepted: both of them, and equal"
            )


def tied_weights(model: Model) -> dict[str, str]:
    """The hub's short names of tied output weights -> those of the embeddings."""
    return {second: first for second, first in model.tied.items() if second.endswith(".weight")}


def model_home(folder: Path) -> Path:
    """The folder of a model's files: the base model's folder for an adapter, otherwise `folder`."""
    saved = read_adapter(folder) if folder.is_dir() else None
    return folder if saved is None else saved.base_folder()


def tokenizer_home(path: str, revision: str | None) -> tuple[str, str | None]:
    """The path and revision of the tokenizer; an adapter without a tokenizer uses its base's."""
    folder = hub.find(path, revision=revision, what="model.path")
    saved = read_adapter(folder) if folder.is_dir() else None
    if saved is None or (folder / "tokenizer_config.json").is_file():
        return path, revision
    return saved.found_base(weights=None)[0], saved.config.revision


def load_adapter_weights(model: Model, folder: Path) -> None:
    """Load adapters from a folder into a model that already has the same adapters.

    Raises InputError if the adapters differ, even where the shapes match: in the scaling factor, or
    in the tokens with trained rows.
    """
    config = read_adapter_config(folder / CONFIG)
    with AdapterWeights(folder, model.peft_names, model.stored_experts) as found:
        _refuse_further(model, found)
        _check_factors(model, found, config)
    if config.kind == "LORA":
        _check_rows(model, config)
    overwrite_adapter(model, folder)


def _refuse_further(model: Model, found: AdapterWeights) -> None:
    """Refuse tensors that this model's adapters do not have."""
    known = {_with_delta(_with_weight(model.short_name(name))) for name in saved_names(model)}
    known |= {f"{name.removesuffix('.weight')}{DELTA}" for name in known}
    for short, name in _short_names(found, model.prefix).items():
        if short not in known and not _is_copy(model, short):
            accepted = "accepted: a folder with this model's targets and modules_to_save"
            raise InputError(f"{found.folder}: tensor {name}: not among the adapters; {accepted}")


def _is_copy(model: Model, short: str) -> bool:
    """Whether the tensor is a tied weight (or rows of one), also stored under its other name."""
    return f"{short.removesuffix(DELTA).removesuffix('.weight')}.weight" in model.tied


def _check_factors(model: Model, found: AdapterWeights, config: AdapterConfig) -> None:
    """Refuse LoRA matrices whose scaling factor differs from that in this model."""
    layers = {n: m for n, m in adapted_layers(model).items() if isinstance(m, LoRALayer)}
    for name, (_, factor) in _sizes(model, found, list(layers), config).items():
        if not math.isclose(factor, layers[name].scaling, rel_tol=1e-9):
            what = f"found {factor:g} as the factor of {name}"
            raise InputError(
                f"{config.file}: lora_alpha: {what}; accepted: {layers[name].scaling:g}"
            )


def _check_rows(model: Model, config: AdapterConfig) -> None:
    """Refuse trained rows unless this model trains the same tokens in the same order."""
    for name, module in modules_with_rows(model).items():
        listed, own = _listed(model, name, config), module.token_ids.tolist()
        if list(listed) != own:
            what = f"found {list(listed)!r:.60}; accepted: {own!r:.60}, the rows of this model"
            raise InputError(f"{config.file}: trainable_token_indices: {what}")


def overwrite_adapter(model: Model, folder: Path) -> None:
    """Copy a folder's adapters into those of a model. Raises InputError if they do not fit."""
    assert model.lora is not None
    parameters = dict(model.named_parameters())
    with AdapterWeights(folder, model.peft_names, model.stored_experts) as found, torch.no_grad():
        comparable = model.dtype != torch.float16  # rounding to fp16 changes the digest
        if comparable and found.base_digest not in (None, model.lora.base_digest):
            base = model.lora.base or "this model"
            raise InputError(f"{folder}: its adapters were trained on other weights than {base}'s")
        named = _short_names(found, model.prefix)
        experts = adapted_experts(model)
        for name in saved_names(model):
            short = _with_delta(_with_weight(model.short_name(name)))
            rows_name = named.get(short.removesuffix(".weight") + DELTA)
            if name.endswith(START):
                continue  # read with the trained matrices
            if short in named and f"{name.rpartition('.')[0]}.{START[0]}" in parameters:
                _overwrite_with_start(parameters, name, found, named[short], folder)
            elif short in named and name.endswith(f".{SCALES}"):
                _overwrite_scales(model, name, found, named[short])
            elif short in named and name.rpartition(".")[0] in experts:
                _overwrite_experts(parameters[name], name, found, named[short], folder)
            elif short in named:
                _overwrite(parameters[name], found, named[short], folder)
            if rows_name is not None:
                module = _whole_name(model, name).removesuffix(".weight")
                _overwrite_rows(parameters[name], found, rows_name, module, folder)
            elif short not in named:
                raise InputError(f"{folder}: tensor {short} is missing")


def _overwrite(
    parameter: torch.nn.Parameter, found: AdapterWeights, name: str, folder: Path
) -> None:
    shape, wanted = found.shape(name), tuple(parameter.shape)
    if shape != wanted:
        raise InputError(
            f"{folder}: tensor {name}: found shape {shape}; accepted: {wanted} "
            "(an adapter of another base?)"
        )
    local(parameter).copy_(finite(found, name, folder, own_rows(parameter)))


def _overwrite_scales(model: Model, name: str, found: AdapterWeights, stored_name: str) -> None:
    """Copy the scales of a layer, which the folder stores with two dimensions."""
    parameter, layer = model.get_parameter(name), model.get_submodule(name.rpartition(".")[0])
    assert isinstance(layer, IA3Layer)
    shape, wanted = found.shape(stored_name), tuple(layer.saved(parameter).shape)
    if shape != wanted:
        accepted = f"accepted: {wanted} (an adapter of another base, or other feedforward_modules?)"
        raise InputError(
            f"{found.folder}: tensor {stored_name}: found shape {tuple(shape)}; {accepted}"
        )
    values, rows = finite(found, stored_name, found.folder).flatten(), own_rows(parameter)
    local(parameter).copy_(values if rows is None else values[rows.start : rows.stop])


def _overwrite_experts(
    parameter: torch.nn.Parameter,
    name: str,
    found: AdapterWeights,
    stored_name: str,
    folder: Path,
) -> None:
    """Copy a matrix of all experts, which the folder stores in PEFT's layout."""
    leaf, rows = name.rpartition(".")[2], own_rows(parameter)
    shape, wanted = found.shape(stored_name), joined_shape(leaf, tuple(parameter.shape))
    if shape != wanted:
        accepted = f"accepted: {wanted} (an adapter of another base?)"
        raise InputError(f"{folder}: tensor {stored_name}: found shape {shape}; {accepted}")
    values = separated(leaf, finite(found, stored_name, folder), len(parameter))
    local(parameter).copy_(values if rows is None else values[rows.start : rows.stop])


def _overwrite_with_start(
    parameters: Mapping[str, torch.nn.Parameter],
    name: str,
    found: AdapterWeights,
    stored_name: str,
    folder: Path,
) -> None:
    """Copy a matrix and its initial value, which are stored as one matrix of twice the rank."""
    layer, _, leaf = name.rpartition(".")
    if leaf not in MATRICES:
        _overwrite(parameters[name], found, stored_name, folder)
        return
    axis = MATRICES.index(leaf)
    pair = parameters[name], parameters[f"{layer}.{START[axis]}"]
    whole = list(pair[0].shape)
    whole[axis] *= 2
    if list(found.shape(stored_name)) != whole:
        accepted = f"accepted: {whole}, twice the rank (model.lora.init=pissa)"
        shape = found.shape(stored_name)
        raise InputError(f"{folder}: tensor {stored_name}: found shape {shape}; {accepted}")
    now, start = finite(found, stored_name, folder).chunk(2, dim=axis)
    for parameter, value in zip(pair, (now, start if axis == 0 else -start), strict=True):
        rows = own_rows(parameter)
        local(parameter).copy_(value if rows is None else value[rows.start : rows.stop])


def _overwrite_rows(
    parameter: torch.nn.Parameter, found: AdapterWeights, name: str, module: str, folder: Path
) -> None:
    """Copy the embeddings of the tokens that adapter_config.json lists for a module."""
    config = read_adapter_config(folder / CONFIG)
    listed = config.tokens_of(module)
    tensor = finite(found, name, folder)
    fits = tensor.shape == (len(listed), parameter.shape[1])
    if not fits or max(listed, default=0) >= len(parameter):
        raise InputError(
            f"{config.file}: trainable_token_indices: found {len(listed)} tokens for tensor {name} "
            f"of shape {list(tensor.shape)} and {len(parameter)} embeddings; accepted: one per row"
        )
    if own_rows(parameter) is not None:
        raise InputError(
            f"{folder}: trainable_token_indices with launch.strategy=fsdp; accepted: ddp"
        )
    parameter[list(listed)] = tensor.to(parameter.dtype)


def _listed(model: Model, module: str, config: AdapterConfig) -> tuple[int, ...]:
    """The tokens with trained rows in the module with our name `module`.

    Raises InputError if there are none, and for repeated ids and ids outside the vocabulary.
    """
    name = f"{module}.weight"
    short = model.short_name(name).removesuffix(".weight")
    listed = config.tokens_of(_whole_name(model, name).removesuffix(".weight"))
    size = len(model.get_parameter(name))
    if not listed or max(listed) >= size or len(set(listed)) < len(listed):
        raise InputError(
            f"{config.file}: trainable_token_indices: found {list(listed)!r:.60} for {short}; "
            f"accepted: ids of tokens, each once, below {size}"
        )
    return listed


def _whole_name(model: Model, name: str) -> str:
    """The hub's name of a parameter, with the prefix that it has in a model with a head."""
    short = model.short_name(name)
    return f"{model.prefix}.{short}" if model.prefix and model.in_body(name) else short


def _with_delta(name: str) -> str:
    """Return PEFT's name for trained rows; other names are returned unchanged."""
    return name.removesuffix(f".{ROWS}") + DELTA if name.endswith(f".{ROWS}") else name


def saved_names(model: Model) -> dict[str, str]:
    """Our name of each tensor in an adapter's folder -> its name in the folder."""
    assert model.lora is not None
    layers = adapted_layers(model)
    parts = [f"{name}.{each}" for name, layer in layers.items() for each in layer.parts]
    named = {name: PREFIX + _with_weight(model.hub_name(name)) for name in parts}
    experts = adapted_experts(model)
    for name in (part for part in parts if part.rpartition(".")[0] in experts):
        home = name.rsplit(".", 2)[0]
        targeted = [leaf for leaf in PARAMETERS if f"{home}.{leaf}" in experts]
        named[name] = PREFIX + _with_weight(wrapped_name(model.hub_name(name), targeted))
    for module in modules_with_rows(model):
        name = f"{module}.{ROWS}"
        hub_module = model.hub_name(name).removesuffix(f".{ROWS}")
        named[name] = f"{PREFIX}{hub_module}.token_adapter{DELTA}"
    for name in model.lora.whole:
        module, _, leaf = model.hub_name(name).rpartition(".")
        inside = ".base_layer" * (name.rpartition(".")[0] in layers)
        named[name] = f"{PREFIX}{module}{inside}.{leaf}"
    return named


def _short_names(found: WeightFiles, prefix: str) -> dict[str, str]:
    """Name without PEFT's and the family's prefixes -> name in the file.

    PEFT saves a resized module up to three times: as the original module, as the current module,
    and under the plain name.
    """
    named: dict[str, str] = {}
    experts = [name for name in found.names if f"{HOME}." in name]
    targets = read_adapter_config(found.folder / CONFIG).parameters if experts else ()
    # the plain name is the shortest: it comes last and replaces the others
    for name in sorted(found.names, key=len, reverse=True):
        if ".original_module." in name:
            continue
        short = name.removeprefix(PREFIX).removeprefix(f"{prefix}.")
        for inside in (".modules_to_save.", ".token_adapter.base_layer.", ".token_adapter."):
            short = short.replace(inside, ".")
        short = plain_name(short, targets)
        named[short.replace(".base_layer.bias", ".bias")] = name
    return named


def _with_weight(name: str) -> str:
    """Return PEFT's name of an adapter's matrix; other names are returned unchanged."""
    return f"{name}.weight" if name.endswith(MATRICES) else name


def _layer_of(part: str) -> str:
    """The name of the layer to which an adapter added a tensor, from the tensor's name."""
    if part.endswith(f".{SCALES}"):
        return part.removesuffix(f".{SCALES}")
    return part.rpartition(".lora_")[0]


def _is_part(name: str) -> bool:
    """Whether this is the name of a tensor that an adapter adds to a layer."""
    return _is_matrix(name) or name.endswith(tuple(f".{each}" for each in PARTS))


def _is_matrix(name: str) -> bool:
    return name.endswith(tuple(f".{each}.weight" for each in MATRICES))
