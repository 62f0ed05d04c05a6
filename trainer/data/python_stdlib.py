"""The Python installation as a corpus: one row per function of its standard library."""

import ast
import sys
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from trainer.data.near_copies import near_copies
from trainer.data.rows import Splits, check_amounts, renamed
from trainer.data.splits import held_out, limited
from trainer.errors import InputError

NOT_LIBRARY = frozenset({"test", "tests", "idle_test", "_vendor", "_bundled"})
"""Folders inside a package that are not the package: its tests, and what others wrote."""


@dataclass(frozen=True)
class PythonStdlib:
    """The functions and methods of the standard library, with the package that each is from.

    Columns: source, docstring, name (as in "Class.method"), module, package. Sources are parsed,
    never imported. A function without code (only documentation, pass or raise) is left out, and
    so is a source that occurred before. A package is a folder of the library; CPython 3.11 has
    7,644 functions in the 16 largest. Python versions differ in their packages.
    """

    packages: int = 16
    """How many packages to take, the ones with the most functions."""
    columns: dict[str, str] = field(default_factory=dict)
    """New names of columns, as found: wanted."""
    max_train_rows: int | None = None
    """At most so many training rows, sampled with the seed; null: all."""
    max_eval_rows: int | None = None
    """At most so many validation rows, sampled with the seed; null: all."""
    validation_fraction: float = 0.15
    """Share of the functions that is held out for validation; near-copies stay on one side."""
    seed: int = 0
    """Which functions are held out, and which a row limit takes."""

    def __post_init__(self) -> None:
        check_amounts(self)
        if self.packages < 2:
            raise InputError(f"dataset.packages: {self.packages}; accepted: 2 or more")

    def load(self) -> Splits:
        """The functions, split into train and validation; the same on every call."""
        from datasets import Dataset

        functions = _of_largest_packages(_functions(), self.packages)
        sources = [function["source"] for function in functions]
        rows = renamed(Dataset.from_list(functions), self.columns, "dataset.columns")
        if not self.validation_fraction:
            return Splits(train=limited(rows, self.max_train_rows, self.seed))
        groups = [sources[first] for first in near_copies(sources)]
        held = held_out(groups, self.validation_fraction, self.seed)
        train, validation = rows.select((~held).nonzero()[0]), rows.select(held.nonzero()[0])
        return Splits(
            train=limited(train, self.max_train_rows, self.seed),
            validation={"": limited(validation, self.max_eval_rows, self.seed)},
            notes=(
                f"{len(validation)} of {len(rows)} functions are held out, near-copies together",
            ),
        )


Function = dict[str, str]


def _of_largest_packages(functions: list[Function], packages: int) -> list[Function]:
    counts = Counter(function["package"] for function in functions)
    largest = sorted(counts, key=lambda package: (-counts[package], package))[:packages]
    return [function for function in functions if function["package"] in largest]


def _functions() -> list[Function]:
    """All functions of the library, each source once, ordered by file and line."""
    library = Path(sysconfig.get_path("stdlib"))
    found: dict[str, Function] = {}
    for package in sorted(sys.stdlib_module_names):
        for path in sorted((library / package).rglob("*.py")):
            if NOT_LIBRARY.isdisjoint(path.relative_to(library).parts):
                for function in _functions_of(path, library):
                    found.setdefault(function["source"], function)
    if not found:
        raise InputError(f"dataset: {library} holds no Python sources; install Python with them")
    return list(found.values())


def _functions_of(path: Path, library: Path) -> Iterator[Function]:
    with tokenize.open(path) as file:
        text = file.read()
    lines = text.split("\n")
    parts = path.relative_to(library).with_suffix("").parts
    for node, name in _definitions(ast.parse(text).body):
        if _has_code(node):
            first = min(part.lineno for part in (node, *node.decorator_list))
            indent = " " * node.col_offset
            source = [line.removeprefix(indent) for line in lines[first - 1 : node.end_lineno]]
            yield {
                "source": "\n".join(source),
                "docstring": ast.get_docstring(node) or "",
                "name": name,
                "module": ".".join(part for part in parts if part != "__init__"),
                "package": parts[0],
            }


Definition = ast.FunctionDef | ast.AsyncFunctionDef


def _definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[Definition, str]]:
    """Functions and methods with their names; those inside functions are part of their source."""
    for node in body:
        if isinstance(node, Definition):
            yield node, prefix + node.name
        elif isinstance(node, ast.ClassDef):
            yield from _definitions(node.body, f"{prefix}{node.name}.")
        else:
            for block in ("body", "orelse", "handlers", "finalbody"):
                yield from _definitions(getattr(node, block, []), prefix)


def _has_code(node: Definition) -> bool:
    """Whether anything but documentation, pass, ... and raise stands in the body."""
    return not all(
        isinstance(statement, ast.Pass | ast.Raise)
        or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        for statement in node.body
    )
