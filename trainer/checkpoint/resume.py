"""Where a run continues: the newest checkpoint that verifies, and what must match it."""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

from trainer.checkpoint import files
from trainer.checkpoint.publish import published, repair
from trainer.checkpoint.state import Progress, read_progress
from trainer.checkpoint.verify import MANIFEST, CorruptCheckpoint, read_json, verify
from trainer.errors import EnvironmentFault, InputError

logger = logging.getLogger("trainer")

MUST_MATCH = {
    "seed": "seed",
    "global_batch_size": "trainer.global_batch_size",
    "data_fingerprint": "dataset",
    "config_fingerprint": "",
}
"""Field of Progress -> what a user calls it; the config's parts have their own names."""

MAY_DIFFER = {
    "total_steps": "the learning rate follows the new number of steps",
    "precision": "weights will differ in rounding",
    "world_size": "weights will differ in rounding",
    "micro_batch_size": "weights will differ in rounding",
    "max_tokens": "weights will differ in rounding",
}
"""Field of Progress -> what another value does to a resumed run."""

TRACES = ("metrics.jsonl", "results.json", "model", "checkpoint-*", ".bad-checkpoint-*")


def choose(output_dir: Path, resume: str = "auto") -> Path | None:
    """The verified checkpoint to continue from, or None to start anew.

    `resume` is auto, never, must or the path of a checkpoint. The leftovers of a crash are cleaned
    up. Checkpoints that do not verify are renamed to .bad-<name> with a warning each; where no
    other is there, EnvironmentFault: a run never starts over unasked. Raises InputError for
    `never` where a run is, `must` where none is, and a path that would rewind the run that
    output_dir holds, unless it is the one that this run began from: then the newest is meant.
    Rank 0 calls it, under the RunLock, and tells the others.
    """
    if output_dir.is_dir():
        repair(output_dir)
    if resume == "never":
        _require_no_run(output_dir)
        return None
    if resume not in ("auto", "must"):
        return _named(output_dir, Path(resume))
    newest = newest_verified(output_dir)
    if newest is None and resume == "must":
        raise InputError(f"trainer.resume: must, and {output_dir} holds no checkpoint")
    return newest


def compare(saved: Progress, now: Progress, allowed: Collection[str] = ()) -> list[str]:
    """One line for each thing that differs and may. Raises InputError naming what must not.

    `allowed` names differences to let pass: `seed`, `trainer.learning_rate`, or all of `recipe`.
    """
    refused: list[str] = []
    notes: list[str] = []
    for field, name in MUST_MATCH.items():
        for label, before, after in _differences(name, getattr(saved, field), getattr(now, field)):
            text = f"{label}: found {after}; the checkpoint of step {saved.step} has {before}"
            passes = any(label == each or label.startswith(f"{each}.") for each in allowed)
            (notes if passes else refused).append(text)
    for field, effect in MAY_DIFFER.items():
        for _, before, after in _differences(field, getattr(saved, field), getattr(now, field)):
            notes.append(f"{field}: {before} before the checkpoint, {after} from here; {effect}")
    if refused:
        accepted = "the same, trainer.allow_changes=[...] with these names, or another output_dir"
        raise InputError(f"{'; '.join(refused)}; accepted: {accepted}")
    return notes


def _require_no_run(output_dir: Path) -> None:
    if traces := _traces(output_dir):
        found = f"trainer.resume: never, and {output_dir} holds a run ({traces[0]})"
        raise InputError(f"{found}; accepted: auto, or another output_dir")


def _traces(output_dir: Path) -> list[str]:
    return [path.name for pattern in TRACES for path in output_dir.glob(pattern)]


def _named(output_dir: Path, checkpoint: Path) -> Path:
    """The checkpoint that was asked for, or the newest of the run that has begun from it."""
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
    """The checkpoint of another folder that the run of this one has begun from, if it has."""
    origin = read_json(checkpoint / MANIFEST)["facts"].get("origin")
    return origin if isinstance(origin, str) else None


def _rewinds(output_dir: Path, found: str, checkpoint: Path) -> InputError:
    return InputError(
        f"trainer.resume: {output_dir} holds a run {found}, which '{checkpoint}' would rewind; "
        "accepted: auto, or another output_dir"
    )


def newest_verified(output_dir: Path) -> Path | None:
    """The newest checkpoint that verifies; those that do not are put aside, as `choose` says."""
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
        found = f"{output_dir}: no checkpoint verifies ({', '.join(bad_ones)})"
        raise EnvironmentFault(f"{found}; not starting over: choose another output_dir")
    return None


def _check(checkpoint: Path) -> int:
    """The step of a checkpoint in which everything verifies."""
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
    return [
        (part, before.get(part), after.get(part))
        for part in parts
        if before.get(part) != after.get(part)
    ]
