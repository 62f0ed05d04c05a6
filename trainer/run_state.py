"""RunState: where a run stands, and everything that a checkpoint holds so that it can go on."""

import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.callbacks.callback import Callback
from trainer.checkpoint.resume import compare
from trainer.checkpoint.shards import Share
from trainer.checkpoint.state import (
    CALLBACKS,
    OPTIMIZER_FACTS,
    Progress,
    SavedState,
    load_optimizer_tensors,
    optimizer_tensors,
    read_state,
    write_state,
)
from trainer.checkpoint.state_checks import check_best, check_facts, load_callback_state
from trainer.errors import InputError
from trainer.models.pretrained import PretrainedModel
from trainer.models.sharded import is_sharded, own_rows
from trainer.optim import ExponentialMovingAverage
from trainer.ranks import Ranks
from trainer.recipe import LossOnly, Recipe
from trainer.redaction import without_environment
from trainer.saving import read_weights, recipe_to_json, write_model, written_parameters
from trainer.settings import TrainSettings
from trainer.sharding import whole_weights
from trainer.throughput import Throughput
from trainer.tracking import tracker_runs

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
    "early_stopping_patience",
)
"""Settings that a resumed run must repeat to reach the weights of one that never stopped."""

SAYS_NOTHING = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")
"""Entries of config.json that change no number."""


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
    trackers: dict[str, str] = field(default_factory=dict)
    """Experiment tracker -> the id of its run."""

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
    parameters: Mapping[str, nn.Parameter]
    """What is trained, by name; of a sharded model this rank's rows."""
    tokenizer: Any
    recipe: Recipe
    optimizer: torch.optim.Optimizer
    ema: ExponentialMovingAverage | None
    scaler: torch.amp.GradScaler | None
    callbacks: Sequence[Callback]
    state: RunState
    throughput: Throughput

    def write(self, directory: Path, progress: Progress, ranks: Ranks) -> None:
        """Fill a checkpoint's folder: a model that any tool reads, and state/. Every rank calls."""
        weights = whole_weights(self.model, written_parameters(self.model))
        if ranks.is_main:
            write_model(directory, self.model, self.tokenizer, self.recipe, weights)
        if ranks.is_main or is_sharded(self.model):
            self._write_state(directory / "state", progress, ranks)

    def _write_state(self, folder: Path, progress: Progress, ranks: Ranks) -> None:
        facts = {
            "tokens": self.state.tokens,
            "skipped": self.state.skipped,
            "skipped_in_a_row": self.state.skipped_in_a_row,
            "stopped": self.state.stopped,
            "trackers": self.state.trackers,
            "throughput": self.throughput.state(),
            "best": self.state.best.metric if self.state.best else None,
            "scaler": self.scaler.state_dict() if self.scaler else None,
        }
        write_state(
            folder,
            progress,
            optimizer_tensors(self.optimizer, self.parameters),
            facts,
            self.ema.shadow if self.ema else None,
            {name: callback.state() for name, callback in self._named_callbacks()},
            self._share(ranks),
        )

    def restore(self, checkpoint: Path, now: Progress, settings: TrainSettings) -> None:
        """Stand where the checkpoint stood, to the last bit.

        Raises InputError where `now` differs from the checkpoint in what must match.
        """
        saved = read_state(checkpoint / "state", self._rows())
        facts = check_facts(checkpoint / "state" / OPTIMIZER_FACTS, saved.optimizer_facts)
        check_best(checkpoint / "state" / OPTIMIZER_FACTS, facts, saved.progress.best_step)
        _refuse_other_batches(saved.progress, now)
        if saved.progress.step > now.total_steps:
            found = f"found {now.total_steps} steps in all; the run stands at {saved.progress.step}"
            raise InputError(f"trainer.num_epochs, max_steps: {found}; accepted: as many or more")
        patience = "trainer.early_stopping_patience"  # decides when a run ends, not how it goes
        for note in compare(saved.progress, now, [*settings.allow_changes, patience]):
            logger.warning("resume: %s", note)
        read_weights(checkpoint, self.model)
        self._restore_optimizer(saved, now)
        if self.ema is not None:
            self.ema.load(saved.ema or self.ema.weights())
        if self.scaler is not None and facts["scaler"]:
            self.scaler.load_state_dict(facts["scaler"])
        callbacks = dict(self._named_callbacks())
        for name, kept in saved.callbacks.items():
            if name in callbacks:
                path = checkpoint / "state" / CALLBACKS
                load_callback_state(path, name, callbacks[name].load_state, kept)
            elif kept:
                logger.warning("resume: the state of the callback %s is dropped", name)
        self._restore_counters(saved.progress, facts)
        extended = saved.progress.total_steps != now.total_steps
        before, after = saved.progress.config_fingerprint, now.config_fingerprint
        if extended or before.get(patience) != after.get(patience):
            self.state.stopped = ""

    def _restore_optimizer(self, saved: SavedState, now: Progress) -> None:
        """The moments, unless the user has let the optimizer be another one."""
        kind = "trainer.optimizer"
        before = saved.progress.config_fingerprint.get(kind)
        if before != now.config_fingerprint[kind]:
            logger.warning("resume: the moments of %s are dropped", before)
            return
        load_optimizer_tensors(self.optimizer, self.parameters, saved.optimizer)

    @property
    def num_bytes(self) -> int:
        """What a checkpoint's tensors need on the disk."""
        moments = [t for state in self.optimizer.state.values() for t in state.values()]
        average = self.ema.shadow.values() if self.ema else ()
        weights = self._written(self.model.state_dict())
        tensors = [*weights.values(), *moments, *average]
        return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))

    def copied_bytes(self, ranks: Ranks) -> int:
        """What this rank's copies of a checkpoint's tensors need in host memory."""
        if not is_sharded(self.model):
            return self.num_bytes if ranks.is_main else 0
        # rank 0 holds the whole weights beside their copies
        weights = self._written(dict(self.model.named_parameters())) if ranks.is_main else {}
        whole = 2 * sum(4 * p.numel() for p in weights.values())
        return whole + 3 * sum(p.nbytes for p in self.parameters.values())

    def _written(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Those that a checkpoint holds: of a model with adapters, no frozen weights."""
        names = written_parameters(self.model)
        return {name: w for name, w in weights.items() if names is None or name in names}

    def read_weights(self, checkpoint: Path) -> None:
        """Take a checkpoint's weights, and their average, and nothing else."""
        read_weights(checkpoint, self.model)
        if self.ema is not None:
            saved = read_state(checkpoint / "state", self._rows())
            self.ema.load(saved.ema or self.ema.weights())

    def fingerprints(self, settings: TrainSettings) -> dict[str, str]:
        """What a resumed run must repeat, by the names that users know, each in a few words."""
        parameters = list(self.model.named_parameters())
        shapes = _digest([[name, *p.shape, p.requires_grad] for name, p in parameters])
        num_trained = sum(p.requires_grad for _, p in parameters)
        found = {"model.parameters": f"{len(parameters)}, {num_trained} trained ({shapes})"}
        config = self.model.config.to_dict() if isinstance(self.model, PretrainedModel) else {}
        config = without_environment(config)
        lora = self.model.lora if isinstance(self.model, PretrainedModel) else None
        if lora is not None:
            kept = {n: getattr(lora, n) for n in ("rank", "scaling", "dropout", "base_digest")}
            found |= {f"model.lora.{name}": str(value)[:16] for name, value in kept.items()}
        entries = {name: value for name, value in config.items() if name not in SAYS_NOTHING}
        recipe = {} if isinstance(self.recipe, LossOnly) else recipe_to_json(self.recipe)
        if recipe:
            found["recipe"] = recipe["recipe"]
        found |= {f"model.{name}": _in_few_words(value) for name, value in entries.items()}
        fields = recipe.get("fields", {})
        found |= {f"recipe.{name}": _in_few_words(value) for name, value in fields.items()}
        return found | {f"trainer.{name}": str(getattr(settings, name)) for name in TO_REPEAT}

    def _rows(self) -> dict[str, range]:
        """Which rows of the parameters this rank holds; nothing where it holds all."""
        found = {name: own_rows(p) for name, p in self.model.named_parameters()}
        return {name: rows for name, rows in found.items() if rows is not None}

    def _share(self, ranks: Ranks) -> Share | None:
        if not is_sharded(self.model):
            return None
        totals = {name: p.shape[0] for name, p in self.model.named_parameters()}
        rows = {name: (own, totals[name]) for name, own in self._rows().items()}
        return Share(ranks.rank, ranks.world_size, rows)

    def _named_callbacks(self) -> list[tuple[str, Callback]]:
        """Each with a name of its own, which does not change when others come or go."""
        seen: Counter[str] = Counter()
        named = []
        for callback in self.callbacks:
            name = type(callback).__name__
            seen[name] += 1
            named.append((name if seen[name] == 1 else f"{name} {seen[name]}", callback))
        return named

    def _restore_counters(self, progress: Progress, facts: Any) -> None:
        self.state.step = progress.step
        for name in ("tokens", "skipped", "skipped_in_a_row", "stopped"):
            setattr(self.state, name, facts[name])
        self.state.trackers = tracker_runs(facts.get("trackers"))
        self.throughput.load_state(facts["throughput"])
        waited = progress.evaluations_without_improvement
        self.state.evaluations_without_improvement = waited
        if progress.best_step is not None and progress.best_metric is not None:
            self.state.best = Best(facts["best"], progress.best_step, progress.best_metric)


def _refuse_other_batches(saved: Progress, now: Progress) -> None:
    """Another size of global batch has no step at which the samples so far are consumed."""
    before, after = saved.global_batch_size, now.global_batch_size
    if before != after:
        raise InputError(
            f"trainer.global_batch_size: found {after}; the checkpoint of step {saved.step} has "
            f"{before}, which a run keeps to its end; accepted: {before}, or another output_dir"
        )


def _in_few_words(value: Any) -> str:
    """A value as JSON, or, where that is long, how long it is and its digest."""
    text = json.dumps(value, sort_keys=True, default=str)
    if len(text) <= 60:
        return text
    entries = f"{len(value)} entries" if isinstance(value, (list, dict)) else f"{len(text)} long"
    return f"{entries} ({_digest(value)})"


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
