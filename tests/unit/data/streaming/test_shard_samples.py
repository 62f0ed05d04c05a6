"""A run on shards equals itself however it is split, tokenized, killed and resumed."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipes.causal_lm import CausalLM
from recipes.sequence_classification import SequenceClassification
from recipes.unpaired_preference import UnpairedPreference
from tests.unit.data.streaming.written_shards import SIZES, Row, rows_of, write_shard, write_shards
from tests.unit.test_exactness import tiny_model
from tests.unit.test_trainer import KillAt, Killed, without_speed
from tests.unit.test_trainer import rows as logged
from trainer.data.read_options import BadRows
from trainer.data.rows import Files
from trainer.data.streaming import pieces as pieces_file
from trainer.data.streaming.shard_samples import ShardSamples
from trainer.data.streaming.sharded_rows import ShardedRows
from trainer.data.streaming.workers import Work, automatic_number
from trainer.errors import EnvironmentFault, InputError
from trainer.models.auto import AutoModelForCausalLM
from trainer.models.config import ModelConfig
from trainer.runs.context import DataOptions, RunContext
from trainer.tasks.recipe import Recipe
from trainer.tokenizer import Tokenizer
from trainer.trainer import Trainer

RECIPE = SequenceClassification(problem="single_label", labels=["a", "b"], max_length=16)
SETTINGS = {
    "global_batch_size": 16,
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "precision": "fp32",
    "max_steps": 9,
}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces_file, "PIECE_ROWS", 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """117 rows, so that 9 steps of 16 samples are more than an epoch."""
    return write_shards(tmp_path_factory.mktemp("shards") / "a", "parquet", rows_of())


def streamed(folder: Path, **options: Any) -> ShardedRows:
    values = {"shuffle_window": 24, "num_workers": 0, "streaming": True, **options}
    rows = Files(train=str(folder), **values).load().train
    assert isinstance(rows, ShardedRows)
    return rows


def run(
    minilm: Path,
    rows: ShardedRows | Iterator[Row],
    output: Path | None = None,
    recipe: Recipe = RECIPE,
    bad_rows: str = "error",
    **settings: Any,
) -> Trainer:
    tokenizer = Tokenizer.from_pretrained(minilm)
    return Trainer(
        tiny_model(num_labels=2, vocab_size=len(tokenizer)),
        recipe,
        {**SETTINGS, **settings},
        tokenizer=tokenizer,
        train_dataset=rows,
        output_dir=output,
        context=RunContext(data=DataOptions(BadRows(bad_rows, 0.2))),
    )


def parameters(run: Trainer) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(run.model.parameters()).detach()


def trained_on(run: Trainer) -> list[list[tuple[int, ...]]]:
    """Trains, and returns the token ids of each step's samples, sorted."""
    steps: dict[int, list[tuple[int, ...]]] = {}
    usual = run._prepare

    def prepare() -> None:
        usual()
        batch_of = run.steps.training_batch

        def recorded(ids: np.ndarray) -> Any:
            batch = batch_of(ids)
            parts = batch.input_ids.split(batch.sequence_lengths.tolist())
            steps.setdefault(run.state.step, []).extend(tuple(part.tolist()) for part in parts)
            return batch

        run.steps.training_batch = recorded  # type: ignore[method-assign]

    run._prepare = prepare  # type: ignore[method-assign]
    run.fit()
    return [sorted(steps[step]) for step in sorted(steps)]


def test_any_split_gives_the_same_run(minilm: Path, folder: Path) -> None:
    """Micro batches, and a global batch of more than a window."""
    rows = streamed(folder)
    whole = run(minilm, rows)
    steps = trained_on(whole)
    assert [len(step) for step in steps] == [16] * 9
    small = run(minilm, rows, micro_batch_size=3)
    assert trained_on(small) == steps
    assert (parameters(small) - parameters(whole)).norm() <= 1e-12 * parameters(whole).norm()
    large = run(minilm, rows, global_batch_size=48, max_steps=3)
    assert sorted(sum(trained_on(large), [])) == sorted(sum(steps, []))


@pytest.mark.parametrize("policy", ["error", "drop"])
def test_a_run_that_is_killed_twice_equals_one_that_never_was(
    minilm: Path, folder: Path, tmp_path: Path, policy: str
) -> None:
    """With `drop` the position in the stream does not follow from the number of samples."""
    if policy == "drop":
        shards = rows_of()
        for shard, row in ((2, 4), (8, 3), (10, 1)):
            shards[shard][row] = {**shards[shard][row], "text": None}
        folder = write_shards(tmp_path / "shards", "jsonl.zst", shards)
    rows, settings = streamed(folder), {"save_steps": 3, "bad_rows": policy}
    whole = run(minilm, rows, tmp_path / "whole", **settings)
    wanted = trained_on(whole)
    for kill in (5, 8):
        cut = run(minilm, rows, tmp_path / "cut", **settings)
        cut.callbacks.append(KillAt(kill))
        with pytest.raises(Killed):
            cut.fit()
    again = run(minilm, rows, tmp_path / "cut", **settings)
    assert trained_on(again) == wanted[6:]
    assert torch.equal(parameters(again), parameters(whole))
    assert without_speed(logged(tmp_path / "cut")) == without_speed(logged(tmp_path / "whole"))
    if policy == "drop":
        text = (tmp_path / "whole/dropped.jsonl").read_text()
        assert (tmp_path / "cut/dropped.jsonl").read_text() == text
        dropped = [json.loads(line) for line in text.splitlines()]
        assert [row["step"] for row in dropped] == sorted(row["step"] for row in dropped)
        places = sorted(row["place"].rpartition("/")[2] for row in dropped)
        assert places == ["part-02.jsonl.zst:9", "part-08.jsonl.zst:7", "part-10.jsonl.zst:3"]
        assert all("'text' is null" in row["reason"] for row in dropped)


def test_a_stream_lists_a_limited_number_of_dropped_rows(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows that were dropped in an earlier attempt count, and long rows are shortened."""
    monkeypatch.setattr("trainer.runs.dropped_rows.MOST_STREAMED", 3)
    shards = rows_of([40] * 3)
    bad = [{**row, "text": None, "more": "x" * 20_000} for shard in shards for row in shard[5:7]]
    shards[0][5:7], shards[1][5:7], shards[2][5:7] = bad[:2], bad[2:4], bad[4:]
    folder = write_shards(tmp_path / "shards", "jsonl", shards)
    for steps in (4, 9):
        run(minilm, streamed(folder), tmp_path / "run", bad_rows="drop", max_steps=steps).fit()
    lines = (tmp_path / "run/dropped.jsonl").read_text().splitlines()
    assert len(lines) == 3 and all(len(line) < 11_000 for line in lines)
    said = "dropped.jsonl: lists the first 3 dropped rows of the stream, and no more"
    assert caplog.messages.count(said) == 1


def test_only_columns_that_the_recipe_reads_are_read(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every format; the run is the one on the needed columns, and bad cells do not matter."""
    decoded: set[str] = set()
    usual = Work._made
    monkeypatch.setattr(
        Work,
        "_made",
        lambda work, raw, bad: (
            decoded.update(work.decoder.table(raw, bad).column_names) or usual(work, raw, bad)
        ),
    )
    for ending in ("parquet", "jsonl", "tar"):
        folder = write_shards(tmp_path / ending, ending, rows_of())
        columns = RENAMED if ending == "tar" else {}
        alone = trained_on(run(minilm, streamed(folder, columns=columns)))
        assert decoded == {"text", "label"}
        decoded.clear()
        with monkeypatch.context() as patch:
            patch.setattr("trainer.data.streaming.shard_samples.unneeded_columns", lambda *_: set())
            assert trained_on(run(minilm, streamed(folder, columns=columns))) == alone
        assert {"n", "text", "label"} <= decoded
        decoded.clear()
    renaming = {"text": "body", "n": "number"}
    recipe = replace(RECIPE, text="body")
    rows = streamed(tmp_path / "parquet", columns=renaming)
    trained_on(run(minilm, rows, recipe=recipe, max_steps=2))
    assert decoded == {"body", "label"}


def test_columns_that_only_a_later_shard_has_are_read(minilm: Path, tmp_path: Path) -> None:
    """The first rows show which of their own columns are unused, and nothing about others."""
    first = [{"n": n, "input_ids": [n + 5, 6, 0, 0], "labels": n % 2} for n in range(20)]
    later = [{**row, "attention_mask": [1, 1, 0, 0]} for row in first]
    folder = write_shards(tmp_path / "shards", "jsonl", [first, later])
    found = trained_on(run(minilm, streamed(folder), max_steps=5, global_batch_size=8))
    assert sorted(len(ids) for step in found for ids in step) == [2] * 20 + [4] * 20


def test_a_piece_without_samples_is_passed_over(minilm: Path, tmp_path: Path) -> None:
    """The last piece of a window may be a single row, which may be bad."""
    shards = rows_of([30])
    for label, text in ((None, "x"), ("a", None)):
        bad = {**shards[0][0], "label": label, "text": text}
        folder = write_shards(tmp_path / f"{label}", "jsonl", [*shards, [bad], [bad]])
        rows = streamed(folder, shuffle_window=3)
        found = trained_on(run(minilm, rows, tmp_path / f"run-{label}", bad_rows="drop"))
        assert [len(step) for step in found] == [16] * 9
        assert len((tmp_path / f"run-{label}/dropped.jsonl").read_text().splitlines()) == 2


def test_dropped_rows_before_the_first_sample_after_a_checkpoint_are_listed(
    minilm: Path, tmp_path: Path
) -> None:
    """They are in two pieces without samples, which come where a step begins."""
    (shard,) = rows_of([28])
    shard[8:16] = [{**row, "text": None} for row in shard[8:16]]
    folder = write_shards(tmp_path / "shards", "jsonl", [shard])
    rows, settings = streamed(folder, shuffle_window=4), {"bad_rows": "drop", "save_steps": 2}
    settings |= {"global_batch_size": 4, "max_steps": 5}
    wanted = trained_on(run(minilm, rows, tmp_path / "whole", **settings))
    cut = run(minilm, rows, tmp_path / "cut", **settings)
    cut.callbacks.append(KillAt(3))
    with pytest.raises(Killed):
        cut.fit()
    assert trained_on(run(minilm, rows, tmp_path / "cut", **settings)) == wanted[2:]
    text = (tmp_path / "whole/dropped.jsonl").read_text()
    assert (tmp_path / "cut/dropped.jsonl").read_text() == text
    assert [json.loads(line)["step"] for line in text.splitlines()] == [3] * 8


def test_a_resumed_run_reads_only_from_its_position_on(
    minilm: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the place in the checkpoint, and without it by the shards' numbers of rows."""
    run(minilm, streamed(folder), tmp_path, max_steps=30, global_batch_size=32).fit()
    made: list[int] = []
    usual = Work.tokenized
    monkeypatch.setattr(Work, "tokenized", lambda *work: made.append(1) or usual(*work))
    found = []
    for state in (ShardSamples.seek, lambda *_: None):
        monkeypatch.setattr(ShardSamples, "seek", state)
        made.clear()
        again = run(minilm, streamed(folder), tmp_path, max_steps=31, global_batch_size=32)
        found.append(trained_on(again))
        assert len(made) <= 30  # of 102: at the start, for the step, and ahead of both
        for checkpoint in tmp_path.glob("checkpoint-3[0-9]"):
            if checkpoint.name != "checkpoint-30":
                shutil.rmtree(checkpoint)
        (tmp_path / "results.json").unlink()
    assert found[0] == found[1] and len(found[0]) == 1


def test_a_language_model_learns_blocks_of_a_stream(
    minilm: Path, folder: Path, tmp_path: Path
) -> None:
    """Blocks of several rows are cut within pieces, so that they do not depend on the position."""
    rows, settings = streamed(folder), {"save_steps": 4, "global_batch_size": 4, "max_steps": 12}
    wanted = trained_on(language_run(minilm, rows, tmp_path / "whole", **settings))
    cut = language_run(minilm, rows, tmp_path / "cut", **settings)
    cut.callbacks.append(KillAt(10))
    with pytest.raises(Killed):
        cut.fit()
    assert trained_on(language_run(minilm, rows, tmp_path / "cut", **settings)) == wanted[8:]


def language_run(
    minilm: Path,
    rows: ShardedRows,
    output: Path | None = None,
    recipe: Recipe = CausalLM(max_length=32),  # noqa: B008
    **settings: Any,
) -> Trainer:
    tokenizer = Tokenizer.from_pretrained(minilm)
    config = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(ModelConfig({**config, "vocab_size": len(tokenizer)}))
    return Trainer(
        model,
        recipe,
        {**SETTINGS, **settings},
        tokenizer=tokenizer,
        train_dataset=rows,
        output_dir=output,
    )


def test_a_shard_that_vanishes_ends_the_run_in_one_line(minilm: Path, tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "a", "parquet", rows_of([40] * 3))
    started = run(minilm, streamed(folder), max_steps=100)
    (folder / "part-01.parquet").unlink()
    with pytest.raises(EnvironmentFault, match="part-01.parquet: no longer exists$"):
        started.fit()


def test_a_micro_batch_is_searched_among_the_first_samples(
    minilm: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lengths of later samples are not known; a device with memory of its own is searched."""
    monkeypatch.setattr("trainer.training.budget_search.HAVE_OWN_MEMORY", ("cpu",))
    monkeypatch.setattr("trainer.training.budget_search.reserved_for_update", lambda *_: None)
    found = []
    for stream in (streamed(folder), (row for shard in rows_of() for row in shard)):
        searched = run(minilm, stream, max_steps=2)
        searched.fit()
        found.append(searched.session.max_tokens)
    assert all(16 * 5 < tokens < 16 * 16 for tokens in found)


def test_another_stream_is_not_continued(minilm: Path, folder: Path, tmp_path: Path) -> None:
    run(minilm, streamed(folder), tmp_path / "run", max_steps=2).fit()
    other = write_shards(tmp_path / "other", "parquet", rows_of([*SIZES, 3]))
    changed = write_shards(tmp_path / "changed", "parquet", rows_of())
    last = [{**row, "text": row["text"].replace("row", "new")} for row in rows_of()[-1]]
    write_shard(changed / "part-10.parquet", last)
    sizes = [(each / "part-10.parquet").stat().st_size for each in (changed, folder)]
    assert sizes[0] == sizes[1]  # and the first rows are the same
    for rows in (streamed(other), streamed(changed), streamed(folder, shuffle_window=30)):
        with pytest.raises(InputError, match="data"):
            run(minilm, rows, tmp_path / "run", max_steps=4).fit()


def test_what_a_stream_cannot_do_is_one_line(minilm: Path, folder: Path) -> None:
    with pytest.raises(InputError, match="^trainer.max_steps: found null, but the data has no end"):
        run(minilm, streamed(folder), max_steps=None)
    with pytest.raises(InputError, match="^dataset.num_workers: found 2; it is for dataset.stream"):
        Files(train="a.csv", num_workers=2)
    with pytest.raises(InputError, match="^dataset.name: only hub data sets have one"):
        Files(path=str(folder), name="main", streaming=True).load()
    with pytest.raises(InputError, match="needs all rows before the first step; accepted"):
        language_run(minilm, streamed(folder), recipe=UnpairedPreference(max_length=16))
    for key, value in {
        **{"has_header": True, "delimiter": ";", "encoding": "cp1252", "max_train_rows": 4},
        **{"shuffle_window": 0, "num_workers": -1, "stratify_by": "label"},
    }.items():
        with pytest.raises(InputError, match=f"^dataset.{key}: found {value}.*; accepted: "):
            streamed(folder, **{key: value})


def test_a_plain_module_is_trained_on_shards(tmp_path: Path) -> None:
    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, n: torch.Tensor) -> torch.Tensor:
            return (self.weight * n.float()).mean()

    folder = write_shards(tmp_path / "a", "jsonl", [[{"n": n} for n in range(9)]] * 3)
    settings = {"max_steps": 3, "global_batch_size": 4}
    assert Trainer(Module(), settings=settings, train_dataset=streamed(folder)).fit()["steps"] == 3


def test_sets_of_a_folder_are_found_by_their_names(tmp_path: Path) -> None:
    for ending, columns in {"tar": RENAMED, "jsonl.zst": {}}.items():
        folder = tmp_path / ending
        write_shards(folder / "train", ending, rows_of([9, 4]))
        write_shards(folder / "validation", ending, rows_of([5]))
        splits = Files(path=str(folder), streaming=True, columns=columns).load()
        assert isinstance(splits.train, ShardedRows) and len(splits.train.shards) == 2
        assert sorted(splits.train.column_names) == sorted(["n", "text", "label", *KEYS[ending]])
        assert splits.validation[""]["n"][:] == [0, 1, 2, 3, 4]
        assert splits.notes == ("dataset.train: a stream of 2 shards",)
    alone = Files(train=str(folder / "train"), streaming=True).load()
    assert "no rows are held out" in alone.notes[0] and not alone.validation


KEYS = {"tar": ["__key__"], "jsonl.zst": []}
RENAMED = {"txt": "text", "json.label": "label", "json.n": "n"}


def test_bad_rows_of_evaluation_sets_are_dropped_too(tmp_path: Path) -> None:
    write_shards(tmp_path / "train", "jsonl", rows_of([9]))
    part = write_shards(tmp_path / "validation", "jsonl", rows_of([5])) / "part-00.jsonl"
    part.write_text(part.read_text() + "[7]\n")
    drops = {"bad_rows": "drop", "max_bad_rows": 0.2}
    splits = Files(path=str(tmp_path), streaming=True, **drops).load()
    assert len(splits.validation[""]) == 5
    (dropped,) = splits.bad_rows.dropped
    assert dropped.place.endswith("validation/part-00.jsonl:11") and dropped.row == {
        "line": b"[7]\n"
    }
    with pytest.raises(InputError, match="part-00.jsonl:11: found a list"):
        Files(path=str(tmp_path), streaming=True).load()


def test_a_few_bad_rows_of_a_short_piece_are_within_the_limit(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits hold for 1024 rows: unreadable ones and those without a label count together."""
    lines = [json.dumps({"text": f"row {n}", "label": "a"}) for n in range(20)]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, "[7]", '{"text": "no label"}']))
    monkeypatch.setattr(pieces_file, "PIECE_ROWS", 1024)
    rows = streamed(tmp_path / "a.jsonl")
    raw = rows.decoder, RECIPE, Tokenizer.from_pretrained(minilm), "drop"
    piece = next(rows.pieces(0)).rows
    assert len(Work(*raw, max_bad_rows=0.002).tokenized(piece).dropped) == 2
    with pytest.raises(InputError, match="2 of 22 rows are bad, more than dataset.max_bad_rows"):
        Work(*raw, max_bad_rows=0.001).tokenized(piece)


def test_workers_leave_a_core_to_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for cores, ranks in ((1, 1), (2, 1), (16, 1), (16, 8)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: range(cores))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        found.append(automatic_number())
    assert found == [0, 1, 4, 1]


@pytest.mark.slow
def test_workers_make_the_same_samples_and_end_with_the_run(minilm: Path, folder: Path) -> None:
    wanted = trained_on(run(minilm, streamed(folder)))
    with_workers = run(minilm, streamed(folder, num_workers=1))
    wait_for_workers(with_workers)
    assert trained_on(with_workers) == wanted
    killed = run(minilm, streamed(folder, num_workers=1), max_steps=10_000)
    (worker,) = wait_for_workers(killed)
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(EnvironmentFault, match="^dataset.num_workers: a worker process was"):
        killed.fit()


def wait_for_workers(run: Trainer) -> list[int]:
    """The ids of the processes that tokenize, once they have started."""
    samples: Any = run.train_samples
    for begun in samples._pipeline._workers._begun:
        begun.result(timeout=600)
    return list(samples._pipeline._workers._pool._processes)
