"""Labels: determines the kind of problem of a label column, and the meaning of its cells.

- A label is missing if it is null, NaN or an empty cell; in a column of numbers also NA, N/A, NaN,
  null and None. A row with a missing label is invalid; a missing label is never a class.
- If most cells are numbers, and some are fractions, the column is a regression problem, and a row
  with other text is invalid.
- Integers and texts are classes, even when mixed. A column of only 0.0 and 1.0 has classes 0 and 1.
- Lists in JSON or Python notation are multi_label. Texts are multi_label if a separator is set.
  Several columns of 0 and 1 are multi_label, too.
- Lists of 0 and 1 that are as long as the list of labels hold one flag per label.
- An integer is the name of a label if one of the label names is an integer, else a label id.
"""

import ast
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from trainer.errors import AnswerError, InputError, nearest
from trainer.foreign.numbers import is_number

MISSING = frozenset(
    {"NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "none", "#N/A", "<NA>"}
)
"""Texts that mean a missing number."""
SEPARATORS = "|;,"
"""Characters that may separate the labels in a text."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WHOLE = re.compile(r"-?(0|[1-9]\d*)")


def problem_of(values: Iterable[Any], labels: Sequence[str] | None, separator: str | None) -> str:
    """The kind of problem of a label column: single_label, multi_label or regression."""
    known = [value for value in values if not is_missing(value)]
    if separator is not None or (known and all(as_list(value) is not None for value in known)):
        return "multi_label"
    if labels is not None:
        return "single_label"
    numbers = [number for value in known if (number := as_number(value)) is not None]
    fractions = any(not number.is_integer() for number in numbers)
    floats = any(isinstance(value, float) for value in known) and not set(numbers) <= {0.0, 1.0}
    enough = 2 * len(numbers) > len(known)
    return "regression" if enough and (fractions or floats) else "single_label"


def names_of(values: Iterable[Any], where: str) -> list[str]:
    """The distinct label names: integers first, in numeric order, then texts in alphabetic order.

    Raises InputError for a value that cannot be a name, and for texts that hold several labels.
    """
    spelled: dict[str, Any] = {}
    for value in values:
        if not is_missing(value):
            spelled[name_of(value, where)] = value
    numeric = all(as_number(v) is not None for name, v in spelled.items() if name not in MISSING)
    names = {name for name in spelled if not (numeric and name in MISSING)}
    _refuse_joined(names, where)
    return sorted(
        names, key=lambda name: (0, int(name), "") if _WHOLE.fullmatch(name) else (1, 0, name)
    )


def name_of(value: object, where: str) -> str:
    """The name of a label: "true" or "false" for booleans, "1" for 1.0."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if not isinstance(value, (str, int)):
        raise InputError(f"{where}: found {value!r:.60}; accepted: texts, or integers")
    return str(value)


def ints_are(labels: Sequence[str]) -> str:
    """Whether integers in the label column are "names" or "ids", given the label names."""
    return "names" if any(_WHOLE.fullmatch(name) for name in labels) else "ids"


def are_flags(lists: Sequence[Any]) -> bool:
    """Whether all lists are vectors of 0 and 1 of the same length."""
    widths = {len(entries) for entries in lists}
    flags = all(type(e) in (int, bool, float) and e in (0, 1) for e in chain.from_iterable(lists))
    return flags and len(widths) == 1 and widths.pop() > 1


def is_missing(value: object) -> bool:
    """Whether a cell holds no label."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def as_number(value: Any) -> float | None:
    """The value as a finite number, even if it is written as text; None if it is not a number."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    return float(value) if is_number(value) else None


def as_list(value: object, separator: str | None = None) -> list[Any] | None:
    """The labels of a cell that holds a list; None for any other cell."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if not isinstance(value, str):
        return None
    if separator is not None:
        return [part for text in value.split(separator) if (part := text.strip())]
    if value[:1] + value[-1:] != "[]":
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return found if isinstance(found, list) else None
    return None


def ids_of(values: Sequence[Any], labels: Sequence[str], where: str) -> list[int]:
    """The id of each row's label. A cell holds a name, or an id if no label name is an integer."""
    ints = ints_are(labels)
    return [id_of(value, labels, ints, row, where) for row, value in enumerate(values)]


def id_of(value: object, labels: Sequence[str], ints: str, row: int, where: str) -> int:
    """The id of a label that is given by its name or, if `ints` is "ids", by its id.

    Raises AnswerError for any other value, and for a missing label.
    """
    if is_missing(value):
        raise AnswerError(row, f"{where} is missing; every row needs one")
    number = as_number(value)
    whole = int(number) if number is not None and number.is_integer() else None
    spellings = [str(value)]
    if str(value).lower() in ("true", "false"):
        spellings += [str(value).lower(), str(value).capitalize()]
        whole = int(value) if isinstance(value, bool) else None
    elif whole is not None and not isinstance(value, str):
        spellings.insert(0, str(whole))
    if ints != "ids" or isinstance(value, (str, bool)):
        for name in spellings:
            if name in labels:
                return labels.index(name)
    if ints == "ids" and whole is not None:
        if 0 <= whole < len(labels):
            return whole
        accepted = f"0 to {len(labels) - 1}"
    else:
        accepted = ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
        accepted += nearest(str(value), labels)
    withheld = " (-1 marks a withheld label; job=predict needs no labels)" if whole == -1 else ""
    raise AnswerError(row, f"{where} is {value!r}{withheld}; accepted: {accepted}")


def flags_of(values: Sequence[Any], labels: Sequence[str], row: int, where: str) -> list[float]:
    """One flag per label. Raises AnswerError for numbers other than 0 and 1, or a wrong length."""
    if len(values) != len(labels):
        found = f"a list of {len(values)}"
        raise AnswerError(
            row, f"{where} is {found}; accepted: one flag for each of {len(labels)} labels"
        )
    flags = [as_number(int(v) if isinstance(v, bool) else v) for v in values]
    if not set(flags) <= {0.0, 1.0}:
        odd = next(v for v, flag in zip(values, flags, strict=True) if flag not in (0.0, 1.0))
        raise AnswerError(row, f"{where} is {odd!r}; accepted: 0 or 1 for each label")
    return [float(flag or 0.0) for flag in flags]


def _refuse_joined(names: set[str], where: str) -> None:
    """Raise InputError for texts such as a|b and b|c, which hold several labels each."""
    for separator in SEPARATORS:
        parts = {name: [part.strip() for part in name.split(separator)] for name in names}
        joined = [name for name, found in parts.items() if len(found) > 1 and all(found)]
        uses = Counter(chain.from_iterable(set(found) for found in parts.values()))
        shared = [part for name in joined for part in parts[name]]
        repeated = [part for part in shared if uses[part] > 1]
        if joined and (len(repeated) == len(shared) or (separator != "," and repeated)):
            raise InputError(
                f"{where}: '{min(joined)}' looks like several labels; accepted: "
                f"recipe.label_separator='{separator}', or recipe.problem=single_label"
            )
