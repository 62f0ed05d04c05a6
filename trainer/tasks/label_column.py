"""Label columns: the labels of rows, the meaning of their cells, and the targets of a loss."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from trainer.data import labels as cells
from trainer.data.rows import column_of
from trainer.errors import AnswerError, InputError

if TYPE_CHECKING:
    from datasets import Dataset

PROBLEMS = ("auto", "single_label", "multi_label", "regression")
INT_LABELS = ("auto", "ids", "names", "flags")
SHOWN_INTS = {"ids": "ids", "names": "names", "flags": "a flag for each label"}
"""The values of `int_labels` as shown to users."""


@dataclass(frozen=True)
class LabelColumn:
    """The column of labels, or several columns of 0 and 1, and how to read their cells."""

    label: str | list[str]
    """The column, or a list with a column for each label."""
    problem: str
    """single_label, multi_label or regression; auto if it is not known yet."""
    labels: list[str] | None
    """The label names in the order of their ids.

    None for a regression, or if they are not known yet.
    """
    int_labels: str
    """The meaning of integers: ids, names or flags; auto if it is not known yet."""
    separator: str | None
    """The separator of labels within a cell of text."""

    def check(self) -> None:
        """Raise InputError for settings that are unknown or exclude each other."""
        for name, accepted in (("problem", PROBLEMS), ("int_labels", INT_LABELS)):
            if (found := getattr(self, name)) not in accepted:
                raise InputError(f"recipe.{name}: found '{found}'; accepted: {', '.join(accepted)}")
        if not self.names or len(set(self.names)) < len(self.names):
            raise InputError(
                f"recipe.label: found {self.label}; accepted: one column, or several different ones"
            )
        if isinstance(self.label, str):
            self._check_separator(self.separator)
        else:
            self._check_columns(self.label)
        if self.labels is not None and len(set(self.labels)) < len(self.labels):
            raise InputError("recipe.labels: found a name twice; accepted: different names")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return (self.label,) if isinstance(self.label, str) else tuple(self.label)

    @property
    def rule(self) -> str:
        """A line for the user that says how the cells are read."""
        columns = ", ".join(f"'{name}'" for name in self.names)
        if self.problem == "regression":
            return f"{columns}: a number (regression)"
        if self.labels is not None and self.int_labels == "names" != cells.ints_are(self.labels):
            return f"{columns}: {self.problem}"  # labels are words, not integers
        whole = SHOWN_INTS.get(self.int_labels, "ids or names")
        return f"{columns}: {self.problem}, whole numbers are {whole}"

    def learn(self, rows: "Dataset", *held_out: "Dataset") -> "LabelColumn":
        """A copy with the problem, label names and meaning of integers learned from these rows.

        The label names include those that occur only in held-out rows. Raises InputError if the
        rows have too few labels for a classifier.
        """
        values = self.values(rows)
        if isinstance(self.label, list):
            labels = self.labels or self.label
            return replace(self, problem="multi_label", labels=labels, int_labels="flags")
        found = self
        if self.problem == "auto":
            problem = cells.problem_of(values, self.labels, self.separator)
            found = replace(self, problem=problem)
        if found.problem == "regression":
            return found
        labelled = [more for more in held_out if self.label in more.column_names]
        values += chain.from_iterable(map(self.values, labelled))
        feature = rows.features[self.label]
        found = found._named(values, getattr(getattr(feature, "feature", feature), "names", None))
        found._check_number()
        return found

    def values(self, rows: "Dataset | Mapping[str, Sequence[Any]]") -> list[Any]:
        """The cells of the label column; with several columns, one list per row."""
        columns = [column_of(rows, name, "recipe.label") for name in self.names]
        if isinstance(self.label, str):
            return columns[0]
        return [list(flags) for flags in zip(*columns, strict=True)]

    def targets(self, rows: Mapping[str, Sequence[Any]]) -> list[Any]:
        """The target of each row. Raises AnswerError for a cell that has none."""
        return [self.target(value, row) for row, value in enumerate(self.values(rows))]

    def target(self, value: object, row: int) -> Any:
        """The target of the loss: an id, a number, or a vector of zeros and ones."""
        where = ", ".join(f"'{name}'" for name in self.names)
        if self.problem == "regression":
            if (number := cells.as_number(value)) is None:
                raise AnswerError(row, f"{where} is {value!r}; accepted: a number")
            return number
        assert self.labels is not None
        if self.problem == "single_label":
            return cells.id_of(value, self.labels, self._ints(), row, where)
        several = self._listed(value)
        if several is None:
            accepted = "accepted: a list of labels (recipe.label_separator splits texts)"
            raise AnswerError(row, f"{where} is {value!r:.60}; {accepted}")
        if self.int_labels == "flags":
            return cells.flags_of(several, self.labels, row, where)
        if self.int_labels == "auto" and len(several) == len(self.labels):
            self._refuse_doubtful(several, row)
        chosen = {cells.id_of(item, self.labels, self._ints(), row, where) for item in several}
        return [float(i in chosen) for i in range(len(self.labels))]

    def counts(self, values: Iterable[Any]) -> list[int]:
        """The number of cells with each label. Cells without a target are skipped."""
        counts = [0] * len(self.labels or ())
        for value in values:
            try:
                target = self.target(value, 0)
            except AnswerError:
                continue
            if self.problem == "single_label":
                counts[target] += 1
            else:
                counts = [count + int(flag) for count, flag in zip(counts, target, strict=True)]
        return counts

    def _named(self, values: list[Any], names: list[str] | None) -> "LabelColumn":
        """A copy with label names and the meaning of integers.

        `names` are the class names that the data set declares, if it declares any.
        """
        ints, labels, flat = self.int_labels, self.labels, values
        if self.problem == "multi_label":
            lists = [found for value in values if (found := self._listed(value)) is not None]
            flat = list(chain.from_iterable(lists))
            if ints == "auto" and cells.are_flags(lists):
                ints = "flags"
            if ints == "flags" and labels is None and not names:
                labels = [str(number) for number in range(max(map(len, lists), default=0))]
        if labels is None:
            labels = list(names) if names else cells.names_of(flat, "recipe.label")
            learnt_ints = "ids" if names else "names"
        else:
            learnt_ints = cells.ints_are(labels)
        return replace(self, labels=labels, int_labels=learnt_ints if ints == "auto" else ints)

    def _listed(self, value: object) -> list[Any] | None:
        """The labels in a cell; with a separator, empty text has none."""
        if value == "" and self.separator is not None:
            return []
        return cells.as_list(value, self.separator)

    def _ints(self) -> str:
        """The meaning of integers; inferred from the label names if no rows have been read."""
        return cells.ints_are(self.labels or ()) if self.int_labels == "auto" else self.int_labels

    def _refuse_doubtful(self, several: list[Any], row: int) -> None:
        if cells.are_flags([several]):
            accepted = "accepted: recipe.int_labels=flags, or ids"
            raise AnswerError(row, f"'{self.label}' is {several}: flags or ids? {accepted}")

    def _check_number(self) -> None:
        labels = self.labels or []
        least = 2 if self.problem == "single_label" else 1
        if len(labels) < least:
            found = f"only one label, {labels[0]}" if labels else "no label in any row"
            accepted = "two or more" if least == 2 else "one or more"
            raise InputError(f"recipe.label: '{self.label}' holds {found}; accepted: {accepted}")

    def _check_separator(self, separator: str | None) -> None:
        if separator == "":
            raise InputError("recipe.label_separator: found ''; accepted: a character or more")
        if separator is not None and self.problem not in ("auto", "multi_label"):
            found = f"found '{separator}' with recipe.problem={self.problem}"
            raise InputError(
                f"recipe.label_separator: {found}; accepted: null, or recipe.problem=multi_label"
            )

    def _check_columns(self, columns: list[str]) -> None:
        if self.problem not in ("auto", "multi_label") or self.separator is not None:
            accepted = "accepted: recipe.problem=multi_label, and no recipe.label_separator"
            raise InputError(f"recipe.label: found several columns, one for each label; {accepted}")
        if self.labels is not None and len(self.labels) != len(columns):
            found = f"{len(self.labels)} names for {len(columns)} columns of recipe.label"
            raise InputError(f"recipe.labels: found {found}; accepted: one for each")
