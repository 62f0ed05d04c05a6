"""TrainSettings: every knob of a training run, typed, with one sentence under each field."""

import importlib.util
import math
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal

from trainer.errors import InputError, nearest

LR_SCHEDULERS = ("linear", "cosine", "constant", "wsd")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
NON_FINITE = ("stop", "skip")


@dataclass(frozen=True)
class TrainSettings:
    """How to train. Refuses contradictions when it is made; imports nothing heavy."""

    num_epochs: float = 3.0
    """Passes over the training data; a fraction ends inside an epoch."""
    max_steps: int | None = None
    """Optimizer steps; where given it replaces num_epochs."""
    global_batch_size: int = 32
    """Samples that one optimizer step sees, on any number of devices."""
    micro_batch_size: int | None = None
    """Samples that one forward pass of one device sees; null: as many as a token budget holds."""
    max_tokens_per_micro_batch: int | None = None
    """Token budget of one forward pass; null: on a GPU what its memory holds, else 4096."""
    learning_rate: float = 5e-5
    """Peak learning rate."""
    lr_scheduler: str = "linear"
    """linear, cosine, constant or wsd (warm-up, stable, decay over the last tenth)."""
    warmup_steps: float = 0
    """Steps of linear warm-up, or a share of the run if below 1."""
    optimizer: str = "adamw"
    """adamw, sgd, or the name of a class in torch.optim."""
    optimizer_options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the optimizer, such as betas or momentum."""
    weight_decay: float = 0.01
    """Decay of matrices; biases and norms have none."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are shortened to it; 0 is never."""
    label_smoothing: float = 0.0
    """Probability taken from the true class and spread over all, where the task has classes."""
    precision: str = "auto"
    """fp32, bf16 or fp16; auto is bf16 where the device is fast at it. Weights stay fp32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    compile: bool = False
    """Compile the model with torch.compile."""
    eval_steps: int | float | str = "epoch"
    """Evaluate every so many steps, share of the run, or "epoch"; 0 is never."""
    save_steps: int | float | str = "epoch"
    """Save a checkpoint every so many steps, share of the run, or "epoch"; 0 is never."""
    logging_steps: int | float | str = 10
    """Log every so many steps, share of the run, or "epoch"; 0 is never."""
    save_total_limit: int = 2
    """Checkpoints kept, the newest and the best always among them; at least 2."""
    async_save: bool | Literal["auto"] = "auto"
    """Write checkpoints while training goes on; auto: where host memory holds a copy of them."""
    metric_for_best_model: str | None = None
    """The evaluation metric that means better; null: the recipe's own."""
    load_best_model_at_end: bool = False
    """Make the best model, not the last, the one to use."""
    early_stopping_patience: int | None = None
    """Stop after so many evaluations in a row without a better metric; null is never."""
    ema_decay: float | None = None
    """Keep an exponential moving average of the weights, to evaluate and to ship; 0: none."""
    resume: str = "auto"
    """auto (continue if there is something to continue), never, must, or a checkpoint's path."""
    allow_changes: list[str] = field(default_factory=list)
    """Differences from the checkpoint that a resumed run may have, as the refusal names them."""
    deterministic: bool = False
    """Use only deterministic kernels (CUDA; on a CPU runs repeat bit for bit anyway)."""
    non_finite: str = "stop"
    """What a loss or gradient that is not finite does: stop the run, or skip the step."""
    time_limit: float | None = None
    """Minutes after which the run saves and stops with exit code 143; null is never."""
    trackers: list[str] = field(default_factory=list)
    """Experiment trackers by name: tensorboard, wandb, mlflow, trackio."""

    def __post_init__(self) -> None:
        _check_numbers(self)
        if not self.ema_decay:  # 0 and null mean the same, also to a run that resumes
            object.__setattr__(self, "ema_decay", None)
        _check_choices(self)
        _check_trackers(self)
        _check_together(self)

    def total_steps(self, num_samples: int) -> int:
        """Optimizer steps of the whole run over `num_samples` samples."""
        if self.max_steps is not None:
            return self.max_steps
        return max(1, math.ceil(self.num_epochs * self.steps_per_epoch(num_samples) - 1e-9))

    def steps_per_epoch(self, num_samples: int) -> int:
        """Optimizer steps of one epoch; the last one may hold fewer samples."""
        return -(-num_samples // self.global_batch_size)

    def interval(self, name: str, num_samples: int) -> int:
        """Steps between two events of `name` ("eval_steps", say); 0 is never."""
        value = getattr(self, name)
        if value == "epoch":
            return self.steps_per_epoch(num_samples)
        if isinstance(value, float) and 0 < value < 1:
            return max(1, round(value * self.total_steps(num_samples)))
        return int(value)

    def resolved_warmup(self, total_steps: int) -> int:
        """Warm-up in steps."""
        share = 0 < self.warmup_steps < 1
        return round(self.warmup_steps * total_steps) if share else int(self.warmup_steps)


def _check_numbers(settings: TrainSettings) -> None:
    batches = ("global_batch_size", "micro_batch_size", "max_tokens_per_micro_batch")
    whole = (*batches, "max_steps", "early_stopping_patience")
    for name in whole:
        _require(settings, name, lambda v: v > 0 and v == int(v), "a whole number above 0")
    for name in ("num_epochs", "time_limit", "learning_rate"):
        _require(settings, name, lambda v: v > 0, "a number above 0")
    for name in ("warmup_steps", "weight_decay", "max_grad_norm"):
        _require(settings, name, lambda v: v >= 0, "a number of 0 or more")
    _require(settings, "label_smoothing", lambda v: 0 <= v < 1, "a number from 0 to below 1")
    _require(settings, "ema_decay", lambda v: 0 <= v < 1, "a number from 0 to below 1, or null")
    accepted = "2 or more (the newest may be in the middle of being written)"
    _require(settings, "save_total_limit", lambda v: v >= 2, accepted)


def _require(settings: TrainSettings, name: str, holds: Any, accepted: str) -> None:
    value = getattr(settings, name)
    if value is None and TrainSettings.__dataclass_fields__[name].default is None:
        return
    if not _is_number(value) or not math.isfinite(value) or not holds(value):
        raise InputError(f"trainer.{name}: found {value!r}; accepted: {accepted}")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_choices(settings: TrainSettings) -> None:
    choices = {"lr_scheduler": LR_SCHEDULERS, "precision": PRECISIONS, "non_finite": NON_FINITE}
    for name, accepted in choices.items():
        if getattr(settings, name) not in accepted:
            found = getattr(settings, name)
            raise InputError(f"trainer.{name}: found '{found}'; accepted: {', '.join(accepted)}")
    for name in ("eval_steps", "save_steps", "logging_steps"):
        value = getattr(settings, name)
        whole_or_share = _is_number(value) and value >= 0
        whole_or_share = whole_or_share and (value < 1 or float(value).is_integer())
        if value != "epoch" and not whole_or_share:
            accepted_here = "a whole number of steps, a share below 1, epoch, or 0 for never"
            raise InputError(f"trainer.{name}: found {value!r}; accepted: {accepted_here}")


def _check_trackers(settings: TrainSettings) -> None:
    if not isinstance(settings.trackers, (list, tuple)):
        found = f"found {settings.trackers!r}"
        raise InputError(f"trainer.trackers: {found}; accepted: a list of {', '.join(TRACKERS)}")
    for name in settings.trackers:
        if name not in TRACKERS:
            accepted = f"{', '.join(TRACKERS)}{nearest(name, TRACKERS)}"
            raise InputError(f"trainer.trackers: found '{name}'; accepted: {accepted}")
        if importlib.util.find_spec(name) is None:
            raise InputError(f"trainer.trackers: {name} is not installed; pip install {name}")


def _check_together(settings: TrainSettings) -> None:
    if settings.warmup_steps >= 1 and not float(settings.warmup_steps).is_integer():
        found = settings.warmup_steps
        raise InputError(f"trainer.warmup_steps: found {found}; accepted: whole steps or a share")
    if settings.max_steps is not None and settings.warmup_steps > settings.max_steps:
        raise InputError(
            f"trainer.warmup_steps: found {settings.warmup_steps}; "
            f"accepted: at most max_steps ({settings.max_steps})"
        )
    for name in ("load_best_model_at_end", "early_stopping_patience"):
        if getattr(settings, name) and settings.eval_steps == 0:
            raise InputError(f"trainer.{name}: needs evaluations, and trainer.eval_steps is 0")
