"""Batches ahead: a thread makes the next batches while the device works on the present one."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from trainer.data.batch import Batch, Samples, StackedSamples

DEPTH = 2
"""Batches that are made before they are asked for."""


@dataclass(frozen=True)
class Part:
    """The samples of one micro batch of an optimizer step; none stand for the placeholder."""

    step: int
    sample_ids: np.ndarray

    def same_as(self, other: "Part") -> bool:
        """Whether the other part makes the same batch."""
        return self.step == other.step and np.array_equal(self.sample_ids, other.sample_ids)


class BatchesAhead:
    """Makes the batches of a run: ahead of time where the samples allow it, else when asked.

    A batch is a function of its part, whoever makes it and when. Samples whose `collate` is not
    (`pure` is missing or false: rows of a data set that draws random numbers, say) are collated in
    the caller's thread, one after the other. What `collate` raises is raised by `take`.
    """

    def __init__(
        self, samples: Samples, seed: int, steps_per_epoch: int, pin: bool = False
    ) -> None:
        """`pin` puts the batches into page-locked memory, from which a GPU copies by itself."""
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
        """Tell what `take` will ask for next, in order."""
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
        """End the thread."""
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
        if isinstance(samples, StackedSamples):
            return samples.collate(ids, self.seed, part.step // self.steps_per_epoch)
        return samples.collate(ids)
