"""Model config: the initial config of a run's model, from model.path or from model.config."""

from collections.abc import Mapping
from typing import Any

from trainer import hub, registry
from trainer.errors import InputError
from trainer.models.adapters.adapter_files import model_home
from trainer.models.auto import AutoConfig
from trainer.models.config import read_config
from trainer.models.family import find_family
from trainer.models.formats.config_entries import COMMON
from trainer.models.formats.rope_request import scaled_entries
from trainer.runs.run import ModelSettings
from trainer.tasks.recipe import Head
from trainer.tokenizer import Tokenizer

ID = "token_id"
ROLES = ("bos", "eos", "pad", "cls", "sep")
"""Special tokens whose ids a model's config may contain."""


def model_path(settings: ModelSettings) -> str:
    """The path of the model. Raises InputError if none is given."""
    if settings.path is None:
        raise InputError(
            "model.path: null; accepted: a path, or with model.from_scratch=true and a model_type "
            "in model.config a tokenizer of its own (tokenizer.path or tokenizer.train=true)"
        )
    return settings.path


def is_foreign(settings: ModelSettings) -> bool:
    """Whether the model runs through transformers.

    With model.backend=auto, it does if this package has no family for the model type. Raises
    InputError for settings that contradict each other.
    """
    foreign = _uses_transformers(settings)
    if settings.trust_remote_code and not foreign:
        found = "found true, and this package computes the model"
        raise InputError(f"model.trust_remote_code: {found}; accepted: false")
    return foreign


def _uses_transformers(settings: ModelSettings) -> bool:
    if settings.backend == "native":
        return False
    if settings.from_scratch or settings.path is None:
        if settings.backend == "transformers":
            accepted = "accepted: model.from_scratch=false, or model.backend=native"
            raise InputError(f"model.backend: found transformers for random weights; {accepted}")
        return False
    if settings.backend == "transformers":
        return True
    kind = config_entries(settings)[0].get("model_type")
    return isinstance(kind, str) and registry.locate(registry.FAMILIES, kind) is None


def new_config(
    settings: ModelSettings, overrides: Mapping[str, Any], vocabulary: Tokenizer | None
) -> AutoConfig:
    """The config of a model from scratch, with the tokenizer's size and special token ids."""
    entries, where = config_entries(settings)
    overrides = dict(overrides)
    if settings.path is None:
        overrides.pop("model_type")
    if vocabulary is not None:
        known = {*COMMON, *find_family(entries.get("model_type")).defaults}
        ids = {f"{role}_{ID}": getattr(vocabulary, f"{role}_{ID}") for role in ROLES}
        ids |= {f"forced_eos_{ID}": ids[f"eos_{ID}"], f"decoder_start_{ID}": ids[f"pad_{ID}"]}
        ids = {name: number for name, number in ids.items() if name in known}
        overrides = {"vocab_size": len(vocabulary), **ids, **overrides}
    return AutoConfig(entries, overrides, where=where)


def config_overrides(settings: ModelSettings, head: Head) -> dict[str, Any]:
    """The config entries that the settings and the recipe set, including `model.rope_scaling`.

    Raises InputError for a RoPE scaling that the model does not support.
    """
    overrides = {**settings.config, **head.config}
    if not settings.rope_scaling:
        return overrides
    if is_foreign(settings):
        found = f"{settings.path} runs through transformers"
        accepted = "model.config.rope_parameters"
        raise InputError(f"model.rope_scaling: {found}; accepted: {accepted}")
    entries, where = config_entries(settings)
    given = {} if settings.path is not None else settings.config
    own = AutoConfig({**entries, **given}, where=where)
    return {**overrides, **scaled_entries(own, settings.rope_scaling, settings.config)}


def config_entries(settings: ModelSettings) -> tuple[dict[str, Any], str]:
    """The entries of a model's initial config, and their location for error messages."""
    if settings.path is not None:
        folder = model_home(hub.find(settings.path, revision=settings.revision, what="model.path"))
        return read_config(folder), str(folder / "config.json")
    if "model_type" not in settings.config:
        raise InputError(
            "model.config.model_type: nothing given; accepted: a family, such as llama"
        )
    return {"model_type": settings.config["model_type"]}, "model.config"
