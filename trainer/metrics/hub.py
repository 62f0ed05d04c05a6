"""HubMetric: a metric of the Hugging Face hub, which is code that somebody else wrote."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from trainer.errors import InputError
from trainer.metrics.metric import Metric

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class HubMetric(Metric):
    """A metric that `evaluate.load` fetches and runs; refused without `trust_remote_code`."""

    name: str
    """Its name on the hub, such as "rouge", or the folder of its script."""
    greater_is_better: bool
    """Whether a greater result is the better one."""
    results: list[str] = field(default_factory=list)
    """Which of its results to keep; empty: the one that bears its name."""
    config_name: str | None = None
    """Its configuration, such as "mrpc" of "glue"."""
    trust_remote_code: bool = False
    """Let the hub's code run on this machine."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Further arguments of its `compute`."""

    def __post_init__(self) -> None:
        if not self.trust_remote_code:
            raise InputError(
                f"metrics: '{self.name}' of the hub runs code that it downloads; "
                f"accepted: trust_remote_code: true on this metric, if you trust its author"
            )

    def names(self) -> tuple[str, ...]:
        return tuple(self.results) or (self.name.rstrip("/").rsplit("/", 1)[-1],)

    def prepare(self) -> None:
        """Load the code; raises InputError where it cannot be loaded."""
        _ = self._module

    def compute(self, predictions: "np.ndarray", references: "np.ndarray") -> dict[str, float]:
        """The kept results; raises InputError where the metric does not give one of them."""
        found = self._module.compute(
            predictions=predictions, references=references, **self.arguments
        )
        missing = [name for name in self.names() if name not in found]
        if missing:
            raise InputError(
                f"metrics: '{self.name}' gives no '{missing[0]}'; "
                f"accepted in results: {', '.join(found)}"
            )
        return {name: float(found[name]) for name in self.names()}

    @cached_property
    def _module(self) -> Any:
        import evaluate

        try:
            return evaluate.load(self.name, self.config_name, keep_in_memory=True)
        except (OSError, ImportError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"metrics: '{self.name}' cannot be loaded: {reason}") from error
