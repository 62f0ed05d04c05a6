"""RunState: where a run stands, and everything that a checkpoint holds so that it can go on."""

import hashlib
import json
import logging
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.callbacks.callback import Callback
from trainer.checkpoint.resume import compare
from trainer.checkpoint.state import (
    Progress,
    load_optimizer_tensors,
    optimizer_tensors,
    read_state,
    write_state,
)
from trainer.optim import ExponentialMovingAverage
from trainer.recipe import LossOnly, Recipe
from trainer.saving import read_weights, recipe_to_json, write_model
from trainer.settings import TrainSettings

logger = logging.getLogger("trainer")

TO_REPEAT = (
    "learning_rate",
    "lr_scheduler",
    "warmup_steps",
    "optimizer",
    "optimizer_options",
    "weight_decay",
    "max_grad_norm",
    "label_smoothing",
    "ema_decay",
)
"""Settings that a resumed run must repeat to reach the weights of one that never stopped."""


@dataclass(frozen=True)
class Best:
    """The best evaluation so far."""

    metric: str
    step: int
    value: float


@dataclass
class RunState:
    """The counters of a run."""

    step: int = 0
    """Optimizer steps done."""
    tokens: int = 0
    """Tokens trained on."""
    skipped: int = 0
    """Steps whose numbers were not finite, so that they changed nothing."""
    skipped_in_a_row: int = 0
    best: Best | None = None
    evaluations_without_improvement: int = 0
    stopped: str = ""
    """Why the run is over before its last step; empty: it is not."""

    def offer(self, metric: str, value: float, greater_is_better: bool) -> bool:
        """Whether this evaluation is the best so far, which is then remembered; NaN never is."""
        sign = 1 if greater_is_better else -1
        improved = math.isfinite(value) and (
            self.best is None or sign * value > sign * self.best.value
        )
        if improved:
            self.best = Best(metric, self.step, value)
        waited = self.evaluations_without_improvement
        self.evaluations_without_improvement = 0 if improved else waited + 1
        return improved


@dataclass(frozen=True)
class Resumable:
    """What a checkpoint is made of. Whatever changes while training is in here."""

    model: nn.Module
    tokenizer: Any
    recipe: Recipe
    optimizer: torch.optim.Optimizer
    ema: ExponentialMovingAverage | None
    scaler: torch.amp.GradScaler | None
    callbacks: Sequence[Callback]
    state: RunState

    def write(self, directory: Path, progress: Progress) -> None:
        """Fill a checkpoint's folder: a model that any tool reads, and state/."""
        write_model(directory, self.model, self.tokenizer, self.recipe)
        facts = {
            "tokens": self.state.tokens,
            "skipped": self.state.skipped,
            "best": self.state.best.metric if self.state.best else None,
            "scaler": self.scaler.state_dict() if self.scaler else None,
        }
        write_state(
            directory / "state",
            progress,
            optimizer_tensors(self.optimizer, dict(self.model.named_parameters())),
            facts,
            self.ema.shadow if self.ema else None,
            {name: callback.state() for name, callback in self._named_callbacks()},
        )

    def restore(self, checkpoint: Path, now: Progress, allowed: Collection[str]) -> None:
        """Stand where the checkpoint stood, to the last bit.

        Raises InputError where `now` differs from the checkpoint in what must match.
        """
        saved = read_state(checkpoint / "state")
        for note in compare(saved.progress, now, allowed):
            logger.warning("resume: %s", note)
        read_weights(checkpoint, self.model)
        load_optimizer_tensors(self.optimizer, dict(self.model.named_parameters()), saved.optimizer)
        if self.ema is not None and saved.ema is not None:
            self.ema.load(saved.ema)
        if self.scaler is not None and saved.optimizer_facts["scaler"] is not None:
            self.scaler.load_state_dict(saved.optimizer_facts["scaler"])
        for name, callback in self._named_callbacks():
            if name in saved.callbacks:
                callback.load_state(saved.callbacks[name])
        self._restore_counters(saved.progress, saved.optimizer_facts)

    def read_weights(self, checkpoint: Path) -> None:
        """Take a checkpoint's weights, and their average, and nothing else."""
        read_weights(checkpoint, self.model)
        average = read_state(checkpoint / "state").ema
        if self.ema is not None and average is not None:
            self.ema.load(average)

    def fingerprints(self, settings: TrainSettings) -> dict[str, str]:
        """A digest of each part of a run that a resumed run must repeat."""
        shapes = {n: [*p.shape, p.requires_grad] for n, p in self.model.named_parameters()}
        parts = {
            "model": shapes,
            "recipe": {} if isinstance(self.recipe, LossOnly) else recipe_to_json(self.recipe),
            "trainer": {name: getattr(settings, name) for name in TO_REPEAT},
        }
        return {
            name: hashlib.sha256(json.dumps(part, default=str).encode()).hexdigest()[:16]
            for name, part in parts.items()
        }

    def _named_callbacks(self) -> list[tuple[str, Callback]]:
        return [(f"{i} {type(c).__name__}", c) for i, c in enumerate(self.callbacks)]

    def _restore_counters(self, progress: Progress, facts: Any) -> None:
        self.state.step = progress.step
        self.state.tokens, self.state.skipped = facts["tokens"], facts["skipped"]
        waited = progress.evaluations_without_improvement
        self.state.evaluations_without_improvement = waited
        if progress.best_step is not None and progress.best_metric is not None:
            self.state.best = Best(facts["best"], progress.best_step, progress.best_metric)
