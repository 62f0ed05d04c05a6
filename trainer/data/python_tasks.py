"""PythonTasks: rows of two tasks about the functions of Python's standard library."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.data.python_names import PythonNames
from trainer.data.python_stdlib import PythonStdlib
from trainer.data.rows import Splits, check_amounts
from trainer.option_types import Options

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class PythonTasks(Options, where="dataset"):
    """Two tasks: to classify functions by their package, and to tag the names in functions.

    Columns: task; source and package if the task is package; tokens and tags if the task is names.
    The columns of the other task are null. Functions, names and splits are those of `PythonStdlib`
    and `PythonNames`, so a function that is held out in one task is held out in the other, too.
    """

    packages: int = 16
    """The number of packages to use: those with the most functions."""
    max_words: int = 48
    """The number of words, from the start of each function, in which names are tagged."""
    max_train_rows: int | None = 1200
    """The largest number of training rows of each task, sampled with the seed; null: all."""
    max_eval_rows: int | None = 300
    """The largest number of validation rows of each task, sampled with the seed; null: all."""
    validation_fraction: float = 0.15
    """Share of the functions to hold out for validation; near-duplicates stay together."""
    seed: int = 0
    """Seed for choosing the held-out functions and sampling rows."""

    def __post_init__(self) -> None:
        check_amounts(self)

    def load(self) -> Splits:
        """The rows of both tasks, one after the other; the same on every call."""
        amounts = (self.max_train_rows, self.max_eval_rows, self.validation_fraction, self.seed)
        names = ("max_train_rows", "max_eval_rows", "validation_fraction", "seed")
        options = dict(zip(names, amounts, strict=True))
        packages = PythonStdlib(packages=self.packages, **options).load()  # type: ignore[arg-type]
        tags = PythonNames(max_words=self.max_words, **options).load()  # type: ignore[arg-type]
        assert packages.train is not None and tags.train is not None
        return Splits(
            train=_both(packages.train, tags.train),
            validation={
                name: _both(rows, tags.validation[name])
                for name, rows in packages.validation.items()
            },
            notes=packages.notes,
        )


def _both(packages: "Dataset", names: "Dataset") -> "Dataset":
    """The rows of both tasks. A column of one task is null in the rows of the other."""
    from datasets import Dataset

    rows_of_task = {"package": packages, "names": names}
    columns = {"source": "package", "package": "package", "tokens": "names", "tags": "names"}
    tasks = [task for task, rows in rows_of_task.items() for _ in rows]
    cells = {
        name: [
            cell
            for task, rows in rows_of_task.items()
            for cell in (rows[name] if task == owner else [None] * len(rows))
        ]
        for name, owner in columns.items()
    }
    return Dataset.from_dict({"task": tasks, **cells})
