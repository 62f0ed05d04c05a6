"""Every row of a stream comes once an epoch, in one order, from any place on, in every format."""

import itertools
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset

from tests.unit.data.streaming.written_shards import SIZES, rows_of, write_shard, write_shards
from trainer.data.read_options import BadRows
from trainer.data.streaming import pieces as pieces_file
from trainer.data.streaming.order import Lane, Order
from trainer.data.streaming.pieces import Piece, Place
from trainer.data.streaming.readers import ParquetReader, TarReader
from trainer.data.streaming.sharded_rows import ShardedRows
from trainer.data.streaming.shards import shards_at
from trainer.errors import EnvironmentFault, InputError

ENDINGS = ("parquet", "jsonl", "jsonl.zst", "tar")
RENAMED = {"txt": "text", "json.label": "label", "json.n": "n"}
TOTAL = sum(SIZES)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces_file, "PIECE_ROWS", 10)


@pytest.fixture(params=ENDINGS)
def rows(request: pytest.FixtureRequest, tmp_path: Path) -> ShardedRows:
    return streamed(write_shards(tmp_path / "shards", request.param, rows_of()))


def streamed(folder: Path, window_rows: int = 24) -> ShardedRows:
    columns = RENAMED if next(folder.iterdir()).suffix == ".tar" else {}
    shards = tuple(shards_at(str(folder), "dataset.train"))
    return ShardedRows(shards, columns, window_rows)


def numbers(rows: ShardedRows, found: Iterator[Piece]) -> Iterator[tuple[Place, list[int]]]:
    for piece in found:
        yield piece.place, rows.decoder.table(piece.rows, BadRows())["n"][:]


def epochs(rows: ShardedRows, count: int, seed: int = 3) -> list[tuple[Place, list[int]]]:
    found = numbers(rows, rows.pieces(seed))
    return list(itertools.takewhile(lambda each: each[0].cursor.epoch < count, found))


def test_every_row_comes_once_an_epoch_and_shuffled(rows: ShardedRows) -> None:
    both = epochs(rows, 2)
    orders = [
        sum((found for place, found in both if place.cursor.epoch == epoch), []) for epoch in (0, 1)
    ]
    assert [sorted(order) for order in orders] == [list(range(TOTAL))] * 2
    assert orders[0] != orders[1] and orders[0] != sorted(orders[0])
    first_window = sum((found for place, found in both if place.cursor.window == 0), [])
    assert len({shard_of(number) for number in first_window[:24]}) >= 5  # rows of many shards


def shard_of(number: int) -> int:
    return int(np.searchsorted(np.cumsum(SIZES), number, side="right"))


def test_all_formats_have_one_order(tmp_path: Path) -> None:
    found = [
        [n for _, n in epochs(streamed(write_shards(tmp_path / e, e, rows_of())), 1)]
        for e in ENDINGS
    ]
    assert found[0] == found[1] == found[2] == found[3]


def test_the_order_depends_on_the_seed_and_the_window(tmp_path: Path) -> None:
    rows = streamed(write_shards(tmp_path / "a", "parquet", rows_of()))
    assert epochs(rows, 1, seed=4) != epochs(rows, 1, seed=3)
    assert epochs(streamed(tmp_path / "a", 48), 1) != epochs(rows, 1)


def test_a_stream_goes_on_from_any_place(rows: ShardedRows) -> None:
    """By the place that a checkpoint saves, and by the shards' numbers of rows."""
    both, before = epochs(rows, 2), 0
    for start, (place, found) in enumerate(both):
        again = Place.of_json(place.to_json())
        assert again == place
        if start % 9 == 4:
            rest = itertools.islice(numbers(rows, rows.pieces(3, again)), len(both) - start)
            assert list(rest) == both[start:]
        for row in {before, before + len(found) - 1}:
            assert rows.place_of_row(3, row) == (place, before)
        before += len(found)
    assert before == 2 * TOTAL


def test_one_large_shard_is_shuffled_by_windows(tmp_path: Path) -> None:
    rows = streamed(write_shards(tmp_path / "a", "jsonl", rows_of([100])), window_rows=30)
    order = sum((found for _, found in epochs(rows, 1)), [])
    windows = [order[start : start + 30] for start in range(0, 100, 30)]
    assert [sorted(window) for window in windows] == [
        list(range(start, min(start + 30, 100))) for start in range(0, 100, 30)
    ]
    assert order != sorted(order)


def test_few_shards_are_open_at_a_time(tmp_path: Path) -> None:
    order = Order(seed=0, num_shards=1000, window_rows=8192)
    cursor, opened = order.begin(0), set()
    for _ in range(3):
        chunks, cursor = order.step(cursor, lambda shard, start, size: min(size, 5000 - start))
        opened |= {chunk.shard for chunk in chunks}
        assert sum(chunk.size for chunk in chunks) == 8192
    assert len(opened) == 8 and cursor.lanes == (Lane(0, 3072),) * 8


def test_rows_know_their_places(rows: ShardedRows) -> None:
    from trainer.data.row_locations import location_of

    piece = next(rows.pieces(3))
    table = rows.decoder.table(piece.rows, BadRows())
    number, place = table[4]["n"], location_of(table, 4, "dataset.train")
    name, row = rows.shards[shard_of(number)].url, number - sum(SIZES[: shard_of(number)])
    lines = name.endswith((".jsonl", ".zst"))  # blank lines follow the rows
    assert place == f"dataset.train: {name}" + (f":{2 * row + 1}" if lines else f" row {row}")


def test_a_shard_that_vanishes_or_changes_ends_the_stream(rows: ShardedRows) -> None:
    folder = Path(rows.shards[0].url).parent
    for change in ("removed", "replaced"):
        found = rows.pieces(3)
        next(found)
        for number, path in enumerate(sorted(folder.iterdir())):
            path.unlink() if change == "removed" else write_shard(path, rows_of([number + 3])[0])
        wanted = "no longer exists" if change == "removed" else r"changed during the run"
        with pytest.raises(EnvironmentFault, match=f"^dataset.train: .*part-..[.].*: {wanted}"):
            list(itertools.islice(found, 40))
        for number, path in enumerate(shard.url for shard in rows.shards):
            write_shard(Path(path), rows_of([number + 2])[0])
        rows = streamed(folder)


def test_damaged_shards_are_one_line(tmp_path: Path) -> None:
    for ending in ENDINGS[::2] + ("tar",):
        folder = write_shards(tmp_path / ending, ending, rows_of([40]))
        path = next(folder.iterdir())
        path.write_bytes(path.read_bytes()[:-200] if ending != "tar" else b"x" * 700)
        with pytest.raises(InputError, match="^dataset.train: .*part-00.*: not a complete file"):
            epochs(streamed(folder), 1)


def test_files_of_an_archive_after_damage_are_not_lost_in_silence(tmp_path: Path) -> None:
    """`tarfile` takes a damaged header, half of one and no further one for the end."""
    folder = write_shards(tmp_path / "a", "tar", rows_of([40]))
    path = next(folder.iterdir())
    content = path.read_bytes()
    start = content.index(b"000020.", 512) // 512 * 512
    damaged = content[:start] + b"x" * 512 + content[start + 512 :]
    for cut in (damaged, content[: start + 100], content[:start]):
        path.write_bytes(cut)
        with pytest.raises(InputError, match="^dataset.train: .*part-00.tar: not a complete file"):
            epochs(streamed(folder), 1)
    path.write_bytes(content[: len(content.rstrip(b"\0")) // 512 * 512 + 1024])
    assert sum(len(found) for _, found in epochs(streamed(folder), 1)) == 40


def test_a_tar_is_read_in_little_memory(tmp_path: Path) -> None:
    path = write_shards(tmp_path / "a", "tar", rows_of([1500])) / "part-00.tar"
    reader = TarReader(shards_at(str(path), "dataset.train")[0])
    reader.skip(100)
    tracemalloc.start()
    try:
        assert reader.skip(1300) == 1300
        assert tracemalloc.get_traced_memory()[0] < 100_000  # not a header for each file
    finally:
        tracemalloc.stop()
        reader.close()


def test_paths_without_shards_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\nx\n")
    (tmp_path / "none").mkdir()
    both = write_shards(tmp_path / "both", "parquet", rows_of([3]))
    write_shard(both / "b.jsonl", rows_of([3])[0])
    cases: dict[Any, str] = {
        str(tmp_path / "a.csv"): "a.csv; accepted with dataset.streaming=true: parquet, jsonl",
        str(tmp_path / "none"): "holds no shard; accepted",
        str(tmp_path / "missing-*.parquet"): "does not exist; accepted",
        str(both): "differ in format; accepted: one format",
        (str(both / "b.jsonl"), str(both / "*.jsonl")): "in the list twice; accepted: each file",
    }
    for paths, message in cases.items():
        with pytest.raises(InputError, match=f"^dataset.train: .*{message}"):
            shards_at(paths, "dataset.train")
    empty = write_shards(tmp_path / "empty", "jsonl", rows_of([0, 0]))
    with pytest.raises(InputError, match="the shards have no rows"):
        epochs(streamed(empty), 1)


def test_a_few_rows_may_lack_a_column_that_is_renamed(tmp_path: Path) -> None:
    """The last rows of a window may be few; a key that the first rows lack is still refused."""
    lines = [f'{{"text": "a", "n": {n}, "other": "b"}}' for n in range(25)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([*lines, '{"text": "a", "n": 25}']))
    shards = tuple(shards_at(str(path), "dataset.train"))
    rows = ShardedRows(shards, {"other": "text_pair"}, window_rows=5)
    assert sorted(row["n"] for row in rows) == list(range(26))
    with pytest.raises(InputError, match="no column 'wrong'; there are: text, n, other"):
        _ = ShardedRows(shards, {"wrong": "text_pair"}, window_rows=5).head


def test_shards_must_have_the_same_columns(tmp_path: Path) -> None:
    one, two = rows_of([4])[0], [{"n": n, "text": "x"} for n in range(4)]
    folder = write_shards(tmp_path / "a", "parquet", [one])
    pq.write_table(pa.Table.from_pylist(two), folder / "part-01.parquet")
    with pytest.raises(InputError, match="part-0.+ and part-0.+ differ in columns: label; acc"):
        epochs(streamed(folder), 1)
    for number, names in enumerate((["a", "b"], ["b", "a"])):
        rows = Dataset.from_dict({"label": [0, 1]}).cast_column("label", ClassLabel(names=names))
        rows.to_parquet(folder / f"part-0{number}.parquet")
    with pytest.raises(InputError, match="part-0.+ and part-0.+ differ in the names of classes"):
        epochs(streamed(folder), 1)


def test_bad_rows_end_the_run_or_are_dropped(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "a", "jsonl", rows_of([6]))
    path = next(folder.iterdir())
    path.write_text(path.read_text() + '{"n": 6, \n[7]\n{"n": 8, "n": 9}\n')
    raw = next(streamed(folder).pieces(3)).rows
    decoder = streamed(folder).decoder
    with pytest.raises(InputError, match=r"part-00.jsonl:1[345]: (bad JSON|found a list)"):
        decoder.table(raw, BadRows())
    bad = BadRows("drop", 0.5)
    assert sorted(decoder.table(raw, bad)["n"][:]) == list(range(6))
    assert sorted(each.place.rpartition(":")[2] for each in bad.dropped) == ["13", "14", "15"]
    with pytest.raises(
        InputError, match="3 of 9 rows are bad, more than dataset.max_bad_rows=0.01"
    ):
        decoder.table(raw, BadRows("drop"))


def test_an_archive_must_be_a_webdataset(tmp_path: Path) -> None:
    import tarfile

    cases = {"a": "accepted in a tar: files", "a.txt": None, "link.txt": "no links"}
    for name, message in cases.items():
        path = tmp_path / f"{name}.tar"
        with tarfile.open(path, "w") as archive:
            member = tarfile.TarInfo(name)
            member.type = tarfile.SYMTYPE if name.startswith("link") else tarfile.REGTYPE
            archive.addfile(member)
            archive.addfile(tarfile.TarInfo("a.txt"))
        shards = tuple(shards_at(str(path), "dataset.train"))
        wanted = message or "a.txt occurs twice"
        with pytest.raises(InputError, match=f"^dataset.train: .*{wanted}"):
            next(ShardedRows(shards, {}, 24).pieces(0))


def test_windows_that_are_dealt_to_ranks_are_read_by_one_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over two epochs, from any place: the same pieces, each with rows on a single rank."""
    folder = write_shards(tmp_path / "a", "parquet", rows_of())
    rows = streamed(folder)
    whole = list(itertools.islice(rows.pieces(3), 40))
    decoded: list[int] = []
    usual = ParquetReader._next
    monkeypatch.setattr(
        ParquetReader,
        "_next",
        lambda *of: (found := usual(*of)) is not None and decoded.append(len(found)) or found,
    )
    for start in (0, 7):
        decoded.clear()
        parts = [
            list(
                itertools.islice(
                    rows.pieces(3, whole[start].place, lambda window, r=rank: window % 3 == r),
                    40 - start,
                )
            )
            for rank in range(3)
        ]
        for expected, *found in zip(whole[start:], *parts, strict=True):
            assert {piece.place for piece in found} == {expected.place}
            (own,) = [piece.rows for piece in found if piece.rows is not None]
            assert expected.rows is not None and own.table == expected.rows.table
    assert sum(decoded) < 2 * sum(len(piece.rows) for piece in whole if piece.rows is not None)
