"""Model of a run: downloads, loads or creates it, with the head that the recipe needs."""

import logging
import os
from pathlib import Path
from typing import Any

import torch

from trainer import hub
from trainer.data.preprocessing import check_vocabulary
from trainer.devices.precision import DTYPES, resolve_precision
from trainer.errors import InputError
from trainer.generation.stop_tokens import stop_token_ids
from trainer.interop.padded_loading import foreign_config, load_padded
from trainer.interop.padded_model import PaddedModel
from trainer.jobs.parts.adapters import adapt
from trainer.jobs.parts.data import warnings_hidden
from trainer.jobs.parts.model_config import (
    config_entries,
    config_overrides,
    is_foreign,
    model_path,
    new_config,
)
from trainer.jobs.parts.processor import load_tokenizer
from trainer.models.adapters.adapter_files import model_home
from trainer.models.configured import ConfiguredModel
from trainer.models.family import find_family
from trainer.models.formats.generation_config import recommended, unsupported_entries
from trainer.models.model import Model
from trainer.models.of_task import model_class
from trainer.models.pretrained import PretrainedModel
from trainer.models.quantization.quantize import refuse_quantization
from trainer.runs.run import ModelSettings, Run
from trainer.tasks.processor import Processor
from trainer.tasks.recipe import Head
from trainer.terminal.activity import doing
from trainer.tokenizer import Tokenizer
from trainer.training.freezing import freeze

log = logging.getLogger("trainer")


def fetch_model(run: Run) -> None:
    """Download the model and, for an adapter, its base, unless they are local."""
    if run.model.path is not None:
        revision, code = run.model.revision, run.model.trust_remote_code
        model_home(hub.find(run.model.path, revision=revision, what="model.path", code=code))


def load_model(
    settings: ModelSettings,
    head: Head,
    seed: int,
    vocabulary: Processor | None = None,
    strategy: str = "ddp",
) -> PretrainedModel | ConfiguredModel:
    """The model that the settings name, with the head that the recipe needs, in fp32.

    Weights that are not in the model's files are initialized randomly from `seed`. `vocabulary` is
    the run's tokenizer if that is not the model's own: a model from scratch gets its vocabulary
    size and special token ids from it, unless the settings define them. If `strategy` may shard the
    model, the Trainer loads or initializes the weights later. Raises InputError for files that do
    not match the model.
    """
    doing("making the model" if settings.from_scratch else f"loading {settings.path}")
    lazily = strategy != "ddp"
    kind = model_class(head.task)
    torch.manual_seed(seed)
    model: PretrainedModel | ConfiguredModel
    plain = issubclass(kind, ConfiguredModel)
    overrides = {**settings.config, **head.config} if plain else config_overrides(settings, head)
    _refuse_quantization(settings, issubclass(kind, ConfiguredModel))
    if not issubclass(kind, ConfiguredModel) and is_foreign(settings):
        model = _padded(settings, head, overrides)
    elif issubclass(kind, ConfiguredModel):
        model = _configured(kind, settings, overrides)
    elif settings.from_scratch:
        own = vocabulary if isinstance(vocabulary, Tokenizer) else None
        model = kind.from_config(new_config(settings, overrides, own), lazily=lazily)
    else:
        folder = _folder(settings)
        with warnings_hidden("trainer.fresh"):  # the start summary lists weights without a file
            model = kind.from_pretrained(
                folder,
                new_head=settings.new_head,
                lazily=lazily and (strategy == "fsdp" or number_of_ranks() > 1),
                quantization=settings.quantization,
                **overrides,
            )
    if isinstance(model, Model):
        adapt(model, settings, vocabulary)
    if settings.freeze:
        freeze(model, settings.freeze)
    return model


def number_of_ranks() -> int:
    """The number of processes of this run; with only one, the strategy `auto` shards no model."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def load_trained_model(
    settings: ModelSettings, head: Head, seed: int, strategy: str = "ddp"
) -> PretrainedModel | ConfiguredModel:
    """Like `load_model`, for evaluation or prediction.

    Raises InputError if the model's files lack weights, for example those of the head.
    """
    model = load_model(settings, head, seed, strategy=strategy)
    if model.fresh:
        found = f"{settings.path} has no weights for {', '.join(model.fresh)}"
        raise InputError(f"model.path: {found}; accepted: a model that was trained for this task")
    return model


def own_vocabulary(run: Run, processor: Processor | None) -> Processor | None:
    """The tokenizer that sets a new model's vocabulary size; None if it is the model's own."""
    of_the_model = run.tokenizer.path is None and not run.tokenizer.train
    return None if of_the_model else processor


def load_generator(run: Run) -> tuple[Model, Tokenizer, list[int]]:
    """The language model on its device, its tokenizer, and the ids of its end tokens.

    The model has the precision `trainer.precision`. On a CPU, auto means fp32, since bf16 logits
    often tie.
    """
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    wanted = run.trainer.precision
    wanted = "fp32" if wanted == "auto" and device.type == "cpu" else wanted
    precision = resolve_precision(wanted, device)
    tokenizer = load_tokenizer(run)
    model = load_model(run.model, Head(_writing_task(run.model)), run.seed)
    assert isinstance(model, Model)
    check_vocabulary(tokenizer, model)
    ends = stop_token_ids(model, tokenizer)
    _warn_of_recommended(model, run)
    return model.to(device, DTYPES[precision]).eval(), tokenizer, ends


def _writing_task(settings: ModelSettings) -> str:
    """The task of the head that generates text: seq2seq_lm for encoder-decoders, else causal_lm."""
    if is_foreign(settings):
        path, revision = model_path(settings), settings.revision
        home = model_home(hub.find(path, revision=revision, what="model.path"))
        config = foreign_config(home, settings.config, settings.trust_remote_code)
        return "seq2seq_lm" if config.is_encoder_decoder else "causal_lm"
    kind = find_family(config_entries(settings)[0].get("model_type")).kind
    return "seq2seq_lm" if kind == "encoder_decoder" else "causal_lm"


def _folder(settings: ModelSettings) -> Path:
    """The folder or file of the model. If the settings give a SHA-256, the file is checked."""
    path, revision, code = model_path(settings), settings.revision, settings.trust_remote_code
    folder = hub.find(path, revision=revision, what="model.path", code=code)
    if settings.sha256 is not None:
        file = folder if folder.is_file() else folder / "model.safetensors"
        hub.check_digest(file, settings.sha256)
    return folder


def _configured(
    kind: type[ConfiguredModel], settings: ModelSettings, overrides: dict[str, Any]
) -> ConfiguredModel:
    _refuse_adapters(settings, kind.__name__)
    if settings.rope_scaling:
        found = f"{kind.__name__} has no rotary positions"
        raise InputError(f"model.rope_scaling: {found}; accepted: {{}}")
    if settings.from_scratch:
        return kind.from_config(overrides)
    return kind.from_pretrained(_folder(settings), **overrides)


def _padded(settings: ModelSettings, head: Head, overrides: dict[str, Any]) -> PaddedModel:
    """The model, loaded through transformers. Raises InputError for a GGUF file."""
    folder = _folder(settings)
    if not folder.is_dir():
        accepted = "accepted with model.backend=transformers: a folder"
        raise InputError(f"model.path: found a GGUF file; {accepted}")
    trusts_code = settings.trust_remote_code
    return load_padded(folder, head.task, overrides, settings.new_head, trusts_code)


def _refuse_adapters(settings: ModelSettings, name: str) -> None:
    if settings.lora.adds_adapters or settings.lora.merge:
        found = f"{name} has no adapters"
        raise InputError(f"model.lora: {found}; accepted: model.lora.rank=null")


def _refuse_quantization(settings: ModelSettings, configured: bool) -> None:
    """Raise InputError for quantization of a model from scratch or of a non-native family."""
    if settings.from_scratch:
        refuse_quantization(settings.quantization, "model.from_scratch=true")
    if configured or (settings.quantization is not None and is_foreign(settings)):
        refuse_quantization(settings.quantization, "a model that is not of a native family")


def _warn_of_recommended(model: Model, run: Run) -> None:
    """Warn if generation_config.json recommends settings that the run does not use."""
    own = {n: v for n, v in recommended(model).items() if getattr(run.generation, n) != v}
    if own:
        settings = " ".join(f"generation.{name}={value}" for name, value in own.items())
        log.warning("generation_config.json recommends other settings: %s", settings)
    if others := unsupported_entries(model):
        log.warning("generation_config.json: not supported here: %s", ", ".join(others))
