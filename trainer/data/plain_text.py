"""PlainText: text files as documents, whose ends are held out."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.data.compressed import ending_of
from trainer.data.formats import read
from trainer.data.rows import Splits
from trainer.data.sources import files_at
from trainer.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class PlainText:
    """Files of running text (.txt, UTF-8): a row is a whole file, its column is `text`.

    Where no validation files are given, the last lines of each training file are held out: lines
    from everywhere in a text would be told by their neighbours.
    """

    train: str | None = None
    """Training texts: a file, a folder, a glob or pkg://package/folder."""
    validation: str | None = None
    """Validation texts, as train."""
    validation_fraction: float = 0.1
    """Share of each training file's lines, its last ones, that is held out; 0: none."""

    def __post_init__(self) -> None:
        if not 0 <= (found := self.validation_fraction) < 1:
            accepted = "accepted: from 0 to below 1"
            raise InputError(f"dataset.validation_fraction: {found}; {accepted}")

    def load(self) -> Splits:
        """The documents. Raises InputError for files that are none, or too short to be cut."""
        if self.train is None and self.validation is None:
            raise InputError("dataset.train: nothing given; accepted: a .txt file, or several")
        train, held = _documents(self.train, "dataset.train"), []
        notes: tuple[str, ...] = ()
        if self.validation is not None:
            held = _documents(self.validation, "dataset.validation")
        elif self.validation_fraction:
            cuts = [len(lines) - round(len(lines) * self.validation_fraction) for lines in train]
            held = [lines[cut:] for lines, cut in zip(train, cuts, strict=True)]
            train = [lines[:cut] for lines, cut in zip(train, cuts, strict=True)]
            notes = (f"{sum(map(len, held))} lines are held out, the last ones of each file",)
            if not any(map(any, train)) or not any(map(any, held)):
                accepted = "dataset.validation, or dataset.validation_fraction=0 for none"
                raise InputError(
                    f"dataset.train: {self.train} is too short to cut; give {accepted}"
                )
        return Splits(
            train=_table(train) if train else None,
            validation={"": _table(held)} if held else {},
            notes=notes,
        )


def _documents(path: str | None, where: str) -> list[list[str]]:
    """The lines of each file."""
    files = [] if path is None else files_at(path, where)
    for file in files:
        if ending_of(file) != ".txt":
            raise InputError(f"{where}: {file} is no plain text; accepted: files in .txt")
    return [read(file, where)["text"].to_pylist() for file in files]


def _table(documents: list[list[str]]) -> "Dataset":
    from datasets import Dataset

    texts = ["".join(f"{line}\n" for line in lines) for lines in documents]
    return Dataset.from_dict({"text": [text for text in texts if text.strip()]})
