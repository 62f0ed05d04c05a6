"""Writes the same rows as shards of every format, for the tests of streams."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SIZES = (11, 0, 30, 8, 1, 16, 5, 0, 24, 9, 13)
"""Rows of each shard: some are empty, some end with a chunk, and there are more than lanes."""
Row = Mapping[str, Any]


def rows_of(sizes: Sequence[int] = SIZES) -> list[list[Row]]:
    """The rows of shards, each with a number of its own over all of them."""
    numbers = iter(range(sum(sizes)))
    return [[_row(next(numbers)) for _ in range(size)] for size in sizes]


def _row(n: int) -> Row:
    return {"n": n, "text": f"row {n} " + "a b " * (n % 5), "label": "ab"[n % 2]}


def write_shards(folder: Path, ending: str, shards: Sequence[Sequence[Row]]) -> Path:
    """Files part-00.<ending>, ... in a new folder."""
    folder.mkdir(parents=True)
    for number, rows in enumerate(shards):
        write_shard(folder / f"part-{number:02}.{ending}", rows)
    return folder


def write_shard(path: Path, rows: Sequence[Row]) -> None:
    """One shard, in the format of its ending."""
    if path.suffix == ".parquet":
        schema = pa.schema({"n": pa.int64(), "text": pa.string(), "label": pa.string()})
        pq.write_table(pa.Table.from_pylist(list(rows), schema), path, row_group_size=7)
    elif path.suffix == ".tar":
        _write_tar(path, rows)
    else:
        text = "".join(json.dumps(row) + "\n\n" for row in rows).encode()
        packed = pa.compress(text, codec="zstd", asbytes=True) if path.suffix == ".zst" else text
        path.write_bytes(packed)


def _write_tar(path: Path, rows: Sequence[Row]) -> None:
    with tarfile.open(path, "w") as archive:
        for row in rows:
            facts = json.dumps({"n": row["n"], "label": row["label"]})
            for ending, content in (("txt", row["text"]), ("json", facts)):
                member = tarfile.TarInfo(f"folder/{row['n']:06}.{ending}")
                member.size = len(content.encode())
                archive.addfile(member, io.BytesIO(content.encode()))
