"""Resuming: chooses the checkpoint to continue from, and checks that the run matches it."""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

from trainer.checkpoint import files
from trainer.checkpoint.publish import published, repair
from trainer.checkpoint.state import Progress, read_progress
from trainer.checkpoint.verify import MANIFEST, CorruptCheckpoint, read_json, verify
from trainer.errors import EnvironmentFault, InputError
from trainer.terminal.plain_text import short_path

logger = logging.getLogger("trainer")

MUST_MATCH = {
    "seed": "seed",
    "global_batch_size": "trainer.global_batch_size",
    "data_fingerprint": "dataset",
    "config_fingerprint": "",
}
"""The fields of Progress that must match, with their names in messages.

Entries of the config's fingerprint have their own names.
"""

MAY_DIFFER = {
    "total_steps": "the learning rate follows the new number of steps",
    "precision": "weights will differ in rounding",
    "world_size": "weights will differ in rounding",
    "micro_batch_size": "weights will differ in rounding",
    "max_tokens": "weights will differ in rounding",
}
"""The fields of Progress that may differ, with the effect on a resumed run."""

TRACES = ("metrics.jsonl", "results.json", "model", "checkpoint-*", ".bad-checkpoint-*")
"""Patterns of the files and folders that show that a folder has a run."""


def choose(output_dir: Path, resume: str = "auto") -> Path | None:
    """Return the verified checkpoint to continue from, or None to start from the beginning.

    `resume` is auto, never, must or the path of a checkpoint. Files left by a crash are removed. An
    invalid checkpoint is renamed to .bad-<name> with a warning; if no other is left,
    EnvironmentFault is raised, since a run must not restart from the beginning without a request.
    Raises InputError for `never` if there is a run, for `must` if there is none, and for a path
    that would rewind the run in output_dir. If `resume` is the path from which this run began, the
    run's newest checkpoint is used. Rank 0 calls it, holding the RunLock, and sends the result to
    the others.
    """
    if output_dir.is_dir():
        repair(output_dir)
    if resume == "never":
        require_no_run(output_dir)
        return None
    if resume not in ("auto", "must"):
        return _named(output_dir, Path(resume))
    newest = newest_verified(output_dir)
    if newest is None and resume == "must":
        raise InputError(
            f"trainer.resume: found must, but {short_path(output_dir)} holds no checkpoint"
        )
    return newest


def compare(saved: Progress, now: Progress, allowed: Collection[str] = ()) -> list[str]:
    """Return one line for each allowed difference. Raises InputError for one that is not allowed.

    `allowed` lists differences to accept: `seed`, `trainer.learning_rate`, or all of `recipe`.
    """
    refused: dict[str, str] = {}
    notes: list[str] = []
    for field, name in MUST_MATCH.items():
        for label, before, after in _differences(name, getattr(saved, field), getattr(now, field)):
            text = f"{label}: found {after}; the checkpoint of step {saved.step} has {before}"
            is_allowed = any(label == each or label.startswith(f"{each}.") for each in allowed)
            if is_allowed:
                notes.append(text)
            else:
                refused[label] = text
    for field, effect in MAY_DIFFER.items():
        for _, before, after in _differences(field, getattr(saved, field), getattr(now, field)):
            notes.append(f"{field}: {before} before the checkpoint, {after} from here; {effect}")
    if refused:
        accepted = f"the same, trainer.allow_changes=[{','.join(refused)}], or another output_dir"
        raise InputError(f"{'; '.join(refused.values())}; accepted: {accepted}")
    return notes


def require_no_run(output_dir: Path) -> None:
    """Raise InputError if a folder has traces of a run."""
    if traces := _traces(output_dir):
        found = (
            f"trainer.resume: found never, but {short_path(output_dir)} holds a run ({traces[0]})"
        )
        raise InputError(f"{found}; accepted: auto, or another output_dir")


def _traces(output_dir: Path) -> list[str]:
    return [path.name for pattern in TRACES for path in output_dir.glob(pattern)]


def _named(output_dir: Path, checkpoint: Path) -> Path:
    """The given checkpoint, or the newest one of the run that began from it."""
    if not (checkpoint / MANIFEST).is_file() or not (checkpoint / "state").is_dir():
        accepted = f"auto, never, must, or the folder of a checkpoint (state/ and {MANIFEST})"
        raise InputError(f"trainer.resume: found '{checkpoint}'; accepted: {accepted}")
    step = _check(checkpoint.resolve())
    if checkpoint.resolve().parent == output_dir.resolve():
        if others := [other for other in published(output_dir) if other > step]:
            raise _rewinds(output_dir, f"at step {max(others)}", checkpoint)
        return checkpoint
    if published(output_dir):
        newest = newest_verified(output_dir)
        if newest is not None and origin_of(newest) == str(checkpoint.resolve()):
            return newest
    if found := [name for name in _traces(output_dir) if name != "metrics.jsonl"]:
        raise _rewinds(output_dir, f"({found[0]})", checkpoint)
    return checkpoint


def origin_of(checkpoint: Path) -> str | None:
    """The checkpoint in another folder from which this folder's run began, if any."""
    origin = read_json(checkpoint / MANIFEST)["facts"].get("origin")
    return origin if isinstance(origin, str) else None


def _rewinds(output_dir: Path, found: str, checkpoint: Path) -> InputError:
    return InputError(
        f"trainer.resume: {short_path(output_dir)} holds a run {found}, which '{checkpoint}' would "
        "rewind; accepted: auto, or another output_dir"
    )


def newest_verified(output_dir: Path) -> Path | None:
    """The newest valid checkpoint; newer, invalid ones are renamed, as `choose` describes."""
    for checkpoint in reversed(published(output_dir).values()):
        try:
            _check(checkpoint)
            return checkpoint
        except CorruptCheckpoint as fault:
            bad = files.unused(output_dir / f".bad-{checkpoint.name}")
            logger.warning("%s; checkpoint skipped and renamed to %s", fault, bad.name)
            files.rename(checkpoint, bad)
            files.fsync_folder(output_dir)
    bad_ones = sorted(path.name for path in output_dir.glob(".bad-checkpoint-*"))
    if bad_ones:
        found = f"{short_path(output_dir)}: no checkpoint verifies ({', '.join(bad_ones)})"
        raise EnvironmentFault(f"{found}; not starting over: choose another output_dir")
    return None


def _check(checkpoint: Path) -> int:
    """Verify all files of a checkpoint; return its step."""
    facts = verify(checkpoint).facts
    progress = read_progress(checkpoint / "state")
    named = checkpoint.name.removeprefix("checkpoint-")
    if facts.get("step") != progress.step or named not in (str(progress.step), checkpoint.name):
        reason = f"is of step {facts.get('step')}, trainer.json of step {progress.step}"
        raise CorruptCheckpoint(checkpoint / MANIFEST, reason)
    return progress.step


def _differences(name: str, before: Any, after: Any) -> list[tuple[str, Any, Any]]:
    if not isinstance(before, dict):
        return [(name, before, after)] if before != after else []
    parts = sorted(before.keys() | after.keys())
    found = [(part, before.get(part), after.get(part)) for part in parts]
    # a setting that the older version did not have counts as equal if it is null now
    return [
        each for each in found if each[1] != each[2] and not (each[1] is None and _unset(each[2]))
    ]


def _unset(value: object) -> bool:
    """Whether a fingerprint's entry means that a setting is null."""
    return value in (None, "null", "None")
