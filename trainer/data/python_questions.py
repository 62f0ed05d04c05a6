"""PythonQuestions: questions about functions of Python's library, answered by their code."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.data.python_stdlib import PythonStdlib
from trainer.data.rows import Splits, check_amounts
from trainer.data.splits import limited
from trainer.option_types import Options

if TYPE_CHECKING:
    from datasets import Dataset

LONGEST = 600
"""The largest number of characters of a function; longer functions are left out."""
LONGEST_ANSWER = 60
"""The largest number of characters of an answer; questions with longer ones are left out."""


@dataclass(frozen=True)
class PythonQuestions(Options, where="dataset"):
    """Questions about the functions of the standard library, whose answers are parts of the code.

    The questions ask what a function returns, raises or loops over, and what the default value of
    an argument is. Columns: context, question, answers {text, answer_start}. A function and its
    near-duplicates are in the same split.
    """

    packages: int = 16
    """The number of packages to use: those with the most functions."""
    no_answer: bool = False
    """Whether to add questions that the function does not answer."""
    max_train_rows: int | None = None
    """The largest number of training rows, sampled with the seed; null: all."""
    max_eval_rows: int | None = None
    """The largest number of validation rows, sampled with the seed; null: all."""
    validation_fraction: float = 0.15
    """Share of the functions to hold out for validation."""
    seed: int = 0
    """Seed for choosing the held-out functions and sampling rows."""

    def __post_init__(self) -> None:
        check_amounts(self)

    def load(self) -> Splits:
        """The questions, split into train and validation; the same on every call."""
        functions = PythonStdlib(
            packages=self.packages, validation_fraction=self.validation_fraction, seed=self.seed
        ).load()
        assert functions.train is not None
        held_out = {
            name: limited(self._rows(rows), self.max_eval_rows, self.seed)
            for name, rows in functions.validation.items()
        }
        train = limited(self._rows(functions.train), self.max_train_rows, self.seed)
        return Splits(train=train, validation=held_out, notes=functions.notes)

    def _rows(self, functions: "Dataset") -> "Dataset":
        from datasets import Dataset

        rows = []
        for source in functions["source"]:
            if len(source) <= LONGEST and source.isascii():
                rows += [row for row in _questions(source) if self._is_kept(row["answers"]["text"])]
        return Dataset.from_list(rows)

    def _is_kept(self, answers: list[str]) -> bool:
        return len(answers[0]) <= LONGEST_ANSWER if answers else self.no_answer


def _questions(source: str) -> Iterator[dict[str, Any]]:
    """The rows of one function, which has only ASCII characters."""
    function = ast.parse(source).body[0]
    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    parts_by_verb = {
        "return": [node.value for node in _nodes(function, ast.Return) if node.value],
        "raise": [node.exc for node in _nodes(function, ast.Raise) if node.exc],
        "loop over": [node.iter for node in _nodes(function, ast.For)],
    }
    for verb, parts in parts_by_verb.items():
        if len(parts) < 2:
            yield _row(source, f"What does {function.name} {verb}?", parts)
    arguments = [*function.args.posonlyargs, *function.args.args]
    values = function.args.defaults
    for argument, value in zip(arguments[len(arguments) - len(values) :], values, strict=True):
        yield _row(source, f"What is the default of {argument.arg}?", [value])


def _nodes(function: ast.AST, kind: type[Any]) -> list[Any]:
    """The nodes of a kind in a function, without those in functions nested within it."""
    found: list[Any] = []
    waiting = list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        if isinstance(node, kind):
            found.append(node)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)
    return found


def _row(source: str, question: str, parts: list[Any]) -> dict[str, Any]:
    """A row whose answer is the code of the only entry of `parts`; no answer if it is empty."""
    lines = source.split("\n")
    starts = [sum(len(line) + 1 for line in lines[: part.lineno - 1]) for part in parts]
    offsets = [start + part.col_offset for start, part in zip(starts, parts, strict=True)]
    texts = [ast.get_source_segment(source, part) or "" for part in parts]
    answers = {"text": texts, "answer_start": offsets}
    return {"context": source, "question": question, "answers": answers}
