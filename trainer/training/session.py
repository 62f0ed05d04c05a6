"""Session: the state of one call to `fit`, in addition to its Setup."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from trainer.data.batch import Samples
from trainer.data.mixture_samples import MixtureSamples
from trainer.data.plan import GlobalBatchPlan, Plan
from trainer.data.prefetch import Prefetcher
from trainer.data.streams import StreamPlan, StreamSamples
from trainer.data.task_samples import TaskSamples
from trainer.devices.allocator import keep_freed_memory
from trainer.errors import InputError
from trainer.models.model import Model
from trainer.models.quantization.quantized_linear import quantization_of
from trainer.models.sharded import Rows, is_sharded
from trainer.runs.state import Resumable, RunState
from trainer.tasks.agreement import check_run, check_warmup, warn_about_data
from trainer.training.batch_norm import check_batch_norm
from trainer.training.derived import with_derived
from trainer.training.embedding_changes import embedding_changes
from trainer.training.freezing import trainable
from trainer.training.moving_average import ExponentialMovingAverage
from trainer.training.optim import build_optimizer, check_device
from trainer.training.own_loss_check import check_own_loss
from trainer.training.plateau import plateau_scale, restart
from trainer.training.process_state import use_deterministic_kernels
from trainer.training.schedules import learning_rate
from trainer.training.setup import Setup
from trainer.training.step import Stepper
from trainer.training.throughput import Throughput
from trainer.training.token_budget import default_budget


@dataclass
class Session:
    """One call to `Trainer.fit`: its plan, optimizer and progress."""

    setup: Setup
    samples: Samples
    """The training samples."""
    plan: Plan
    total_steps: int
    """Optimizer steps of the whole run."""
    optimizer: torch.optim.Optimizer
    ema: ExponentialMovingAverage | None
    scaler: torch.amp.GradScaler | None
    stepper: Stepper
    batches: Prefetcher
    state: RunState
    throughput: Throughput
    resumable: Resumable
    """The parts that a checkpoint saves."""
    best_metric: str
    """The evaluation result that decides which model is best ("eval_accuracy")."""
    greater_is_better: bool
    max_tokens: int
    """The maximum number of tokens in a micro batch; lowered when one does not fit in memory."""
    evaluated_step: int = -1
    """The step of the last evaluation; -1 before the first one."""
    finite_step: int = -1
    """The last step whose weights gave a finite evaluation."""

    @property
    def over(self) -> bool:
        """Whether no step is left, or a callback asked to stop."""
        return self.state.step >= self.total_steps or bool(self.state.stopped)

    def due(self, name: str) -> bool:
        """Whether the interval setting `name`, such as save_steps, is due after the last step.

        Every interval is due after the final step; an interval of 0 is never due.
        """
        settings, step = self.setup.settings, self.state.step
        interval = settings.interval(name, self.plan.steps_per_epoch)
        return interval > 0 and (step % interval == 0 or step == self.total_steps)

    def evaluation_due(self) -> bool:
        """Whether to evaluate now; a run that stops early is evaluated to choose the best model."""
        stops = bool(self.state.stopped) and self.setup.settings.eval_steps != 0
        return self.due("eval_steps") or stops

    def logging_due(self) -> bool:
        """Whether to log a row now; the last steps before a callback stops the run are logged."""
        stops = bool(self.state.stopped) and self.setup.settings.logging_steps != 0
        return self.due("logging_steps") or stops

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        custom = self.setup.seams.optimizer
        if custom is not None and custom.scheduler is not None:
            return custom.learning_rate(step)
        scale = plateau_scale(self.setup.callbacks)
        return learning_rate(step, self.total_steps, self.setup.settings, scale)

    def epochs(self, steps: int) -> float | None:
        """The passes over the data in this many steps; None for a stream."""
        per_epoch = self.plan.steps_per_epoch
        return None if per_epoch is None else steps / per_epoch

    def num_tokens(self, step: int) -> int:
        """Tokens in the global batch of a step."""
        return int(self.samples.lengths[self.plan.global_batch(step)].sum())


def prepare(setup: Setup) -> Session:
    """Check that the run can be trained, and build everything that training needs.

    The model must still have its initial weights, since derived columns are computed from them.
    Raises InputError if settings, data and model do not fit together.
    """
    settings, placement, ranks = setup.settings, setup.placement, setup.ranks
    if isinstance(setup.train, StreamSamples):
        setup.train.rewind()
    _check(setup)
    restart(setup.callbacks)
    keep_freed_memory()
    if settings.deterministic:
        use_deterministic_kernels()
    setup = with_derived(setup)
    assert setup.train is not None
    samples = setup.train
    rows = Rows(setup.model) if is_sharded(setup.model) else None
    parameters = list(rows.parameters.items()) if rows else trainable(setup.model)
    plan, samples = make_plan(setup, samples), _planned(setup, samples)
    total_steps = settings.total_steps(plan.steps_per_epoch)
    check_warmup(settings, total_steps)
    custom = setup.seams.optimizer
    if custom is None:
        check_device(settings.optimizer, setup.ranks.device)
    optimizer = (
        custom.begin(settings) if custom else build_optimizer(parameters, settings, setup.model)
    )
    decay = settings.ema_decay
    ema = ExponentialMovingAverage(parameters, decay) if decay else None
    scaler = torch.amp.GradScaler() if placement.precision == "fp16" else None
    best_metric, greater_is_better = setup.best_metric()
    resumable = _resumable(setup, dict(parameters), optimizer, ema, scaler)
    for metric in setup.metrics.values():
        metric.prepare()
    return Session(
        setup=setup,
        samples=samples,
        plan=plan,
        total_steps=total_steps,
        optimizer=optimizer,
        ema=ema,
        scaler=scaler,
        stepper=_stepper(setup, optimizer, ema, scaler, rows),
        batches=Prefetcher(
            samples, setup.seed, plan.steps_per_epoch, pin=ranks.device.type == "cuda"
        ),
        state=resumable.state,
        throughput=resumable.throughput,
        resumable=resumable,
        best_metric=best_metric,
        greater_is_better=greater_is_better,
        max_tokens=default_budget(settings, samples, ranks.device),
    )


def _resumable(
    setup: Setup,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    ema: ExponentialMovingAverage | None,
    scaler: torch.amp.GradScaler | None,
) -> Resumable:
    return Resumable(
        setup.model,
        parameters,
        setup.tokenizer,
        setup.recipe,
        optimizer,
        ema,
        scaler,
        setup.callbacks,
        RunState(),
        Throughput(),
    )


def _planned(setup: Setup, samples: Samples) -> Samples:
    """The samples; if their batches depend on the global batch, they get a plan of their own.

    They cannot share the run's plan, since a background thread makes the batches.
    """
    return (
        samples.planned(make_plan(setup, samples)) if isinstance(samples, TaskSamples) else samples
    )


def make_plan(setup: Setup, samples: Samples) -> Plan:
    """The plan of a run, which says which samples form each global batch."""
    size, group_size = setup.settings.global_batch_size, setup.recipe.group_size
    if isinstance(samples, StreamSamples):
        return StreamPlan(samples, setup.seed, group_size)
    if isinstance(samples, MixtureSamples):
        return samples.planned(size, setup.seed, group_size)
    kinds = getattr(samples, "kinds", None)
    return GlobalBatchPlan(samples.lengths, size, setup.seed, group_size, kinds)


def _stepper(
    setup: Setup,
    optimizer: torch.optim.Optimizer,
    ema: ExponentialMovingAverage | None,
    scaler: torch.amp.GradScaler | None,
    rows: Rows | None,
) -> Stepper:
    settings, placement = setup.settings, setup.placement
    embeddings = embedding_changes(setup.recipe, setup.model, settings)
    if setup.ranks.copies > 1 and embeddings is not None and embeddings.epsilon > 0:
        split = "tensor" if setup.ranks.alike > 1 else "context"
        found = f"found {embeddings.epsilon} with launch.{split}_parallel={setup.ranks.copies}"
        raise InputError(f"recipe.adversarial: {found}; accepted: 0")
    return Stepper(
        placement.wrapped,
        setup.recipe,
        optimizer,
        ranks=setup.ranks,
        global_batch_size=settings.global_batch_size,
        precision=placement.precision,
        max_grad_norm=settings.max_grad_norm,
        label_smoothing=settings.label_smoothing,
        ema=ema,
        scaler=scaler,
        rows=rows,
        reduces_once=placement.reduces_once,
        embeddings=embeddings,
        sources=setup.train.names if isinstance(setup.train, MixtureSamples) else (),
    )


def _check_quantized(model: nn.Module) -> None:
    """Raise InputError for a quantized model without adapters: quantized weights are frozen."""
    kind = quantization_of(model)
    if kind and isinstance(model, Model) and model.lora is None:
        accepted = "accepted: with adapters (model.lora.rank), or null"
        raise InputError(f"model.quantization: found {kind} without adapters; {accepted}")


def _check_gradients(model: nn.Module) -> None:
    """Raise InputError if gradients are switched off, for the caller or for all parameters."""
    if not torch.is_grad_enabled():
        found = "gradients are switched off (torch.no_grad or torch.inference_mode)"
        raise InputError(f"fit: {found}; call it outside of them")
    if not trainable(model):
        found = f"no parameter of {type(model).__name__} has requires_grad=True"
        raise InputError(f"model: {found}; at least one is needed")


def _check(setup: Setup) -> None:
    """Raise InputError if the model cannot be trained on the samples with these settings."""
    settings, ranks = setup.settings, setup.ranks
    has_folder = setup.folder is not None
    _check_quantized(setup.model)
    _check_gradients(setup.model)
    samples = check_run(settings, setup.recipe, setup.train, setup.evaluation, has_folder)
    check_batch_norm(setup.model, samples, settings, setup.seed, ranks)
    check_own_loss(setup, samples)
    if ranks.is_main:
        warn_about_data(setup.recipe, samples, setup.model, setup.tokenizer)
