"""Adapters on the disk, as PEFT has them: adapter_config.json and adapter_model.safetensors."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trainer import hub
from trainer.checkpoint import files
from trainer.errors import InputError
from trainer.models import keys
from trainer.models.loading import finite
from trainer.models.lora import (
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

CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
TASK_TYPES = {
    "base": "FEATURE_EXTRACTION",
    "causal_lm": "CAUSAL_LM",
    "question_answering": "QUESTION_ANS",
    "sequence_classification": "SEQ_CLS",
    "token_classification": "TOKEN_CLS",
}
OTHER_KINDS = (
    *("use_dora", "use_qalora", "use_bdlora", "lora_bias", "rank_pattern", "alpha_pattern"),
    *("layer_replication", "trainable_token_indices", "target_parameters"),
    *("alora_invocation_tokens", "arrow_config", "velora_config", "monteclora_config"),
    "kasa_config",
)
"""Entries of adapter_config.json that make other sums than LoRA's."""
BEGINNINGS = (True, False, "gaussian", "orthogonal", "eva", "mica")
"""Values of init_lora_weights that leave the base as it is; PiSSA's and OLoRA's change it."""


class AdapterWeights(WeightFiles):
    """The tensors of an adapter's folder."""

    single = pattern = "adapter_model.safetensors"
    index = "adapter_model.safetensors.index.json"

    @property
    def base_digest(self) -> str | None:
        """Of the weights that the adapter was trained on, where it was trained here."""
        opened = next(iter(self._source.values()))
        return (opened.metadata() or {}).get("base_digest")


@dataclass(frozen=True)
class SavedAdapter:
    """An adapter's folder, its config checked."""

    folder: Path
    base: str
    """The path of the model that it adapts"""
    revision: str | None
    rank: int
    scaling: float
    dropout: float

    def base_folder(self, **options: Any) -> Path:
        """The folder, or GGUF file, of the model that it adapts; `options` as `hub.find` takes."""
        where = f"{self.folder / CONFIG}: base_model_name_or_path"
        found = hub.find(self.base, **{**options, "revision": self.revision}, what=where)
        if (found / CONFIG).is_file():
            raise InputError(f"{where}: '{self.base}' is an adapter too; accepted: a whole model")
        return found

    def whole(self, prefix: str) -> set[str]:
        """The hub's short names of the tensors that are no adapters' matrices."""
        with AdapterWeights(self.folder) as found:
            return {name for name in _short_names(found, prefix) if not _is_matrix(name)}

    def load_into(self, model: "PretrainedModel", without_head: bool) -> None:
        """Adapt a base as the folder says; what neither has, and is random, is trained as well.

        Raises InputError where the base is another one.
        """
        with AdapterWeights(self.folder) as found:
            layers, whole = _adapted(model, found)
            self._check_rank(found)
        attach(
            model,
            layers,
            rank=self.rank,
            scaling=self.scaling,
            dropout=self.dropout,
            base=self.base,
            revision=self.revision,
            whole={n for n in whole if not (without_head and n.startswith(keys.HEAD))},
        )
        overwrite_adapter(model, self.folder)
        train_whole(model, fresh_parameters(model))

    def _check_rank(self, found: AdapterWeights) -> None:
        """Refuse matrices of another rank before any of the rank that r names is made."""
        for name in sorted(found.names):
            shape = found.shape(name)
            axis = 0 if name.endswith(".lora_A.weight") else 1
            if _is_matrix(name) and (len(shape) != 2 or shape[axis] != self.rank):
                raise InputError(
                    f"{self.folder / CONFIG}: r: found {self.rank}; accepted: the rank of tensor "
                    f"{name}, of shape {list(shape)}"
                )


def read_adapter(folder: Path) -> SavedAdapter | None:
    """What adapter_config.json says, or None where there is none. Raises InputError."""
    file = folder / CONFIG
    if not file.is_file():
        return None
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: not readable as JSON ({error})") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise InputError(f"{file}: accepted: a JSON object with the peft_type LORA")
    for name in OTHER_KINDS:
        if config.get(name):
            raise InputError(f"{file}: {name}: found {config[name]!r:.40}; accepted: plain LoRA")
    if (found := config.get("init_lora_weights", True)) not in BEGINNINGS:
        accepted = ", ".join(json.dumps(each).strip('"') for each in BEGINNINGS)
        raise InputError(f"{file}: init_lora_weights: found {found!r:.40}; accepted: {accepted}")
    if config.get("bias", "none") != "none":
        raise InputError(f"{file}: bias: found {config['bias']!r:.40}; accepted: none")
    rank, alpha = _number(config, "r", 8, file), _number(config, "lora_alpha", 8, file)
    if rank != int(rank) or rank < 1:
        raise InputError(f"{file}: r: found {rank}; accepted: a whole number from 1")
    dropout = _number(config, "lora_dropout", 0.0, file)
    if not 0 <= dropout < 1:
        raise InputError(f"{file}: lora_dropout: found {dropout}; accepted: 0 to below 1")
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str) or not base or not isinstance(revision, str | None):
        accepted = "base_model_name_or_path, and perhaps revision: texts"
        raise InputError(f"{file}: names no model that it adapts; accepted: {accepted}")
    scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return SavedAdapter(folder, base, revision, int(rank), scaling, float(dropout))


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
        if weight in ours:
            (layers if _is_matrix(short) else whole).add(ours[weight])
        elif short not in model.tied:
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
            if short != weight and short.startswith(f"{layer}."):
                raise InputError(
                    f"{found.folder}: tensor {name}: an adapter on {layer}, the output weights; "
                    "accepted: adapters on layers of the body"
                )


def _check_ties(model: "PretrainedModel", found: AdapterWeights, named: Mapping[str, str]) -> None:
    """Refuse one of two tied weights without the other: PEFT takes the base's for that one."""
    for second, first in _tied_weights(model).items():
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
    return saved.base, saved.revision


def save_adapter(
    model: "PretrainedModel", directory: Path, weights: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Write the adapters, what is trained beside them, and config.json; no weight of the base.

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
    files.make_folder(directory)
    files.write_json(directory / "config.json", config_entries(model))
    files.write_json(directory / CONFIG, _config(model))
    files.write_tensors(directory / AdapterWeights.single, tensors, metadata)
    for old in sorted(directory.glob(WeightFiles.pattern)):
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
            if short not in named:
                raise InputError(f"{folder}: tensor {short} is missing")
            shape, wanted = found.shape(named[short]), tuple(parameters[name].shape)
            if shape != wanted:
                raise InputError(
                    f"{folder}: tensor {named[short]}: found shape {shape}; accepted: {wanted} "
                    "(an adapter of another base?)"
                )
            rows = own_rows(parameters[name])
            tensor = finite(found, named[short], folder)
            local(parameters[name]).copy_(
                tensor if rows is None else tensor[rows.start : rows.stop]
            )


def saved_names(model: "PretrainedModel") -> dict[str, str]:
    """Our names of what an adapter's folder holds -> its names there."""
    assert model.lora is not None
    matrices = [f"{name}.{each}" for name in adapted_layers(model) for each in MATRICES]
    named = {name: f"{PREFIX}{model.hub_name(name)}.weight" for name in matrices}
    return named | {name: f"{PREFIX}{model.hub_name(name)}" for name in model.lora.whole}


def _short_names(found: WeightFiles, prefix: str) -> dict[str, str]:
    """Names without PEFT's and the family's prefix -> the file's."""
    return {name.removeprefix(PREFIX).removeprefix(f"{prefix}."): name for name in found.names}


def _is_matrix(name: str) -> bool:
    return name.endswith(tuple(f".{each}.weight" for each in MATRICES))


def _config(model: "PretrainedModel") -> dict[str, Any]:
    """adapter_config.json."""
    adapter, layers = model.lora, adapted_layers(model)
    assert adapter is not None
    transposed = any(layer.transposed for layer in layers.values())
    return {
        "peft_type": "LORA",
        "task_type": TASK_TYPES.get(model.task),
        "base_model_name_or_path": _lasting(adapter.base) or None,
        "revision": adapter.revision,
        "r": adapter.rank,
        "lora_alpha": adapter.scaling * adapter.rank,
        "lora_dropout": adapter.dropout,
        "target_modules": _targets(model, layers),
        "modules_to_save": _whole_modules(model) or None,
        "fan_in_fan_out": transposed,
        "bias": "none",
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
        if isinstance(module, torch.nn.Linear) and name not in layers and name != "head"
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
        short = keys.short_hub_name(name, model.config.family, model.task)
        head = name.startswith(keys.HEAD)
        modules.add(short.partition(".")[0] if head else short.rpartition(".")[0])
        modules.update([second[short].rpartition(".")[0]] if short in second else [])
    return sorted(modules)


def _number(config: dict[str, Any], name: str, default: float, file: Path) -> float:
    value = config.get(name, default)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise InputError(f"{file}: {name}: found {value!r:.40}; accepted: a number")
    return value
