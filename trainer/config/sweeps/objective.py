"""Objective: the evaluation result by which the jobs of a sweep are compared."""

from trainer.config.saved_recipe import WITH_SAVED_RECIPE, with_saved_recipe
from trainer.errors import InputError
from trainer.redaction import redacted
from trainer.runs.run import Run
from trainer.runs.sweep_records import Objective
from trainer.runs.sweep_results import known_results
from trainer.runs.sweep_settings import SweepSettings


def objective_of(run: Run, settings: SweepSettings) -> Objective:
    """The evaluation result by which the sweep's jobs are compared; `run` is one of the jobs.

    Raises InputError if the jobs' evaluations do not compute this result.
    """
    if run.job not in ("train", "evaluate"):
        accepted = "accepted: train or evaluate, whose results can be compared"
        raise InputError(f"job: found {run.job} in a search; {accepted}")
    if run.job in WITH_SAVED_RECIPE:
        run = with_saved_recipe(run)
    known = known_results(run)
    name = settings.objective or run.trainer.metric_for_best_model
    if name is None:
        own = run.recipe.metric_for_best_model if run.recipe else "loss"
        name = own if own in known else "loss"
    name = name.removeprefix("eval_")
    ends = [result for result in known if f"_{name}".endswith(f"_{result}")]
    if not ends:
        found = redacted(name)
        raise InputError(f"sweep.objective: found '{found}'; accepted: {', '.join(known)}")
    longer = [result for result in known if result.endswith(f"_{name}")]
    return Objective(name, known[max(ends, key=len)], tuple(longer))
