"""Weights into a model: from a folder, or fresh ones; every gap and every surplus is named."""

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trainer.errors import InputError, nearest
from trainer.models import keys
from trainer.models.sharded import local, own_rows
from trainer.models.weight_files import WeightFiles

if TYPE_CHECKING:
    from trainer.models.pretrained import PretrainedModel

log = logging.getLogger("trainer")
log_fresh = logging.getLogger("trainer.fresh")
"""Of its own, since a run's start summary says the same."""

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
REPLACE_HEAD = "model.new_head=true replaces the head by a fresh one"


@dataclass(frozen=True)
class Pending:
    """Where a model on the meta device gets its weights from, checked but for their numbers."""

    folder: Path
    source: type[WeightFiles]
    names: Mapping[str, str | None]
    """Parameter -> the tensor in the files, or None: it starts fresh."""
    dtype: torch.dtype

    def fill(self, model: "PretrainedModel", part: nn.Module) -> None:
        """Give a part of the model, or all of it, its weights, on the CPU.

        Raises InputError for a tensor that is not finite.
        """
        with self.source(self.folder) as files:
            wanted = {p for p in part.parameters() if p.is_meta}
            tensors = {
                name: self._read(files, model, name)
                for name, parameter in model.named_parameters()
                if parameter in wanted
            }
        materialize(model, tensors)

    def _read(self, files: WeightFiles, model: "PretrainedModel", name: str) -> Tensor:
        in_file = self.names[name]
        if in_file is None:
            return _fresh(model, name).to(self.dtype)
        return finite(files, in_file, self.folder).to(self.dtype, copy=True)


class Drawn:
    """Random weights for a model on the meta device, as its family starts a training.

    They come from torch's global generator as it stands now, however late they are drawn, and
    leave it alone: `generator` is where they have brought it.
    """

    def __init__(self) -> None:
        self.generator = torch.get_rng_state()
        self._dtype = torch.get_default_dtype()

    def fill(self, model: "PretrainedModel", part: nn.Module) -> None:
        """Give a part of the model, or all of it, its weights; parts in the parameters' order."""
        inside = set(part.parameters())
        missing = {name: p in inside for name, p in model.named_parameters() if p.is_meta}
        names = [name for name, wanted in missing.items() if wanted]
        assert names == list(missing)[: len(names)], "an earlier parameter is still to be drawn"
        with torch.random.fork_rng(devices=()):
            torch.set_rng_state(self.generator)
            drawn = {name: _fresh(model, name).to(self._dtype) for name in names}
            self.generator = torch.get_rng_state()
        materialize(model, drawn)


def pending_weights(
    model: "PretrainedModel",
    folder: Path,
    *,
    dtype: torch.dtype | str | None,
    new_head: bool,
    labels_in_file: dict[int, str] | None,
    architectures: Any = None,
    source: type[WeightFiles] = WeightFiles,
    elsewhere: Collection[str] = (),
) -> Pending:
    """The weights of a model on the meta device in a folder's files, safetensors by default.

    A head or pooler that the folder does not have, and any head with `new_head`, is fresh; so is
    one whose names hold another task's head, as the folder's `architectures` tell. `labels_in_file`
    are the folder's label names where the user asks for others. `elsewhere` are the hub's short
    names of what another folder gives after this: it starts fresh, and is not told of. Raises
    InputError for a missing or mis-shaped tensor, and for a head of other labels.
    """
    with source(folder) as files:
        found = keys.short_names(files.names, model.config.family)
        wanted = _short_names(model)
        if not new_head:
            _check_ties(model, files, found)
        _drop_other_head(model, wanted, found, architectures)
        given = {name for name, short in wanted.items() if short in elsewhere}
        asked = {name: short for name, short in wanted.items() if name not in given}
        fresh = _fresh_names(model, asked, found, new_head) | given
        if labels_in_file is not None and not _own_part(model, wanted) <= fresh:
            _check_labels(model, labels_in_file, folder)
        for name, parameter in model.named_parameters():
            if name not in fresh:
                _check_shape(name, parameter, files.shape(found[wanted[name]]), folder)
        kind = _dtype(dtype, files, found, wanted)
    _report(model, fresh - given, set(found) - set(wanted.values()), folder)
    names = {name: None if name in fresh else found[wanted[name]] for name in wanted}
    return Pending(folder, source, names, kind)


def overwrite_weights(model: "PretrainedModel", folder: Path) -> None:
    """Copies a folder's weights into a model of the same shape; nothing may be missing.

    A model with adapters takes adapters.
    """
    if model.lora is not None:
        from trainer.models.adapter_files import overwrite_adapter

        overwrite_adapter(model, folder)
        return
    with WeightFiles(folder) as files, torch.no_grad():
        found = keys.short_names(files.names, model.config.family)
        _check_ties(model, files, found)
        for name, parameter in model.named_parameters():
            short = keys.short_hub_name(name, model.config.family, model.task)
            if short not in found:
                raise InputError(f"{folder}: tensor {model.hub_name(name)} is missing")
            _check_shape(name, parameter, files.shape(found[short]), folder)
            rows = own_rows(parameter)
            tensor = finite(files, found[short], folder)
            local(parameter).copy_(tensor if rows is None else tensor[rows.start : rows.stop])


def _check_ties(model: "PretrainedModel", files: WeightFiles, found: dict[str, str]) -> None:
    """Drops a tied tensor's second name from `found`, or takes it for the first where that lacks.

    Raises InputError where the file holds other numbers under the two.
    """
    for second, first in model.tied.items():
        if second not in found:
            continue
        name = found.pop(second)
        kept = found.setdefault(first, name)
        if kept != name and not torch.equal(files.read(name), files.read(kept)):
            raise InputError(
                f"{files.folder}: tensor {name} differs from {kept}; accepted: equal ones, since "
                f"this model ties them ({REPLACE_HEAD})"
            )


def _short_names(model: "PretrainedModel") -> dict[str, str]:
    family, task = model.config.family, model.task
    names = (name for name, _ in model.named_parameters())
    return {name: keys.short_hub_name(name, family, task) for name in names}


def _fresh_names(
    model: "PretrainedModel", wanted: dict[str, str], found: dict[str, str], new_head: bool
) -> set[str]:
    """The parameters that start fresh: a head or a pooler, wholly absent or not wanted."""
    missing = {name for name, short in wanted.items() if short not in found}
    body = sorted(name for name in missing if not _may_be_fresh(name))
    if body:
        more = f" and {len(body) - 1} more" if len(body) > 1 else ""
        raise InputError(
            f"model: tensor {model.hub_name(body[0])}{more} is missing in the weights"
            f"{nearest(wanted[body[0]], found)}"
        )
    head = {name for name in wanted if name.startswith(keys.HEAD)}
    pooler = {name for name in wanted if name.startswith(f"{keys.BODY}pooler.")}
    own = _own_part(model, wanted)
    if new_head:
        missing |= head
    for part in (own, head - own, pooler):
        if missing & part and not part <= missing:
            absent = wanted[min(missing & part)]
            raise InputError(f"model: half of the head is missing ({absent}); {REPLACE_HEAD}")
    return missing


def _own_part(model: "PretrainedModel", wanted: dict[str, str]) -> set[str]:
    """The head's parameters without those that pretraining's head has too (ModernBERT's)."""
    head = {name for name in wanted if name.startswith(keys.HEAD)}
    heads = model.config.family.heads
    pretraining = "masked_lm" if "masked_lm" in heads else "causal_lm"
    if model.task == pretraining:
        return head
    pretrained = heads[pretraining].keys.values()
    return {name for name in head if wanted[name].rpartition(".")[0] not in pretrained}


def _drop_other_head(
    model: "PretrainedModel",
    wanted: dict[str, str],
    found: dict[str, str],
    architectures: Any,
) -> None:
    """Takes from `found` what is called as this head is, and is another task's by its class."""
    classes = architectures if isinstance(architectures, list) else []
    family = model.config.family
    tasks = {f"{family.name}for{task.replace('_', '')}".lower(): task for task in family.heads}
    names = [str(name).lower() for name in classes]
    other = next((tasks[name] for name in names if name in tasks), model.task)
    modules = set() if other == model.task else set(family.heads[other].keys.values())
    for name in _own_part(model, wanted):
        if wanted[name].rpartition(".")[0] in modules:
            found.pop(wanted[name], None)


def _may_be_fresh(name: str) -> bool:
    return name.startswith((keys.HEAD, f"{keys.BODY}pooler."))


def _check_labels(model: "PretrainedModel", in_file: dict[int, str], folder: Path) -> None:
    """Refuses a head that was trained for other labels; LABEL_0, LABEL_1 name nothing yet."""
    wanted = model.config.id2label
    unnamed = all(re.fullmatch(r"LABEL_\d+", name) for name in in_file.values())
    if in_file != wanted and not (unnamed and len(in_file) == len(wanted)):
        raise InputError(
            f"{folder}: its head was trained for the labels {_shown(in_file)}, and these are "
            f"{_shown(wanted)}; {REPLACE_HEAD}"
        )


def _shown(labels: dict[int, str]) -> str:
    names = list(labels.values())
    return ", ".join(names[:4]) + (f", ... ({len(names)})" if len(names) > 4 else "")


def _check_shape(name: str, parameter: nn.Parameter, found: tuple[int, ...], folder: Path) -> None:
    if found == tuple(parameter.shape):
        return
    text = f"{folder}: tensor {name}: found shape {found}; accepted: {tuple(parameter.shape)}"
    if name.startswith(keys.HEAD):
        text = (
            f"{folder}: its head was trained for other labels ({name} has shape {found}, this "
            f"model needs {tuple(parameter.shape)}); {REPLACE_HEAD}"
        )
    raise InputError(text)


def finite(files: WeightFiles, name: str, folder: Path) -> Tensor:
    """A tensor of a folder's files. Raises InputError for one that is no floats, or not finite."""
    tensor = files.read(name)
    if tensor.dtype not in DTYPES.values():
        raise InputError(
            f"{folder}: tensor {name}: found {tensor.dtype}; accepted: {', '.join(DTYPES)}"
        )
    wrong = tensor.numel() - int(tensor.isfinite().sum())
    if wrong:
        raise InputError(
            f"{folder}: tensor {name}: {wrong} of {tensor.numel()} numbers are not finite"
        )
    return tensor


def _dtype(
    dtype: torch.dtype | str | None,
    files: WeightFiles,
    found: dict[str, str],
    wanted: dict[str, str],
) -> torch.dtype:
    if dtype is None:
        return torch.float32
    if dtype == "auto":
        return files.read(found[next(iter(wanted.values()))]).dtype
    kind = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if kind is None or kind not in DTYPES.values():
        raise InputError(f"dtype: found {dtype!r}; accepted: auto, {', '.join(DTYPES)}")
    return kind


def _fresh(model: "PretrainedModel", name: str) -> Tensor:
    """A parameter's first value: normal for matrices, ones and zeros for the rest."""
    module_name, _, leaf = name.rpartition(".")
    module = model.get_submodule(module_name)
    shape = getattr(module, leaf).shape
    if leaf == "bias":
        return torch.zeros(shape)
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return torch.ones(shape)
    weight, draw = torch.empty(shape), model.config.family.draw
    if draw is None:
        weight.normal_(0.0, model.config.initializer_range)
    else:
        draw(model.config, name, weight)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        weight[module.padding_idx] = 0
    return weight


def materialize(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Puts tensors in the place of meta parameters, by name; shared ones stay shared."""
    filled = {
        parameter: nn.Parameter(tensors[name], requires_grad=parameter.requires_grad)
        for name, parameter in model.named_parameters()
        if name in tensors
    }
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter in filled:
                module._parameters[name] = filled[parameter]


def _report(model: "PretrainedModel", fresh: set[str], extra: set[str], folder: Path) -> None:
    if fresh:
        modules = sorted({name.rpartition(".")[0] for name in fresh})
        log_fresh.warning("%s: fresh random weights for %s", folder, ", ".join(modules))
        model.fresh = modules
    unknown = sorted(name for name in extra if not keys.is_known_extra(name, model.config.family))
    if unknown:
        more = f", ... ({len(unknown)} in all)" if len(unknown) > 5 else ""
        log.warning("%s: not used: %s%s", folder, ", ".join(unknown[:5]), more)
