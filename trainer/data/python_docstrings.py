"""PythonDocstrings: a multiple-choice data set that asks which docstring belongs to a function."""

import ast
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.data.python_stdlib import PythonStdlib
from trainer.data.rows import Splits, check_amounts
from trainer.data.splits import limited
from trainer.option_types import Options

if TYPE_CHECKING:
    from datasets import Dataset

NUM_CHOICES = (3, 5)
"""The minimum and maximum number of choices per row."""
MAX_CHARACTERS = 200
"""The number of characters to which code and docstrings are cut."""


@dataclass(frozen=True)
class PythonDocstrings(Options, where="dataset"):
    """Functions of the standard library that have a docstring, and 3 to 5 docstrings for each.

    Columns: text (the function's code without its docstring and name), choices (first lines of
    docstrings, one of them the function's), label (the index of the correct choice). The splits are
    those of `PythonStdlib`, and the wrong choices are from functions of the same split.
    """

    max_train_rows: int | None = 800
    """The largest number of training rows, sampled with the seed; null: all."""
    max_eval_rows: int | None = 200
    """The largest number of validation rows, sampled with the seed; null: all."""
    validation_fraction: float = 0.15
    """Share of the functions to hold out for validation; near-duplicates stay together."""
    seed: int = 0
    """Seed for splitting, for sampling rows, and for the choices and their order."""

    def __post_init__(self) -> None:
        check_amounts(self)

    def load(self) -> Splits:
        """The rows, split into train and validation; the same on every call."""
        found = PythonStdlib(validation_fraction=self.validation_fraction, seed=self.seed).load()
        assert found.train is not None
        validation = {
            name: limited(self._rows(rows), self.max_eval_rows, self.seed)
            for name, rows in found.validation.items()
        }
        train = limited(self._rows(found.train), self.max_train_rows, self.seed)
        return Splits(train=train, validation=validation)

    def _rows(self, functions: "Dataset") -> "Dataset":
        from datasets import Dataset

        pairs = zip(functions["source"], functions["docstring"], strict=True)
        known = [(body_of(source), first_line(text)) for source, text in pairs if text]
        known = [(body, line) for body, line in known if body and line]
        lines = sorted({line for _, line in known})
        generator = random.Random(self.seed)
        return Dataset.from_list([_row(body, line, lines, generator) for body, line in known])


def _row(body: str, line: str, lines: list[str], generator: random.Random) -> dict[str, Any]:
    number = generator.randint(*NUM_CHOICES)
    others = [other for other in generator.sample(lines, number) if other != line][: number - 1]
    label = generator.randrange(len(others) + 1)
    choices = [*others[:label], line, *others[label:]]
    return {"text": body, "choices": choices, "label": label}


def first_line(docstring: str) -> str:
    """The first line of a docstring that is not empty."""
    lines = [line.strip() for line in docstring.splitlines() if line.strip()]
    return lines[0][:MAX_CHARACTERS] if lines else ""


def body_of(source: str) -> str:
    """A function's arguments and code, without its name, docstring and comments."""
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    if ast.get_docstring(function) is not None:
        function.body = function.body[1:]
    code = " ".join(ast.unparse(statement) for statement in function.body)
    return " ".join(f"({ast.unparse(function.args)}) {code}".split())[:MAX_CHARACTERS]
