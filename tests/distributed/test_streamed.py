"""2 -> 1 -> 4 -> 2 processes on a stream, with kills: every row as planned, and equal weights."""

import itertools
import json
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.distributed import streamed
from tests.distributed.forked import run_ranks
from tests.distributed.legs import BATCH, LEGS, STEPS, check_legs
from trainer.data.read_options import BadRows, NoSamples
from trainer.data.streaming import pieces as pieces_file

PLACES = ["02.jsonl:31", "05.jsonl:17", "09.jsonl:10"]
"""The bad rows."""
BAD = (2, 5, 9)
"""The shards that end with a bad row."""
SCHEMA = pa.schema({"input_ids": pa.list_(pa.int64()), "labels": pa.int64()})
SIZES = (11, 0, 30, 8, 1, 16, 5, 0, 24, 9, 13)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_handed_from_2_to_1_to_4_to_2_processes_with_kills(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of jsonl shards each process reads all rows, of parquet shards only those of its windows."""
    monkeypatch.setattr(pieces_file, "PIECE_ROWS", streamed.PIECE)
    write(tmp_path / "shards", ending)
    run_ranks("streamed", tmp_path, [processes for processes, _, _ in LEGS], timeout=900)
    order = planned_rows(tmp_path)
    assert sorted(order[: sum(SIZES)]) == list(range(sum(SIZES)))
    planned = [order[n * BATCH :][:BATCH] for n in range(STEPS)]
    alone = streamed.run(tmp_path, "alone")
    alone.fit()
    check_legs(tmp_path, planned, alone)
    if ending == "jsonl":
        dropped = (tmp_path / "run/dropped.jsonl").read_text()
        assert dropped == (tmp_path / "alone/dropped.jsonl").read_text()
        listed = [json.loads(line) for line in dropped.splitlines()]
        assert sorted(row["place"].rpartition("/")[2] for row in listed) == PLACES


def write(folder: Path, ending: str) -> None:
    """117 rows of token ids, each of which begins with its number; and 3 bad rows, if jsonl."""
    folder.mkdir()
    numbers = itertools.count()
    for shard, size in enumerate(SIZES):
        rows = [[next(numbers), *range(5, 6 + n % 7)] for n in range(size)]
        found = [{"input_ids": ids, "labels": ids[0] % 2} for ids in rows]
        path = folder / f"{shard:02}.{ending}"
        if ending == "parquet":
            pq.write_table(pa.Table.from_pylist(found, SCHEMA), path, row_group_size=2)
            continue
        bad = [f"[{shard}]\n"] * (shard in BAD)
        path.write_text("".join([*(json.dumps(row) + "\n" for row in found), *bad]))


def planned_rows(folder: Path) -> list[int]:
    """The rows of the steps in their order, read in one piece."""
    rows = streamed.rows(folder)
    found: list[int] = []
    for piece in rows.pieces(seed=42):
        with suppress(NoSamples):  # the last piece of a window may be a bad row
            assert piece.rows is not None
            table = rows.decoder.table(piece.rows, BadRows("drop", 1))
            found += [ids[0] for ids in table["input_ids"][:]]
        if len(found) >= STEPS * BATCH:
            return found
    raise AssertionError("a stream has no end")
