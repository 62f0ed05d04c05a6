"""HubMetric: a metric from the Hugging Face Hub, whose code is downloaded and run."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.errors import InputError
from trainer.metrics.functions import numbers_of
from trainer.metrics.metric import Metric

if TYPE_CHECKING:
    from trainer.tasks.comparison import Compared


@dataclass(frozen=True)
class HubMetric(Metric):
    """A metric that `evaluate.load` fetches and runs; refused without `trust_remote_code`."""

    name: str
    """The metric's name on the hub, such as "rouge", or the folder of its script."""
    greater_is_better: bool
    """Whether a greater result is better."""
    results: list[str] = field(default_factory=list)
    """The results to keep; empty to keep the result with the metric's name."""
    config_name: str | None = None
    """The metric's configuration, such as "mrpc" for "glue"."""
    trust_remote_code: bool = False
    """Whether the hub's code may run on this machine."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the metric's `compute`."""

    kinds: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not self.trust_remote_code:
            raise InputError(
                f"metrics: '{self.name}' of the hub runs code that it downloads; "
                f"accepted: trust_remote_code: true on this metric, if you trust its author"
            )

    def names(self) -> tuple[str, ...]:
        return tuple(self.results) or (self.name.rstrip("/").rsplit("/", 1)[-1],)

    def prepare(self) -> None:
        """Load the code; raises InputError if it cannot be loaded."""
        _ = self._module

    def compute(self, predictions: "Compared", references: "Compared") -> dict[str, float]:
        """The kept results; raises InputError if the metric does not return one of them."""
        found = self._module.compute(
            predictions=predictions, references=references, **self.arguments
        )
        missing = [name for name in self.names() if name not in found]
        if missing:
            raise InputError(
                f"metrics: '{self.name}' gives no '{missing[0]}'; "
                f"accepted in results: {', '.join(found)}"
            )
        kept = {name: found[name] for name in self.names()}
        numbers = numbers_of(kept, f"metrics: '{self.name}'")
        return dict(zip(kept, numbers.values(), strict=True))

    @cached_property
    def _module(self) -> Any:
        import evaluate

        try:
            return evaluate.load(self.name, self.config_name, keep_in_memory=True)
        except (OSError, ImportError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"metrics: '{self.name}' cannot be loaded: {reason}") from error
