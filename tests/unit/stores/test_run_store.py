"""Runs in a store: which checkpoint they go on from, on one machine and on several."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from tests.unit.stores.conftest import filling
from trainer.checkpoint import files
from trainer.devices.ranks import Ranks
from trainer.errors import EnvironmentFault, InputError
from trainer.runs.folder import RunFolder
from trainer.settings import TrainSettings
from trainer.stores import lease, run_store, store
from trainer.stores.run_store import RunStore, run_files
from trainer.training.arguments import check_run_facts

URL = "memory://bucket/runs/a"


@pytest.fixture
def on(stage: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], RunFolder]:
    """The run as a machine of this name sees it."""
    monkeypatch.setattr(lease, "POLL", 0.005)
    monkeypatch.setattr(lease, "EXPIRES", 0.02)

    def on(machine: str) -> RunFolder:
        monkeypatch.setenv("TEMPERING_STAGE", str(stage / machine))
        return RunFolder(URL)

    return on


def save(folder: RunFolder, step: int, word: str) -> None:
    folder.log({"step": step, "word": word})
    folder.save_checkpoint(step, filling(step, word), ranks=Ranks(), limit=2, best=None)


def begin(folder: RunFolder, resume: str = "auto", then: Callable[[], None] = lambda: None) -> str:
    """The word in the checkpoint that a run goes on from; then it works and ends."""
    with folder.opened(resume, Ranks()) as checkpoint:
        found = "nothing" if checkpoint is None else (checkpoint / "word.txt").read_text()
        then()
        return found


class Stopped(Exception):
    """The end of a machine."""


def stop() -> None:
    raise Stopped


def store_of(path: str) -> str:
    return fsspec.filesystem("memory").cat_file(f"/bucket/runs/a/{path}").decode()


def test_another_machine_goes_on(on: Callable[[str], RunFolder]) -> None:
    first = on("one")
    assert (
        begin(first, then=lambda: [save(first, step, f"one {step}") for step in (1, 2, 3)])
        == "nothing"
    )
    names = fsspec.filesystem("memory").find("/bucket/runs/a")
    assert [n for n in names if n.endswith("manifest.json")] == [
        f"/bucket/runs/a/checkpoint-{step}/manifest.json" for step in (2, 3)
    ]
    assert not list(first.path.glob("checkpoint-*"))  # the disk is free again
    second = on("two")
    assert begin(second, "must", lambda: save(second, 4, "two 4")) == "one 3"
    assert begin(on("one"), "must") == "two 4"
    rows = [json.loads(line)["word"] for line in store_of("metrics.jsonl").splitlines()]
    assert rows == ["one 1", "one 2", "one 3", "two 4"]
    assert (on("one").path / "metrics.jsonl").read_text() == store_of("metrics.jsonl")


def test_the_best_checkpoint_comes_too(on: Callable[[str], RunFolder]) -> None:
    folder, ranks = on("one"), Ranks()

    def work() -> None:
        for step in (1, 2, 3):
            fill = filling(step, f"one {step}", best=1)
            folder.save_checkpoint(step, fill, ranks=ranks, limit=2, best=1)

    begin(folder, then=work)
    other = on("two")
    with other.opened("must", ranks) as checkpoint:
        assert checkpoint == other.checkpoint(3)
        assert (other.checkpoint(1) / "word.txt").read_text() == "one 1"
        other.verified_checkpoint(1, ranks)


def test_what_was_not_uploaded_is(on: Callable[[str], RunFolder], monkeypatch) -> None:
    folder = on("one")

    def fails(*_: object, **__: object) -> None:
        raise OSError("no route")

    def work() -> None:
        save(folder, 1, "one 1")
        with monkeypatch.context() as patch:
            patch.setattr(type(fsspec.filesystem("memory")), "put_file", fails)
            save(folder, 2, "one 2")

    with pytest.raises(EnvironmentFault, match="output_dir: memory://bucket/runs/a: cannot write"):
        begin(folder, then=work)
    assert "checkpoint-2" not in " ".join(fsspec.filesystem("memory").find("/bucket"))
    assert begin(on("one")) == "one 2"
    assert store_of("checkpoint-2/word.txt") == "one 2"


def test_a_copy_of_another_past_is_set_aside(on, caplog: pytest.LogCaptureFixture) -> None:
    folder = on("one")

    def work() -> None:
        save(folder, 1, "one 1")
        folder.store.folders.upload = lambda *_: stop()
        save(folder, 2, "one 2")

    with pytest.raises(Stopped):
        begin(folder, then=work)
    other = on("two")
    assert begin(other, then=lambda: save(other, 2, "two 2")) == "one 1"
    assert begin(on("one")) == "two 2"
    assert "it was moved to" in caplog.text
    kept = folder.path / ".aside" / "checkpoint-2" / "word.txt"
    assert kept.read_text() == "one 2"
    assert store_of("checkpoint-2/word.txt") == "two 2"


def test_a_run_that_was_removed_from_the_store_starts_over(on, caplog) -> None:
    folder = on("one")
    with pytest.raises(Stopped):
        begin(folder, then=lambda: (save(folder, 1, "one 1"), stop()))
    fsspec.filesystem("memory").store.clear()
    assert begin(on("one")) == "nothing"
    assert (folder.path / ".aside" / "checkpoint-1").is_dir()


def test_damaged_checkpoints_of_a_removed_run_are_set_aside_too(on) -> None:
    folder = on("one")

    def work() -> None:
        save(folder, 1, "one 1")
        files.make_folder(folder.path / ".bad-checkpoint-0")
        stop()

    with pytest.raises(Stopped):
        begin(folder, then=work)
    fsspec.filesystem("memory").store.clear()
    assert begin(on("one")) == "nothing"
    assert (folder.path / ".aside" / ".bad-checkpoint-0").is_dir()


def test_links_and_vanished_files_of_trackers_are_left_out(
    on: Callable[[str], RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B links its latest run, and removes files at any time."""
    folder = on("one")
    listed = run_store._other_files

    def work() -> None:
        logs = folder.trackers / "wandb" / "run-1"
        files.make_folder(logs)
        files.write_text(logs / "a.wandb", "a")
        (logs.parent / "latest-run").symlink_to("run-1")
        (logs.parent / "debug.log").symlink_to(logs / "a.wandb")
        save(folder, 1, "one 1")

    monkeypatch.setattr(run_store, "_other_files", lambda stage: {*listed(stage), "gone.txt"})
    begin(folder, then=work)
    names = fsspec.filesystem("memory").find("/bucket/runs/a/trackers")
    assert names == ["/bucket/runs/a/trackers/wandb/run-1/a.wandb"]


def test_a_file_that_is_replaced_before_the_clock_moves_on_is_uploaded(on) -> None:
    folder = on("one")

    def work() -> None:
        for text in ("one", "two"):
            files.write_text(folder.path / "notes.txt", text)
            os.utime(folder.path / "notes.txt", (0, 0))
            folder.store.push_files()
            assert store_of("notes.txt") == text

    begin(folder, then=work)


def test_only_steps_as_this_program_writes_them_are_checkpoints(on) -> None:
    fsspec.filesystem("memory").pipe_file("/bucket/runs/a/checkpoint-007/manifest.json", b"{}")
    folder = on("one")
    assert begin(folder, then=lambda: save(folder, 1, "one 1")) == "nothing"
    assert begin(on("two")) == "one 1"


def test_no_whole_checkpoint_is_no_new_beginning(on: Callable[[str], RunFolder]) -> None:
    folder = on("one")
    begin(folder, then=lambda: save(folder, 1, "one 1"))
    fsspec.filesystem("memory").pipe_file("/bucket/runs/a/checkpoint-1/word.txt", b"one 7")
    for machine in ("one", "two"):
        with pytest.raises(EnvironmentFault, match="memory.*no checkpoint verifies; not starting"):
            begin(on(machine))
    assert store_of(".bad-checkpoint-1/word.txt") == "one 7"


def test_one_machine_at_a_time(on: Callable[[str], RunFolder], monkeypatch) -> None:
    other = on("two")
    monkeypatch.setattr(lease, "EXPIRES", 600)
    monkeypatch.setattr(lease, "RENEWAL_PERIOD", 0.01)
    first = on("one")

    def work() -> None:
        with pytest.raises(EnvironmentFault, match=r"runs/a: in use by pid \d+ on .* \(renewed 20"):
            begin(other)
        save(first, 1, "one 1")

    begin(first, then=work)
    assert ".lock" not in " ".join(fsspec.filesystem("memory").find("/bucket"))


def test_a_run_that_was_taken_over_writes_nothing_more(on: Callable[[str], RunFolder]) -> None:
    first, second = on("one"), on("two")

    def work() -> None:
        assert begin(second, then=lambda: save(second, 1, "two 1")) == "nothing"
        save(first, 1, "one 1")

    with pytest.raises(EnvironmentFault, match="was taken over by another process, which"):
        begin(first, then=work)
    assert store_of("checkpoint-1/word.txt") == "two 1"
    assert "two 1" in store_of("metrics.jsonl") and "one" not in store_of("metrics.jsonl")


def test_resume_never_and_must(on: Callable[[str], RunFolder]) -> None:
    with pytest.raises(
        InputError, match="found must, but memory://bucket/runs/a holds no checkpoint"
    ):
        begin(on("one"), "must")
    folder = on("one")
    begin(folder, "never", lambda: save(folder, 1, "one 1"))
    files.append_line(on("one").path / "metrics.jsonl", "{}")
    for machine in ("one", "two"):
        with pytest.raises(InputError, match="found never, but memory://bucket/runs/a holds a run"):
            begin(on(machine), "never")
    assert "{}" not in store_of("metrics.jsonl")  # what is refused changes nothing


def test_a_finished_run_is_known_elsewhere(on: Callable[[str], RunFolder]) -> None:
    folder = on("one")
    results = {"train_samples": 8, "steps": 100, "config": "c", "stopped": None, "asked": {}}

    def work() -> None:
        save(folder, 1, "one 1")
        folder.write_results(results)

    begin(folder, then=work)
    settings = TrainSettings(max_steps=100)
    assert on("two").completed(settings, "c") is None  # there is no model yet
    begin(
        folder,
        then=lambda: (
            folder.publish_model(1, filling(1, "m"), Ranks()),
            folder.write_results(results),
        ),
    )
    assert on("two").completed(settings, "c") == results
    fsspec.filesystem("memory").pipe_file("/bucket/runs/a/results.json", b"")
    other = on("two")
    other.make()
    files.write_json(other.path / "results.json", results)
    assert other.completed(settings, "c") is None  # a file of the copy does not count
    fsspec.filesystem("memory").pipe_file(
        "/bucket/runs/a/results.json", json.dumps(results).encode()
    )
    assert on("two").completed(settings, "another") is None


def test_files_of_others_are_not_touched(on: Callable[[str], RunFolder]) -> None:
    fsspec.filesystem("memory").pipe_file("/bucket/runs/a/model/mine.bin", b"mine")
    with pytest.raises(InputError, match="a/model/mine.bin was not published by this program"):
        begin(on("one"))
    assert store_of("model/mine.bin") == "mine"


def test_folders_that_are_named_almost_like_checkpoints_are_not_touched(on) -> None:
    begin(on("one"), then=lambda: save(on("one"), 1, "one 1"))
    others = ("checkpoint-007/manifest.json", "checkpoint-3/manifestXjson", "checkpoint-old/a")
    for name in others[::2]:
        fsspec.filesystem("memory").pipe_file(f"/bucket/runs/a/{name}", b"mine")
    assert begin(on("two")) == "one 1"
    assert [store_of(name) for name in others[::2]] == ["mine", "mine"]
    listing = dict.fromkeys(["checkpoint-1/manifest.json", *others], {"size": "1"})
    assert list(RunStore(URL).folders.steps(listing)) == [1]


def test_trackers_may_link_and_remove_their_files(on, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B keeps links such as wandb/latest-run, and files of a moment."""
    folder = on("one")
    inner, upload = folder.trackers / "wandb" / "run-1", store.Store.upload

    def work() -> None:
        inner.mkdir(parents=True)
        for name in ("log.txt", "moment.txt", ".tmp-log.txt-0"):
            (inner / name).write_text(name)
        (inner.parent / "latest-run").symlink_to("run-1")
        (inner / "debug.log").symlink_to("log.txt")
        save(folder, 1, "one 1")

    def uploaded(self: store.Store, name: str, file: Path) -> None:
        if name.endswith("moment.txt"):
            file.unlink()
        upload(self, name, file)

    monkeypatch.setattr(store.Store, "upload", uploaded)
    begin(folder, then=work)
    found = RunStore(URL).store.listing("trackers")
    assert list(found) == ["trackers/wandb/run-1/log.txt"]


def test_the_files_of_a_run_are_read_without_its_checkpoints(on) -> None:
    folder = on("one")
    begin(folder, then=lambda: save(folder, 1, "one 1"))
    found = run_files(URL, "run")
    names = {path.relative_to(found).as_posix() for path in found.rglob("*") if path.is_file()}
    assert names == {"metrics.jsonl", "checkpoint-1/manifest.json"}
    assert RunStore(URL).shown(folder.path / "checkpoint-1") == f"{URL}/checkpoint-1"


def test_urls_that_cannot_be_an_output_dir() -> None:
    with pytest.raises(InputError, match="output_dir: nothing can be written to https://"):
        RunFolder("https://host/a")
    with pytest.raises(InputError, match="output_dir: .*has lost a slash; accepted: the URL as a"):
        check_run_facts(Path("s3://bucket/a"), 0)
