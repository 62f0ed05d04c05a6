"""One optimizer step: accumulates, scales, clips and applies the gradient of a global batch."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trainer.data.batch import Batch
from trainer.devices.collectives import Collectives
from trainer.devices.device_memory import room
from trainer.devices.precision import autocast
from trainer.devices.ranks import Ranks
from trainer.errors import EnvironmentFault
from trainer.models.outputs import Outputs
from trainer.models.sharded import Rows, is_sharded
from trainer.tasks.recipe import Recipe
from trainer.training.device_update import (
    can_skip_on_device,
    copying_to_host,
    scale_by,
    step_unless,
)
from trainer.training.embedding_changes import EmbeddingChanges
from trainer.training.gradient_cache import CachedVectors, parts_of
from trainer.training.memory import Reduction, is_out_of_memory, whole
from trainer.training.moving_average import ExponentialMovingAverage
from trainer.training.optim import set_learning_rate
from trainer.training.source_losses import by_source, losses_by_source, recipe_of

LEAVE_CODES = (EnvironmentFault.exit_code, 130, 143)
"""The exit codes of ranks that are asked to exit: 3 if a checkpoint could not be written, 130 and
143 after a signal (trainer/training/interruption.py).
"""


@dataclass(frozen=True)
class StepFacts:
    """The measurements of one optimizer step."""

    loss: float
    """The loss that was optimized; NaN if no sample has a label."""
    grad_norm: float
    """Norm of the whole gradient before clipping."""
    finite: bool
    """Whether loss and gradient were finite; if not, no weight was changed."""
    leave: int = 0
    """The exit code if any rank was asked to exit; otherwise 0."""
    out_of_memory: bool = False
    """Whether a rank's micro batches did not fit in memory; if so, no rank changed any weight."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """The recipe's `step_figures` over the global batch, NaN for counts of 0; for a mixture,
    also the loss of each source that has samples in the batch."""


class Stepper:
    """Runs optimizer steps over a (wrapped) model.

    A recipe returns its loss as (sum, count), and the global count is known only after the last
    micro batch of all ranks. So each backward pass uses the sum times a constant. Once per step, a
    single multiplication converts the accumulated gradients to those of sum / count, and clips
    them. For a sharded model, the optimizer updates this rank's `rows` of the parameters; gradients
    are reduced over ranks after every micro batch, or once per step with `reduces_once`.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        optimizer: torch.optim.Optimizer,
        *,
        ranks: Ranks,
        global_batch_size: int,
        precision: str = "fp32",
        max_grad_norm: float = 0.0,
        label_smoothing: float = 0.0,
        ema: ExponentialMovingAverage | None = None,
        scaler: torch.amp.GradScaler | None = None,
        rows: Rows | None = None,
        reduces_once: bool = False,
        embeddings: EmbeddingChanges | None = None,
        sources: Sequence[str] = (),
    ) -> None:
        self.model = model
        self.recipe = recipe
        self.optimizer = optimizer
        self.ranks = ranks
        self.precision = precision
        self.scale = 1.0 / global_batch_size
        """The constant factor of loss sums in backward passes; the update corrects for it."""
        self.share = 1.0 / ranks.copies
        """The weight of a micro batch's loss: 1 / (number of ranks that share the batch)."""
        self.max_grad_norm = max_grad_norm
        self.label_smoothing = label_smoothing
        self.ema = ema
        self.scaler = scaler
        self.rows = rows
        self.embeddings = embeddings
        self.sources = sources
        """The sources of a mixture, whose losses are measured separately."""
        self.reads_late = ranks.device.type == "cuda"
        """Whether the results of a step may be read after the next step has been launched."""
        self.reduction = Collectives(model, reduces_once) if is_sharded(model) else Reduction(model)

    def step(
        self,
        micro_batches: Iterable[tuple[Batch, bool]],
        num_micro_batches: int,
        learning_rate: float,
        asked_to_leave: Callable[[], int] = lambda: 0,
        placeholder: Callable[[], Batch] | None = None,
    ) -> StepFacts:
        """Train on this rank's micro batches of a global batch: pairs (batch, whether it counts).

        A batch that does not count adds no gradient; with it, this rank only takes part in the
        collectives that other ranks wait for. `asked_to_leave` returns the exit code with which
        this rank was asked to exit, or 0. All ranks learn the code from a sum that the step
        computes anyway. If a micro batch does not fit in memory on a rank, no rank updates its
        weights: that rank runs `placeholder` instead, so that the others do not wait. Without a
        placeholder the step raises torch.OutOfMemoryError.
        """
        sums = self.accumulate(micro_batches, num_micro_batches, asked_to_leave, placeholder)
        return self.apply(sums, learning_rate)

    def accumulate(
        self,
        micro_batches: Iterable[tuple[Batch, bool]],
        num_micro_batches: int,
        asked_to_leave: Callable[[], int] = lambda: 0,
        placeholder: Callable[[], Batch] | None = None,
    ) -> Tensor:
        """Accumulate the gradients of the scaled loss sum.

        Returns sums over all ranks, in `ranks.widest`: [loss sum, count, the sum and count of each
        of the recipe's `step_figures`, the sum and count of the loss of each source, the number of
        ranks asked to exit with each of LEAVE_CODES, the number of ranks out of memory].
        """
        fits = True
        size = 2 + 2 * (len(self.recipe.step_figures) + len(self.sources))
        totals = torch.zeros(size, dtype=self.ranks.widest, device=self.ranks.device)
        self._remember_statistics()
        num_passes = num_micro_batches * (2 if self._perturbs else 1)
        for number, (batch, is_counted, perturbed) in enumerate(self._passes(micro_batches)):
            # a placeholder must not change the running statistics of BatchNorm
            self.model.train(is_counted)
            try:
                with self.reduction.averaged_if(number == num_passes - 1):
                    totals += self._gradients(batch, self.share if is_counted else 0.0, perturbed)
            except RuntimeError as error:
                if placeholder is None or not is_out_of_memory(error):
                    raise
                fits = False
            if not fits and placeholder is not None:
                # outside of the except block, whose traceback keeps the pass's tensors alive
                self._run_missing_collectives(placeholder, num_passes - number)
                break
        self.model.train()
        # filled on the device, since a copy from the host would synchronize
        votes = totals.new_zeros(len(LEAVE_CODES) + 1)
        if code := asked_to_leave():
            votes[LEAVE_CODES.index(code)].fill_(1)
        if not fits:
            votes[-1].fill_(1)
        return self.ranks.sum(torch.cat([totals, votes]))

    def apply(self, sums: Tensor, learning_rate: float) -> StepFacts:
        """Divide the gradient by the count, clip it and update the weights.

        Nothing is updated if the loss or the gradient is not finite.
        """
        return self.update(sums, learning_rate)()

    def update(self, sums: Tensor, learning_rate: float) -> Callable[[], StepFacts]:
        """Like `apply`, but returns a function that reads the step's measurements later.

        Call the returned function once, before the next update. With `decides_on_device`, the GPU
        decides whether to apply the update, so that the host need not wait for the numbers; the
        moving average of the weights is then updated only when the measurements are read.
        """
        numbers, gradients = self._measure(sums)
        if not self.decides_on_device:
            read_now = numbers.tolist()  # the only synchronization in a step
            facts = self._facts(read_now)
            self._update_from_host(facts, read_now[1], gradients, learning_rate)
            return lambda: facts
        self._update_on_device(numbers, gradients, learning_rate)
        numbers_on_host = copying_to_host(numbers)

        def read() -> StepFacts:
            facts = self._facts(numbers_on_host())
            if facts.finite and self.ema is not None:
                self.ema.update()
            return facts

        return read

    @property
    def decides_on_device(self) -> bool:
        """Whether the next step can be launched before the host has read this one's numbers."""
        return self.reads_late and can_skip_on_device(self.optimizer, self.ranks.device)

    def forget(self) -> None:
        """Undo `accumulate`: drop the gradients and restore running statistics."""
        self._restore_statistics()
        self.model.zero_grad(set_to_none=True)  # includes a sharded model's unreduced gradients

    def _measure(self, sums: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`sums` and the norm of the gradients as one tensor on the device; also the gradients."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.rows is not None:
            self.rows.take_gradients()
        gradients = [p.grad for p in self._parameters() if p.grad is not None]
        if self.rows is None:
            norm = torch.nn.utils.get_total_norm(gradients).to(sums)
        else:
            norm = self.ranks.sum(self.rows.squared_norm().to(sums)).sqrt()
        return torch.stack([*sums, norm]), gradients

    def _facts(self, numbers: list[float]) -> StepFacts:
        loss_sum, count, *rest, too_large, norm = numbers
        names = self.recipe.step_figures
        ends = 2 * len(names), 2 * (len(names) + len(self.sources))
        figures, of_sources, votes = rest[: ends[0]], rest[ends[0] : ends[1]], rest[ends[1] :]
        pairs = zip(names, figures[::2], figures[1::2], strict=True)
        quotients = {name: total / number if number else math.nan for name, total, number in pairs}
        quotients |= losses_by_source(self.sources, of_sources)
        loss = loss_sum / count if count else math.nan
        finite = math.isfinite(norm) and math.isfinite(loss_sum) and not too_large
        leave = max(code * bool(ranks) for code, ranks in zip(LEAVE_CODES, votes, strict=True))
        norm *= self._gradient_factor(count)
        return StepFacts(loss, norm, finite, leave, bool(too_large), quotients)

    def _gradient_factor(self, count: float) -> float:
        """The factor that scales gradients averaged over ranks to the gradients of sum / count."""
        return self.ranks.world_size / (self.scale * count) if count else 0.0

    def _update_from_host(
        self, facts: StepFacts, count: float, gradients: list[Tensor], rate: float
    ) -> None:
        if facts.finite:
            clip = self.max_grad_norm / (facts.grad_norm + 1e-6) if self.max_grad_norm else 1.0
            torch._foreach_mul_(gradients, self._gradient_factor(count) * min(1.0, clip))
            set_learning_rate(self.optimizer, rate)
            self.optimizer.step() if self.scaler is None else self.scaler.step(self.optimizer)
        else:
            self._restore_statistics()
        if self.scaler is not None:
            self.scaler.update()
        if facts.finite and self.ema is not None:
            self.ema.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _update_on_device(self, numbers: Tensor, gradients: list[Tensor], rate: float) -> None:
        """Apply the same update as `_update_from_host`, bit for bit, without reading `numbers`.

        The moving average is updated when the measurements are read.
        """
        loss_sum, count, too_large, norm = numbers[0], numbers[1], numbers[-2], numbers[-1]
        good = norm.isfinite() & loss_sum.isfinite() & (too_large == 0)
        factor = torch.where(count == 0, 0.0, self.ranks.world_size / (self.scale * count))
        if self.max_grad_norm:
            factor = factor * (self.max_grad_norm / (norm * factor + 1e-6)).clamp(max=1.0)
        scale_by(gradients, factor)
        set_learning_rate(self.optimizer, rate)
        step_unless(~good, self.optimizer)
        for buffer, before in zip(self._running_statistics(), self._before, strict=True):
            buffer.copy_(torch.where(good, buffer, before))
        if self.scaler is not None:
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _remember_statistics(self) -> None:
        self._before = [buffer.clone() for buffer in self._running_statistics()]

    def _restore_statistics(self) -> None:
        for buffer, before in zip(self._running_statistics(), self._before, strict=True):
            buffer.copy_(before)

    def warm_up(self, batch: Batch) -> None:
        """Run a backward pass with weight 0, since DDP creates its buckets in the first one."""
        self.accumulate([(batch, False)], 1)
        self.optimizer.zero_grad(set_to_none=True)

    def fits(self, batch: Batch, placeholder: Callable[[], Batch], extra_bytes: int = 0) -> bool:
        """Whether a forward and backward pass fits in memory with `extra_bytes` more bytes in use.

        The call has no lasting effect. All ranks must call it if the model is sharded.
        """
        found = True
        self._remember_statistics()
        self.reduction.begin()
        try:
            reserved = room(extra_bytes, self.ranks.device)
            self._pass(batch, whole(self.model), 0.0)
            del reserved
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            found = False
        if not found and is_sharded(self.model):
            self._run_missing_collectives(placeholder, 1)
        self.forget()
        return found

    @property
    def _perturbs(self) -> bool:
        """Whether each batch has a second pass with perturbed embeddings (FGM)."""
        return self.embeddings is not None and self.embeddings.epsilon > 0

    def _passes(
        self, micro_batches: Iterable[tuple[Batch, bool]]
    ) -> Iterator[tuple[Batch, bool, bool]]:
        """Yield (batch, whether it counts, whether embeddings are perturbed) for each pass."""
        for batch, is_counted in micro_batches:
            yield batch, is_counted, False
            if self._perturbs:
                yield batch, is_counted, True

    def _gradients(self, batch: Batch, weight: float, perturbed: bool = False) -> Tensor:
        """Add a micro batch's gradients; return its part of the sums that `accumulate` returns.

        A pass with perturbed embeddings adds only to the loss sum, since its samples are already
        counted.
        """
        embeddings = self.embeddings
        with nullcontext() if embeddings is None else embeddings.applied(batch, perturbed):
            loss_sum, *others = self._pass(batch, self.model, weight * self.scale)
        numbers = (
            [loss_sum, *(number * 0 for number in others)] if perturbed else [loss_sum, *others]
        )
        return torch.stack([number.to(self.ranks.widest) for number in numbers]) * weight

    def _pass(self, batch: Batch, model: nn.Module, factor: float) -> list[Tensor]:
        """Add the gradients of the loss sum times `factor`; return the sums and counts."""
        self.reduction.begin()
        parts = parts_of(batch, self.recipe.texts_per_pass)
        cached = (
            CachedVectors(parts, lambda inputs: self._run(inputs, whole(model))) if parts else None
        )
        outputs = self._run(batch.inputs(), model) if cached is None else cached.outputs
        sums, counts = self._loss_of(outputs, batch)
        loss_sum = sums.sum()
        numbers = [loss_sum.detach(), counts.sum(), *self._figures(outputs, batch)]
        if self.sources:
            numbers += by_source(sums.detach(), counts, batch, len(self.sources))
        del sums
        del outputs  # otherwise they would outlive the backward pass
        self._backward(loss_sum * factor)
        if cached is not None:
            self._pass_again(cached, model)
        return numbers

    def _pass_again(self, cached: CachedVectors, model: nn.Module) -> None:
        """Backpropagate the vectors' gradients, part by part; DDP averages in the last part."""
        last = len(cached.parts) - 1
        gradients = cached.gradients()
        for number, (inputs, gradient) in enumerate(zip(cached.parts, gradients, strict=True)):
            with self.reduction.averaged_if(number == last):
                vectors = self._run(inputs, model).embeddings
                torch.autograd.backward(vectors, gradient)

    @torch.no_grad()
    def _figures(self, outputs: Outputs, batch: Batch) -> list[Tensor]:
        names = self.recipe.step_figures
        recipe = recipe_of(batch, self.recipe)
        found = recipe.figures(outputs, batch) if names else {}
        none = torch.zeros(2, device=self.ranks.device)
        return [number for name in names for number in found.get(name, none)]

    def _run_missing_collectives(self, placeholder: Callable[[], Batch], passes: int) -> None:
        """Run the collectives that other ranks wait for, in the failed pass and those after it."""
        batch = placeholder()

        def loss_of(model: nn.Module) -> Tensor:
            return self._scaled(self._loss_of(self._run(batch.inputs(), model), batch)[0].sum())

        self.reduction.make_up(loss_of, passes)

    def _run(self, inputs: dict[str, Any], model: nn.Module) -> Any:
        is_tracked = model is self.model
        if is_tracked:
            self.reduction.begin()
        with autocast(self.precision, self.ranks.device):
            outputs = model(**inputs)
        if is_tracked:
            self.reduction.reach_backward()
        return outputs

    def _loss_of(self, outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss sum and count that the batch's recipe computes."""
        recipe = recipe_of(batch, self.recipe)
        sums, counts = recipe.loss(outputs, batch, label_smoothing=self.label_smoothing)
        return sums, torch.as_tensor(counts, device=sums.device)

    def _backward(self, loss: Tensor) -> None:
        torch.autograd.backward(self._scaled(loss))

    def _scaled(self, loss: Tensor) -> Tensor:
        return loss if self.scaler is None else self.scaler.scale(loss)

    def _running_statistics(self) -> Iterator[Tensor]:
        """The buffers that a forward pass in training mode changes, such as BatchNorm's."""
        for module in self.model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._NormBase):
                yield from module.buffers(recurse=False)

    def _parameters(self) -> Iterator[nn.Parameter]:
        return (p for group in self.optimizer.param_groups for p in group["params"])
