"""Labels: the one rule for what a label column may be, and what its cells mean.

- A missing label is null, NaN or an empty cell; among numbers also NA, N/A, NaN, null and None. A
  row without a label cannot be trained on: it is never a class of its own.
- Numbers with fractions, most of the column: regression. Whole numbers and words: classes. A word
  beside numbers, or a number beside words, is a class like the others; beside numbers with
  fractions it is a bad row. 0.0 and 1.0 alone are the classes 0 and 1.
- Lists, as JSON or Python write them: several labels (multi_label). So are texts with a separator
  that is named, and several columns of 0 and 1.
- Lists of 0 and 1, all as long as there are labels: one flag for each label.
- A whole number is the name of a label where one of the given names is a whole number, else its id.
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
from trainer.foreign_numbers import is_number

MARKS = frozenset(
    {"NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "none", "#N/A", "<NA>"}
)
"""Texts that stand for a missing number."""
SEPARATORS = "|;,"
"""What is looked for in texts that look like several labels."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WHOLE = re.compile(r"-?(0|[1-9]\d*)")


def problem_of(values: Iterable[Any], labels: Sequence[str] | None, separator: str | None) -> str:
    """single_label, multi_label or regression: what a label column holds."""
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
    """The distinct labels in order, as names: numbers by their size, texts by their letters.

    Raises InputError for what can be no name, and for texts that look like several labels.
    """
    spelled: dict[str, Any] = {}
    for value in values:
        if not is_missing(value):
            spelled[name_of(value, where)] = value
    numeric = all(as_number(v) is not None for name, v in spelled.items() if name not in MARKS)
    names = {name for name in spelled if not (numeric and name in MARKS)}
    _refuse_joined(names, where)
    return sorted(
        names, key=lambda name: (0, int(name), "") if _WHOLE.fullmatch(name) else (1, 0, name)
    )


def name_of(value: Any, where: str) -> str:
    """A label's name: true and false as JSON writes them, 1 for 1.0."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if not isinstance(value, (str, int)):
        raise InputError(f"{where}: found {value!r:.60}; accepted: names, or whole numbers")
    return str(value)


def ints_are(labels: Sequence[str]) -> str:
    """names or ids: what whole numbers are beside labels of these names."""
    return "names" if any(_WHOLE.fullmatch(name) for name in labels) else "ids"


def are_flags(lists: Sequence[Any]) -> bool:
    """Whether lists are vectors of 0 and 1 of one length, one flag for each label."""
    widths = {len(entries) for entries in lists}
    flags = all(type(e) in (int, bool, float) and e in (0, 1) for e in chain.from_iterable(lists))
    return flags and len(widths) == 1 and widths.pop() > 1


def is_missing(value: Any) -> bool:
    """Whether a cell holds no label at all."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def as_number(value: Any) -> float | None:
    """A finite number, also one that is written as text."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    return float(value) if is_number(value) else None


def as_list(value: Any, separator: str | None = None) -> list[Any] | None:
    """The labels of a cell that holds several; None where it does not."""
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


def id_of(value: Any, labels: Sequence[str], ints: str, row: int, where: str) -> int:
    """The id of a label, given by its name or, where `ints` are ids, by the id itself.

    Raises AnswerError for any other value, and where the label is missing.
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
    withheld = (
        " (-1 says that the label is withheld: job=predict needs none)" if whole == -1 else ""
    )
    raise AnswerError(row, f"{where} is {value!r}{withheld}; accepted: {accepted}")


def flags_of(values: Sequence[Any], labels: Sequence[str], row: int, where: str) -> list[float]:
    """One flag for each label. Raises AnswerError for other numbers, or for another length."""
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
    """Refuse texts such as a|b and b|c, which are several labels each."""
    for separator in SEPARATORS:
        parts = {name: [part.strip() for part in name.split(separator)] for name in names}
        joined = [name for name, found in parts.items() if len(found) > 1 and all(found)]
        uses = Counter(chain.from_iterable(set(found) for found in parts.values()))
        shared = [part for name in joined for part in parts[name]]
        again = [part for part in shared if uses[part] > 1]
        if joined and (len(again) == len(shared) or (separator != "," and again)):
            raise InputError(
                f"{where}: '{min(joined)}' looks like several labels; accepted: "
                f"recipe.label_separator='{separator}', or recipe.problem=single_label if it is one"
            )
