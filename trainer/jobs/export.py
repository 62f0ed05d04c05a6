"""The export job: writes a model in another program's format, and compares outputs with it."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.config.saved_recipe import prompt_style, with_saved_recipe
from trainer.errors import InputError
from trainer.runs.run import EXPORT_DTYPES, Run
from trainer.tasks.recipe import Head, Recipe

if TYPE_CHECKING:
    import torch

    from trainer.export.card import Card
    from trainer.export.source import Source
    from trainer.models.model import Model
    from trainer.models.pretrained import PretrainedModel


def prepare(run: Run) -> bool:
    """Do nothing; the job runs in one process."""
    return True


def run(run: Run) -> int:
    """Write output.path. The folder appears only after the other program gave the same outputs.

    Raises InputError if the format does not support the model, and NumericsError if the outputs
    differ.
    """
    from trainer.export.folder import new_folder
    from trainer.stores.outputs import shown_output, written

    if int(os.environ.get("RANK", "0")) > 0:
        return 0
    if run.export.format is None:
        raise InputError(f"format: null; accepted: {', '.join(EXPORT_DTYPES)}")
    if run.output.path is None:
        raise InputError("output.path: null; accepted: the folder to write, or its URL")
    if run.model.path is None:
        raise InputError("model.path: null; accepted: the path of a model")
    if run.model.from_scratch or run.model.new_head or run.model.lora.adds_adapters:
        found = "model.from_scratch, model.new_head or new adapters (model.lora)"
        raise InputError(f"job=export: found {found}; accepted: the model in model.path alone")
    if run.model.quantization is not None:
        found = f"found {run.model.quantization}, and job=export writes the original weights"
        raise InputError(f"model.quantization: {found}; accepted: null")
    with written(run.output.path, "output.path") as path:
        target = new_folder(path)
        card = _exported(run, target)
    _show(shown_output(run.output.path, target), card)
    return 0


def _exported(run: Run, target: Path) -> "Card":
    """Write the folder in the format that the settings name; returns its model card."""
    dtype = run.export.numbers
    match run.export.format:
        case "merged":
            return _merged(run, target)
        case "onnx":
            from trainer.export.graph_folder import ONNX, export_graph
            from trainer.export.onnx_graph import require_packages

            require_packages()
            return export_graph(_source(run), target, ONNX, dtype or "fp32")
        case "torch":
            from trainer.export.graph_folder import TORCH, export_graph

            return export_graph(_source(run), target, TORCH, dtype or "fp32")
        case "gguf":
            from trainer.export.gguf_folder import export_gguf

            return export_gguf(_source(run), target, dtype or "fp16")
    from trainer.export.weights import export_weights

    if dtype is None:
        raise InputError(f"dtype: null; accepted: {', '.join(EXPORT_DTYPES['safetensors'])}")
    return export_weights(_source(run), target, dtype)


def _merged(run: Run, target: Path) -> "Card":
    from trainer.devices.precision import DTYPES
    from trainer.export.card import Card, Check
    from trainer.export.weights import usage
    from trainer.jobs.parts.merging import CLOSE, write_merged

    run = with_saved_recipe(run)
    assert run.model.path is not None
    card = Card(run.model.path, "merged", "", "", "")

    def note(folder: Path, model: "Model", change: float) -> None:
        card.dtype = _name_of(model.dtype)
        card.architecture, card.usage = model.architecture, usage(model)
        card.notes.append(
            f"Rounding the weights to {card.dtype} changes the outputs by {change:.1e}."
        )
        what = "outputs with the adapters merged, before rounding"
        found = f"differ by less than {CLOSE:g} of their norm"
        card.checks.append(Check(what, "tempering", found, f"{CLOSE:g}"))
        card.write(folder)

    wanted = run.export.numbers
    write_merged(run, target, DTYPES[wanted] if wanted else None, note)
    return card


def _name_of(dtype: "torch.dtype") -> str:
    from trainer.devices.precision import DTYPES

    names = {value: name for name, value in DTYPES.items()}
    return names.get(dtype, str(dtype).removeprefix("torch."))


def _source(run: Run) -> "Source":
    """The model, loaded on the CPU in fp32 with its adapters merged."""
    from trainer.export.source import Source
    from trainer.jobs.parts.model_config import is_foreign
    from trainer.jobs.parts.processor import load_processor, load_tokenizer

    assert run.model.path is not None
    if is_foreign(run.model):
        found = f"{run.model.path} runs through transformers"
        raise InputError(f"model.path: {found}; accepted: a native family")
    if run.export.format == "gguf":
        _check_family(run)
    recipe = None if _is_bare(run) else with_saved_recipe(run).recipe
    model = _model(run, recipe)
    processor = load_tokenizer(run) if recipe is None else load_processor(run, recipe)
    return Source(run.model.path, model, processor, recipe, prompt_style(run).system)


def _model(run: Run, recipe: Recipe | None) -> "PretrainedModel":
    from trainer.jobs.parts.model import load_model
    from trainer.models.pretrained import PretrainedModel

    head = Head("base") if recipe is None else recipe.head
    settings = replace(run.model, freeze=[], lora=replace(run.model.lora, merge=False))
    model = load_model(settings, head, run.seed)
    if not isinstance(model, PretrainedModel):
        raise InputError(f"model.path: found a {type(model).__name__}; accepted: a text model")
    if model.fresh:
        found = f"the files have no weights of {', '.join(model.fresh)}"
        raise InputError(f"model.path: {found}; accepted: a model trained for its task")
    if model.lora is not None:
        if run.export.format == "safetensors":
            raise InputError("model.path: found an adapter; accepted: format=merged")
        model.merge_lora()
    return model.eval()


def _check_family(run: Run) -> None:
    """Raise InputError if the family cannot be written as GGUF, before the weights are loaded."""
    from trainer.interop.gguf_metadata import architecture_of
    from trainer.jobs.parts.model_config import config_entries
    from trainer.models.config import ModelConfig

    architecture_of(ModelConfig(config_entries(run.model)[0]))


def _is_bare(run: Run) -> bool:
    """Whether to export the model without a head, since neither folder nor settings name a task."""
    from trainer import hub
    from trainer.interop.sentence_transformers import is_embedding_folder
    from trainer.jobs.parts.model_config import config_entries
    from trainer.tasks.recipe_file import FILE

    assert run.model.path is not None
    folder = hub.find(run.model.path, revision=run.model.revision, what="model.path")
    if run.recipe_fields or (folder / FILE).is_file() or is_embedding_folder(folder):
        return False
    names = config_entries(run.model)[0].get("architectures") or [""]
    return str(names[0]).endswith("Model") and "LMHead" not in str(names[0])


def _show(target: str, card: "Card") -> None:
    from trainer.export.card import TEXT
    from trainer.rendering.layout import labelled
    from trainer.terminal.console import make_console, show

    lines = {"format": f"{card.format}, {card.dtype}", "model": card.architecture}
    checks = [f"{check.what}: {check.found} ({check.program})" for check in card.checks]
    notes = "\n".join(card.notes)
    lines |= {"checked": "\n".join(checks), "notes": notes, "written to": target}
    lines["how to use it"] = f"{target}/{TEXT}"
    show(make_console(), labelled({label: words for label, words in lines.items() if words}))
