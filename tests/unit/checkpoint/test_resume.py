"""Which checkpoint a run continues from, for each value of trainer.resume."""

import shutil
from pathlib import Path

import pytest

from trainer.checkpoint import files
from trainer.checkpoint.publish import checkpoint_path, publish
from trainer.checkpoint.resume import choose
from trainer.errors import InputError


def save(output_dir: Path, step: int) -> Path:
    """The smallest checkpoint that can be resumed from."""
    progress = dict.fromkeys(("samples_consumed", "evaluations_without_improvement"), 0)
    progress |= dict.fromkeys(("micro_batch_size", "max_tokens", "best_metric", "best_step"))
    progress |= {"step": step, "epoch": 0.5, "seed": 0, "global_batch_size": 1, "world_size": 1}
    progress |= {"precision": "fp32", "data_fingerprint": "", "config_fingerprint": {}}
    progress |= {"total_steps": 1000, "finished": False, "versions": {}, "format_version": 1}

    def fill(staging: Path) -> None:
        files.make_folder(staging / "state")
        files.write_json(staging / "state" / "trainer.json", progress)

    return publish(checkpoint_path(output_dir, step), fill, facts={"step": step})


def test_the_newest_by_its_step(tmp_path):
    for step in (90, 100, 20):
        save(tmp_path, step)
    assert choose(tmp_path) == choose(tmp_path, "must") == tmp_path / "checkpoint-100"


def test_nothing_to_resume(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        assert choose(folder, "auto") is None
        assert choose(folder, "never") is None
        with pytest.raises(
            InputError, match="trainer.resume: found must, but .* holds no checkpoint"
        ):
            choose(folder, "must")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("trace", ["metrics.jsonl", "results.json", "model", "checkpoint-3"])
def test_never_is_refused_where_a_run_is(tmp_path, trace):
    (tmp_path / trace).mkdir()
    with pytest.raises(InputError, match=f"found never, but .* holds a run \\({trace}\\)"):
        choose(tmp_path, "never")


def test_never_over_the_leftovers_of_a_run_that_saved_nothing(tmp_path):
    (tmp_path / ".tmp-checkpoint-3").mkdir()
    (tmp_path / "config.yaml").write_text("")
    (tmp_path / ".lock").write_text("")
    assert choose(tmp_path, "never") is None
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", ".lock"}


def test_a_path(tmp_path):
    mine, other = tmp_path / "mine", tmp_path / "other"
    for step in (1, 2):
        save(mine, step)
    assert choose(other, str(mine / "checkpoint-1")) == mine / "checkpoint-1"
    assert choose(mine, str(mine / "checkpoint-2")) == mine / "checkpoint-2"
    shutil.copytree(mine / "checkpoint-1", tmp_path / "the-good-one")
    assert choose(other, str(tmp_path / "the-good-one")) == tmp_path / "the-good-one"


def test_a_path_that_would_rewind_a_run(tmp_path):
    mine, other = tmp_path / "mine", tmp_path / "other"
    for step in (1, 2):
        save(mine, step)
    save(other, 1)
    for output_dir, held in ((mine, "at step 2"), (other, r"\(checkpoint-1\)")):
        with pytest.raises(InputError, match=rf"holds a run {held}, which '.*' would rewind"):
            choose(output_dir, str(mine / "checkpoint-1"))


@pytest.mark.parametrize("path", ["absent", "yes", "True", "", "/", "\0"])
def test_a_path_that_is_no_checkpoint(tmp_path, path):
    with pytest.raises(InputError, match="trainer.resume: found .*; accepted: auto, never, must"):
        choose(tmp_path, path)
