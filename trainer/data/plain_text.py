"""PlainText: text files as documents, with the end of each file held out for validation."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.data.compressed import ending_of
from trainer.data.file_lists import Paths, check_paths, shown_paths
from trainer.data.formats import read
from trainer.data.rows import Splits
from trainer.data.sources import files_at
from trainer.errors import InputError
from trainer.option_types import Options
from trainer.plurals import plural

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class PlainText(Options, where="dataset"):
    """Text files (.txt, UTF-8), each read as one row with the column `text`.

    Without validation files, the last lines of each training file are held out. Random lines of a
    text would be easy to predict from the lines around them.
    """

    train: str | list[str] | None = None
    """Training texts: a file, folder, glob or pkg://package/folder, or a list of them."""
    validation: str | list[str] | None = None
    """Validation texts, in the same form as train."""
    validation_fraction: float = 0.1
    """Share of lines to hold out from the end of each training file; 0: none."""

    def __post_init__(self) -> None:
        check_paths(self.train, "dataset.train")
        check_paths(self.validation, "dataset.validation")
        if not 0 <= (found := self.validation_fraction) < 1:
            accepted = "accepted: at least 0 and below 1"
            raise InputError(f"dataset.validation_fraction: {found}; {accepted}")

    def load(self) -> Splits:
        """The documents. Raises InputError if files are missing or too short to be split."""
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
            lines_held = plural(sum(map(len, held)), "line")
            notes = (f"{lines_held} held out, from the end of each file",)
            if not any(map(any, train)) or not any(map(any, held)):
                accepted = "dataset.validation, or dataset.validation_fraction=0 for none"
                found = shown_paths(self.train or "")
                raise InputError(f"dataset.train: {found} is too short to cut; give {accepted}")
        return Splits(
            train=_table(train) if train else None,
            validation={"": _table(held)} if held else {},
            notes=notes,
        )


def _documents(paths: Paths | None, where: str) -> list[list[str]]:
    """The lines of each file."""
    files = [] if paths is None else files_at(paths, where)
    for file in files:
        if ending_of(file) != ".txt":
            raise InputError(f"{where}: {file} is not plain text; accepted: .txt files")
    return [read(file, where)["text"].to_pylist() for file in files]


def _table(documents: list[list[str]]) -> "Dataset":
    from datasets import Dataset

    texts = ["".join(f"{line}\n" for line in lines) for lines in documents]
    return Dataset.from_dict({"text": [text for text in texts if text.strip()]})
