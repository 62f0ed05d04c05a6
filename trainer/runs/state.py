"""RunState: the position of a run, and everything in a checkpoint that resuming needs."""

import hashlib
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
from trainer.devices.ranks import Ranks
from trainer.devices.sharding import whole_weights
from trainer.errors import InputError
from trainer.models.adapters.token_rows import modules_with_rows
from trainer.models.configured import ConfiguredModel
from trainer.models.model import Model
from trainer.models.pretrained import PretrainedModel
from trainer.models.quantization.quantized_linear import quantization_of
from trainer.models.sharded import holders, is_sharded, own_columns, own_rows
from trainer.redaction import without_environment
from trainer.runs.ordered_json import ordered_json
from trainer.runs.saving import read_weights, write_model, written_parameters
from trainer.settings import TrainSettings, names_of, recorded
from trainer.tasks.plain_recipes import PlainRecipe
from trainer.tasks.processor import Processor
from trainer.tasks.recipe import Recipe
from trainer.tasks.recipe_file import recipe_to_json
from trainer.training.moving_average import AveragesWeights, ExponentialMovingAverage
from trainer.training.throughput import Throughput
from trainer.training.tracking import restore_earlier_ids

logger = logging.getLogger("trainer")

IGNORED_ENTRIES = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")
"""Entries of config.json that do not change what the model computes."""


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
    """The number of completed optimizer steps."""
    tokens: int = 0
    """The number of tokens trained on."""
    skipped: int = 0
    """The number of steps that changed nothing, because loss or gradient were not finite."""
    skipped_in_a_row: int = 0
    best: Best | None = None
    evaluations_without_improvement: int = 0
    stopped: str = ""
    """The reason why the run ended before its last step; empty if it did not."""
    losses: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """The sum and the number of all finite step losses."""
    log_history: list[dict[str, Any]] = field(default_factory=list, compare=False, repr=False)
    """The logged rows, as in metrics.jsonl."""

    @property
    def train_loss(self) -> float | None:
        """The mean of the finite step losses; None if there are none."""
        total, number = self.losses
        return total / number if number else None

    def add_loss(self, loss: float) -> None:
        """Add the loss of a step to the mean if it is finite."""
        if math.isfinite(loss):
            self.losses = [self.losses[0] + loss, self.losses[1] + 1]

    def offer(self, metric: str, value: float, greater_is_better: bool) -> bool:
        """Record this evaluation if it is the best so far; returns whether it is.

        A value that is not finite is never the best.
        """
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
    """The contents of a checkpoint: everything that changes during training."""

    model: nn.Module
    parameters: Mapping[str, nn.Parameter]
    """The trained parameters by name; for a sharded model this rank's rows."""
    tokenizer: Processor | None
    recipe: Recipe
    optimizer: torch.optim.Optimizer
    ema: ExponentialMovingAverage | None
    scaler: torch.amp.GradScaler | None
    callbacks: Sequence[Callback]
    state: RunState
    throughput: Throughput

    def write(self, directory: Path, progress: Progress, ranks: Ranks) -> None:
        """Write a checkpoint: a model that other tools can load, and state/.

        Every rank must call this method.
        """
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
            "losses": self.state.losses,
            "stopped": self.state.stopped,
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
        """Restore the checkpoint's state, bit for bit.

        Raises InputError if `now` differs from the checkpoint in a value that must match.
        """
        saved = read_state(checkpoint / "state", self._rows(), self._columns())
        facts = check_facts(checkpoint / "state" / OPTIMIZER_FACTS, saved.optimizer_facts)
        check_best(checkpoint / "state" / OPTIMIZER_FACTS, facts, saved.progress.best_step)
        _refuse_other_batches(saved.progress, now)
        if saved.progress.step > now.total_steps:
            found = (
                f"found {now.total_steps} steps in total; the run is at step {saved.progress.step}"
            )
            raise InputError(f"trainer.num_epochs, max_steps: {found}; accepted: as many or more")
        stopping = [f"trainer.{name}" for name in names_of("stopping")]
        for note in compare(saved.progress, now, [*settings.allow_changes, *stopping]):
            logger.warning("resume: %s", note)
        read_weights(checkpoint, self.model)
        self._restore_optimizer(saved, now)
        if self.ema is not None:
            self.ema.load(saved.ema or self.ema.weights())
        if self.scaler is not None and facts["scaler"]:
            self.scaler.load_state_dict(facts["scaler"])
        callbacks = dict(self._named_callbacks())
        for name, state in saved.callbacks.items():
            if name in callbacks:
                path = checkpoint / "state" / CALLBACKS
                load_callback_state(path, name, callbacks[name].load_state, state)
            elif state:
                logger.warning("resume: the state of the callback %s is dropped", name)
        restore_earlier_ids(self.callbacks, facts.get("trackers"))
        self._restore_counters(saved.progress, facts)
        extended = saved.progress.total_steps != now.total_steps
        before, after = saved.progress.config_fingerprint, now.config_fingerprint
        if extended or any(before.get(name) != after.get(name) for name in stopping):
            self.state.stopped = ""

    def _restore_optimizer(self, saved: SavedState, now: Progress) -> None:
        """Restore the moments, or drop them if the user has allowed a change of optimizer."""
        kind = "trainer.optimizer"
        before = saved.progress.config_fingerprint.get(kind)
        if before != now.config_fingerprint[kind]:
            logger.warning("resume: the moments of %s are dropped", before)
            return
        load_optimizer_tensors(self.optimizer, self.parameters, saved.optimizer)

    @property
    def num_bytes(self) -> int:
        """The size in bytes of a checkpoint's tensors on disk."""
        moments = [t for state in self.optimizer.state.values() for t in state.values()]
        average = self.ema.shadow.values() if self.ema else ()
        weights = self._written(self.model.state_dict())
        tensors = [*weights.values(), *moments, *average]
        return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))

    def copied_bytes(self, ranks: Ranks) -> int:
        """The size in bytes of this rank's copies of a checkpoint's tensors in host memory."""
        if not is_sharded(self.model):
            return self.num_bytes if ranks.is_main else 0
        # rank 0 holds the whole weights in addition to their copies
        weights = self._written(dict(self.model.named_parameters())) if ranks.is_main else {}
        whole = 2 * sum(4 * p.numel() for p in weights.values())
        return whole + 3 * sum(p.nbytes for p in self.parameters.values())

    def _written(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The weights in a checkpoint: all, or only the trained ones of a model with adapters."""
        names = written_parameters(self.model)
        return {name: w for name, w in weights.items() if names is None or name in names}

    def read_weights(self, checkpoint: Path) -> None:
        """Restore a checkpoint's weights and their moving average."""
        read_weights(checkpoint, self.model)
        if self.ema is not None:
            saved = read_state(checkpoint / "state", self._rows(), self._columns())
            self.ema.load(saved.ema or self.ema.weights())
        elif isinstance(self.optimizer, AveragesWeights):
            saved = read_state(checkpoint / "state", self._rows(), self._columns())
            load_optimizer_tensors(self.optimizer, self.parameters, saved.optimizer)

    def fingerprints(self, settings: TrainSettings) -> dict[str, str]:
        """Name -> short text, for the values in which a resumed run must match this run."""
        parameters = list(self.model.named_parameters())
        shapes = _digest([[name, *p.shape, p.requires_grad] for name, p in parameters])
        num_trained = sum(p.requires_grad for _, p in parameters)
        found = {"model.parameters": f"{len(parameters)}, {num_trained} trained ({shapes})"}
        if kind := quantization_of(self.model):
            found = {"model.quantization": kind} | found
        config = _config_of(self.model)
        config = without_environment(config)
        lora = self.model.lora if isinstance(self.model, Model) else None
        if lora is not None:
            kept = {n: getattr(lora, n) for n in ("rank", "scaling", "dropout", "base_digest")}
            if lora.kind != "lora":
                kept = {"kind": lora.kind, "base_digest": lora.base_digest}
            found |= {f"model.lora.{name}": str(value)[:16] for name, value in kept.items()}
            for name, module in modules_with_rows(self.model).items():
                found[f"model.lora.trainable_tokens ({name})"] = _short_text(
                    module.token_ids.tolist()
                )
        entries = {name: value for name, value in config.items() if name not in IGNORED_ENTRIES}
        recipe = {} if isinstance(self.recipe, PlainRecipe) else recipe_to_json(self.recipe)
        if recipe:
            found["recipe"] = recipe["recipe"]
        found |= {f"model.{name}": _short_text(value) for name, value in entries.items()}
        fields = recipe.get("fields", {})
        found |= {f"recipe.{name}": _short_text(value) for name, value in fields.items()}
        return found | {f"trainer.{name}": value for name, value in recorded(settings).items()}

    def _rows(self) -> dict[str, range]:
        """This rank's rows of each parameter of which it holds only some rows."""
        found = {name: own_rows(p) for name, p in self.model.named_parameters()}
        return {name: rows for name, rows in found.items() if rows is not None}

    def _columns(self) -> dict[str, range]:
        """This rank's columns of each parameter of which it holds only some columns."""
        found = {name: own_columns(p) for name, p in self.model.named_parameters()}
        return {name: columns for name, columns in found.items() if columns is not None}

    def _share(self, ranks: Ranks) -> Share | None:
        if not is_sharded(self.model):
            return None
        shapes = {name: p.shape for name, p in self.model.named_parameters()}
        rows = {name: (held, shapes[name][0]) for name, held in self._rows().items()}
        columns = {name: (held, shapes[name][1]) for name, held in self._columns().items()}
        elsewhere = frozenset(
            name
            for name, p in self.model.named_parameters()
            if ranks.rank % ranks.alike and holders(p) > 1
        )
        return Share(ranks.rank, ranks.world_size, rows, columns, elsewhere)

    def _named_callbacks(self) -> list[tuple[str, Callback]]:
        """Each callback with a unique name that does not depend on callbacks of other classes."""
        seen: Counter[str] = Counter()
        named = []
        for callback in self.callbacks:
            name = type(callback).__name__
            seen[name] += 1
            named.append((name if seen[name] == 1 else f"{name} {seen[name]}", callback))
        return named

    def _restore_counters(self, progress: Progress, facts: Mapping[str, Any]) -> None:
        self.state.step = progress.step
        for name in ("tokens", "skipped", "skipped_in_a_row", "stopped"):
            setattr(self.state, name, facts[name])
        # checkpoints of earlier versions have no losses; the mean then covers only later steps
        self.state.losses = [float(each) for each in facts["losses"]]
        self.throughput.load_state(facts["throughput"])
        waited = progress.evaluations_without_improvement
        self.state.evaluations_without_improvement = waited
        if progress.best_step is not None and progress.best_metric is not None:
            self.state.best = Best(facts["best"], progress.best_step, progress.best_metric)


def _config_of(model: nn.Module) -> dict[str, Any]:
    """The entries of a model's config.json; empty if it has no such file."""
    if isinstance(model, PretrainedModel):
        return model.config.to_dict()
    return model.config_entries() if isinstance(model, ConfiguredModel) else {}


def _refuse_other_batches(saved: Progress, now: Progress) -> None:
    """Raise InputError for another global batch size, whose steps start at other positions."""
    before, after = saved.global_batch_size, now.global_batch_size
    if before != after:
        raise InputError(
            f"trainer.global_batch_size: found {after}; the checkpoint of step {saved.step} has "
            f"{before}, which a run keeps to its end; accepted: {before}, or another output_dir"
        )


def _short_text(value: object) -> str:
    """A value as JSON or, if that is long, its length and digest."""
    text = ordered_json(value)
    if len(text) <= 60:
        return text
    entries = f"{len(value)} entries" if isinstance(value, (list, dict)) else f"{len(text)} long"
    return f"{entries} ({_digest(value)})"


def _digest(value: object) -> str:
    return hashlib.sha256(ordered_json(value).encode()).hexdigest()[:8]
