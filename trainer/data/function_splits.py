"""FunctionSplits: the settings of data sets made from Python's functions, and their split."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.data.near_duplicates import near_duplicates
from trainer.data.renamed_columns import renamed
from trainer.data.rows import Splits, check_amounts
from trainer.data.splits import held_out, limited
from trainer.option_types import Options


@dataclass(frozen=True)
class FunctionSplits(Options, where="dataset"):
    """Functions as rows, split into train and validation; near-duplicates stay together."""

    columns: dict[str, str] = field(default_factory=dict)
    """Columns to rename, as {old name: new name}."""
    max_train_rows: int | None = None
    """The largest number of training rows, sampled with the seed; null: all."""
    max_eval_rows: int | None = None
    """The largest number of validation rows, sampled with the seed; null: all."""
    validation_fraction: float = 0.15
    """Share of the functions to hold out for validation; near-duplicates stay together."""
    seed: int = 0
    """Seed for choosing the held-out functions and sampling rows."""

    def __post_init__(self) -> None:
        check_amounts(self)

    def splits(
        self, functions: Sequence[dict[str, Any]], sources: Sequence[str], note: str
    ) -> Splits:
        """The rows of functions, split by their source code; every call returns the same splits.

        `note` is shown after the numbers of rows: "300 of 2,000 <note>".
        """
        from datasets import Dataset

        rows = renamed(Dataset.from_list(list(functions)), self.columns, "dataset.columns")
        if not self.validation_fraction:
            return Splits(train=limited(rows, self.max_train_rows, self.seed))
        groups = [sources[first] for first in near_duplicates(sources)]
        held = held_out(groups, self.validation_fraction, self.seed)
        train, validation = rows.select((~held).nonzero()[0]), rows.select(held.nonzero()[0])
        return Splits(
            train=limited(train, self.max_train_rows, self.seed),
            validation={"": limited(validation, self.max_eval_rows, self.seed)},
            notes=(f"{len(validation):,} of {len(rows):,} {note}",),
        )
