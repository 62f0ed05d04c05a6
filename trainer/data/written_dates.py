"""WrittenDates: a synthetic data set of dates in everyday notations and in the ISO format."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta

from trainer.data.renamed_columns import renamed
from trainer.data.rows import Splits
from trainer.errors import InputError
from trainer.option_types import Options

FIRST, DAYS = date(1950, 1, 1), 100 * 365
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
FORMS = (
    "{day} {month} {year}",
    "{month} {day}, {year}",
    "{weekday}, {day} {month} {year}",
    "{short} {day} {year}",
    "{day:02d}.{number:02d}.{year}",
    "{number}/{day}/{year}",
    "the {ordinal} of {month}, {year}",
)
"""Templates for writing a date; in the template with slashes the month comes first."""


@dataclass(frozen=True)
class WrittenDates(Options, where="dataset"):
    """Dates from 1950 to 2049, written in seven ways, each with its ISO form.

    Columns: source ("the 3rd of May, 1987") and target ("1987-05-03"). No day is in both splits.
    """

    rows: int = 8000
    """The number of training rows; there are a tenth as many for evaluation, at most 400."""
    columns: dict[str, str] = field(default_factory=dict)
    """Columns to rename, as {old name: new name}."""
    seed: int = 0
    """Seed for choosing days and forms."""

    def __post_init__(self) -> None:
        if self.rows < 20:
            raise InputError(f"dataset.rows: found {self.rows}; accepted: 20 or more")

    def load(self) -> Splits:
        """The training and validation rows, the same on every call."""
        from datasets import Dataset

        chosen = random.Random(self.seed)
        held_out = min(400, max(1, self.rows // 10))
        days = chosen.sample(range(DAYS), held_out + min(self.rows, DAYS - held_out))
        rows = list(_pairs(days, chosen))
        train, validation = (
            renamed(Dataset.from_list(part), self.columns, "dataset.columns")
            for part in (rows[held_out:], rows[:held_out])
        )
        return Splits(train=train, validation={"": validation})


def _pairs(days: list[int], chosen: random.Random) -> Iterator[dict[str, str]]:
    for number in days:
        day = FIRST + timedelta(number)
        month = MONTHS[day.month - 1]
        text = chosen.choice(FORMS).format(
            day=day.day,
            month=month,
            short=month[:3],
            number=day.month,
            year=day.year,
            weekday=WEEKDAYS[day.weekday()],
            ordinal=_ordinal(day.day),
        )
        yield {"source": text, "target": day.isoformat()}


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if 10 < number < 14 else ending}"
