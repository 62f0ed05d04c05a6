"""job=prepare fills the cache that training reads; job=prune empties it."""

import json
from pathlib import Path
from typing import Any

import pytest

import launch
from tests.jobs.conftest import DATA, FAST
from trainer.data import cache_locks, token_arrays
from trainer.data.tokens import default_cache_dir


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TEMPERING_CACHE", str(tmp_path / "cache"))
    return default_cache_dir()


def entries(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if len(path.name) == 64)


def refuse(*_: Any) -> None:
    raise AssertionError("tokenized again")


MIXTURE = "dataset.mixture={a: {dataset: train.jsonl}, b: {dataset: {train: dev.jsonl}}}"


@pytest.mark.parametrize(
    "data",
    [pytest.param(DATA, id="files", marks=pytest.mark.slow), pytest.param([MIXTURE], id="mixture")],
)
def test_training_finds_what_was_prepared(
    table: Path,
    tiny: Path,
    own_cache: Path,
    data: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(token_arrays, "ROWS_PER_CALL", 20)
    monkeypatch.setattr("trainer.data.parallel_tokens.ROWS_PER_CALL", 20)
    asked = [f"model.path={tiny}", *data, "prepare.report=found.json"]
    assert launch.main(["job=prepare", "prepare.processes=2", *asked]) == 0
    printed = capsys.readouterr().out
    there = entries(own_cache)
    assert len(there) == (2 if data is DATA else 4)
    found = json.loads(Path("found.json").read_text())
    trained = next(iter(found.values()))
    assert f"{trained['samples']} samples, {trained['tokens']:,} tokens" in printed
    assert sum(trained["classes"].values()) == trained["samples"]
    held_out = list(found.values())[-1]
    assert held_out["trained"] and "repeated" in printed and "in dataset." in printed
    monkeypatch.setattr(token_arrays, "part_of", refuse)
    few = ["trainer.max_steps=1", "trainer.report=false", "output_dir=run"]
    assert launch.main([f"model.path={tiny}", *data, *FAST[:1], *few]) == 0
    assert entries(own_cache) == there
    cache_locks.release_all()
    assert launch.main(["job=prune", "prune.days=0", "prune.dry_run=true"]) == 0
    assert entries(own_cache) == there
    assert launch.main(["job=prune", "prune.days=0"]) == 0
    assert entries(own_cache) == []
    assert "removed  " in capsys.readouterr().out


def test_wrong_settings_are_refused(
    own_cache: Path, alone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for argument, said in {
        "prepare.processes=0": "prepare.processes: found 0; accepted: 1 or more, or null",
        "prune.days=1": "prune.days: job=prepare has no prune; accepted: for example job=prune",
    }.items():
        assert launch.main(["job=prepare", argument]) == 2
        assert said in capsys.readouterr().err
    assert launch.main(["job=prune", "prune.days=-1"]) == 2
    assert "prune.days: found -1.0; accepted: 0 or more" in capsys.readouterr().err
    assert launch.main(["job=prune"]) == 0  # there is no cache yet
    assert "0 entries" in capsys.readouterr().out
