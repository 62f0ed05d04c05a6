"""PythonStdlib: a data set of the functions in Python's standard library."""

import ast
import sys
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.data.function_splits import FunctionSplits
from trainer.data.rows import Splits
from trainer.errors import InputError

NOT_LIBRARY = frozenset({"test", "tests", "idle_test", "_vendor", "_bundled"})
"""The names of folders that are left out: tests, and vendored code."""


@dataclass(frozen=True)
class PythonStdlib(FunctionSplits):
    """The functions and methods of the standard library, each with its package.

    Columns: source, docstring, name (such as "Class.method"), module, package. Sources are parsed,
    never imported. Left out are functions without code (only a docstring, pass or raise) and
    functions with the same source as another. A package is a top-level folder of the library. In
    CPython 3.11 the 16 largest packages have 7,644 functions; other versions differ.
    """

    packages: int = 16
    """The number of packages to use: those with the most functions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.packages < 2:
            raise InputError(f"dataset.packages: {self.packages}; accepted: 2 or more")

    def load(self) -> Splits:
        """The functions, split into train and validation; the same on every call."""
        largest = _of_largest_packages(functions(), self.packages)
        sources = [function["source"] for function in largest]
        note = "functions are held out, with near-duplicates kept together"
        return self.splits(largest, sources, note)


Function = dict[str, str]


def _of_largest_packages(functions: list[Function], packages: int) -> list[Function]:
    counts = Counter(function["package"] for function in functions)
    largest = sorted(counts, key=lambda package: (-counts[package], package))[:packages]
    return [function for function in functions if function["package"] in largest]


def functions() -> list[Function]:
    """All functions in the library's packages, by file and line, without repeated sources.

    Modules outside of packages, such as argparse.py, are not read.
    """
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
    """Yield functions and methods with their names, without functions nested in functions."""
    for node in body:
        if isinstance(node, Definition):
            yield node, prefix + node.name
        elif isinstance(node, ast.ClassDef):
            yield from _definitions(node.body, f"{prefix}{node.name}.")
        else:
            for block in ("body", "orelse", "handlers", "finalbody"):
                yield from _definitions(getattr(node, block, []), prefix)


def _has_code(node: Definition) -> bool:
    """Whether the body holds more than a docstring, `pass`, `...` or `raise`."""
    return not all(
        isinstance(statement, ast.Pass | ast.Raise)
        or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        for statement in node.body
    )
