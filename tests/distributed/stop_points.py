"""The program of every rank in `test_stop_points.py`: runs that are stopped and continued."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from tests.distributed.stopping import Killed, StoppingTrainer, build, die_together, leave

VARIANTS: dict[str, dict[str, Any]] = {
    "average and best": {
        "num_epochs": 3,
        "save_steps": 2,
        "logging_steps": 3,
        "ema_decay": 0.9,
        "load_best_model_at_end": True,
        "save_total_limit": 4,
    },
    "early stopping half way": {
        "num_epochs": 6,
        "save_steps": 2,
        "learning_rate": 3e-2,
        "optimizer": "sgd",
        "optimizer_options": {"momentum": 0.9},
        "early_stopping_patience": 2,
        "eval_steps": 3,
    },
}
STOPS = [
    [("forward", 1)],  # before the first step
    [("stepped", 1)],  # inside an epoch, nothing saved yet
    [("stepped", 2)],  # just before the first save
    [("fill", 2)],  # in the first save
    [("saved", 2)],
    [("forward", 5)],  # the last batch of an epoch
    [("stepped", 5)],  # the end of an epoch, before the evaluation
    [("evaluated", 5)],  # after the evaluation
    [("forward", 6)],  # in the next epoch
    [("fill", 10)],  # a save at the end of an epoch
    [("stepped", 15)],  # the last step, before the last save
    [("finish", 15)],  # before model/ is published
    [("stepped", 3), ("forward", 6)],
    [("saved", 4), ("fill", 6), ("evaluated", 10)],
    [("forward", 1), ("fill", 8), ("stepped", 15)],
]
EARLY = [
    [("stepped", 5)],
    [("evaluated", 6)],
    [("saved", 6), ("forward", 8), ("evaluated", 9)],
]


def main(output: Path, folder: Path) -> None:
    found = {}
    for variant, stops in zip(VARIANTS, (STOPS, EARLY), strict=True):
        whole = fit(folder / variant, variant)
        found[f"{variant}, steps"] = whole.state.step
        for number, planned in enumerate(stops):
            again = folder / f"{variant} {number}"
            for moment, step in planned:
                try:
                    run = build(again, **VARIANTS[variant])
                    run.stop(moment, step, partial(die_together, run.ranks)).fit()
                except Killed:
                    whole.ranks.barrier()
                else:
                    raise AssertionError(f"{variant}: {moment} of step {step} was never reached")
            fit(again, variant)
            if whole.ranks.is_main:
                found[f"{variant}, {planned}"] = differences(folder / variant, again)
            whole.ranks.barrier()
    if whole.ranks.is_main:
        output.write_text(json.dumps(found))


def fit(folder: Path, variant: str) -> StoppingTrainer:
    trainer = build(folder, **VARIANTS[variant])
    trainer.fit()
    return trainer


def differences(one: Path, other: Path) -> list[str]:
    """The files that differ: weights, moments, averages and metrics, in all checkpoints."""
    names = [{p.relative_to(run).as_posix() for p in run.rglob("*")} for run in (one, other)]
    found = sorted(names[0] ^ names[1])
    for name in sorted((names[0] & names[1]) - {"facts.json", "report.html"}):  # of every start
        if (one / name).is_file() and content(one / name) != content(other / name):
            found.append(name)
    return found


def content(path: Path) -> Any:
    """The content of a file, without durations and paths."""
    if path.suffix not in (".json", ".jsonl"):
        return path.read_bytes()
    return [without_times(json.loads(line)) for line in whole_or_lines(path)]


def whole_or_lines(path: Path) -> list[str]:
    text = path.read_text()
    return text.splitlines() if path.suffix == ".jsonl" else [text]


def without_times(value: Any) -> Any:
    if isinstance(value, list):
        return [without_times(each) for each in value]
    if not isinstance(value, dict):
        return value
    times = ("seconds", "waited", "before", "model_path", "report_path", "sha256", "bytes")
    return {
        name: without_times(each)
        for name, each in value.items()
        if not name.endswith(("per_second", "data_wait", "memory_gib")) and name not in times
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
    leave()
