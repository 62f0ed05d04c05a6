"""PythonNames: a data set for named entity recognition, whose entities are names in Python code."""

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.data.python_stdlib import PythonStdlib
from trainer.data.rows import Splits, check_amounts
from trainer.data.splits import limited
from trainer.data.tag_schemes import Span, tags_of
from trainer.errors import InputError
from trainer.option_types import Options

if TYPE_CHECKING:
    from datasets import Dataset

LEFT_OUT = (
    tokenize.NEWLINE,
    tokenize.NL,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.COMMENT,
    tokenize.ENDMARKER,
)
MAX_CHARACTERS = 40
"""The number of characters to which long words (such as string literals) are cut."""
Place = tuple[int, int]
"""(line number from 1, index of a character in the line from 0)."""


@dataclass(frozen=True)
class PythonNames(Options, where="dataset"):
    """The words (tokens) of functions of the standard library; names are tagged in BIO format.

    Columns: tokens, tags. Types: function (its name), argument (of its signature), call (a dotted
    name that is called, such as os . path . join), exception (raised or caught) and attribute (a
    dotted name that is assigned to). Functions and splits are those of `PythonStdlib`.
    """

    max_words: int = 48
    """The number of words to keep from the start of each function."""
    max_train_rows: int | None = 1200
    """The largest number of training rows, sampled with the seed; null: all."""
    max_eval_rows: int | None = 300
    """The largest number of validation rows, sampled with the seed; null: all."""
    validation_fraction: float = 0.15
    """Share of the functions to hold out for validation; near-duplicates stay together."""
    seed: int = 0
    """Seed for choosing the held-out functions and sampling rows."""

    def __post_init__(self) -> None:
        check_amounts(self)
        if self.max_words < 1:
            raise InputError(f"dataset.max_words: {self.max_words}; accepted: 1 or more")

    def load(self) -> Splits:
        """The functions, split into train and validation; the same on every call."""
        functions = PythonStdlib(
            validation_fraction=self.validation_fraction, seed=self.seed
        ).load()
        assert functions.train is not None
        held = functions.validation.items()
        return Splits(
            train=self._rows(limited(functions.train, self.max_train_rows, self.seed)),
            validation={
                name: self._rows(limited(rows, self.max_eval_rows, self.seed))
                for name, rows in held
            },
        )

    def _rows(self, functions: "Dataset") -> "Dataset":
        from datasets import Dataset

        rows = [tagged(source, self.max_words) for source in functions["source"]]
        tokens, tags = zip(*rows, strict=True)
        return Dataset.from_dict({"tokens": list(tokens), "tags": list(tags)})


def tagged(source: str, max_words: int) -> tuple[list[str], list[str]]:
    """A function's words and their tags."""
    found = [
        token
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in LEFT_OUT
    ][:max_words]
    starts = {token.start: number for number, token in enumerate(found)}
    ends = {token.end: number + 1 for number, token in enumerate(found)}
    lines = source.splitlines()
    spans: dict[int, Span] = {}
    for start, end, kind in _names(ast.parse(source)):
        first = starts.get(_characters(lines, start))
        last = ends.get(_characters(lines, end))
        if first is not None and last is not None:
            spans.setdefault(first, (first, last, kind))
    spans_kept = _without_overlaps(sorted(spans.values()))
    return [token.string[:MAX_CHARACTERS] for token in found], tags_of(
        spans_kept, len(found), "BIO"
    )


def _without_overlaps(spans: list[Span]) -> Iterator[Span]:
    """Yield each span that does not overlap a span before it."""
    free = 0
    for span in spans:
        if span[0] >= free:
            free = span[1]
            yield span


def _characters(lines: list[str], place: Place) -> Place:
    """Convert a position from `ast`, whose columns are bytes of UTF-8, to characters."""
    line, column = place
    return line, len(lines[line - 1].encode()[:column].decode())


def _names(tree: ast.AST) -> Iterator[tuple[Place, Place, str]]:
    """Yield where each name begins and ends in the source, and its type."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                column = node.col_offset + len("def ")
                column += len("async ") * isinstance(node, ast.AsyncFunctionDef)
                length = len(node.name.encode())
                yield (node.lineno, column), (node.lineno, column + length), "function"
            case ast.arg():
                length = len(node.arg.encode())
                start = (node.lineno, node.col_offset)
                yield start, (node.lineno, node.col_offset + length), "argument"
            case ast.Raise(exc=ast.Call(func=name)) | ast.Raise(exc=ast.Name() as name):
                yield from _dotted(name, "exception")
            case ast.ExceptHandler(type=ast.expr() as name):
                yield from _dotted(name, "exception")
            case ast.Call(func=name):
                yield from _dotted(name, "call")
            case ast.Assign(targets=[ast.Attribute() as name]):
                yield from _dotted(name, "attribute")


def _dotted(node: ast.expr, kind: str) -> Iterator[tuple[Place, Place, str]]:
    """Yield the position of a name or a dotted name; nothing for any other expression."""
    inner = node
    while isinstance(inner, ast.Attribute):
        inner = inner.value
    if isinstance(inner, ast.Name) and node.end_lineno == node.lineno:
        assert node.end_col_offset is not None
        start = (node.lineno, node.col_offset)
        yield start, (node.lineno, node.end_col_offset), kind
