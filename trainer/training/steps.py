"""Steps: runs a session's optimizer steps, reads their measurements, and repeats failed ones.

A GPU decides whether to apply a step's update without waiting for the host. The host reads a step's
measurements after it has launched the passes of the next step, but before it launches the update of
that step. So if the measurements stop the run, no later update has changed the weights.
"""

import logging
from collections.abc import Callable, Iterator

import numpy as np

from trainer.data.batch import Batch
from trainer.data.dealing import in_groups
from trainer.data.prefetch import DEPTH, Part
from trainer.devices.collectives import can_make_up
from trainer.devices.device_memory import free_cached_memory
from trainer.errors import NumericsError
from trainer.models.sharded import is_sharded
from trainer.runs.checkpoints import Checkpoints
from trainer.training.budget_search import find_budget
from trainer.training.memory import (
    smaller_budget,
    step_memory,
    weights_in_memory,
)
from trainer.training.reporting import Reporter
from trainer.training.session import Session
from trainer.training.step import StepFacts

logger = logging.getLogger("trainer")

MAX_SKIPPED_IN_A_ROW = 20
"""The maximum number of consecutive steps with non-finite numbers that are skipped."""


class Steps:
    """Runs the optimizer steps of a session in order. Every rank calls the same methods."""

    def __init__(self, session: Session, reporter: Reporter, checkpoints: Checkpoints) -> None:
        self.session = session
        self.reporter = reporter
        self.checkpoints = checkpoints
        self.leave = 0
        """The exit code with which any rank was asked to exit, in the last facts read; or 0."""
        self._unread: Callable[[], StepFacts] | None = None
        """The function that reads the facts of the last step; None once they have been read."""
        self._unlogged: StepFacts | None = None
        """The facts of the last step that were read and may still have to be logged."""

    def settle_budget(self) -> None:
        """Find the maximum number of tokens of a micro batch, before the first step."""
        with weights_in_memory():
            found = find_budget(self.session, self._placeholder(), self.training_batch)
        self.session.max_tokens = found

    def take(self, asked_to_leave: Callable[[], int]) -> bool:
        """Launch an optimizer step and count it.

        Returns False if this step, or the step before it, must be repeated.

        `asked_to_leave` returns the exit code with which this rank was asked to exit, or 0.
        """
        session, state = self.session, self.session.state
        with step_memory(state.step + 1, session.max_tokens):
            batches, number = self.micro_batches()
            sums = session.stepper.accumulate(batches, number, asked_to_leave, self._placeholder())
            if not self.settle():
                session.stepper.forget()
                return False
            self._unread = session.stepper.update(sums, session.learning_rate(state.step))
        state.tokens += session.num_tokens(state.step)
        state.step += 1
        return session.stepper.decides_on_device or self._read_facts()

    def may_run_ahead(self, has_more_to_do: bool | int) -> bool:
        """Whether the next step may be launched before the facts of the last one are read."""
        waits = has_more_to_do or self.session.state.step == self.session.total_steps
        return self._unread is not None and not waits

    def settle(self) -> bool:
        """Read the last step's facts and log them if due; return False if it must be repeated."""
        if self._unread is not None and not self._read_facts():
            return False
        if self._unlogged is not None and self.session.logging_due():
            self.reporter.log_training(self._unlogged)
        self._unlogged = None
        return True

    def micro_batches(self) -> tuple[Iterator[tuple[Batch, bool]], int]:
        """This rank's micro batches of the step and their number.

        Each is a pair (batch, whether it counts); placeholders do not count in the loss. They are
        made one at a time and prefetched, including the first ones of the next step.
        """
        session = self.session
        step, rank = session.state.step, session.setup.ranks.data_rank
        current = self._sample_ids(rank, step)
        upcoming = (
            self._sample_ids(rank, step + 1)[:DEPTH] if step + 1 < session.total_steps else []
        )
        session.batches.expect(
            [Part(step, ids) for ids in current] + [Part(step + 1, ids) for ids in upcoming]
        )
        return ((self.training_batch(ids), len(ids) > 0) for ids in current), len(current)

    def training_batch(self, sample_ids: np.ndarray) -> Batch:
        """A batch of the current step on the device; a placeholder if there are no samples."""
        session = self.session
        with session.throughput.waiting_for_data():
            batch = session.batches.take(Part(session.state.step, sample_ids))
        return batch.to(session.setup.ranks.device)

    def advance(self, facts: StepFacts) -> None:
        """Add a step's measurements to the totals; skip or stop if they are not finite."""
        session, state = self.session, self.session.state
        sample_ids = session.plan.global_batch(state.step - 1)
        session.throughput.add(facts, len(sample_ids), session.num_tokens(state.step - 1))
        state.add_loss(facts.loss)
        self.reporter.step_measured(facts.loss)
        self.leave = facts.leave
        state.skipped_in_a_row = 0 if facts.finite else state.skipped_in_a_row + 1
        if not facts.finite:
            self._skip_or_stop(facts, sample_ids.tolist())

    def _read_facts(self) -> bool:
        """Process the last step's measurements; return False if it did not fit in memory."""
        assert self._unread is not None
        session, state = self.session, self.session.state
        facts, self._unread = self._unread(), None
        if facts.out_of_memory:
            state.step -= 1
            state.tokens -= session.num_tokens(state.step)
            state.stopped = ""  # callbacks are asked again once the step is done
            self._split_micro_batches()
            return False
        self.advance(facts)
        self.checkpoints.check_saves(facts)
        self._unlogged = facts
        return True

    def _skip_or_stop(self, facts: StepFacts, sample_ids: list[int]) -> None:
        """Raise NumericsError, or continue if the settings or fp16 allow it.

        fp16 overflows now and then; its gradient scaler then lowers the scale.
        """
        session, state = self.session, self.session.state
        state.skipped += 1
        found = {"skipped_loss": facts.loss, "grad_norm": facts.grad_norm}
        self.reporter.log(found | {"skipped_samples": sample_ids})
        is_tolerated = session.setup.settings.non_finite == "skip" or session.scaler is not None
        if is_tolerated and state.skipped_in_a_row <= MAX_SKIPPED_IN_A_ROW:
            return
        raise NumericsError(
            f"step {state.step}: loss {facts.loss}, gradient norm {facts.grad_norm}; "
            f"samples {', '.join(map(str, sample_ids))}{self.checkpoints.last_good()}"
        )

    def _split_micro_batches(self) -> None:
        """Halve the token budget. Every rank computes the same budget from the plan."""
        session, ranks = self.session, self.session.setup.ranks
        step = session.state.step
        micro_batches = [
            in_groups(session.samples.lengths[ids], session.setup.recipe.group_size)
            for rank in range(ranks.data_world_size)
            for ids in self._sample_ids(rank, step)
        ]
        session.max_tokens = smaller_budget(micro_batches)
        free_cached_memory(ranks.device)
        if ranks.is_main:
            text = "step %d: out of memory; micro batches: <= %d tokens"
            logger.warning(text, step + 1, session.max_tokens)

    def _placeholder(self) -> Callable[[], Batch] | None:
        """A function that makes a replacement for a batch that does not fit; None if impossible."""
        setup = self.session.setup
        if setup.ranks.copies > 1:
            return None  # ranks that share a batch exchange tensors within a pass
        if is_sharded(setup.model):
            if not can_make_up(setup.model):
                return None
        elif setup.ranks.world_size > 1 and any(True for _ in setup.model.buffers()):
            return None  # DDP broadcasts buffers within a forward pass
        return lambda: self.training_batch(np.empty(0, np.int64))

    def _sample_ids(self, rank: int, step: int) -> list[np.ndarray]:
        """The samples of each micro batch that a rank runs in a step."""
        setup = self.session.setup
        return self.session.plan.micro_batches(
            step,
            rank=rank,
            world_size=setup.ranks.data_world_size,
            micro_batch_size=setup.settings.micro_batch_size,
            max_tokens=self.session.max_tokens,
        )
