"""The program of every rank in `test_streamed.py`: one part of a run on shards that is killed."""

from pathlib import Path
from typing import Any

from tests.distributed import legs
from tests.distributed.legs import RecordingTrainer
from trainer.data.read_options import BadRows
from trainer.data.rows import Files
from trainer.data.streaming import pieces as pieces_file
from trainer.data.streaming.sharded_rows import ShardedRows
from trainer.runs.context import DataOptions

WINDOW, PIECE = 24, 10


class RowTrainer(RecordingTrainer):
    """Records the rows of each batch that it trains on; their first token is their number."""

    def recorded(self, batch: Any, sample_ids: Any) -> list[int]:
        found = batch.input_ids[batch.sequence_lengths.cumsum(0) - batch.sequence_lengths]
        numbers: list[int] = found.tolist()
        return numbers


def rows(folder: Path) -> ShardedRows:
    """The stream in `folder`, in pieces of a few rows."""
    pieces_file.PIECE_ROWS = PIECE
    found = Files(
        train=str(folder / "shards"), streaming=True, shuffle_window=WINDOW, num_workers=0
    )
    train = found.load().train
    assert isinstance(train, ShardedRows)
    return train


def main(folder: Path) -> None:
    """The next leg of the run."""
    legs.next_leg(folder, run)


def run(folder: Path, name: str, micro_batch_size: int | None = None) -> RecordingTrainer:
    """A run on the stream, which drops bad rows."""
    data = DataOptions(BadRows("drop", 0.1))
    return legs.run(RowTrainer, folder / name, rows(folder), micro_batch_size, data)
