"""One optimizer step: the gradient of a global batch, divided once, clipped and applied."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.collectives import Collectives
from trainer.data.batch import Batch
from trainer.device_update import on_the_way, scale_by, skips_by_itself, step_unless
from trainer.errors import EnvironmentFault
from trainer.memory import Reduction, is_out_of_memory, room, whole
from trainer.models.sharded import Rows, is_sharded
from trainer.optim import ExponentialMovingAverage, set_learning_rate
from trainer.precision import autocast
from trainer.ranks import Ranks
from trainer.recipe import Recipe

LEAVING = (EnvironmentFault.exit_code, 130, 143)
"""The exit codes that a rank may want to leave with: its checkpoint could not be written, or it
was asked to (trainer/interruption.py)."""


@dataclass(frozen=True)
class StepFacts:
    """What one optimizer step measured."""

    loss: float
    """The loss that was optimised; NaN where no item was supervised."""
    grad_norm: float
    """Length of the whole gradient before clipping."""
    finite: bool
    """Whether loss and gradient were finite; where not, no weight was changed."""
    leave: int = 0
    """The exit code with which any rank was asked to leave; 0: none was."""
    out_of_memory: bool = False
    """Whether a rank's micro batches did not fit: nothing was done, on any rank."""


class Stepper:
    """Runs optimizer steps over a (wrapped) model.

    A loss is a sum; the global count is known when the last micro batch of the last rank is done.
    So the backward pass takes sums scaled by a constant, and one multiplication of the gradients,
    which clipping needs anyway, turns them into the gradient of sum / count. `rows` are what the
    optimizer steps over where the model is sharded, whose gradients are added up over ranks after
    every micro batch, or once a step (`reduces_once`).
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
    ) -> None:
        self.model = model
        self.recipe = recipe
        self.optimizer = optimizer
        self.ranks = ranks
        self.precision = precision
        self.scale = 1.0 / global_batch_size
        self.max_grad_norm = max_grad_norm
        self.label_smoothing = label_smoothing
        self.ema = ema
        self.scaler = scaler
        self.rows = rows
        self.late = ranks.device.type == "cuda"
        """Whether facts may come when the next step has been launched."""
        self.reduction = Collectives(model, reduces_once) if is_sharded(model) else Reduction(model)

    def step(
        self,
        micro_batches: Iterable[tuple[Batch, bool]],
        num_micro_batches: int,
        learning_rate: float,
        asked_to_leave: Callable[[], int] = lambda: 0,
        placeholder: Callable[[], Batch] | None = None,
    ) -> StepFacts:
        """Train on one global batch: this rank's micro batches, each with whether it counts.

        `asked_to_leave` gives this rank's exit code, 0 for none: it is told to all ranks on the
        way, since a collective of its own would make a GPU wait once more in each step. With a
        `placeholder` to run in their place, micro batches that do not fit in memory end the step
        on all ranks alike; without, they raise torch.OutOfMemoryError.
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
        """Add up gradients of the scaled loss sum.

        [loss sum, count, ranks asked to leave with each of LEAVING, ranks out of memory], of all
        ranks, in fp64.
        """
        fits = True
        totals = torch.zeros(2, dtype=self.ranks.widest, device=self.ranks.device)
        self._before = [buffer.clone() for buffer in self._running_statistics()]
        for number, (batch, counts_in) in enumerate(micro_batches):
            # a placeholder must not move running statistics
            self.model.train(counts_in)
            try:
                with self.reduction.averaged_if(number == num_micro_batches - 1):
                    totals += self._gradients(batch, 1.0 if counts_in else 0.0)
            except RuntimeError as error:
                if placeholder is None or not is_out_of_memory(error):
                    raise
                fits = False
            if not fits and placeholder is not None:
                # not in the except, which holds on to all that the pass had made
                self._make_up_for_the_rest(placeholder, num_micro_batches - number)
                break
        self.model.train()
        votes = totals.new_zeros(len(LEAVING) + 1)
        # made on the device: a copy would wait for it
        if code := asked_to_leave():
            votes[LEAVING.index(code)].fill_(1)
        if not fits:
            votes[-1].fill_(1)
        return self.ranks.sum(torch.cat([totals, votes]))

    def apply(self, sums: Tensor, learning_rate: float) -> StepFacts:
        """Divide by the count, clip, and step; a gradient that is not finite changes nothing."""
        return self.update(sums, learning_rate)()

    def update(self, sums: Tensor, learning_rate: float) -> Callable[[], StepFacts]:
        """As `apply`, but for the facts, which the result reads: once, before the next update.

        A GPU has by then done what was launched, and decides by itself whether to step. Only the
        average of the weights follows when the facts are read.
        """
        numbers, gradients = self._measure(sums)
        if not self.decides_on_device:
            read_now = numbers.tolist()  # the only wait for the device in a step
            facts = self._facts(read_now)
            self._update_from_host(facts, read_now[1], gradients, learning_rate)
            return lambda: facts
        self._update_on_device(numbers, gradients, learning_rate)
        numbers_on_host = on_the_way(numbers)

        def read() -> StepFacts:
            facts = self._facts(numbers_on_host())
            if facts.finite and self.ema is not None:
                self.ema.update()
            return facts

        return read

    @property
    def decides_on_device(self) -> bool:
        """Whether the host need not know a step's numbers before it launches the next."""
        return self.late and skips_by_itself(self.optimizer, self.ranks.device)

    def forget(self) -> None:
        """Undo `accumulate`: no gradients, and running statistics as they were."""
        self._restore_statistics()
        self.model.zero_grad(set_to_none=True)  # a sharded model's are not the optimizer's yet

    def _measure(self, sums: Tensor) -> tuple[Tensor, list[Tensor]]:
        """All numbers of a step, in fp64 on the device: `sums`, and the norm of the gradients."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.rows is not None:
            self.rows.take_gradients()
        gradients = [p.grad for p in self._parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients).to(sums)
        if self.rows is not None:
            norm = self.ranks.sum(norm.square()).sqrt()
        return torch.stack([*sums, norm]), gradients

    def _facts(self, numbers: list[float]) -> StepFacts:
        loss_sum, count, *votes, too_large, norm = numbers
        loss = loss_sum / count if count else math.nan
        finite = math.isfinite(norm) and math.isfinite(loss_sum) and not too_large
        leave = max(code * bool(ranks) for code, ranks in zip(LEAVING, votes, strict=True))
        return StepFacts(loss, norm * self._divisor(count), finite, leave, bool(too_large))

    def _divisor(self, count: float) -> float:
        """What turns sums of gradients, which were averaged over ranks, into those of the mean."""
        return self.ranks.world_size / (self.scale * count) if count else 0.0

    def _update_from_host(
        self, facts: StepFacts, count: float, gradients: list[Tensor], rate: float
    ) -> None:
        if facts.finite:
            clip = self.max_grad_norm / (facts.grad_norm + 1e-6) if self.max_grad_norm else 1.0
            torch._foreach_mul_(gradients, self._divisor(count) * min(1.0, clip))
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
        """The same, bit for bit; `numbers` are not read."""
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

    def _restore_statistics(self) -> None:
        for buffer, before in zip(self._running_statistics(), self._before, strict=True):
            buffer.copy_(before)

    def warm_up(self, batch: Batch) -> None:
        """A backward pass of weight zero: DDP lays out its buckets by the first that it sees."""
        self.accumulate([(batch, False)], 1)
        self.optimizer.zero_grad(set_to_none=True)

    def fits(self, batch: Batch, placeholder: Callable[[], Batch], beside: int = 0) -> bool:
        """Whether a pass forward and back has memory, `beside` so many bytes of something else.

        Leaves nothing behind. All ranks call it where the model is sharded.
        """
        found = True
        self.reduction.begin()
        try:
            held = room(beside, self.ranks.device)
            loss_sum, _ = self._loss(batch, whole(self.model))
            self._backward(loss_sum * 0.0)
            del held
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            found = False
        if not found and is_sharded(self.model):
            self._make_up_for_the_rest(placeholder, 1)
        self.model.zero_grad(set_to_none=True)
        return found

    def _gradients(self, batch: Batch, weight: float) -> Tensor:
        """Add a micro batch's gradients; [loss sum, count]."""
        loss_sum, count = self._loss(batch, self.model)
        self._backward(loss_sum * (weight * self.scale))
        widest = self.ranks.widest
        return torch.stack([loss_sum.detach().to(widest), count.to(widest)]) * weight

    def _make_up_for_the_rest(self, placeholder: Callable[[], Batch], passes: int) -> None:
        """Do what the other ranks wait for, in the failed pass and in those that follow it."""
        batch = placeholder()

        def loss_of(model: nn.Module) -> Tensor:
            return self._scaled(self._loss(batch, model)[0])

        self.reduction.make_up(loss_of, passes)

    def _loss(self, batch: Batch, model: nn.Module) -> tuple[Tensor, Tensor]:
        counted = model is self.model
        if counted:
            self.reduction.begin()
        with autocast(self.precision, self.ranks.device):
            outputs = model(**batch.inputs())
        if counted:
            self.reduction.reach_backward()
        sums, counts = self.recipe.loss(outputs, batch, label_smoothing=self.label_smoothing)
        return sums.sum(), torch.as_tensor(counts, device=sums.device).sum()

    def _backward(self, loss: Tensor) -> None:
        self._scaled(loss).backward()

    def _scaled(self, loss: Tensor) -> Tensor:
        return loss if self.scaler is None else self.scaler.scale(loss)

    def _running_statistics(self) -> Iterator[Tensor]:
        """What a forward pass in training mode changes: the buffers of BatchNorm and its like."""
        for module in self.model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._NormBase):
                yield from module.buffers(recurse=False)

    def _parameters(self) -> Iterator[nn.Parameter]:
        return (p for group in self.optimizer.param_groups for p in group["params"])
