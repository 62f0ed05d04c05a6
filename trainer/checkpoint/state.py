"""The state that resuming needs in addition to weights: progress, optimizer, EMA and callbacks."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.checkpoint import files, shards
from trainer.checkpoint.shards import Share
from trainer.checkpoint.state_checks import check_moments, moment_layouts
from trainer.checkpoint.verify import CorruptCheckpoint, check_format, check_step, read_json
from trainer.errors import InputError
from trainer.foreign.numbers import is_number

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    Moments = Mapping[str, Mapping[str, Tensor]]

STATE_FORMAT = 1
PROGRESS = "trainer.json"
OPTIMIZER = "optimizer"
OPTIMIZER_FACTS = "optimizer.json"
EMA = "ema"
CALLBACKS = "callbacks.json"


@dataclass(frozen=True)
class Progress:
    """trainer.json: the progress of a run, and the settings that it ran with."""

    step: int
    samples_consumed: int
    """The number of samples trained on, from which a resumed run finds its position in the data."""
    epoch: float | None
    """Passes over the data; None if the data has no end."""
    seed: int
    global_batch_size: int
    micro_batch_size: int | None
    max_tokens: int | None
    world_size: int
    precision: str
    data_fingerprint: str
    config_fingerprint: dict[str, str]
    """Name of a setting that a resumed run must repeat -> its value as a short text."""
    best_metric: float | None
    best_step: int | None
    evaluations_without_improvement: int
    total_steps: int
    finished: bool
    versions: dict[str, str] = field(default_factory=dict)
    format_version: int = STATE_FORMAT


@dataclass(frozen=True)
class SavedState:
    """A checkpoint's state, as `read_state` returns it."""

    progress: Progress
    optimizer: "dict[str, dict[str, Tensor]]"
    """The moments of each parameter: {parameter name: {moment name: tensor}}."""
    optimizer_facts: Any
    ema: "dict[str, Tensor] | None"
    callbacks: dict[str, Any]


def write_state(
    folder: Path,
    progress: Progress,
    optimizer: "Moments",
    optimizer_facts: object = None,
    ema: "Mapping[str, Tensor] | None" = None,
    callbacks: Mapping[str, Any] | None = None,
    share: Share | None = None,
) -> None:
    """Write `folder` (a checkpoint's state/) as safetensors and JSON. Only rank 0 calls this.

    In sharded training, every rank calls it with its `share` of the tensors.
    """
    files.make_folder(folder)
    flat = {
        f"{name}/{moment}": tensor
        for name, moments in optimizer.items()
        for moment, tensor in moments.items()
    }
    _write_tensors(folder, OPTIMIZER, flat, share)
    if ema is not None:
        _write_tensors(folder, EMA, ema, share)
    if share is not None and share.rank:
        return
    parameters = {name: list(moments) for name, moments in optimizer.items()}
    facts = {"parameters": parameters, "facts": optimizer_facts}
    files.write_json(folder / OPTIMIZER_FACTS, facts)
    files.write_json(folder / CALLBACKS, callbacks or {})
    files.write_json(folder / PROGRESS, asdict(progress))


def read_state(
    folder: Path,
    rows: Mapping[str, range] | None = None,
    columns: Mapping[str, range] | None = None,
) -> SavedState:
    """Read the files of `write_state` to the CPU. Raises CorruptCheckpoint naming file and reason.

    `rows` and `columns` (parameter name -> range) restrict what is read. The number of ranks that
    wrote the files may differ from the current one.
    """
    callbacks = read_json(folder / CALLBACKS)
    if not isinstance(callbacks, dict):
        raise CorruptCheckpoint(folder / CALLBACKS, "not a JSON object")
    ranges = rows or {}, columns or {}
    optimizer, facts = _read_optimizer(folder, *ranges)
    ema = shards.read_tensors(folder, EMA, *ranges) if shards.exist(folder, EMA) else None
    return SavedState(read_progress(folder), optimizer, facts, ema, callbacks)


def read_progress(folder: Path) -> Progress:
    """trainer.json of a checkpoint's state/. Raises CorruptCheckpoint naming key and value."""
    path = folder / PROGRESS
    value = read_json(path)
    if not isinstance(value, dict):
        raise CorruptCheckpoint(path, "not a JSON object")
    check_format(path, value.get("format_version"), STATE_FORMAT)
    check_step(path, value.get("step"))
    names = {each.name for each in fields(Progress)}
    if value.keys() != names:
        odd = ", ".join(sorted(value.keys() ^ names))
        raise CorruptCheckpoint(path, f"missing or unknown: {odd}")
    for name, (is_valid, accepted) in _ACCEPTED.items():
        if not is_valid(value[name]):
            raise CorruptCheckpoint(path, f"{name} is {value[name]!r}, not {accepted}")
    if not value["step"] <= value["total_steps"]:
        raise CorruptCheckpoint(path, f"step {value['step']} of {value['total_steps']}")
    return Progress(**value)


def _write_tensors(
    folder: Path, stem: str, tensors: "Mapping[str, Tensor]", share: Share | None
) -> None:
    if share is None:
        files.write_tensors(folder / f"{stem}.safetensors", tensors)
    else:
        shards.write_part(folder, stem, tensors, share)


def optimizer_tensors(
    optimizer: "Optimizer", names: "Mapping[str, Tensor]"
) -> "dict[str, dict[str, Tensor]]":
    """The moments of every parameter of the optimizer: {parameter name: {moment name: tensor}}.

    `names` maps names to the trained parameters. The tensors are not copied. Raises InputError for
    an optimizer whose state is not all tensors (LBFGS, SparseAdam).
    """
    found: dict[str, dict[str, Tensor]] = {}
    for name, parameter, _ in _named(optimizer, names):
        state = optimizer.state.get(parameter, {})
        found[name] = {key: value for key, value in state.items() if value is not None}
        for key, value in found[name].items():
            if not hasattr(value, "dtype"):
                kind = f"{type(optimizer).__name__} keeps {key} as {type(value).__name__}"
                accepted = "an optimizer whose state is tensors"
                raise InputError(f"trainer.optimizer: {kind}; accepted: {accepted}")
    return found


def load_optimizer_tensors(
    optimizer: "Optimizer", names: "Mapping[str, Tensor]", tensors: "Moments"
) -> None:
    """Restore the state that `optimizer_tensors` returned, bit for bit.

    Moments are moved to their parameter's device. A step counter stays on the CPU, as in torch,
    unless the optimizer is fused or capturable. Raises InputError, and changes nothing, unless each
    moment is finite and has the name, shape and type that this optimizer uses: fused kernels would
    read and write beyond a smaller tensor.
    """
    trained = _named(optimizer, names)
    _check_names({name for name, _, _ in trained}, set(tensors))
    layout = moment_layouts(optimizer)
    for name, parameter, group in trained:
        expected = layout(parameter, group)
        for moment, tensor in tensors[name].items():
            if (expected or {}).get(moment, ((), None))[0] != tuple(tensor.shape):
                _check_shape(name, moment, tensor, parameter)
        check_moments(name, tensors[name], parameter, expected)
    for name, parameter, group in trained:
        on_device = group.get("fused") or group.get("capturable")
        state = {
            moment: tensor.to(
                "cpu" if moment == "step" and not on_device else parameter.device, copy=True
            )
            for moment, tensor in tensors[name].items()
        }
        optimizer.state[parameter] = state


def _named(
    optimizer: "Optimizer", names: "Mapping[str, Tensor]"
) -> "list[tuple[str, Tensor, dict[str, Any]]]":
    name_of = {id(parameter): name for name, parameter in names.items()}
    return [
        (name_of[id(parameter)], parameter, group)
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]


def _check_names(trained: set[str], saved: set[str]) -> None:
    if trained == saved:
        return
    counts = f"has the state of {len(saved)} parameters, the model trains {len(trained)}"
    lists = [("missing", trained - saved), ("unknown", saved - trained)]
    examples = "; ".join(f"{what}: {min(which)}" for what, which in lists if which)
    raise InputError(f"{OPTIMIZER}.safetensors: {counts} ({examples})")


def _check_shape(name: str, moment: str, tensor: "Tensor", parameter: "Tensor") -> None:
    """Raise InputError unless a moment is a scalar or has the parameter's shape.

    Adafactor's moments have size 1 along some axes.
    """
    same_rank = tensor.dim() == parameter.dim()
    fits = same_rank and all(
        a in (1, b) for a, b in zip(tensor.shape, parameter.shape, strict=True)
    )
    if tensor.dim() and not fits:
        shapes = f"{list(tensor.shape)}, the parameter is {list(parameter.shape)}"
        raise InputError(f"{OPTIMIZER}.safetensors: {moment} of {name} is {shapes}")


def _read_optimizer(
    folder: Path, rows: Mapping[str, range], columns: Mapping[str, range]
) -> "tuple[dict[str, dict[str, Tensor]], Any]":
    value = read_json(folder / OPTIMIZER_FACTS)
    flat = shards.read_tensors(folder, OPTIMIZER, rows, columns)
    try:
        optimizer = {
            name: {moment: flat.pop(f"{name}/{moment}") for moment in moments}
            for name, moments in value["parameters"].items()
        }
        facts = value["facts"]
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"does not describe {OPTIMIZER} ({error})"
        raise CorruptCheckpoint(folder / OPTIMIZER_FACTS, reason) from None
    if flat:
        reason = f"holds {min(flat)}, which {OPTIMIZER_FACTS} does not name"
        raise CorruptCheckpoint(folder / f"{OPTIMIZER}.safetensors", reason)
    return optimizer, facts


def _whole(value: object, least: int) -> bool:
    return type(value) is int and least <= value < 2**63


def _texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


_NATURAL = (lambda v: _whole(v, 0), "a whole number of at least 0")
_POSITIVE = (lambda v: _whole(v, 1), "a whole number of at least 1")
_POSITIVE_OR_NULL = (lambda v: v is None or _whole(v, 1), "a whole number of at least 1, or null")
_TEXT = (lambda v: isinstance(v, str), "a text")
_TEXTS = (_texts, "an object of texts")

_ACCEPTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "samples_consumed": _NATURAL,
    "epoch": (lambda v: v is None or (is_number(v) and v >= 0), "a number of at least 0, or null"),
    "seed": (lambda v: type(v) is int, "a whole number"),
    "global_batch_size": _POSITIVE,
    "micro_batch_size": _POSITIVE_OR_NULL,
    "max_tokens": _POSITIVE_OR_NULL,
    "world_size": _POSITIVE,
    "precision": _TEXT,
    "data_fingerprint": _TEXT,
    "config_fingerprint": _TEXTS,
    "best_metric": (lambda v: v is None or is_number(v), "a number, or null"),
    "best_step": (lambda v: v is None or _whole(v, 0), "a whole number of at least 0, or null"),
    "evaluations_without_improvement": _NATURAL,
    "total_steps": _NATURAL,
    "finished": (lambda v: isinstance(v, bool), "true or false"),
    "versions": _TEXTS,
}
"""Key of trainer.json -> (check of its value, description of the accepted values)."""
