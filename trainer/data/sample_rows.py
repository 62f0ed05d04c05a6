"""SampleRows: the user's rows, indexed by the samples made from them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainer.data.stored_cells import chunk_of, holds_structs, without_nulls
from trainer.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

ROWS_AT_A_TIME = 1000
"""The number of rows that `column` reads at a time."""


class SampleRows:
    """The rows of N samples, which are read from the table one at a time or in chunks.

    If a sample is a block of several texts, its row is that of the first text. Reading raises
    InputError if the data set was given as token ids, without rows.
    """

    def __init__(
        self,
        table: "Dataset | None",
        num_samples: int,
        numbers: "np.ndarray | None" = None,
        sequence_numbers: "np.ndarray | None" = None,
    ) -> None:
        """`numbers` [N] are the indices of the samples' rows; None if sample i comes from row i.

        `sequence_numbers` [S] are the rows of the sequences, if samples are blocks of several rows.
        """
        self._table = None if table is None else table.with_format(None)
        features = {} if table is None else table.features
        self._structs = {name for name, feature in features.items() if holds_structs(feature)}
        self._num_samples = num_samples
        self._numbers = numbers
        self._sequence_numbers = sequence_numbers

    @property
    def known(self) -> bool:
        """Whether there are rows to read."""
        return self._table is not None

    @property
    def column_names(self) -> list[str]:
        """The columns of the rows; empty if there are no rows."""
        return [] if self._table is None else list(self._table.column_names)

    def __len__(self) -> int:
        """N, the number of samples."""
        return self._num_samples

    def number_of(self, sample: int) -> int:
        """The index of a sample's row in the table."""
        return sample if self._numbers is None else int(self._numbers[sample])

    def of_samples(self, samples: "np.ndarray") -> "SampleRows":
        """The rows of these samples; the indices must be in ascending order."""
        numbers = samples if self._numbers is None else self._numbers[samples]
        return SampleRows(self._table, len(samples), numbers)

    def of_sequences(self) -> "SampleRows":
        """The rows of the sequences in blocks, indexed by sequence instead of by sample."""
        assert self._sequence_numbers is not None
        return SampleRows(self._table, len(self._sequence_numbers), self._sequence_numbers)

    def __getitem__(self, sample: int) -> dict[str, Any]:
        """The row of a sample, as column -> cell."""
        row = self._rows()[self.number_of(sample)]
        return {n: without_nulls(cell) if n in self._structs else cell for n, cell in row.items()}

    def column(self, name: str) -> Iterator[Any]:
        """The cells of one column, one for each sample in order."""
        rows = self._rows()
        if name not in rows.column_names:
            existing = ", ".join(rows.column_names)
            raise InputError(f"dataset: no column '{name}'; there are: {existing}")
        return self._cells(rows.select_columns([name]), name)

    def _cells(self, rows: "Dataset", name: str) -> Iterator[Any]:
        start = 0
        cells: list[Any] = []
        for sample in range(len(self)):
            number = self.number_of(sample)
            if not start <= number < start + len(cells):
                start = number  # later samples have later rows
                cells = chunk_of(rows, start, ROWS_AT_A_TIME)[name]
            yield cells[number - start]

    def _rows(self) -> "Dataset":
        if self._table is None:
            accepted = "accepted: rows, which the recipe tokenizes"
            raise InputError(
                f"dataset: given as token ids, without the rows to compare; {accepted}"
            )
        return self._table
