"""Reading: how files are read, and what happens to rows that cannot be used."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.errors import InputError

POLICIES = ("error", "drop")
"""What may be done with a row that cannot be used."""
DEFAULT_LIMIT = 0.01


@dataclass(frozen=True)
class BadRow:
    """A row that was dropped."""

    place: str
    """The file and its line, or the data set and the number of the row."""
    reason: str
    row: Any
    """Its cells, or the line as it is."""

    def to_json(self) -> Mapping[str, Any]:
        """What a line of dropped.jsonl holds."""
        return {"place": self.place, "reason": self.reason, "row": self.row}


@dataclass
class BadRows:
    """What is done with rows that cannot be used, and those that were dropped so far."""

    policy: str = "error"
    """error: the first one ends the run; drop: they are left out."""
    limit: float = DEFAULT_LIMIT
    """At most this share of a set's rows may be dropped."""
    dropped: list[BadRow] = field(default_factory=list)

    @property
    def drops(self) -> bool:
        return self.policy == "drop"

    def refuse(self, place: str, reason: str, row: Any) -> None:
        """Note a row as dropped. Raises InputError where none may be."""
        if not self.drops:
            raise InputError(f"{place}: {reason}")
        self.dropped.append(BadRow(place, reason, row))

    def check(self, where: str, dropped: "list[BadRow]", total: int) -> None:
        """Raise InputError where more of a set's `total` rows are dropped than the limit allows."""
        if len(dropped) > self.limit * total:
            first = f"the first: {dropped[0].place}: {dropped[0].reason}"
            raise InputError(
                f"{where}: {len(dropped)} of {total} rows are bad, more than "
                f"dataset.max_bad_rows={self.limit:g} allows; {first}"
            )


@dataclass(frozen=True)
class Reading:
    """How files are read."""

    has_header: bool = True
    """Whether csv and tsv files open with a line of column names."""
    encoding: str | None = None
    """Of text files; None: UTF-8, or what a byte order mark says."""
    delimiter: str | None = None
    """Between the cells of csv and tsv files; None: a comma or a tab, by the ending."""
    bad: BadRows = field(default_factory=BadRows)
