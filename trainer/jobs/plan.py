"""The plan job: estimates the memory that training a model needs, without reading its weights."""

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from trainer.errors import InputError
from trainer.runs.run import ModelSettings, Run
from trainer.terminal import activity

if TYPE_CHECKING:
    import torch

    from trainer.models.config import ModelConfig
    from trainer.models.pretrained import PretrainedModel
    from trainer.rendering.plan import Plan

DEVICES = (1, 2, 4, 8)
PRECISIONS = ("fp32", "bf16")
LONGEST = 4096
"""The maximum sequence length in tokens if plan.length is null."""


def prepare(run: Run) -> bool:
    """Do nothing; the job runs in one process."""
    return True


def run(run: Run) -> int:
    """Print the model's size and files, and a step's memory for each strategy and precision.

    For a model on the hub, only the config and the headers of the weight files are downloaded.
    """
    from trainer.jobs.parts.next_commands import of_same_config
    from trainer.rendering.layout import labelled
    from trainer.rendering.plan import memory_table, plan_summary
    from trainer.terminal.console import make_console, show

    if int(os.environ.get("RANK", "0")) > 0:
        return 0
    plan = make_plan(run)
    activity.done()
    console = make_console()
    show(console, plan_summary(plan))
    show(console, memory_table(plan))
    show(console, labelled(of_same_config(run, "train")))
    return 0


def make_plan(run: Run) -> "Plan":
    """The plan for the run's model. Raises InputError if its memory cannot be estimated."""
    from trainer.models.quantization.quantized_linear import num_weights
    from trainer.rendering.plan import Plan

    settings, headers = _without_weights(run.model)
    config = _config(run, settings)
    model = build(run, settings, config)
    tokens, length = _batch(run, config)
    activity.doing("estimating the memory of a step")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    files, file_bytes, stored = headers
    return Plan(
        path=run.model.path or "from scratch",
        model_type=config.model_type,
        parameters=num_weights(model),
        trained=trained,
        files=files,
        file_bytes=file_bytes,
        stored=stored,
        optimizer=run.trainer.optimizer,
        tokens=tokens,
        length=length,
        rows=_rows(run, model),
        activations=_activations(run, settings, config, _lengths(tokens, length)),
    )


def build(run: Run, settings: ModelSettings, config: "ModelConfig") -> "PretrainedModel":
    """The model on the meta device, with the adapters and frozen parameters of the settings."""
    from trainer.models.of_task import model_class
    from trainer.models.pretrained import PretrainedModel
    from trainer.models.quantization.quantize import quantize_without_values
    from trainer.models.without_values import without_values
    from trainer.training.freezing import freeze

    kind = model_class(_task(run, config))
    if not issubclass(kind, PretrainedModel):
        raise InputError(f"recipe: {kind.__name__} cannot be planned; accepted: a text model")
    with without_values():
        model = kind.from_config(config, lazily=True)
        if settings.quantization is not None:
            quantize_without_values(model, settings.quantization)
        if settings.lora.adds_adapters:
            model.add_lora(replace(settings.lora, trainable_tokens=[]), "base")
    if settings.freeze:
        freeze(model, settings.freeze)
    return model


def _without_weights(
    settings: ModelSettings,
) -> tuple[ModelSettings, tuple[tuple[str, ...], int, dict[str, int]]]:
    """The settings with a local path, and the headers of the weight files.

    The headers are the files' names, their total bytes, and {data type: number of weights}.
    """
    from trainer import hub
    from trainer.jobs.parts.model_config import is_foreign
    from trainer.models.formats.weight_headers import read_headers

    if settings.path is None:
        return settings, ((), 0, {})
    revision = settings.revision
    activity.doing(f"reading the config of {settings.path}")
    folder = hub.find(settings.path, revision=revision, what="model.path", weights=None)
    local = replace(settings, path=str(folder), revision=None)
    if (folder / "adapter_config.json").exists():
        accepted = "accepted: its base, with model.lora.rank"
        raise InputError(f"model.path: {settings.path} is an adapter; {accepted}")
    if is_foreign(local):
        accepted = "accepted: a family that this package implements"
        raise InputError(f"model.path: {settings.path} runs through transformers; {accepted}")
    if settings.from_scratch:
        return local, ((), 0, {})
    if folder.is_file():
        return local, ((folder.name,), folder.stat().st_size, {})
    headers = read_headers(settings.path, folder, revision)
    return local, (headers.files, headers.num_bytes, headers.parameters)


def _config(run: Run, settings: ModelSettings) -> "ModelConfig":
    from trainer.jobs.parts.model_config import config_overrides, new_config
    from trainer.tasks.recipe import Head

    return new_config(settings, config_overrides(settings, Head("base")), None)


def _task(run: Run, config: "ModelConfig") -> str:
    """The task of the recipe if the user chose one, else the task of the saved model."""
    from trainer.models.family import family_of

    if run.recipe is not None:
        try:
            return run.recipe.head.task
        except InputError:  # the recipe needs the training rows to know its labels
            return "base"
    family = family_of(config)
    names = config.to_dict().get("architectures") or []
    for task, head in family.heads.items():
        if f"{family.name}{head.class_suffix}" in names:
            return task
    return "base"


def _rows(run: Run, model: "PretrainedModel") -> list[tuple[str, str, dict[str, int]]]:
    """The rows of the memory table: (strategy, devices, {precision: bytes}).

    The bytes are those on one device, without activations.
    """
    from trainer.training.planned_memory import replicated, sharded

    given = run.launch.num_processes
    wanted = DEVICES if isinstance(given, str) else (1, given)
    whole = run.launch.reduce_gradients == "step"
    rows = [("one device", "1", [replicated(model, run.trainer, p, 1) for p in PRECISIONS])]
    several = [devices for devices in wanted if devices > 1]
    if several:
        each = [replicated(model, run.trainer, p, several[0]) for p in PRECISIONS]
        rows.append(("ddp", "2 or more", each))
    for devices in several:
        shares = [sharded(model, run.trainer, p, devices, whole) for p in PRECISIONS]
        rows.append(("fsdp", str(devices), shares))
    offloaded = [sharded(model, run.trainer, p, 1, whole, on_host=True) for p in PRECISIONS]
    rows.append(("fsdp with launch.cpu_offload", "1 or more", offloaded))
    return [
        (name, devices, {p: each.total for p, each in zip(PRECISIONS, found, strict=True)})
        for name, devices, found in rows
    ]


def _batch(run: Run, config: "ModelConfig") -> tuple[int, int]:
    """The number of tokens in a micro batch, and in each of its sequences."""
    from trainer.models.input_checks import max_sequence_length

    length = run.plan.length or min(LONGEST, max_sequence_length(config))
    return max(length, run.trainer.max_tokens_per_micro_batch or run.plan.tokens), length


def _lengths(tokens: int, length: int) -> "torch.Tensor":
    import torch

    return torch.full((max(1, tokens // length),), length)


def _activations(
    run: Run, settings: ModelSettings, config: "ModelConfig", lengths: "torch.Tensor"
) -> dict[str, dict[str, int | None]]:
    from trainer.training.planned_memory import activations

    def make() -> "PretrainedModel":
        return build(run, settings, config)

    return {
        name: {p: activations(make, lengths, p, recompute) for p in PRECISIONS}
        for name, recompute in {"activations": False, "with gradient_checkpointing": True}.items()
    }
