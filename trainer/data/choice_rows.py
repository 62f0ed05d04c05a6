"""Choice rows: reads the choices of each row and the correct one, from lists or columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.data.rows import column_of
from trainer.errors import AnswerError, RowError
from trainer.foreign.numbers import decimal

MIN_CHOICES = 2
"""The smallest number of choices of a row."""


@dataclass(frozen=True)
class ChoiceRows:
    """The columns that hold the choices and the correct choice."""

    column: str | list[str]
    """A column of lists, or a column for each choice"""
    label: str
    """The column of the correct choice"""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that hold choices."""
        return (self.column,) if isinstance(self.column, str) else tuple(self.column)

    def choices(self, rows: Mapping[str, Sequence[Any]]) -> list[list[str]]:
        """The choices of all rows. Raises RowError."""
        cells = [column_of(rows, name, "recipe.choices") for name in self.columns]
        return [
            self.choices_of(dict(zip(self.columns, row, strict=True)), number)
            for number, row in enumerate(zip(*cells, strict=True))
        ]

    def choices_of(self, row: Mapping[str, Any], number: int) -> list[str]:
        """The choices of one row: two or more texts. Columns after the last choice may be null.

        Raises RowError.
        """
        where = ", ".join(f"'{name}'" for name in self.columns)
        if isinstance(self.column, str):
            cell = row[self.column]
            found = cell.get("text") if isinstance(cell, Mapping) else cell
            if not isinstance(found, Sequence) or isinstance(found, str):
                raise RowError(number, f"{where} is {cell!r:.60}; accepted: a list of texts")
            found = list(found)
        else:
            found = [row[name] for name in self.column]
            while found and found[-1] is None:
                found.pop()
        for index, choice in enumerate(found):
            if not isinstance(choice, str):
                kind = type(choice).__name__
                raise RowError(
                    number,
                    f"{where}: choice {index} is {choice!r:.60} ({kind}); accepted: texts only",
                )
        if len(found) < MIN_CHOICES:
            raise RowError(
                number, f"{where} has {len(found)}; accepted: {MIN_CHOICES} choices or more"
            )
        if len(set(found)) < len(found):
            twice = next(choice for choice in found if found.count(choice) > 1)
            raise RowError(
                number, f"{where}: {twice!r:.60} occurs twice; accepted: distinct choices"
            )
        return found

    def labels(self, rows: Mapping[str, Sequence[Any]]) -> list[int]:
        """The index of each row's correct choice, from 0. Raises AnswerError."""
        answers = column_of(rows, self.label, "recipe.label")
        found = []
        for number, (choices, answer) in enumerate(zip(self.choices(rows), answers, strict=True)):
            names: list[Any] = []
            if isinstance(self.column, str) and isinstance(rows[self.column][number], Mapping):
                names = list(rows[self.column][number].get("label") or ())
            if names and len(names) != len(choices):
                where = f"'{self.column}' has {len(choices)} texts and {len(names)} labels"
                raise AnswerError(number, f"{where}; accepted: a label for each text, or none")
            found.append(self._number(answer, choices, names, number))
        return found

    def _number(self, answer: Any, choices: list[str], names: list[Any], row: int) -> int:
        if names and answer in names:
            return names.index(answer)
        if isinstance(answer, str) and answer in choices:
            return choices.index(answer)
        if isinstance(answer, str) and (index := decimal(answer)) is not None:
            answer = index
        elif isinstance(answer, str) and len(answer) == 1 and answer.isascii() and answer.isalpha():
            answer = ord(answer.upper()) - ord("A")
        is_number = isinstance(answer, int | float) and not isinstance(answer, bool)
        if is_number and 0 <= answer < len(choices) and answer == int(answer):
            return int(answer)
        accepted = f"0 to {len(choices) - 1}, a letter from A on, or the text of a choice"
        raise AnswerError(row, f"'{self.label}' is {answer!r:.60}; accepted: {accepted}")
