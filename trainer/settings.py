"""TrainSettings: all settings of a training run, typed, with one sentence under each field."""

import importlib.util
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trainer.choices import (
    SCHEDULES,
    check_schedule_options,
    optimizer_name,
    schedule_name,
)
from trainer.errors import InputError, nearest
from trainer.foreign.numbers import is_finite
from trainer.peer_names import answer_for

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
TRACKERS = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "trackio": "trackio",
    "comet": "comet_ml",
}
"""Experiment tracker -> the package that must be installed for it."""
GROUP_KEYS = ("lr_scale", "weight_decay")
NON_FINITE = ("stop", "skip")

OnResume = Literal["kept", "repeated", "length", "stopping", "execution", "command", "free"]
"""What happens if a setting has another value when a run is resumed.

kept: may never change; another value is refused. repeated: the weights depend on it; a change is
refused unless `allow_changes` names it. length, stopping: decide when the run ends; a finished run
continues if the new value allows more steps. execution: may change, since it affects neither
results nor records. command: applies to one command only, and is not recorded. free: may change;
the rest of the run uses the new value.
"""


def setting(default: object, on_resume: OnResume, newer: bool = False) -> Any:
    """Declare a field of TrainSettings.

    `newer`: earlier versions did not have the setting, so a checkpoint without it has the default.
    """
    metadata = {"on_resume": on_resume, "newer": newer}
    if isinstance(default, (dict, list)):
        return field(default_factory=type(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def names_of(*kinds: OnResume) -> tuple[str, ...]:
    """The settings of these kinds, in the order in which they are declared."""
    declared = fields(TrainSettings)
    return tuple(each.name for each in declared if each.metadata["on_resume"] in kinds)


def recorded(settings: "TrainSettings") -> dict[str, str]:
    """The settings that a checkpoint records for comparison on resume, name -> text."""
    found = {}
    for each in fields(TrainSettings):
        value = getattr(settings, each.name)
        left_out = each.metadata["newer"] and value == default_of(each.name)
        if each.metadata["on_resume"] in ("repeated", "stopping") and not left_out:
            found[each.name] = str(value)
    return found


def default_of(name: str) -> Any:
    """The default of a setting."""
    declared = TrainSettings.__dataclass_fields__[name]
    factory = declared.default_factory
    return declared.default if factory is MISSING else factory()


KINDS: dict[object, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true, false"),
    bool | None: ((bool, type(None)), "true, false, or null"),
    str: ((str,), "text"),
    str | None: ((str, type(None)), "text, or null"),
    list: ((list, tuple), "a list"),
    dict: ((Mapping,), "a mapping"),
}
"""Type of a field -> (types of accepted values, how errors describe these values)."""
OWN_CHECKS = ("lr_scheduler", "precision", "non_finite", "trackers", "parameter_groups")
"""Settings that `_check_kinds` skips: other checks list their accepted values in the error."""
RESUME_VALUES = "auto, must, never, or the path of a checkpoint"


@dataclass(frozen=True)
class TrainSettings:
    """The settings of a training run. Raises InputError for values that conflict."""

    num_epochs: float = setting(3.0, "length")
    """Passes over the training data; a fractional number ends within an epoch."""
    max_steps: int | None = setting(None, "length")
    """Optimizer steps; if given, it replaces num_epochs."""
    global_batch_size: int = setting(32, "kept")
    """Samples per optimizer step, over all devices and micro batches."""
    micro_batch_size: int | None = setting(None, "free")
    """Samples per forward pass and device; null: as many as fit in the token budget."""
    max_tokens_per_micro_batch: int | None = setting(None, "free")
    """Token budget of a forward pass; null: as many as fit in the GPU's memory, or 4096 without a
    GPU."""
    learning_rate: float = setting(5e-5, "repeated")
    """Peak learning rate."""
    lr_scheduler: str = setting("linear", "repeated")
    """linear, cosine, cosine_with_restarts, polynomial, inverse_sqrt, wsd (constant after the
    warm-up, then decay over the last tenth), constant or reduce_on_plateau."""
    lr_scheduler_options: dict[str, float] = setting({}, "repeated", newer=True)
    """Options of the schedule: cycles, power, timescale or decay; for reduce_on_plateau: factor,
    patience, threshold and cooldown."""
    min_learning_rate: float = setting(0.0, "repeated", newer=True)
    """The learning rate that the schedule decays to."""
    warmup_steps: float = setting(0, "repeated")
    """Steps of linear warm-up; a number below 1 is a share of the run."""
    optimizer: str = setting("adamw", "repeated")
    """adamw, sgd, muon, schedule_free, adamw_8bit, paged_adamw, paged_adamw_8bit, or the name of a
    class in torch.optim."""
    optimizer_options: dict[str, Any] = setting({}, "repeated")
    """Further arguments of the optimizer, such as betas or momentum."""
    weight_decay: float = setting(0.01, "repeated")
    """Weight decay of matrices; biases and norms have none."""
    parameter_groups: dict[str, dict[str, float]] = setting({}, "repeated", newer=True)
    """Name patterns -> {lr_scale, weight_decay} of the matching parameters; the first pattern that
    matches applies."""
    layer_decay: float | None = setting(None, "repeated", newer=True)
    """Each layer's learning rate is this factor times the rate of the layer above it; null: all
    layers have the same rate."""
    max_grad_norm: float = setting(1.0, "repeated")
    """Gradients are clipped to this norm; 0: no clipping."""
    label_smoothing: float = setting(0.0, "repeated")
    """Share of the target probability that is spread over all classes, if the task has classes."""
    precision: str = setting("auto", "free")
    """fp32, bf16 or fp16; auto: bf16 if the device computes it fast, else fp32. Weights stay in
    fp32."""
    gradient_checkpointing: bool = setting(False, "free")
    """Recompute activations in the backward pass; this needs less memory and a third more time."""
    activation_offload: bool = setting(False, "free", newer=True)
    """Keep activations for the backward pass in host memory; this needs less device memory and more
    time."""
    compile: bool = setting(False, "free")
    """Compile the model with torch.compile."""
    eval_steps: int | float | str = setting("epoch", "free")
    """Steps between evaluations, a share of the run, or "epoch"; 0: never."""
    save_steps: int | float | str = setting("epoch", "free")
    """Steps between checkpoints, a share of the run, or "epoch"; 0: never."""
    logging_steps: int | float | str = setting(10, "free")
    """Steps between logged rows, a share of the run, or "epoch"; 0: never."""
    save_total_limit: int = setting(2, "free")
    """Checkpoints to keep, always including the newest and the best; at least 2."""
    async_save: bool | Literal["auto"] = setting("auto", "execution")
    """Write checkpoints while training continues; auto: only if host memory can hold a copy of the
    checkpoint."""
    metric_for_best_model: str | None = setting(None, "free")
    """The evaluation metric that selects the best model; null: the one that the recipe declares."""
    greater_is_better: bool | None = setting(None, "free")
    """Whether a greater value of metric_for_best_model is better; null: the metric defines it (for
    the result of a function, smaller is better if its name ends in loss or error)."""
    load_best_model_at_end: bool = setting(False, "free")
    """Use the best model as the final model, in place of the model after the last step."""
    early_stopping_patience: int | None = setting(None, "stopping")
    """Stop after this many evaluations in a row without a better metric; null: never."""
    early_stopping_threshold: float = setting(0.0, "stopping", newer=True)
    """How much the metric must improve on its best value to count as better for early stopping."""
    ema_decay: float | None = setting(None, "repeated")
    """Decay of an exponential moving average of weights, which is evaluated and saved; 0: none."""
    resume: str = setting("auto", "command")
    """auto (resume if there is a checkpoint), must (refuse to start without a checkpoint), never
    (refuse a folder that has a run), or a checkpoint's path."""
    allow_changes: list[str] = setting([], "command")
    """Settings that may differ from those of the checkpoint on resume, named as in the error
    message."""
    deterministic: bool = setting(False, "free")
    """Use only deterministic CUDA kernels. On a CPU, runs repeat bit for bit without this
    setting."""
    non_finite: str = setting("stop", "free")
    """What to do about a loss or gradient that is not finite: stop the run, or skip the step."""
    time_limit: float | None = setting(None, "execution")
    """Minutes after which the run saves and stops with exit code 143; null: never."""
    trackers: list[str] = setting([], "free")
    """Experiment trackers by name: tensorboard, wandb, mlflow, trackio, comet. To set the options
    of a tracker, select it as a callback (callbacks=wandb)."""
    report: bool = setting(True, "execution")
    """Whether the run writes report.html, a page with its curves, results, data and settings."""

    if not TYPE_CHECKING:

        def __new__(cls, *values: object, **named: object) -> "TrainSettings":
            _refuse_unknown(named)
            return super().__new__(cls)

    def __post_init__(self) -> None:
        for each in fields(self):
            value = _converted(each.name, _kind_of(each), getattr(self, each.name))
            object.__setattr__(self, each.name, value)
        _check_kinds(self)
        _check_numbers(self)
        if not self.ema_decay:  # 0 and null mean the same, also on resume
            object.__setattr__(self, "ema_decay", None)
        object.__setattr__(self, "lr_scheduler", schedule_name(self.lr_scheduler))
        object.__setattr__(self, "optimizer", optimizer_name(self.optimizer))
        _check_choices(self)
        _check_trackers(self)
        object.__setattr__(self, "parameter_groups", _checked_groups(self.parameter_groups))
        _check_together(self)
        _check_schedule(self)

    def total_steps(self, steps_per_epoch: int | None) -> int:
        """Optimizer steps of the whole run; `steps_per_epoch` is None if the data has no end."""
        if self.max_steps is not None:
            return self.max_steps
        if steps_per_epoch is None:
            found = "found null, but the data has no end"
            raise InputError(f"trainer.max_steps: {found}; accepted: a number of steps")
        return max(1, math.ceil(self.num_epochs * steps_per_epoch - 1e-9))

    def steps_per_epoch(self, num_samples: int) -> int:
        """Optimizer steps of one epoch; the last step may have fewer samples."""
        return -(-num_samples // self.global_batch_size)

    def interval(self, name: str, steps_per_epoch: int | None) -> int:
        """Steps between two events of `name` (such as "eval_steps"); 0: never."""
        value = getattr(self, name)
        if value == "epoch":  # data without an end has no epochs, so this means the whole run
            return self.total_steps(None) if steps_per_epoch is None else steps_per_epoch
        if isinstance(value, float) and 0 < value < 1:
            return max(1, round(value * self.total_steps(steps_per_epoch)))
        return int(value)

    def resolved_warmup(self, total_steps: int) -> int:
        """The number of warm-up steps."""
        share = 0 < self.warmup_steps < 1
        return round(self.warmup_steps * total_steps) if share else int(self.warmup_steps)


def _converted(name: str, kind: object, value: object) -> object:
    """Convert a value from Python code to the field's type; return other values unchanged.

    None stands for the default of `resume`, a switch, a mapping or a list (except `trackers`).
    Scalars of numpy and torch become Python numbers, whole numbers given as floats (100.0) become
    integers, and a switch may be given as 1 or 0. Sets become sorted lists, other sequences except
    tuples become lists, and mappings such as OmegaConf's become dictionaries.
    """
    has_default = kind in (bool, list, dict) or name == "resume"
    if value is None and has_default and name != "trackers":  # null trackers could mean all
        return default_of(name)
    if name == "resume":
        return str(value) if isinstance(value, Path) else value
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # of numpy or torch
        value = value.item()
    if kind in (int, int | None) and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind in (bool, bool | None):
        return bool(value) if isinstance(value, int) and value in (0, 1) else value
    if kind is list and isinstance(value, Set):
        return sorted(value, key=str)
    return _plain(value) if kind in (list, dict) else value


def _plain(value: object) -> object:
    """The value, with mappings as dictionaries and sequences other than tuples as lists."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, tuple)):
        return [_plain(each) for each in value]
    return value


def _kind_of(declared: "Field[Any]") -> object:
    """The type of a field without its parameters, such as list for list[str]."""
    return getattr(declared.type, "__origin__", declared.type)


def _check_kinds(settings: TrainSettings) -> None:
    """Raise InputError if the value of a switch, a text, a list or a mapping has another type.

    The config of a command was checked earlier, but Python code may pass any value.
    """
    for each in fields(settings):
        value = getattr(settings, each.name)
        kind = KINDS.get(_kind_of(each))
        if kind and each.name not in OWN_CHECKS and not isinstance(value, kind[0]):
            accepted = RESUME_VALUES if each.name == "resume" else kind[1]
            raise InputError(f"trainer.{each.name}: found {value!r:.60}; accepted: {accepted}")


def _refuse_unknown(named: Mapping[str, Any]) -> None:
    """Raise InputError for an unknown setting, suggesting a known one."""
    known = [each.name for each in fields(TrainSettings)]
    for name in named:
        if name not in known:
            hint = nearest(name, known) or f"; accepted: {', '.join(known)}"
            answer = answer_for(name)
            raise InputError(f"settings: no setting '{name}'{f'; {answer}' if answer else hint}")


def _check_numbers(settings: TrainSettings) -> None:
    batches = ("global_batch_size", "micro_batch_size", "max_tokens_per_micro_batch")
    whole = (*batches, "max_steps", "early_stopping_patience")
    for name in whole:
        _require(settings, name, lambda v: v > 0 and v == int(v), "a whole number above 0")
    for name in ("num_epochs", "time_limit", "learning_rate"):
        _require(settings, name, lambda v: v > 0, "a number above 0")
    not_below_0 = ("warmup_steps", "weight_decay", "max_grad_norm", "min_learning_rate")
    for name in (*not_below_0, "early_stopping_threshold"):
        _require(settings, name, lambda v: v >= 0, "a number of 0 or more")
    accepted = "a number above 0 and at most 1, or null"
    _require(settings, "layer_decay", lambda v: 0 < v <= 1, accepted)
    _require(
        settings, "label_smoothing", lambda v: 0 <= v < 1, "a number of at least 0 and below 1"
    )
    _require(
        settings, "ema_decay", lambda v: 0 <= v < 1, "a number of at least 0 and below 1, or null"
    )
    accepted = "2 or more whole checkpoints (the newest may still be incomplete)"
    _require(settings, "save_total_limit", lambda v: v >= 2 and v == int(v), accepted)


def _require(settings: TrainSettings, name: str, is_valid: Any, accepted: str) -> None:
    value = getattr(settings, name)
    if value is None and TrainSettings.__dataclass_fields__[name].default is None:
        return
    if not is_finite(value) or not is_valid(value):
        raise InputError(f"trainer.{name}: found {value!r}; accepted: {accepted}")


def _check_choices(settings: TrainSettings) -> None:
    choices = {"precision": PRECISIONS, "non_finite": NON_FINITE}
    for name, accepted in choices.items():
        if getattr(settings, name) not in accepted:
            found = getattr(settings, name)
            raise InputError(f"trainer.{name}: found '{found}'; accepted: {', '.join(accepted)}")
    for name in ("eval_steps", "save_steps", "logging_steps"):
        value = getattr(settings, name)
        whole_or_share = is_finite(value) and value >= 0
        whole_or_share = whole_or_share and (value < 1 or float(value).is_integer())
        if value != "epoch" and not whole_or_share:
            steps = "a whole number of steps, a share below 1, epoch, or 0 for never"
            raise InputError(f"trainer.{name}: found {value!r}; accepted: {steps}")


def _check_trackers(settings: TrainSettings) -> None:
    if not isinstance(settings.trackers, (list, tuple)):
        found = f"found {settings.trackers!r}"
        raise InputError(f"trainer.trackers: {found}; accepted: a list of {', '.join(TRACKERS)}")
    for name in settings.trackers:
        if not isinstance(name, str) or name not in TRACKERS:
            accepted = f"{', '.join(TRACKERS)}{nearest(str(name), TRACKERS)}"
            raise InputError(f"trainer.trackers: found '{name}'; accepted: {accepted}")
        package = TRACKERS[name]
        if importlib.util.find_spec(package) is None:
            found = f"{package} is not installed; pip install {package}"
            raise InputError(f"trainer.trackers: {found}")


def _checked_groups(groups: object) -> dict[str, dict[str, float]]:
    """`trainer.parameter_groups` with floats. Raises InputError for an invalid key or value."""
    where = "trainer.parameter_groups"
    accepted = "a mapping {name pattern: {lr_scale, weight_decay}}"
    if not isinstance(groups, Mapping):
        raise InputError(f"{where}: found {groups!r}; accepted: {accepted}")
    for pattern, values in groups.items():
        if not isinstance(values, Mapping) or not values:
            raise InputError(f"{where}.{pattern}: found {values!r}; accepted: {accepted}")
        for key, value in values.items():
            if key not in GROUP_KEYS:
                keys = f"{', '.join(GROUP_KEYS)}{nearest(str(key), GROUP_KEYS)}"
                raise InputError(f"{where}.{pattern}: found '{key}'; accepted: {keys}")
            if not is_finite(value) or value < 0:
                found = f"{where}.{pattern}.{key}: found {value!r}"
                raise InputError(f"{found}; accepted: a number of 0 or more")
    return {str(p): {k: float(v) for k, v in values.items()} for p, values in groups.items()}


def _check_schedule(settings: TrainSettings) -> None:
    """Raise InputError for settings that conflict with the schedule or have no effect with it."""
    name, floor = settings.lr_scheduler, settings.min_learning_rate
    check_schedule_options(name, settings.lr_scheduler_options)
    if floor > settings.learning_rate:
        accepted = f"at most trainer.learning_rate ({settings.learning_rate})"
        raise InputError(f"trainer.min_learning_rate: found {floor}; accepted: {accepted}")
    if floor and name == "constant":
        accepted = f"0, or one of {', '.join(each for each in SCHEDULES if each != 'constant')}"
        raise InputError(
            f"trainer.min_learning_rate: found {floor}, and lr_scheduler constant does not decay; "
            f"accepted: {accepted}"
        )
    if name == "reduce_on_plateau" and settings.eval_steps == 0:
        found = "reduce_on_plateau needs evaluations, and trainer.eval_steps is 0"
        raise InputError(f"trainer.lr_scheduler: {found}")
    if settings.optimizer.lower() == "schedule_free" and name != "constant":
        raise InputError(
            f"trainer.lr_scheduler: found '{name}'; optimizer schedule_free averages weights "
            "instead of decaying the rate; accepted: constant, with trainer.warmup_steps"
        )
    if settings.optimizer.lower() == "schedule_free" and settings.ema_decay:
        found = "optimizer schedule_free averages the weights itself"
        raise InputError(f"trainer.ema_decay: {found}; accepted: 0")


def _check_together(settings: TrainSettings) -> None:
    if settings.activation_offload and settings.compile:
        raise InputError(
            "trainer.activation_offload: found true with trainer.compile=true, whose graphs decide "
            "what is kept; accepted: one of them"
        )
    if settings.warmup_steps >= 1 and not float(settings.warmup_steps).is_integer():
        found = settings.warmup_steps
        accepted = "a whole number of steps, or a share below 1"
        raise InputError(f"trainer.warmup_steps: found {found}; accepted: {accepted}")
    if settings.max_steps is not None and settings.warmup_steps > settings.max_steps:
        raise InputError(
            f"trainer.warmup_steps: found {settings.warmup_steps}; "
            f"accepted: at most max_steps ({settings.max_steps})"
        )
    for name in ("load_best_model_at_end", "early_stopping_patience"):
        if getattr(settings, name) and settings.eval_steps == 0:
            raise InputError(f"trainer.{name}: needs evaluations, and trainer.eval_steps is 0")
