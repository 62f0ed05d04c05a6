"""SweepResults: what the jobs of a sweep came to, side by side, and the best of them."""

import csv
import hashlib
import io
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.checkpoint import files
from trainer.metrics.direction import directions
from trainer.run import Run

logger = logging.getLogger("trainer")

STATUS = {
    None: "not started",
    0: "done",
    2: "wrong input",
    3: "environment failed",
    4: "numbers failed",
    130: "stopped",
    143: "stopped",
}
"""Exit code -> what a table says of a job."""
RESULTS = {"train": "results.json", "evaluate": "evaluation.json"}
"""Job -> the file in output_dir that holds its metrics."""


@dataclass(frozen=True)
class JobResult:
    """One job of a sweep."""

    values: Mapping[str, str]
    """What it has of the keys in which the jobs differ."""
    output_dir: Path
    exit_code: int | None
    """None: it was not started."""
    metric: str = ""
    value: float = math.nan
    greater_is_better: bool = True
    step: int | None = None
    """The step whose model has this value."""

    @property
    def status(self) -> str:
        """How it ended, in two words."""
        return STATUS.get(self.exit_code, f"failed ({self.exit_code})")


def sweep_results(runs: Sequence[Run], exit_codes: Sequence[int]) -> list[JobResult]:
    """One result a job; those beyond the exit codes were not started."""
    codes = [*exit_codes, *[None] * (len(runs) - len(exit_codes))]
    typed = [dict(text.split("=", 1) for text in run.overrides if "=" in text) for run in runs]
    keys = {
        key: None for values in typed for key in values if key not in ("output_dir", "run_name")
    }
    swept = [key for key in keys if len({values.get(key) for values in typed}) > 1]
    return [
        JobResult(
            {key: values.get(key, "") for key in swept},
            run.output_dir,
            code,
            **_measured(run, code),
        )
        for run, values, code in zip(runs, typed, codes, strict=True)
    ]


def best(results: Sequence[JobResult]) -> JobResult | None:
    """The best of the jobs that were measured, if they were measured alike."""
    measured = [result for result in results if math.isfinite(result.value)]
    if len({result.metric for result in measured}) != 1:
        return None
    sign = 1 if measured[0].greater_is_better else -1
    return max(measured, key=lambda result: sign * result.value)


def write_csv(results: Sequence[JobResult]) -> Path:
    """sweep-<8 hex digits of its jobs>.csv in the folder that holds the jobs' folders."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    swept = list(results[0].values)
    table.writerow([*swept, "status", "exit_code", "metric", "value", "step", "output_dir"])
    for result in results:
        value = result.value if math.isfinite(result.value) else ""
        facts = [result.status, result.exit_code, result.metric, value, result.step]
        table.writerow([*result.values.values(), *facts, result.output_dir])
    folders = [str(result.output_dir) for result in results]
    digest = hashlib.sha256("\n".join(folders).encode()).hexdigest()[:8]
    parents = [result.output_dir.absolute().parent for result in results]
    folder = Path(os.path.relpath(os.path.commonpath(parents)))
    files.make_folder(folder, synced=True)
    files.write_text(folder / f"sweep-{digest}.csv", text.getvalue())
    files.fsync_folder(folder)
    return folder / f"sweep-{digest}.csv"


def _measured(run: Run, exit_code: int | None) -> dict[str, Any]:
    """The metric that means better for this job, where it left one."""
    file = run.output_dir / RESULTS.get(run.job, "nothing")
    if exit_code != 0 or not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        chosen = found.get("best") or _own_metric(run, found["metrics"])
        if chosen["value"] is None:
            return {}
        known = directions(run.metrics)
        result = max((r for r in known if f"_{chosen['metric']}".endswith(f"_{r}")), key=len)
        facts = {"metric": str(chosen["metric"]), "value": float(chosen["value"])}
        return {**facts, "step": chosen.get("step"), "greater_is_better": known[result]}
    except (OSError, LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        logger.warning("%s: not what this program writes (%s)", file, error)
        return {}


def _own_metric(run: Run, metrics: Mapping[str, float | None]) -> dict[str, Any]:
    own = f"eval_{run.recipe.metric_for_best_model}" if run.recipe else "eval_loss"
    name = own if own in metrics else "eval_loss"
    return {"metric": name, "value": metrics.get(name)}
