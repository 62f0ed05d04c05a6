"""Adapters on the disk, as PEFT has them: adapter_config.json and adapter_model.safetensors."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trainer import hub
from trainer.checkpoint import files
from trainer.errors import InputError
from trainer.models import keys
from trainer.models.adapter_config import FILE as CONFIG
from trainer.models.adapter_config import AdapterConfig, read_adapter_config
from trainer.models.family import find_family
from trainer.models.loading import finite
from trainer.models.lora import (
    KINDS,
    MATRICES,
    LoRALayer,
    adapted_layers,
    attach,
    fresh_parameters,
    train_whole,
)
from trainer.models.saving import config_entries
from trainer.models.sharded import local, own_rows
from trainer.models.weight_files import WeightFiles

if TYPE_CHECKING:
    from trainer.models.pretrained import PretrainedModel

ROWS = ".trainable_tokens_delta"
"""After a module's name: the embeddings of the tokens that trainable_token_indices lists."""
PREFIX = "base_model.model."
TASK_TYPES = {
    "base": "FEATURE_EXTRACTION",
    "causal_lm": "CAUSAL_LM",
    "question_answering": "QUESTION_ANS",
    "sequence_classification": "SEQ_CLS",
    "token_classification": "TOKEN_CLS",
}
ADAPTED = "model_config.json"
"""config.json of the adapted model; under that name transformers would expect a whole model."""


class AdapterWeights(WeightFiles):
    """The tensors of an adapter's folder."""

    single = pattern = "adapter_model.safetensors"
    index = "adapter_model.safetensors.index.json"

    @property
    def base_digest(self) -> str | None:
        """Of the weights that the adapter was trained on, where it was trained here."""
        return self._metadata.get("base_digest")

    @property
    def base(self) -> str | None:
        """The path of the model that was adapted here, where the config has another name for it."""
        return self._metadata.get("base")

    @property
    def base_name(self) -> str | None:
        """That name."""
        return self._metadata.get("base_name")

    @property
    def _metadata(self) -> dict[str, str]:
        opened = next(iter(self._source.values()), None)
        return {} if opened is None else opened.metadata() or {}


@dataclass(frozen=True)
class SavedAdapter:
    """An adapter's folder, its config checked."""

    folder: Path
    config: AdapterConfig
    base: str
    """The path of the model that it adapts, as it was named here, or as PEFT names it"""

    def base_folder(self, **options: Any) -> Path:
        """The folder, or GGUF file, of the model that it adapts; `options` as `hub.find` takes."""
        where = f"{self.folder / CONFIG}: base_model_name_or_path"
        options = {**options, "revision": self.config.revision}
        try:
            found = hub.find(self.base, **options, what=where)
        except InputError:
            if self.base == self.config.base:
                raise
            found = hub.find(self.config.base, **options, what=where)
        if (found / CONFIG).is_file():
            raise InputError(f"{where}: '{self.base}' is an adapter too; accepted: a whole model")
        return found

    def described(self, home: Path) -> Path:
        """Where the adapted model's config is: in this folder, else with its base at `home`."""
        own = self.folder / ADAPTED
        if own.is_file():
            return own
        return self.folder if (self.folder / "config.json").is_file() else home

    def vocabulary(self, entries: Mapping[str, Any]) -> dict[str, int]:
        """vocab_size, where the folder has embeddings of another size than a config's entries."""
        family = find_family(entries.get("model_type"))
        name, known = f"{family.keys['embeddings.token']}.weight", entries.get("vocab_size")
        with AdapterWeights(self.folder) as found:
            named = _short_names(found, family.prefix)
            if name not in named or (rows := found.shape(named[name])[0]) == known:
                return {}
        return {"vocab_size": rows}

    def whole(self, prefix: str) -> set[str]:
        """The hub's short names of the tensors that are there whole."""
        with AdapterWeights(self.folder) as found:
            names = _short_names(found, prefix)
        return {n for n in names if not _is_matrix(n) and not n.endswith(ROWS)}

    def load_into(self, model: "PretrainedModel", without_head: bool) -> None:
        """Adapt a base as the folder says; what neither has, and is random, is trained as well.

        Raises InputError where the base is another one.
        """
        with AdapterWeights(self.folder) as found:
            layers, whole = _adapted(model, found)
            sizes = {
                name: self.config.size_of(model.hub_name(f"{name}.weight").removesuffix(".weight"))
                for name in layers
            }
            _check_ranks(model, found, sizes, self.config)
        rank = self.config.rank
        attach(
            model,
            layers,
            rank=rank,
            scaling=AdapterConfig.size_of(replace(self.config, ranks={}, alphas={}), "")[1],
            dropout=self.config.dropout,
            base=self.base,
            revision=self.config.revision,
            whole={n for n in whole if not (without_head and n.startswith(keys.HEAD))},
            own=sizes,
        )
        assert model.lora is not None
        named = None if self.base == self.config.base else self.config.base
        model.lora = replace(model.lora, base_name=named, bias=self.config.bias)
        overwrite_adapter(model, self.folder)
        train_whole(model, fresh_parameters(model))


def read_adapter(folder: Path) -> SavedAdapter | None:
    """What adapter_config.json says, or None where there is none. Raises InputError."""
    file = folder / CONFIG
    if not file.is_file():
        return None
    config = read_adapter_config(file)
    with AdapterWeights(folder) as found:
        renamed = found.base is not None and found.base_name == config.base
        base = found.base if renamed else config.base
    assert base is not None
    return SavedAdapter(folder, config, base)


def _check_ranks(
    model: "PretrainedModel",
    found: AdapterWeights,
    sizes: Mapping[str, tuple[int, float]],
    config: AdapterConfig,
) -> None:
    """Refuse matrices of another rank before any of the rank that the config names is made."""
    family, task = model.config.family, model.task
    ranks = {keys.short_hub_name(f"{n}.weight", family, task): s[0] for n, s in sizes.items()}
    for short, name in _short_names(found, family.prefix).items():
        if not _is_matrix(short):
            continue
        rank = ranks[f"{short.rpartition('.lora_')[0]}.weight"]
        shape, axis = found.shape(name), 0 if name.endswith(".lora_A.weight") else 1
        if len(shape) != 2 or shape[axis] != rank:
            entry = "r" if rank == config.rank else "rank_pattern"
            raise InputError(
                f"{config.file}: {entry}: found {rank}; accepted: the rank of tensor {name}, of "
                f"shape {list(shape)}"
            )


def _adapted(model: "PretrainedModel", found: AdapterWeights) -> tuple[list[str], set[str]]:
    """Our names of the layers that a folder has adapters for, and of the tensors it has whole."""
    family, task = model.config.family, model.task
    ours = {keys.short_hub_name(name, family, task): name for name, _ in model.named_parameters()}
    named = _short_names(found, family.prefix)
    _refuse_adapted_outputs(model, found, named)
    _check_ties(model, found, named)
    layers: set[str] = set()
    whole: set[str] = set()
    for short, name in named.items():
        weight = short.rpartition(".lora_")[0] + ".weight" if _is_matrix(short) else short
        weight = weight.removesuffix(ROWS) + ".weight" if weight.endswith(ROWS) else weight
        if weight in ours:
            (layers if _is_matrix(short) else whole).add(ours[weight])
        elif weight not in model.tied:
            raise InputError(f"{found.folder}: tensor {name}: {_stranger(short)}")
    return [name.removesuffix(".weight") for name in layers], whole


def _stranger(short: str) -> str:
    """What is wrong with a tensor that the model has no place for."""
    for mark in (".lora_embedding_", ".base_layer."):  # PEFT saves adapted embeddings beside theirs
        layer, adapter, _ = short.rpartition(mark)
        if adapter:
            return (
                f"an adapter on {layer}, which are embeddings; accepted: adapters on linear layers "
                "(target_modules), and embeddings trained whole (modules_to_save)"
            )
    return "this model has nothing of the kind (an adapter of another base?)"


def _refuse_adapted_outputs(
    model: "PretrainedModel", found: AdapterWeights, named: Mapping[str, str]
) -> None:
    """Output weights are multiplied with by the loss, past any adapter beside them."""
    for weight in (name for name in model.family_head.tied if name.endswith(".weight")):
        layer = weight.removesuffix(".weight")
        for short, name in named.items():
            if short.startswith((f"{layer}.lora_", f"{layer}.base_layer.")):
                raise InputError(
                    f"{found.folder}: tensor {name}: an adapter on {layer}, the output weights; "
                    "accepted: adapters on layers of the body"
                )


def _check_ties(model: "PretrainedModel", found: AdapterWeights, named: Mapping[str, str]) -> None:
    """Refuse one of two tied weights without the other: PEFT takes the base's for that one."""
    for second, first in _tied_weights(model).items():
        rows = [name.removesuffix(".weight") + ROWS for name in (second, first)]
        there = [named[name] for name in rows if name in named]
        if len(there) == 2 and not torch.equal(found.read(there[0]), found.read(there[1])):
            raise InputError(
                f"{found.folder}: tensor {there[0]}: {first} and {second} are one tensor in this "
                "model (tie_word_embeddings); accepted: the same rows for both"
            )
        there = [named[name] for name in (second, first) if name in named]
        if not there:
            continue
        if len(there) == 1 or not torch.equal(found.read(there[0]), found.read(there[1])):
            raise InputError(
                f"{found.folder}: tensor {there[0]}: {first} and {second} are one tensor in this "
                "model (tie_word_embeddings); accepted: both of them, and equal"
            )


def _tied_weights(model: "PretrainedModel") -> dict[str, str]:
    """The hub's short names of output weights that are the embeddings -> the embeddings'."""
    return {second: first for second, first in model.tied.items() if second.endswith(".weight")}


def model_home(folder: Path) -> Path:
    """Where a model's own files are: for an adapter's folder that of its base, else `folder`."""
    saved = read_adapter(folder) if folder.is_dir() else None
    return folder if saved is None else saved.base_folder()


def tokenizer_home(path: str, revision: str | None) -> tuple[str, str | None]:
    """The path and revision of a model's tokenizer: of the base, where an adapter has none."""
    folder = hub.find(path, revision=revision, what="model.path")
    saved = read_adapter(folder) if folder.is_dir() else None
    if saved is None or (folder / "tokenizer_config.json").is_file():
        return path, revision
    return saved.base, saved.config.revision


def save_adapter(
    model: "PretrainedModel", directory: Path, weights: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Write the adapters, what is trained beside them, and their configs; no weight of the base.

    `weights` by our names are written in place of the model's own.
    """
    assert model.lora is not None
    values = dict(model.named_parameters()) if weights is None else weights
    tensors = {name: values[own].detach() for own, name in saved_names(model).items()}
    for second, first in _tied_weights(model).items():
        embeddings = f"{PREFIX}{model.config.family.prefix}.{first}"
        if embeddings in tensors:  # whoever trains and loads them apart needs both
            tensors[PREFIX + second] = tensors[embeddings]
    metadata = {"format": "pt", "base_digest": model.lora.base_digest}
    if model.lora.base and model.lora.base_name:
        metadata |= {"base": _lasting(model.lora.base), "base_name": model.lora.base_name}
    files.make_folder(directory)
    files.write_json(directory / ADAPTED, config_entries(model))
    files.write_json(directory / CONFIG, _config(model))
    files.write_tensors(directory / AdapterWeights.single, tensors, metadata)
    whole_model = [directory / name for name in ("config.json", WeightFiles.index)]
    whole_model += directory.glob(WeightFiles.pattern)
    for old in sorted({path for path in whole_model if path.exists()}):
        files.remove_file(old)


def overwrite_adapter(model: "PretrainedModel", folder: Path) -> None:
    """Copy a folder's adapters into those of a model. Raises InputError where they do not fit."""
    assert model.lora is not None
    family, task = model.config.family, model.task
    parameters = dict(model.named_parameters())
    with AdapterWeights(folder) as found, torch.no_grad():
        comparable = model.dtype != torch.float16  # whose rounding is another one than bf16's
        if comparable and found.base_digest not in (None, model.lora.base_digest):
            base = model.lora.base or "this model"
            raise InputError(f"{folder}: its adapters were trained on other weights than {base}'s")
        named = _short_names(found, family.prefix)
        for name in saved_names(model):
            short = keys.short_hub_name(name, family, task) + ".weight" * name.endswith(MATRICES)
            rows_name = named.get(short.removesuffix(".weight") + ROWS)
            if short in named:
                _overwrite(parameters[name], found, named[short], folder)
            if rows_name is not None:
                _overwrite_rows(parameters[name], found, rows_name, short, folder)
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
    rows = own_rows(parameter)
    tensor = finite(found, name, folder)
    local(parameter).copy_(tensor if rows is None else tensor[rows.start : rows.stop])


def _overwrite_rows(
    parameter: torch.nn.Parameter, found: AdapterWeights, name: str, short: str, folder: Path
) -> None:
    """Copy the embeddings of some tokens, whose ids adapter_config.json lists."""
    config = read_adapter_config(folder / CONFIG)
    listed: Any = config.tokens
    if isinstance(listed, Mapping):
        ends = [ids for n, ids in listed.items() if f".{short}".endswith(f".{n}.weight")]
        listed = ends[0] if ends else ()
    tensor = finite(found, name, folder)
    if tensor.shape != (len(listed), parameter.shape[1]) or max(listed) >= len(parameter):
        raise InputError(
            f"{config.file}: trainable_token_indices: found {len(listed)} tokens for tensor {name} "
            f"of shape {list(tensor.shape)} and {len(parameter)} embeddings; accepted: one a row"
        )
    if own_rows(parameter) is not None:
        raise InputError(
            f"{folder}: trainable_token_indices with launch.strategy=fsdp; accepted: ddp"
        )
    parameter[list(listed)] = tensor.to(parameter.dtype)


def saved_names(model: "PretrainedModel") -> dict[str, str]:
    """Our names of what an adapter's folder holds -> its names there."""
    assert model.lora is not None
    layers = adapted_layers(model)
    matrices = [f"{name}.{each}" for name in layers for each in MATRICES]
    named = {name: f"{PREFIX}{model.hub_name(name)}.weight" for name in matrices}
    for name in model.lora.whole:
        module, _, leaf = model.hub_name(name).rpartition(".")
        inside = ".base_layer" * (name.rpartition(".")[0] in layers)
        named[name] = f"{PREFIX}{module}{inside}.{leaf}"
    return named


def _short_names(found: WeightFiles, prefix: str) -> dict[str, str]:
    """Names without what PEFT and the family put around them -> the file's.

    PEFT saves a resized module up to three times: as it was, as it is, and under its own name.
    """
    named: dict[str, str] = {}
    for name in sorted(found.names, key=len, reverse=True):  # the plain name counts, and comes last
        if ".original_module." in name:
            continue
        short = name.removeprefix(PREFIX).removeprefix(f"{prefix}.")
        for inside in (".modules_to_save.", ".token_adapter.base_layer.", ".token_adapter."):
            short = short.replace(inside, ".")
        named[short.replace(".base_layer.bias", ".bias")] = name
    return named


def _is_matrix(name: str) -> bool:
    return name.endswith(tuple(f".{each}.weight" for each in MATRICES))


def _config(model: "PretrainedModel") -> dict[str, Any]:
    """adapter_config.json."""
    adapter, layers = model.lora, adapted_layers(model)
    assert adapter is not None
    transposed = any(layer.transposed for layer in layers.values())
    usual = adapter.scaling * adapter.rank
    own = {
        model.hub_name(f"{name}.weight").removesuffix(".weight"): (rank, layer.scaling * rank)
        for name, layer in layers.items()
        for rank in [len(layer.lora_A)]
    }
    return {
        "peft_type": "LORA",
        "task_type": TASK_TYPES.get(model.task),
        "base_model_name_or_path": adapter.base_name or _lasting(adapter.base) or None,
        "revision": adapter.revision,
        "r": adapter.rank,
        "lora_alpha": usual,
        "lora_dropout": adapter.dropout,
        "target_modules": _targets(model, layers),
        "modules_to_save": _whole_modules(model) or None,
        "fan_in_fan_out": transposed,
        "bias": adapter.bias,
        "rank_pattern": {n: rank for n, (rank, _) in own.items() if rank != adapter.rank},
        "alpha_pattern": {n: alpha for n, (_, alpha) in own.items() if alpha != usual},
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _lasting(base: str) -> str:
    """A base's path that holds from any working folder."""
    return str(Path(base).resolve()) if base and Path(base).exists() else base


def _targets(model: "PretrainedModel", layers: dict[str, LoRALayer]) -> list[str]:
    """The ends of the hub's names, as short as they mean these layers and no others."""
    named = {name: model.hub_name(f"{name}.weight").removesuffix(".weight") for name in layers}
    others = [
        model.hub_name(f"{name}.weight").removesuffix(".weight")
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, *KINDS)) and name not in layers and name != "head"
    ]
    ends = set()
    for name in named.values():
        parts = name.split(".")
        tails = (".".join(parts[n:]) for n in range(len(parts) - 1, -1, -1))
        ends.add(next(t for t in tails if not any(f".{o}".endswith(f".{t}") for o in others)))
    return sorted(ends)


def _whole_modules(model: "PretrainedModel") -> list[str]:
    """The hub's names of the modules that are saved whole: a head's first parts."""
    assert model.lora is not None
    modules = set()
    second = {first: name for name, first in _tied_weights(model).items()}
    for name in model.lora.whole:
        if model.lora.bias != "none" and name.startswith(keys.BODY) and name.endswith(".bias"):
            continue  # told by the entry bias
        short = keys.short_hub_name(name, model.config.family, model.task)
        head = name.startswith(keys.HEAD)
        modules.add(short.partition(".")[0] if head else short.rpartition(".")[0])
        modules.update([second[short].rpartition(".")[0]] if short in second else [])
    return sorted(modules)
