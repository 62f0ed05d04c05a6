"""Learning rate schedules: functions of the step and the number of steps."""

import math
from collections.abc import Mapping

from trainer.choices import SCHEDULES
from trainer.settings import TrainSettings

DEFAULT_TIMESCALE = 10_000
"""The timescale of inverse_sqrt without warm-up, in steps, as in transformers."""


def learning_rate(
    step: int, total_steps: int, settings: TrainSettings, plateau_scale: float = 1.0
) -> float:
    """The learning rate of optimizer step `step` (from 0).

    The rate depends only on the arguments, so checkpoints do not store it. Warm-up is linear: step
    s of w warm-up steps has (s + 1) / (w + 1) of the peak rate, and the first step after warm-up
    has the full peak. Then the schedule decays to `min_learning_rate` at the end of the run.
    `plateau_scale` is the current factor of `ReduceOnPlateau`.
    """
    peak, floor = settings.learning_rate, settings.min_learning_rate
    warmup = settings.resolved_warmup(total_steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    options = {**SCHEDULES[settings.lr_scheduler], **settings.lr_scheduler_options}
    if settings.lr_scheduler == "reduce_on_plateau":
        return max(floor, peak * plateau_scale)
    if settings.lr_scheduler == "inverse_sqrt":
        return max(floor, peak * _inverse_sqrt(step, warmup, options["timescale"]))
    progress = (step - warmup) / max(1, total_steps - warmup)  # at least 0 and below 1
    share = _share_left(settings.lr_scheduler, progress, options)
    return peak * share if floor == 0.0 else floor + (peak - floor) * share


def _inverse_sqrt(step: int, warmup: int, timescale: float | None) -> float:
    """1 / sqrt(steps), shifted and scaled so that it starts at 1 (arXiv:2106.04560)."""
    scale = timescale or warmup or DEFAULT_TIMESCALE
    return 1.0 / math.sqrt((step - warmup + scale) / scale)


def _share_left(schedule: str, progress: float, options: Mapping[str, float | None]) -> float:
    """The decay factor, from 1 to 0, after `progress` (0 to 1) of the steps past warm-up."""
    left = max(0.0, 1.0 - progress)
    match schedule:
        case "linear":
            return left
        case "cosine":  # arXiv:1608.03983
            return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        case "cosine_with_restarts":
            around = (options["cycles"] or 1) * progress % 1.0
            return 0.5 * (1 + math.cos(math.pi * around)) if left else 0.0
        case "polynomial":
            return float(left ** (options["power"] or 1.0))
        case "wsd":  # warm-up, stable, decay (arXiv:2404.06395): linear over the last steps
            return min(1.0, left / (options["decay"] or 0.1))
        case "constant":
            return 1.0
    raise AssertionError(f"unknown schedule {schedule}")
