"""State in one file per rank: any rows can be read back, and a missing part is an error."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from trainer.checkpoint import shards
from trainer.checkpoint.shards import Share, read_tensors, write_part
from trainer.checkpoint.verify import CorruptCheckpoint

WHOLE = torch.arange(22.0).reshape(11, 2)
COUNT = torch.tensor(7.0)


def write(folder: Path, world_size: int) -> None:
    """11 rows, split as by torch.chunk: 8 ranks get 2 2 2 2 2 1 0 0."""
    most = -(-11 // world_size)
    for rank in range(world_size):
        own = range(min(rank * most, 11), min((rank + 1) * most, 11))
        tensors = {"w/exp_avg": WHOLE[own.start : own.stop], "w/step": COUNT}
        write_part(folder, "optimizer", tensors, Share(rank, world_size, {"w": (own, 11)}))


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize(
    "rows", [None, range(11), range(0, 3), range(3, 9), range(9, 11), range(0)]
)
def test_any_rows_come_back_whoever_wrote_them(
    rows: range | None, world_size: int, tmp_path: Path
) -> None:
    write(tmp_path, world_size)
    found = read_tensors(tmp_path, "optimizer", {} if rows is None else {"w": rows})
    wanted = WHOLE if rows is None else WHOLE[rows.start : rows.stop]
    assert found.keys() == {"w/exp_avg", "w/step"}
    assert torch.equal(found["w/exp_avg"], wanted) and torch.equal(found["w/step"], COUNT)


@pytest.mark.parametrize("missing", [1, 2, 4])
def test_a_missing_part_is_told(missing: int, tmp_path: Path) -> None:
    write(tmp_path, 4)
    (tmp_path / f"optimizer-{missing:05d}-of-00004.safetensors").unlink()
    with pytest.raises(CorruptCheckpoint, match="is not part . of 3"):
        read_tensors(tmp_path, "optimizer", {})


def test_a_part_of_another_rank_is_told(tmp_path: Path) -> None:
    write(tmp_path, 4)
    parts = [tmp_path / f"optimizer-{i:05d}-of-00004.safetensors" for i in (2, 3)]
    shutil.copy(*parts)
    with pytest.raises(CorruptCheckpoint, match="the parts of w/exp_avg do not make a whole"):
        read_tensors(tmp_path, "optimizer", {})
    parts[1].write_bytes(parts[0].read_bytes()[:50])
    with pytest.raises(CorruptCheckpoint, match="00003-of-00004.*not a whole safetensors file"):
        read_tensors(tmp_path, "optimizer", {})


def test_columns_of_a_tensor_without_columns_are_told(tmp_path: Path) -> None:
    path = tmp_path / "optimizer-00001-of-00001.safetensors"
    save_file({"w/exp_avg": torch.zeros(11)}, path, {"rows": '{"w/exp_avg": [0, 11, 0, 4]}'})
    with pytest.raises(CorruptCheckpoint, match="the parts of w/exp_avg do not make a whole"):
        read_tensors(tmp_path, "optimizer", {})


def test_parts_of_other_widths_are_told(tmp_path: Path) -> None:
    for number, (start, width) in enumerate(((0, 2), (5, 3)), start=1):
        path = tmp_path / f"optimizer-{number:05d}-of-00002.safetensors"
        rows = f'{{"w/exp_avg": [{start}, 11]}}'
        save_file({"w/exp_avg": torch.zeros(5 + number - 1, width)}, path, {"rows": rows})
    with pytest.raises(CorruptCheckpoint, match="the parts of w/exp_avg do not make a whole"):
        read_tensors(tmp_path, "optimizer", {})


def test_a_lack_of_memory_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 88")

    save_file({"w/exp_avg": torch.zeros(11)}, tmp_path / "optimizer.safetensors")
    monkeypatch.setattr(shards, "_joined", fails)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        read_tensors(tmp_path, "optimizer", {})
