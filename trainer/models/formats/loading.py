"""Loads or initializes a model's weights, and reports missing and unused tensors."""

import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from trainer.errors import InputError, nearest
from trainer.models.blocks.norms import OffsetRMSNorm
from trainer.models.family_model import FamilyModel
from trainer.models.formats import keys
from trainer.models.formats.expert_files import JoinedExperts
from trainer.models.formats.weight_files import WeightFiles
from trainer.models.sharded import local, own_columns, own_rows

log = logging.getLogger("trainer")
log_fresh = logging.getLogger("trainer.fresh")
"""A separate logger, so that a run can silence it: the summary at its start reports the same."""

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
REPLACE_HEAD = "model.new_head=true replaces the head by a fresh one"


@dataclass(frozen=True)
class Pending:
    """Where to read the weights of a model on the meta device, with checked names and shapes."""

    folder: Path
    source: type[WeightFiles]
    names: Mapping[str, str | None]
    """Parameter -> the tensor in the files, or None if it is initialized at random."""
    dtype: torch.dtype
    info: Mapping[str, set[str] | list[str]]
    """transformers' loading info: the names of missing, unused and replaced tensors"""

    def fill(self, model: FamilyModel, part: nn.Module) -> None:
        """Fill a part of the model, or the whole model, with weights on the CPU.

        Raises InputError for a tensor with non-finite values.
        """
        self.fill_named(model, self._missing(model, part))

    def fill_named(self, model: FamilyModel, names: Collection[str]) -> None:
        """Like `fill`, but only for the parameters in `names` that have no values yet."""
        missing = [name for name in self._missing(model, model) if name in names]
        if not missing:
            return
        with opened(self.source, self.folder, model) as files:
            tensors = {name: self._read(files, model, name) for name in missing}
        materialize(model, tensors)

    def draw(self, model: FamilyModel) -> None:
        """Fill the parameters that are initialized at random, in the order of `fill`."""
        self.fill_named(model, [name for name, in_file in self.names.items() if in_file is None])

    @contextmanager
    def read_for_now(self, model: FamilyModel, part: nn.Module) -> Iterator[None]:
        """Context manager that fills a part of the model on entry.

        On exit, the weights that were read from files go back to the meta device.
        """
        missing = self._missing(model, part)
        self.fill_named(model, missing)
        try:
            yield
        finally:
            again = {name for name in missing if self.names[name] is not None}
            read = {name: p for name, p in model.named_parameters() if name in again}
            materialize(model, {name: p.detach().to("meta") for name, p in read.items()})

    def _missing(self, model: FamilyModel, part: nn.Module) -> list[str]:
        """The parameters of a part that have no values yet, in the model's order."""
        wanted = {parameter for parameter in part.parameters() if parameter.is_meta}
        return [name for name, parameter in model.named_parameters() if parameter in wanted]

    @contextmanager
    def reading(self, model: FamilyModel) -> Iterator[Callable[[str], Tensor]]:
        """A context with the files open: yields a function from a parameter's name to its value.

        The context and the function raise InputError for files that have become unreadable.
        """
        with opened(self.source, self.folder, model) as files:
            yield lambda name: self._read(files, model, name)

    def _read(self, files: WeightFiles, model: FamilyModel, name: str) -> Tensor:
        stored_name = self.names[name]
        if stored_name is None:
            return _fresh(model, name).to(self.dtype)
        return finite(files, stored_name, self.folder).to(self.dtype, copy=True)


class Drawn:
    """Random initial weights for a model on the meta device.

    They come from a copy of torch's global generator that is made when this object is created, so
    that other draws do not change them. `generator` is the state of the copy after the last draw.
    """

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        """`dtype` is the dtype of the weights; None: torch's default."""
        self.generator = torch.get_rng_state()
        self._dtype = torch.get_default_dtype() if dtype is None else dtype

    def fill(self, model: FamilyModel, part: nn.Module) -> None:
        """Fill a part of the model, or the whole model; parts must come in parameter order."""
        inside = set(part.parameters())
        missing = {name: p in inside for name, p in model.named_parameters() if p.is_meta}
        names = [name for name, wanted in missing.items() if wanted]
        assert names == list(missing)[: len(names)], "an earlier parameter has not been drawn yet"
        with torch.random.fork_rng(devices=()):
            torch.set_rng_state(self.generator)
            drawn = {name: _fresh(model, name).to(self._dtype) for name in names}
            self.generator = torch.get_rng_state()
        materialize(model, drawn)


def pending_weights(
    model: FamilyModel,
    folder: Path,
    *,
    dtype: torch.dtype | str | None,
    new_head: bool,
    labels_in_file: dict[int, str] | None,
    architectures: object = None,
    source: type[WeightFiles] = WeightFiles,
    elsewhere: Collection[str] = (),
    ignore_mismatched: bool = False,
) -> Pending:
    """Match a model on the meta device with the weights in a folder, safetensors by default.

    A head or pooler that the folder lacks is initialized at random; with `new_head`, any head is.
    So is a head whose tensors belong to another task's head according to the folder's
    `architectures`, and with `ignore_mismatched` a head whose tensors have other shapes.
    `labels_in_file` are the folder's label names, if the user sets different ones. `elsewhere` are
    the hub's short names of tensors that another folder provides later: they are initialized at
    random without a message. Raises InputError for a missing tensor, a wrong shape, and a head for
    other labels.
    """
    with opened(source, folder, model) as files:
        found = keys.short_names(files.names, model.family)
        wanted = _short_names(model)
        replaced = _mismatched(model, files, wanted, found) if ignore_mismatched else []
        new_head = new_head or bool(replaced)
        if not new_head:
            _check_ties(model, files, found)
        _drop_other_head(model, wanted, found, architectures)
        for name, substitute in model.substitutes.items():
            if name in wanted.values() and name not in found and substitute in found:
                found[name] = found[substitute]
        absent = {name for name in model.fixed if wanted.get(name) not in found}
        exempt = {name for name, short in wanted.items() if short in elsewhere} | absent
        required = {name: short for name, short in wanted.items() if name not in exempt}
        fresh = _fresh_names(model, required, found, new_head) | exempt
        if labels_in_file is not None and not _parts_of_this_task(model, wanted) <= fresh:
            _check_labels(model, labels_in_file, folder)
        for name, parameter in model.named_parameters():
            if name not in fresh:
                _check_shape(name, parameter, files.shape(found[wanted[name]]), folder)
        kind = _dtype(dtype, files, found, wanted)
    surplus = set(found) - set(wanted.values())
    _report(model, fresh - exempt, surplus, folder)
    names = {name: None if name in fresh else found[wanted[name]] for name in wanted}
    info: dict[str, set[str] | list[str]] = {
        "missing_keys": {model.hub_name(name) for name in fresh - exempt - set(replaced)},
        "unexpected_keys": {found[name] for name in surplus},
        "mismatched_keys": {model.hub_name(name) for name in replaced},
        "error_msgs": [],
    }
    return Pending(folder, source, names, kind, info)


def fill_from(
    model: FamilyModel,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | str | None,
    new_head: bool = False,
) -> dict[str, set[str] | list[str]]:
    """Fill a model on the meta device with copies of `tensors`, keyed by parameter or hub names.

    Returns the loading info. A missing head is initialized at random; with `new_head`, any head is.
    Raises InputError for any other missing tensor, and for a wrong shape.
    """
    if not isinstance(tensors, Mapping) or not all(map(torch.is_tensor, tensors.values())):
        raise InputError("state_dict: accepted: a mapping of names to tensors")
    ours = {model.hub_name(name): name for name, _ in model.named_parameters()}
    found = {ours.get(name, name): tensor for name, tensor in tensors.items()}
    kind = known_dtype("float32" if dtype in (None, "auto") else dtype)
    filled: dict[str, Tensor] = {}
    missing: set[str] = set()
    for name, parameter in model.named_parameters():
        if name in found and not (new_head and name.startswith(keys.HEAD)):
            _check_shape(name, parameter, tuple(found[name].shape), Path("state_dict"))
            filled[name] = found.pop(name).detach().to(kind, copy=True)
        elif _may_be_random(name):
            filled[name] = _fresh(model, name).to(kind)
            missing.add(model.hub_name(name))
        else:
            raise InputError(f"state_dict: tensor {model.hub_name(name)} is missing")
    materialize(model, filled)
    return {"missing_keys": missing, "unexpected_keys": set(found), "error_msgs": []}


def _mismatched(
    model: FamilyModel, files: WeightFiles, wanted: dict[str, str], found: dict[str, str]
) -> list[str]:
    """The head's parameters whose shapes in the files differ from the model's."""
    return [
        name
        for name, parameter in model.named_parameters()
        if name.startswith(keys.HEAD)
        and wanted[name] in found
        and files.shape(found[wanted[name]]) != tuple(parameter.shape)
    ]


def overwrite_weights(model: FamilyModel, folder: Path) -> None:
    """Copy a folder's weights into a model whose tensors have the same names and shapes.

    Raises InputError if a tensor is missing or has a wrong shape.
    """
    with opened(WeightFiles, folder, model) as files, torch.no_grad():
        found = keys.short_names(files.names, model.family)
        _check_ties(model, files, found)
        for name, parameter in model.named_parameters():
            short = keys.short_hub_name(name, model.family, model.task)
            if short not in found:
                raise InputError(f"{folder}: tensor {model.hub_name(name)} is missing")
            _check_shape(name, parameter, files.shape(found[short]), folder)
            values = finite(files, found[short], folder, own_rows(parameter))
            columns = own_columns(parameter)
            local(parameter).copy_(
                values if columns is None else values[:, columns.start : columns.stop]
            )


def opened(source: type[WeightFiles], folder: Path, model: FamilyModel) -> WeightFiles:
    """Open a folder's files. Experts that are stored separately are read as joined tensors."""
    files, stored = source(folder), model.family.stored_experts
    return files if stored is None else JoinedExperts(files, stored)


def _check_ties(model: FamilyModel, files: WeightFiles, found: dict[str, str]) -> None:
    """Drop a tied tensor's second name from `found`, or use it if the first name is missing.

    Raises InputError if the file has different values under the two names.
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


def _short_names(model: FamilyModel) -> dict[str, str]:
    family, task = model.family, model.task
    names = (name for name, _ in model.named_parameters())
    return {name: keys.short_hub_name(name, family, task) for name in names}


def _fresh_names(
    model: FamilyModel, wanted: dict[str, str], found: dict[str, str], new_head: bool
) -> set[str]:
    """The parameters to initialize at random: those of a missing or replaced head or pooler."""
    missing = {name for name, short in wanted.items() if short not in found}
    body = sorted(name for name in missing if not _may_be_random(name))
    if body:
        more = f" and {len(body) - 1} more" if len(body) > 1 else ""
        raise InputError(
            f"model: tensor {model.hub_name(body[0])}{more} is missing in the weights"
            f"{nearest(wanted[body[0]], found)}"
        )
    head = {name for name in wanted if name.startswith(keys.HEAD)}
    pooler = {name for name in wanted if name.startswith(f"{keys.BODY}pooler.")}
    own = _parts_of_this_task(model, wanted)
    if new_head:
        missing |= head
    for part in (own, head - own, pooler):
        if missing & part and not part <= missing:
            absent = wanted[min(missing & part)]
            raise InputError(f"model: a part of the head is missing ({absent}); {REPLACE_HEAD}")
    return missing


def _parts_of_this_task(model: FamilyModel, wanted: dict[str, str]) -> set[str]:
    """The head's parameters that the pretraining head lacks.

    In ModernBERT, other heads share parameters with the pretraining head.
    """
    head = {name for name in wanted if name.startswith(keys.HEAD)}
    heads = model.family.heads
    language_models = ("masked_lm", "causal_lm", "seq2seq_lm")
    pretraining = next(task for task in language_models if task in heads)
    if model.task == pretraining:
        return head
    pretrained = heads[pretraining].keys.values()
    return {name for name in head if wanted[name].rpartition(".")[0] not in pretrained}


def _drop_other_head(
    model: FamilyModel,
    wanted: dict[str, str],
    found: dict[str, str],
    architectures: object,
) -> None:
    """Remove from `found` the tensors with this head's names that belong to another task's head."""
    classes = architectures if isinstance(architectures, list) else []
    family = model.family
    tasks = {f"{family.name}for{task.replace('_', '')}".lower(): task for task in family.heads}
    names = [str(name).lower() for name in classes]
    other = next((tasks[name] for name in names if name in tasks), model.task)
    modules = set() if other == model.task else set(family.heads[other].keys.values())
    for name in _parts_of_this_task(model, wanted):
        if wanted[name].rpartition(".")[0] in modules:
            found.pop(wanted[name], None)


def _may_be_random(name: str) -> bool:
    return name.startswith((keys.HEAD, f"{keys.BODY}pooler."))


def _check_labels(model: FamilyModel, in_file: dict[int, str], folder: Path) -> None:
    """Refuse a head that was trained for other labels.

    If the file has only default names (LABEL_0, ...), only the number of labels must match.
    """
    wanted = model.config.id2label
    unnamed = all(re.fullmatch(r"LABEL_\d+", name) for name in in_file.values())
    if in_file != wanted and not (unnamed and len(in_file) == len(wanted)):
        raise InputError(
            f"{folder}: its head was trained for the labels {_label_list(in_file)}, but this "
            f"model has {_label_list(wanted)}; {REPLACE_HEAD}"
        )


def _label_list(labels: dict[int, str]) -> str:
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


def finite(files: WeightFiles, name: str, folder: Path, rows: range | None = None) -> Tensor:
    """Read a tensor of a folder's files, or with `rows` only these rows of it.

    Raises InputError if it is not of a float dtype or has non-finite values.
    """
    tensor = files.read(name) if rows is None else files.read_rows(name, rows)
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
    return known_dtype(dtype)


def known_dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    """The dtype with this name. Raises InputError for a dtype that weights cannot have."""
    kind = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if kind is None or kind not in DTYPES.values():
        raise InputError(f"dtype: found {dtype!r}; accepted: auto, {', '.join(DTYPES)}")
    return kind


def _fresh(model: FamilyModel, name: str) -> Tensor:
    """A parameter's initial value: random for matrices, ones or zeros for norms and biases."""
    module_name, _, leaf = name.rpartition(".")
    module = model.get_submodule(module_name)
    shape = getattr(module, leaf).shape
    if leaf == "bias" or isinstance(module, OffsetRMSNorm):
        return torch.zeros(shape)
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return torch.ones(shape)
    weight, draw = torch.empty(shape), model.family.draw
    if draw is None:
        weight.normal_(0.0, model.config.initializer_range)
    else:
        draw(model.config, model.plain_name(name), weight)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        weight[module.padding_idx] = 0
    return weight


def materialize(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Replace parameters with the tensors of the same names; shared parameters stay shared."""
    filled = {
        parameter: nn.Parameter(tensors[name], requires_grad=parameter.requires_grad)
        for name, parameter in model.named_parameters()
        if name in tensors
    }
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter in filled:
                module._parameters[name] = filled[parameter]


def _report(model: FamilyModel, fresh: set[str], extra: set[str], folder: Path) -> None:
    if fresh:
        modules = sorted({name.rpartition(".")[0] for name in fresh})
        log_fresh.warning("%s: fresh random weights for %s", folder, ", ".join(modules))
        model.fresh = modules
    unknown = sorted(name for name in extra if not keys.is_known_extra(name, model.family))
    if unknown:
        more = f", ... ({len(unknown)} in all)" if len(unknown) > 5 else ""
        log.warning("%s: not used: %s%s", folder, ", ".join(unknown[:5]), more)
