"""Score: a metric of one number that is computed offline, through an `evaluate` module."""

import math
from typing import TYPE_CHECKING, ClassVar

from trainer.errors import InputError
from trainer.metrics.metric import Metric

if TYPE_CHECKING:
    import numpy as np

    from trainer.tasks.comparison import Compared

SHAPES = {
    "classes": "class ids [N]",
    "label_sets": "label sets [N, C] of 0 and 1",
    "numbers": "numbers [N]",
}
"""The kinds of arrays that a score may compare -> their description in errors."""


class Score(Metric):
    """A metric that is one number. Subclasses define `name`, `kinds` and `score`.

    Without samples, the result is nan.

    `kinds` are "numbers", or one or both of "classes" and "label_sets".
    """

    name: str
    """The name of the score; the key of its result, unless `names` is overridden."""
    kinds: ClassVar[tuple[str, ...]] = ("classes",)

    def __init_subclass__(cls, where: str | None = None, **arguments: object) -> None:
        """Support the older declarations `of_classes` and `of_label_sets`."""
        super().__init_subclass__(where, **arguments)
        defined = vars(cls)
        if "kinds" not in defined and ("of_classes" in defined or "of_label_sets" in defined):
            sets = defined.get("of_label_sets", "label_sets" in cls.kinds)
            classes = defined.get("of_classes", "numbers" not in cls.kinds)
            cls.kinds = ("classes", "label_sets")[: 1 + sets] if classes else ("numbers",)

    def score(self, predictions: "np.ndarray", references: "np.ndarray") -> float:
        """The score of int64 classes or float64 values of equal shapes."""
        raise AssertionError(f"{type(self).__name__} has no score")

    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def prepare(self) -> None:
        import trainer.metrics.module  # noqa: F401  (takes seconds to import)

    def compute(self, predictions: "Compared", references: "Compared") -> dict[str, float]:
        """Return the score; raises InputError for arrays of another kind."""
        import numpy as np

        found, wanted = np.asarray(predictions), np.asarray(references)
        if found.shape != wanted.shape:
            shapes = f"{list(found.shape)} and {list(wanted.shape)}"
            raise self._refusal(f"predictions and references of shapes {shapes}", "equal shapes")
        found, wanted = self._typed(found), self._typed(wanted)
        if not len(wanted):
            return dict.fromkeys(self.names(), math.nan)
        from trainer.metrics.module import ScoreModule  # takes seconds to import

        value = ScoreModule(self.score, wanted.dtype.name, wanted.ndim).value(found, wanted)
        return dict.fromkeys(self.names(), value)

    def _typed(self, array: "np.ndarray") -> "np.ndarray":
        integers = "numbers" not in self.kinds
        dimensions = {2 if kind == "label_sets" else 1 for kind in self.kinds}
        if array.dtype.kind not in ("biu" if integers else "biuf") or array.ndim not in dimensions:
            accepted = " or ".join(SHAPES[kind] for kind in self.kinds)
            raise self._refusal(f"{array.dtype} of shape {list(array.shape)}", accepted)
        return array.astype("int64" if integers else "float64")

    def _refusal(self, found: str, accepted: str) -> InputError:
        return InputError(f"metrics: {self.name}: found {found}; accepted: {accepted}")
