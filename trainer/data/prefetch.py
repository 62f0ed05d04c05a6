"""Prefetching: a thread collates the next batches while the device works on the current one."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from trainer.data.batch import Batch, Samples
from trainer.data.mixture_samples import MixtureSamples
from trainer.data.stacked_samples import StackedSamples
from trainer.data.streams import StreamSamples
from trainer.data.task_samples import TaskSamples
from trainer.data.tokens import TokenTable

DEPTH = 2
"""The number of batches that are collated in advance."""


@dataclass(frozen=True)
class Part:
    """The samples of a micro batch of an optimizer step; empty for a placeholder batch."""

    step: int
    sample_ids: np.ndarray

    def same_as(self, other: "Part") -> bool:
        """Whether both parts give the same batch."""
        return self.step == other.step and np.array_equal(self.sample_ids, other.sample_ids)


class Prefetcher:
    """Collates the batches of a run, in a thread if the samples are `pure`, else in `take`.

    A batch depends only on its part, not on when or in which thread it is made. Samples that are
    not `pure` (a data set that draws random numbers, for example) are collated in the caller's
    thread. `take` re-raises errors of `collate`.
    """

    def __init__(
        self, samples: Samples, seed: int, steps_per_epoch: int | None, pin: bool = False
    ) -> None:
        """With `pin`, batches are in page-locked memory, from which a GPU copies in parallel."""
        self.samples = samples
        self.seed = seed
        self.steps_per_epoch = steps_per_epoch
        self.pin = pin
        self._due: deque[Part] = deque()
        self._made: deque[tuple[Part, Future[Batch]]] = deque()
        self._thread: ThreadPoolExecutor | None = None
        if getattr(samples, "pure", False):
            self._thread = ThreadPoolExecutor(1, "batches")

    def expect(self, parts: Sequence[Part]) -> None:
        """Announce the parts that `take` will be called with, in order."""
        made = [part for part, _ in self._made]
        if len(made) > len(parts) or not all(map(Part.same_as, made, parts)):
            self._forget()
        self._due = deque(parts[len(self._made) :])
        self._make()

    def take(self, part: Part) -> Batch:
        """The batch of a part, on the CPU."""
        if not self._made or not self._made[0][0].same_as(part):
            return self._batch(part)
        _, made = self._made.popleft()
        self._make()
        return made.result()

    def close(self) -> None:
        """Stop the thread."""
        self._forget()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def _make(self) -> None:
        while self._thread is not None and self._due and len(self._made) < DEPTH:
            part = self._due.popleft()
            self._made.append((part, self._thread.submit(self._batch, part)))

    def _forget(self) -> None:
        for _, made in self._made:
            made.cancel()
        self._made.clear()
        self._due.clear()

    def _batch(self, part: Part) -> Batch:
        batch = self._collated(part).for_step(self.seed, part.step)
        return batch.pinned() if self.pin else batch

    def _collated(self, part: Part) -> Batch:
        ids, samples = part.sample_ids, self.samples
        if not len(ids):
            return samples.placeholder()
        if isinstance(samples, MixtureSamples):
            return samples.collate(ids, self.seed, part.step)
        known = (StackedSamples, TokenTable, TaskSamples, StreamSamples)
        if isinstance(samples, known):
            epoch = part.step // self.steps_per_epoch if self.steps_per_epoch else 0
            return samples.collate(ids, self.seed, epoch)
        return samples.collate(ids)
