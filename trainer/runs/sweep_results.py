"""Sweep results: reads the results of jobs, finds the best one, and writes all of them as CSV."""

import csv
import io
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.checkpoint import files
from trainer.metrics.direction import directions
from trainer.metrics.functions import greater_is_better
from trainer.runs.run import Run
from trainer.runs.sweep_records import JobRecord, Objective

logger = logging.getLogger("trainer")

RESULTS = {"train": "results.json", "evaluate": "evaluation.json"}
"""The file in output_dir that has the metrics of each kind of job."""


def best(results: Sequence[JobRecord]) -> JobRecord | None:
    """The best of the measured jobs; None unless all of them have the same metric."""
    measured = [r for r in results if is_measured(r) and r.exit_code == 0]
    if len({result.metric for result in measured}) != 1:
        return None
    sign = 1 if measured[0].greater_is_better else -1
    return max(measured, key=lambda result: sign * (result.value or 0.0))


def is_measured(result: JobRecord) -> bool:
    """Whether the job has a finite value."""
    return result.value is not None and math.isfinite(result.value)


def swept_keys(results: Sequence[JobRecord]) -> list[str]:
    """The keys of the settings that differ between the jobs."""
    return list(dict.fromkeys(key for result in results for key in result.values))


def write_csv(results: Sequence[JobRecord], file: Path) -> None:
    """Write the jobs as a table, with one job per line."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    swept = swept_keys(results)
    table.writerow([*swept, "status", "exit_code", "metric", "value", "step", "output_dir"])
    for result in results:
        value = result.value if is_measured(result) else ""
        facts = [result.status, result.exit_code, result.metric, value, result.step]
        table.writerow([*(result.values.get(k, "") for k in swept), *facts, result.output_dir])
    files.make_folder(file.parent, synced=True)
    files.write_text(file, text.getvalue())
    files.fsync_folder(file.parent)


def measured(run: Run, objective: Objective | None) -> dict[str, Any]:
    """The metric that a job reached, as fields of a JobRecord: metric, value, step,
    greater_is_better.

    The metric is the objective's; without an objective, it is the metric for the best model. Empty
    if the job has no value.
    """
    file = run.output_dir / RESULTS.get(run.job, "nothing")
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        chosen = _chosen(run, found, objective)
        if chosen["value"] is None:
            return {}
        facts = {"metric": str(chosen["metric"]), "value": float(chosen["value"])}
        facts |= {"step": chosen.get("step"), "greater_is_better": _greater(run, chosen, objective)}
        return facts
    except (OSError, LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        logger.warning("%s: not what this program writes (%s)", file, error)
        return {}


def _chosen(
    run: Run, found: Mapping[str, Any], objective: Objective | None
) -> Mapping[str, str | float | int | None]:
    tracked = found.get("best")
    metrics = found["metrics"]
    tracked_name = str(tracked["metric"]) if tracked else ""
    name = None if objective is None else objective.key_of([tracked_name, *metrics])
    if tracked and (objective is None or name == tracked_name):
        return dict(tracked)
    if objective is not None:
        return {"metric": name, "value": metrics[name] if name else None}
    default = f"eval_{run.recipe.metric_for_best_model}" if run.recipe else "eval_loss"
    name = default if default in metrics else "eval_loss"
    return {"metric": name, "value": metrics.get(name)}


def _greater(run: Run, chosen: Mapping[str, object], objective: Objective | None) -> bool:
    if objective is not None:
        return objective.greater_is_better
    known, name = known_results(run), str(chosen["metric"])
    ends = [result for result in known if name.endswith(f"_{result}")]
    return known[max(ends, key=len)] if ends else greater_is_better(name)


def known_results(run: Run) -> dict[str, bool]:
    """Whether a greater value is better, for every result of the run's evaluations."""
    return {**directions(run.metrics), **(run.recipe.measures if run.recipe else {})}
