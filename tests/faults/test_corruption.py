"""Every kind of damage to a checkpoint is detected and named, and the previous one is used."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.checkpoint import files
from trainer.checkpoint.publish import publish
from trainer.checkpoint.resume import choose
from trainer.checkpoint.state import read_state
from trainer.checkpoint.verify import CorruptCheckpoint, NewerFormat, verify
from trainer.errors import EnvironmentFault

NAMES = [
    "config.json",
    "model.safetensors",
    "manifest.json",
    "state/trainer.json",
    "state/optimizer.safetensors",
    "state/optimizer.json",
    "state/ema.safetensors",
    "state/callbacks.json",
]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def cut(path: Path, keep: Callable[[int], int]) -> None:
    path.write_bytes(path.read_bytes()[: keep(path.stat().st_size)])


def from_older(path: Path) -> None:
    here = path.relative_to(next(p for p in path.parents if p.name == "checkpoint-3"))
    older = next(p for p in path.parents if p.name == "checkpoint-3").with_name("checkpoint-2")
    shutil.copy(older / here, path)


def link_out(path: Path) -> None:
    path.rename(path.parents[2] / "outside")
    path.symlink_to(path.parents[2] / "outside")


DAMAGES = {
    "missing": Path.unlink,
    "empty": lambda path: cut(path, lambda size: 0),
    "half": lambda path: cut(path, lambda size: size // 2),
    "all but one byte": lambda path: cut(path, lambda size: size - 1),
    "one byte more": lambda path: path.write_bytes(path.read_bytes() + b" "),
    "a flipped bit": flip,
    "from an older checkpoint": from_older,
    "a link out": link_out,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.fixture
def run(folder, save) -> Path:
    for step in (2, 3):
        save(folder / "run", step)
    return folder / "run"


def falls_back(run: Path, caplog: pytest.LogCaptureFixture, *words: str) -> None:
    """The previous checkpoint is used, with one warning, and the bad one is renamed."""
    caplog.clear()
    assert choose(run) == run / "checkpoint-2"
    (line,) = caplog.messages
    for word in (*words, ".bad-checkpoint-3"):
        assert word in line, line
    assert "\n" not in line
    assert (run / ".bad-checkpoint-3").exists()
    verify(run / "checkpoint-2")


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_file(run, save, caplog, damage):
    present = {
        p.relative_to(run / "checkpoint-3").as_posix() for p in run.glob("checkpoint-3/**/*")
    }
    assert present - {"state"} == set(NAMES)
    for name in NAMES:
        DAMAGES[damage](run / "checkpoint-3" / name)
        other = damage == "from an older checkpoint" and name == "manifest.json"
        falls_back(run, caplog, "checkpoint-3/" + ("" if other else name))
        files.remove_folder(run / ".bad-checkpoint-3")
        save(run, 3)


def test_an_empty_folder(run, caplog):
    shutil.rmtree(run / "checkpoint-3")
    (run / "checkpoint-3").mkdir()
    falls_back(run, caplog, "checkpoint-3/manifest.json: missing")


def test_a_file_too_many(run, caplog):
    (run / "checkpoint-3" / "pytorch_model.bin").write_bytes(b"x")
    falls_back(run, caplog, "checkpoint-3/pytorch_model.bin: not named in manifest.json")


def test_a_link_in_place_of_the_folder(run, caplog):
    (run / "checkpoint-3").rename(run / "elsewhere")
    (run / "checkpoint-3").symlink_to(run / "elsewhere")
    falls_back(run, caplog, "checkpoint-3")
    verify(run / "elsewhere")


def test_the_folders_of_two_checkpoints_swapped(run, folder, save, caplog):
    shutil.rmtree(run / "checkpoint-3")
    shutil.copytree(run / "checkpoint-2", run / "checkpoint-3")
    falls_back(run, caplog, "checkpoint-3/manifest.json", "step 2")


MANIFESTS = {
    "names a parent": ({"files": {"../x": {"bytes": 0, "sha256": "0" * 64}}}, "'../x'"),
    "names a root": ({"files": {"/etc/passwd": {"bytes": 0, "sha256": "0" * 64}}}, "'/etc/passwd'"),
    "names a detour": ({"files": {"a/../b": {"bytes": 0, "sha256": "0" * 64}}}, "'a/../b'"),
    "names a dot": ({"files": {"./b": {"bytes": 0, "sha256": "0" * 64}}}, "'./b'"),
    "has a size of text": ({"files": {"a": {"bytes": "1", "sha256": "0" * 64}}}, "size or sha256"),
    "has no digest": ({"files": {"a": {"bytes": 1}}}, "size or sha256"),
    "has a list of files": ({"files": ["a"]}, "no facts or no files"),
    "has another format": ({"format_version": 2}, "format_version is 2"),
    "has a format of text": ({"format_version": "1"}, "format_version is '1'"),
    "has a format of true": ({"format_version": True}, "its content changed"),
    "has a step of 10^12": ({"facts": {"step": 10**12}}, "step is 1000000000000"),
    "has a negative step": ({"facts": {"step": -1}}, "step is -1"),
    "has a step of text": ({"facts": {"step": "abc"}}, "step is 'abc'"),
    "has another step": ({"facts": {"step": 4}}, "its content changed"),
    "has another digest": ({"sha256": "0" * 64}, "its content changed"),
    "says more": ({"more": 1}, "its content changed"),
}


@pytest.mark.parametrize("change", MANIFESTS)
def test_manifest(run, caplog, change):
    entries, words = MANIFESTS[change]
    path = run / "checkpoint-3" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    falls_back(run, caplog, "checkpoint-3/manifest.json", words)


@pytest.mark.parametrize("text", ["[]", "{", "", "NaN", '{"a": ' * 100_000, "\xff", "1" * 5000])
def test_manifest_that_is_none(run, caplog, text):
    (run / "checkpoint-3" / "manifest.json").write_bytes(text.encode("latin-1"))
    falls_back(run, caplog, "checkpoint-3/manifest.json")


PROGRESS = {
    "step of 10^12": {"step": 10**12},
    "step of text": {"step": "abc"},
    "step of a fraction": {"step": 3.0},
    "negative step": {"step": -3},
    "no format": {"format_version": None},
    "samples of text": {"samples_consumed": "24"},
    "negative samples": {"samples_consumed": -1},
    "seed of true": {"seed": True},
    "empty batch": {"global_batch_size": 0},
    "fingerprint of a number": {"data_fingerprint": 7},
    "config as text": {"config_fingerprint": "c"},
    "metric of text": {"best_metric": "0.5"},
    "endless metric": {"best_metric": float("inf")},
    "finished as text": {"finished": "no"},
    "step beyond the last": {"total_steps": 2},
    "unknown key": {"cheese": 1},
}


@pytest.mark.parametrize("file", ["manifest.json", "state/trainer.json"])
@pytest.mark.parametrize("resume", ["auto", "must"])
def test_a_later_version_is_refused_and_stays(run, tree, file, resume):
    """It is intact for a newer version, so an older one must not rewind the run."""
    damaged, path = run / "damaged", run / "checkpoint-3"
    shutil.move(path, damaged)
    value = json.loads((damaged / file).read_text()) | {"format_version": 9}
    if file == "manifest.json":
        shutil.move(damaged, path)
        body = {name: each for name, each in value.items() if name != "sha256"}
        digest = hashlib.sha256(files.json_bytes(body)).hexdigest()
        (path / file).write_bytes(files.json_bytes(body | {"sha256": digest}))
    else:
        (damaged / "manifest.json").unlink()
        (damaged / file).write_text(json.dumps(value))
        publish(
            path, lambda new: shutil.copytree(damaged, new, dirs_exist_ok=True), facts={"step": 3}
        )
        shutil.rmtree(damaged)
    before = tree(run)
    with pytest.raises(NewerFormat, match=r"checkpoint-3.*format 9 is newer than .* \(1\); update"):
        choose(run, resume)
    assert tree(run) == before


@pytest.mark.parametrize("error", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_disk_that_does_not_answer_is_no_damage(run, tree, error):
    before = tree(run)

    def fail(moment: str, operation: str, *paths: Path) -> None:
        if (moment, operation) == ("before", "read") and "checkpoint-3" in str(paths[0]):
            raise OSError(error, os.strerror(error))

    files.hook = fail
    with pytest.raises(EnvironmentFault, match="checkpoint-3.*cannot read"):
        choose(run)
    files.hook = None
    assert tree(run) == before
    assert choose(run) == run / "checkpoint-3"


def test_only_what_is_ours_is_cleaned_up(run, tree):
    theirs = [".tmp-work.txt", ".del-x", ".old-notes", ".tmp-checkpoint", ".old-model.bin", "notes"]
    ours = [".tmp-checkpoint-9", ".del-checkpoint-1", ".del-checkpoint-1-2", ".tmp-metrics.jsonl"]
    for name in [*theirs, *ours]:
        (run / name).write_text(name)
    choose(run)
    left = {path.name for path in run.iterdir()}
    assert left >= set(theirs) and not left & set(ours)


@pytest.mark.parametrize("change", PROGRESS)
def test_trainer_json_under_a_manifest_that_fits(run, caplog, change):
    """Damage from before the save, or made deliberately."""
    damaged = run / "damaged"
    shutil.copytree(run / "checkpoint-3", damaged)
    shutil.rmtree(run / "checkpoint-3")
    (damaged / "manifest.json").unlink()
    path = damaged / "state" / "trainer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | PROGRESS[change]))

    def fill(staging: Path) -> None:
        shutil.copytree(damaged, staging, dirs_exist_ok=True)

    publish(run / "checkpoint-3", fill, facts={"step": 3})
    falls_back(run, caplog, "checkpoint-3/state/trainer.json")


def test_a_key_that_is_missing(run):
    path = run / "checkpoint-3" / "state" / "trainer.json"
    for key in json.loads(path.read_text()):
        kept = path.read_text()
        path.write_text(json.dumps({k: v for k, v in json.loads(kept).items() if k != key}))
        with pytest.raises(CorruptCheckpoint, match=key):
            read_state(path.parent)
        path.write_text(kept)
    read_state(path.parent)


def test_tensors_that_optimizer_json_does_not_describe(run):
    state = run / "checkpoint-3" / "state"
    for parameters in ({}, {"w": ["exp_avg", "more"]}, {"v": ["exp_avg"]}, {"w": 3}, []):
        files.write_json(state / "optimizer.json", {"parameters": parameters, "facts": None})
        with pytest.raises(CorruptCheckpoint, match="optimizer"):
            read_state(state)


@pytest.mark.parametrize("resume", ["auto", "must"])
def test_only_bad_ones_never_start_over(run, tree, resume):
    """The run never restarts, neither at the first start nor later."""
    for step in (2, 3):
        flip(run / f"checkpoint-{step}" / "model.safetensors")
    for _ in range(2):
        with pytest.raises(EnvironmentFault, match=r"no checkpoint verifies.*bad-checkpoint-2"):
            choose(run, resume)
    assert sorted(p.name for p in run.iterdir()) == [".bad-checkpoint-2", ".bad-checkpoint-3"]


def test_a_bad_checkpoint_that_was_asked_for(run, tree):
    flip(run / "checkpoint-3" / "model.safetensors")
    before = tree(run)
    with pytest.raises(CorruptCheckpoint, match=r"checkpoint-3/model\.safetensors: its content"):
        choose(run, str(run / "checkpoint-3"))
    assert tree(run) == before
