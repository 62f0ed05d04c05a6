"""Metric: the interface of all metrics."""

from typing import TYPE_CHECKING, ClassVar

from trainer.option_types import Options

if TYPE_CHECKING:
    from trainer.tasks.comparison import Compared


class Metric(Options, where="metrics"):
    """Compares predictions with references. Subclasses are dataclasses of options."""

    greater_is_better: bool
    """Whether a greater value is better, for every result of this metric."""
    kinds: ClassVar[tuple[str, ...]] = ("classes", "label_sets", "numbers")
    """The kinds of comparison (trainer/tasks/comparison.py) that `compute` takes; empty for any."""

    def names(self) -> tuple[str, ...]:
        """The keys of the mapping that `compute` returns, known before it is called."""
        raise AssertionError(f"{type(self).__name__} names no results")

    def prepare(self) -> None:
        """Load the packages that `compute` needs, so that missing ones are reported early."""

    def compute(self, predictions: "Compared", references: "Compared") -> dict[str, float]:
        """The results by name, over the whole data set; nan for undefined results.

        Both arguments have the same length. They are arrays for classes, label sets and numbers,
        and lists for other kinds.
        """
        raise AssertionError(f"{type(self).__name__} computes nothing")
