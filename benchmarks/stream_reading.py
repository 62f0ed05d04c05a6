"""Measures how fast the rows of parquet shards are read: all or the used columns, by 1 or 4 ranks.

python benchmarks/stream_reading.py
python benchmarks/stream_reading.py --rows 100000   # rows in each of the eight shards
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.data.rows import Files
from trainer.data.streaming.pieces import IsMine
from trainer.data.streaming.sharded_rows import ShardedRows

SHARDS, RANKS, GROUP = 8, 4, 1000
UNUSED = 4
"""Columns of 300 characters that no recipe uses."""


def main() -> int:
    """Print a table of rates."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=20_000)
    size = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), size)
        rows = Files(train=folder, streaming=True, num_workers=0).load().train
        assert isinstance(rows, ShardedRows)
        used = rows.without([f"unused{n}" for n in range(UNUSED)])
        print("| what is read | rows of the stream per second |\n|---|---|")
        for name, each, is_mine in (
            ("all columns, all rows", rows, None),
            ("the used columns, all rows", used, None),
            ("the used columns, one of 4 ranks", used, lambda window: window % RANKS == 0),
        ):
            print(f"| {name} | {rate(each, is_mine, SHARDS * size):,.0f} |")
    return 0


def write_shards(folder: Path, size: int) -> None:
    """Write shards with small row groups."""
    draw = np.random.default_rng(0)
    for number in range(SHARDS):
        columns = {
            f"unused{n}": [draw.bytes(150).hex() for _ in range(size)] for n in range(UNUSED)
        }
        columns |= {"text": [f"row {n} {n * 7919}" for n in range(size)], "label": ["a"] * size}
        pq.write_table(pa.table(columns), folder / f"{number}.parquet", row_group_size=GROUP)


def rate(rows: ShardedRows, is_mine: IsMine | None, total: int) -> float:
    """The rows of the stream per second over one epoch, whoever reads them."""
    began = time.perf_counter()
    for piece in rows.pieces(1, None, is_mine):
        if piece.place.cursor.epoch:
            break
    return total / (time.perf_counter() - began)


if __name__ == "__main__":
    raise SystemExit(main())
