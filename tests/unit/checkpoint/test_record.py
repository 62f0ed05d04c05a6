"""metrics.jsonl: strict rows, cut back to a step."""

import json
import os

import pytest

from trainer.checkpoint.record import StepLog


@pytest.fixture
def log(tmp_path) -> StepLog:
    log = StepLog(tmp_path / "metrics.jsonl")
    for step in (10, 20, 30):
        log.append({"step": step, "loss": 1 / step})
    log.append({"step": 30, "eval_accuracy": 0.5})
    return log


def test_one_object_a_line_and_strictly_json(log):
    log.append({"step": 40, "loss": float("nan"), "text": "a\nb"})
    lines = log.path.read_text().splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert rows[-1] == {"step": 40, "loss": None, "text": "a\nb"}
    assert [row["step"] for row in rows] == [10, 20, 30, 30, 40]


@pytest.mark.parametrize(("step", "rows"), [(-1, 0), (9, 0), (10, 1), (29, 2), (30, 4), (99, 4)])
def test_cut_back(log, step, rows):
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.cut_back(step)
    assert log.path.read_bytes() == b"".join(lines[:rows])


def test_any_half_of_a_last_line_goes(log):
    whole = log.path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    for length in range(1, len(last)):
        log.path.write_bytes(whole[: len(whole) - length])
        log.cut_back(30)
        assert log.path.read_bytes() == whole[: -len(last)]


def test_what_a_power_failure_left(log):
    good = log.path.read_bytes()
    log.path.write_bytes(good + bytes(50) + b'\n[1]\n{"step": "x"}\n{}\n"\xff"\n')
    log.cut_back(30)
    assert log.path.read_bytes() == good


def test_nothing_to_cut_changes_nothing(log, tmp_path):
    os.utime(log.path, (0, 0))  # any write changes this, however coarse the clock

    def state() -> tuple[int, int, int]:
        found = log.path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns

    before = state()
    log.cut_back(30)
    log.sync()
    assert state() == before
    StepLog(tmp_path / "absent").cut_back(3)
    StepLog(tmp_path / "absent").sync()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
