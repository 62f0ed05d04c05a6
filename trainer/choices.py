"""Choices: schedules with their options, and other tools' names for schedules and optimizers."""

from collections.abc import Mapping

from trainer import registry
from trainer.errors import InputError, nearest
from trainer.foreign.numbers import is_finite

SCHEDULES: dict[str, dict[str, float | None]] = {
    "linear": {},
    "cosine": {},
    "cosine_with_restarts": {"cycles": 1},
    "polynomial": {"power": 1.0},
    "inverse_sqrt": {"timescale": None},
    "wsd": {"decay": 0.1},
    "constant": {},
    "reduce_on_plateau": {"factor": 0.1, "patience": 10, "threshold": 1e-4, "cooldown": 0},
}
"""Schedule -> its options and their defaults, which `trainer.lr_scheduler_options` overrides."""

SAME_SCHEDULE = {
    "constant_with_warmup": "constant",
    "reduce_lr_on_plateau": "reduce_on_plateau",
}
"""transformers' name of a schedule -> our name of the same schedule."""

OTHER_SCHEDULE = {
    "cosine_with_min_lr": "cosine with trainer.min_learning_rate",
    "cosine_warmup_with_min_lr": "cosine with trainer.min_learning_rate",
    "warmup_stable_decay": "wsd, with the share of the decay in trainer.lr_scheduler_options.decay",
    "cosine_with_hard_restarts": "cosine_with_restarts",
}
"""transformers' name of a schedule whose options differ from ours -> what to write instead."""

SAME_OPTIMIZER = {
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_hf": "adamw",
    "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw_32bit": "paged_adamw",
    "schedule_free_adamw": "schedule_free",
}
"""transformers' name of an optimizer -> our name of the same optimizer."""

OTHER_OPTIMIZER = {
    "adamw_apex_fused": "adamw, which is fused",
    "adamw_torch_xla": "adamw",
    "adamw_torch_npu_fused": "adamw",
    "adamw_anyprecision": "adamw; weights and moments stay in fp32",
    "adamw_torch_8bit": "adamw_8bit",
    "adamw_torch_4bit": "adamw_8bit",
    "schedule_free_sgd": "schedule_free",
    "schedule_free_radam": "schedule_free",
    **dict.fromkeys(
        (
            "lion",
            "lion_32bit",
            "lion_8bit",
            "paged_lion_32bit",
            "paged_lion_8bit",
            "lamb",
            "ademamix",
            "ademamix_8bit",
            "lomo",
            "adalomo",
            "grokadamw",
            "stable_adamw",
            "galore_adamw",
            "galore_adamw_8bit",
            "galore_adafactor",
            "apollo_adamw",
        ),
        "adamw, the nearest one, or your own optimizer, as Trainer(optimizers=(optimizer, None)) "
        "or as a file (see CONTRIBUTING.md)",
    ),
    "rmsprop_bnb": "rmsprop",
    "rmsprop_bnb_8bit": "rmsprop",
    "rmsprop_bnb_32bit": "rmsprop",
}
"""The name of an optimizer that we do not have -> what to write instead."""

_RANGES = {
    "cycles": (lambda v: v >= 1 and v == int(v), "a whole number of 1 or more"),
    "power": (lambda v: v > 0, "a number above 0"),
    "timescale": (lambda v: v > 0, "a number of steps above 0"),
    "decay": (lambda v: 0 < v <= 1, "a share above 0 and at most 1"),
    "factor": (lambda v: 0 < v < 1, "a number between 0 and 1"),
    "patience": (lambda v: v >= 0 and v == int(v), "a whole number of evaluations, 0 or more"),
    "threshold": (lambda v: v >= 0, "a number of 0 or more"),
    "cooldown": (lambda v: v >= 0 and v == int(v), "a whole number of evaluations, 0 or more"),
}
"""Option of a schedule -> a check of its value, and a description of the accepted values."""


def schedule_name(name: str) -> str:
    """Our name of a schedule, given ours or transformers'.

    Raises InputError, which says what to write instead, for any other name.
    """
    found = SAME_SCHEDULE.get(str(name), str(name))
    if found in OTHER_SCHEDULE:
        raise InputError(
            f"trainer.lr_scheduler: found '{name}'; here it is {OTHER_SCHEDULE[found]}"
        )
    if found not in SCHEDULES:
        accepted = f"{', '.join(SCHEDULES)}{nearest(str(name), SCHEDULES)}"
        raise InputError(f"trainer.lr_scheduler: found '{name}'; accepted: {accepted}")
    return found


def optimizer_name(name: str) -> str:
    """Our name of an optimizer, given another tool's name; other names are returned unchanged.

    Raises InputError if we have only a similar optimizer and no package adds one with this name.
    """
    lower = str(name).lower()
    if lower in OTHER_OPTIMIZER and registry.locate(registry.OPTIMIZERS, lower) is None:
        raise InputError(f"trainer.optimizer: found '{name}'; here it is {OTHER_OPTIMIZER[lower]}")
    return SAME_OPTIMIZER.get(lower, name)


def check_schedule_options(schedule: str, options: Mapping[str, object]) -> None:
    """Raise InputError for an option that the schedule does not have, or a value out of range."""
    where = "trainer.lr_scheduler_options"
    if not isinstance(options, Mapping):
        raise InputError(f"{where}: found {options!r}; accepted: a mapping {{option: number}}")
    for name, value in options.items():
        known = SCHEDULES[schedule]
        if name not in known:
            accepted = ", ".join(known) or f"none; {schedule} has no options"
            hint = nearest(str(name), known)
            raise InputError(f"{where}: found '{name}'; accepted: {accepted}{hint}")
        is_valid, accepted = _RANGES[name]
        if not is_finite(value) or not is_valid(value):  # type: ignore[arg-type]
            raise InputError(f"{where}.{name}: found {value!r}; accepted: {accepted}")
