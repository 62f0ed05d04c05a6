"""PythonDocs: pairs of a docstring and the code that it describes, from the standard library."""

import ast
from dataclasses import dataclass
from typing import Any

from trainer.data.function_splits import FunctionSplits
from trainer.data.python_stdlib import functions
from trainer.data.rows import Splits
from trainer.errors import InputError

SHORTEST = 20
"""The minimum length of a docstring's first line; functions with shorter ones are left out."""


@dataclass(frozen=True)
class PythonDocs(FunctionSplits):
    """The documented functions of the standard library.

    Columns: summary (the first line of the docstring), code (the source without the docstring),
    name and module. Sources are parsed, never imported. No summary and no code occurs twice.
    """

    negatives: int = 0
    """The number of other functions whose code is in the column `negatives`; 0: no such column."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.negatives < 0:
            raise InputError(f"dataset.negatives: found {self.negatives}; accepted: 0 or more")

    def load(self) -> Splits:
        """The pairs, split into train and validation; the same on every call."""
        pairs: list[dict[str, Any]] = [dict(pair) for pair in _pairs()]
        codes = [pair["code"] for pair in pairs]
        if self.negatives:
            pairs = [
                {**pair, "negatives": self._following(codes, n)} for n, pair in enumerate(pairs)
            ]
        return self.splits(pairs, codes, "documented functions are held out")

    def _following(self, codes: list[str], number: int) -> list[str]:
        """The code of each function that follows function `number`, mostly from the same module."""
        return [codes[(number + step) % len(codes)] for step in range(1, self.negatives + 1)]


def _pairs() -> list[dict[str, str]]:
    found, summaries, codes = [], set(), set()
    for function in functions():
        summary = function["docstring"].split("\n", 1)[0].strip()
        if len(summary) < SHORTEST or summary in summaries:
            continue
        code = _without_docstring(function["source"])
        if code not in codes:
            summaries.add(summary)
            codes.add(code)
            kept = {name: function[name] for name in ("name", "module")}
            found.append({"summary": summary, "code": code, **kept})
    return found


def _without_docstring(source: str) -> str:
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    function.body = function.body[1:]
    return ast.unparse(function)
