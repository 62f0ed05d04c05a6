"""The folder of a run is checked before data are read, and models of runs are found or named."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from trainer.checkpoint.publish import publish
from trainer.data.sources import files_at
from trainer.data.streaming.shards import urls_at
from trainer.jobs.parts.output_folder import _reads

Ask = Callable[..., Any]


@pytest.fixture
def refused(ask: Ask, table: Path, tiny: Path) -> Callable[..., str]:
    """The error of a command whose training rows do not exist: the folder is checked first."""

    def error_of(*arguments: str) -> str:
        answer = ask(f"model.path={tiny}", "dataset.train=none.csv", *arguments)
        assert answer.code == 2 and answer.err.count("\n") == 1, answer.err
        return str(answer.err).removeprefix("error: ").strip()

    return error_of


def leave_run(folder: Path, *steps: int) -> None:
    """The files that show that a folder has a run, with checkpoints that verify."""

    def fill(checkpoint: Path) -> None:
        (checkpoint / "config.json").write_text("{}")

    folder.mkdir()
    (folder / "config.yaml").write_text("seed: 0\n")
    (folder / "metrics.jsonl").write_text("")
    for step in steps:
        publish(folder / f"checkpoint-{step}", fill, facts={"step": step})


def test_folders_that_cannot_be_written_or_continued(refused: Callable[..., str]) -> None:
    Path("file").write_text("x")
    assert refused("output_dir=file") == (
        "output_dir: 'file' is a file; accepted: the path of a folder"
    )
    assert refused("output_dir=file/a/b").startswith("output_dir: '")
    leave_run(Path("a"), 2, 10)
    assert refused("output_dir=a", "trainer.resume=never").startswith("trainer.resume: found never")
    assert refused("output_dir=b", "trainer.resume=must").startswith("trainer.resume: found must")
    found = refused("output_dir=b", "trainer.resume=a")
    assert found.endswith("accepted: auto, never, must, or a checkpoint's folder on this machine; "
                          "did you mean a/checkpoint-10?")  # fmt: skip
    Path("link").symlink_to("a")
    here = Path.cwd()
    for model in ("a/model", "a/checkpoint-2", f"../{here.name}/a/model", "link/checkpoint-2",
                  f"file://{here}/a/model"):  # fmt: skip
        found = refused("output_dir=a", f"model.path={model}")
        assert found.startswith(f"model.path: {model} was written by the run in a, which would res")
    in_store = ("output_dir=memory://b/a", "model.path=memory://b/a/model")
    assert refused(*in_store).startswith("dataset.train: none.csv does not exist")
    fsspec.filesystem("memory").put("a", "/b/a", recursive=True)
    found = refused(*in_store)
    assert found.startswith("model.path: memory://b/a/model was written by the run in memory://b/a")
    found = refused("output_dir=memory://b/a", "trainer.resume=typo")
    assert found.startswith("trainer.resume: found 'typo'; accepted: auto")
    assert refused("output_dir=a").startswith("dataset.train: none.csv does not exist")
    Path("done/model").mkdir(parents=True)
    found = refused("output_dir=done")
    assert found.startswith("output_dir: done holds a finished run and no checkpoint")
    Path("done/.old-checkpoint-2").mkdir()  # a crash left it, and resuming will restore it
    assert refused("output_dir=done").startswith("dataset.train: none.csv does not exist")


def test_a_folder_that_the_data_set_reads_is_refused(ask: Ask, table: Path, tiny: Path) -> None:
    """Otherwise the second command, which resumes, would read the run's files as rows."""
    rows = Path("rows")
    rows.mkdir()
    shutil.move("train.jsonl", rows / "train.jsonl")
    for data, output in (
        ("dataset.train=rows", "rows"),
        ("dataset.path=.", "."),
        ("dataset.train=[dev.jsonl,rows/../rows/]", "other/../rows"),
        ("dataset.train=[!d]*/*.jsonl", "run"),
        ("dataset.train=rows/*.jsonl", "rows"),
        ("dataset.train=**/*.jsonl", "rows/run"),
        ("dataset.mixture={a: {dataset: rows}, b: {dataset: dev.jsonl}}", "rows"),
        ("dataset.train=memory://out/data", "memory://out/data/run"),
    ):
        answer = ask(f"model.path={tiny}", data, f"output_dir={output}")
        assert answer.code == 2 and answer.err.startswith("error: output_dir: dataset."), answer.err
        assert f"reads {output} too, where this run writes its files" in answer.err
    assert sorted(each.name for each in rows.iterdir()) == ["train.jsonl"]


def test_globs_that_do_not_match_the_files_of_a_run() -> None:
    run = "/data/run"
    for path in (
        "/data/*.jsonl",
        "/data/**/*.csv",
        "/data/run/part-*.jsonl",
        "/data/[a-c]*/*.json",
        "/data/[z-a]*/*.json",  # a range that matches nothing
        "/data/[!r]*/*.json",
        "/data/[[]*/*.json",
        "/data/x.jsonl",
        "s3://data/*.jsonl",
    ):
        assert not _reads("dataset.train", path, run)
    for path in (
        "/data/r*/*.jsonl",
        "/**/results.json",
        "/data/[p-s]un/*.json",
        "/data/[!a]un/*.json",
        "/data/**/*",
        "file:///data/*/*.jsonl",
    ):
        assert _reads("dataset.train", path, run)


def test_every_spelling_of_a_folder_is_found(table: Path) -> None:
    """Links, `..`, file:// and a store's folder without its final slash."""
    rows = table / "rows"
    rows.mkdir()
    Path("link").symlink_to(rows)
    Path("loop").symlink_to("loop")
    for path in ("rows", f"../{table.name}/rows/", f"file://{rows}", "link", "none/../rows"):
        for place in ("rows", "link", str(rows), "none/../rows"):
            assert _reads("dataset.train", path, place), (path, place)
        for pattern in ("*/*.jsonl", "[!x]un/*.jsonl"):
            assert _reads("dataset.train", f"{path.rstrip('/')}/{pattern}", "link/run"), path
    assert not _reads("dataset.train", "loop", "rows")
    assert _reads("dataset.train", "s3://b/data/", "s3://b/data/run")
    assert _reads("dataset.train", "s3://b/*/*.jsonl", "s3://b/run")
    for path in ("s3://b/dat", "s3://b/data/train.jsonl", "data"):
        assert not _reads("dataset.train", path, "s3://b/data/run")
    assert not _reads("dataset.train", "s3://b/data", "s3://b/data/_run")
    (rows / "state.json").write_text("{}")
    assert not _reads(
        "dataset.path", "rows", "rows"
    )  # `save_to_disk` lists the files that it reads


def test_runs_inside_of_a_data_folder_are_not_read(ask: Ask, table: Path, tiny: Path) -> None:
    """So `dataset.path=.` works with the default folder, and can be repeated and resumed."""
    command = (f"model.path={tiny}", "dataset.path=.", "trainer.save_steps=1")
    assert ask(*command, "trainer.max_steps=2").code == 0
    (run,) = Path("runs").iterdir()
    assert ask("job=evaluate", "dataset.path=.", f"model.path={run}/model").code == 0
    assert next(Path("runs").glob("*/evaluation.json"))
    (table / "runs" / "sweep-0123abcd.csv").write_text("seed\n1\n")
    repeated = ask(*command, "trainer.max_steps=2")
    assert "complete at step 2; nothing to do" in repeated.out + repeated.err
    assert "could not compare" not in repeated.err
    assert ask(*command, "trainer.max_steps=3").code == 0
    assert [Path(url).name for url in urls_at(".", "dataset.path")] == ["dev.jsonl", "train.jsonl"]


def test_files_of_runs_are_left_out_with_a_warning(
    table: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Only in folders whose config.yaml is that of a run."""
    sections = "dataset: {}\nrecipe: {}\nmodel: {}\ntrainer: {}\n"
    for name, config in (("mine", "model: x\n"), ("run", sections)):
        Path(name).mkdir()
        Path(name, "config.yaml").write_text(config)
        Path(name, "results.json").write_text('{"a": 1}')
        shutil.copy("train.jsonl", f"{name}/rows.jsonl")
    Path("dev.jsonl").unlink()
    Path("train.jsonl").rename("rows.jsonl")
    found = {str(file) for file in files_at(".", "dataset.path")}
    assert found == {"rows.jsonl", "mine/rows.jsonl", "mine/results.json"}
    caplog.set_level("WARNING")
    Path("mine", "results.json").unlink()
    Path("run", "checkpoint-2").mkdir()
    assert len(urls_at(".", "dataset.path")) == 2
    warning = "dataset.path: .: not read: {} files written by earlier runs, such as run/{}.json"
    of_all_files = "dataset.path: .: not read: 3 files written by earlier runs, such as run/config"
    assert caplog.messages == [warning.format(2, "results"), f"{of_all_files}.yaml"]


@pytest.mark.parametrize("key", ["dataset.train", "model.path", "output_dir", "from"])
def test_the_home_of_an_unknown_user_is_a_path_like_others(ask: Ask, tiny: Path, key: str) -> None:
    Path("file").write_text("x")
    others = {"dataset.train": "file", "model.path": str(tiny)} if key != "from" else {}
    answer = ask(*(f"{name}={value}" for name, value in {**others, key: "~nobody-here/x"}.items()))
    assert answer.code == 2 and answer.err.startswith("error: ") and answer.err.count("\n") == 1


def test_a_run_is_no_model_but_names_one(
    ask: Ask, table: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_run(Path("a"), 2, 10)
    data = "dataset.train=train.jsonl"
    assert ask("model.path=a", data).err == (
        "error: model.path: 'a' is a run; did you mean a/checkpoint-10?\n"
    )
    assert ask("model.path=a/model", data).err == (
        "error: model.path: 'a/model' does not exist, since its run is not finished; "
        "did you mean a/checkpoint-10?\n"
    )
    monkeypatch.setenv("TEMPERING_STAGE", str(table / "stage"))
    fsspec.filesystem("memory").put("a", "/of_runs/a", recursive=True)
    assert ask("model.path=memory://of_runs/a", data).err.endswith(
        "'memory://of_runs/a' is a run; did you mean memory://of_runs/a/checkpoint-10?\n"
    )
    answer = ask("from=a", "job=predict", "input.text=x")
    assert answer.err.endswith("a finished run, or model.path=a/checkpoint-10 instead of from\n")
    shutil.copytree(tiny, "a/model")
    assert ask("model.path=a", data).err.endswith("did you mean a/model?\n")
    for place in ("a/model", "a/checkpoint-2", "a/config.yaml"):
        assert ask(f"from={place}").err.endswith("; did you mean from=a?\n")
