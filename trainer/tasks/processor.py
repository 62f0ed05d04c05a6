"""Processor: converts the inputs of rows to a model's inputs; a tokenizer is one kind."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from datasets import Dataset

    from trainer.data.batch import Samples
    from trainer.data.read_options import BadRows


@runtime_checkable
class Processor(Protocol):
    """Reads one kind of input: a tokenizer reads text, and other classes read images or audio."""

    def fingerprint(self) -> str:
        """A digest, which is equal for processors that give equal outputs for equal inputs."""
        ...

    def save_pretrained(self, directory: str | Path, /) -> object:
        """Write the processor's files into the model's folder."""
        ...

    def __call__(self, *inputs: Any, **options: Any) -> object:
        """Return the model's inputs: ids or arrays."""
        ...


class Tokenize(Protocol):
    """Converts rows to token ids with the `features` of the run's recipe, or of the recipe `by`."""

    def __call__(self, rows: "Dataset", by: Any = None) -> "Samples": ...


@dataclass(frozen=True)
class SampleContext:
    """Further arguments of `Recipe.samples`."""

    where: str
    """The name of the rows in messages, such as dataset.train."""
    tokenize: "Tokenize"
    """Converts rows to token ids with the `features` of a recipe, using the cache."""
    cache_dir: Path | None = None
    """A folder for results that take long to compute; None to store nothing."""
    progress: bool = False
    """Whether this process shows progress."""
    bad_rows: "BadRows | None" = None
    """The policy for rows that cannot be used; None raises an error for the first one."""
