"""ReadOptions: how data files are read, and how invalid rows are handled."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.errors import InputError
from trainer.local_copies import with_urls
from trainer.plurals import of_all

POLICIES = ("error", "drop")
"""The policies for invalid rows; see `BadRows.policy`."""
DEFAULT_LIMIT = 0.01
"""The default of `BadRows.limit`."""


@dataclass(frozen=True)
class BadRow:
    """A row that was dropped."""

    place: str
    """The file and line, or the data set and row index."""
    reason: str
    row: object
    """The cells of the row, or the raw line."""

    def to_json(self) -> Mapping[str, Any]:
        """The row as an entry of dropped.jsonl, with the URLs of files that came from a store."""
        place, reason = with_urls(self.place), with_urls(self.reason)
        return {"place": place, "reason": reason, "row": self.row}


class NoSamples(InputError):
    """No row gives a sample; `reasons` maps each row that the recipe rejects to the reason."""

    def __init__(self, message: str, reasons: Mapping[int, str] | None = None) -> None:
        super().__init__(message)
        self.reasons = reasons or {}


@dataclass
class BadRows:
    """The policy for invalid rows, and the rows dropped so far."""

    policy: str = "error"
    """error: the first invalid row ends the run; drop: invalid rows are skipped."""
    limit: float = DEFAULT_LIMIT
    """The largest share of a data set's rows that may be dropped."""
    dropped: list[BadRow] = field(default_factory=list)

    @property
    def drops(self) -> bool:
        return self.policy == "drop"

    def refuse(self, place: str, reason: str, row: object) -> None:
        """Record a row as dropped. Raises InputError if the policy is error."""
        if not self.drops:
            raise InputError(f"{place}: {reason}")
        self.dropped.append(BadRow(place, reason, row))

    def check(self, where: str, dropped: "list[BadRow]", total: int) -> None:
        """Raise InputError if more of `total` rows were dropped than the limit allows."""
        if len(dropped) > self.limit * total:
            first = f"the first: {dropped[0].place}: {dropped[0].reason}"
            raise InputError(
                f"{where}: {of_all(len(dropped), total, 'row')} bad, more than "
                f"dataset.max_bad_rows={self.limit:g} allows; {first}"
            )


@dataclass(frozen=True)
class ReadOptions:
    """How data files are read."""

    has_header: bool = True
    """Whether csv and tsv files start with a line of column names."""
    encoding: str | None = None
    """The encoding of text files; None: UTF-8, unless a byte order mark indicates another."""
    delimiter: str | None = None
    """The delimiter of csv and tsv files; None: comma for .csv, tab for .tsv."""
    format: str | None = None
    """The format of all files, such as csv or tsv; None: each file's ending decides."""
    bad: BadRows = field(default_factory=BadRows)
