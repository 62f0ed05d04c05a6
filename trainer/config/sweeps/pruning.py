"""Pruning: ends jobs of a sweep early if Optuna's pruner decides so from all jobs' evaluations."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.errors import InputError
from trainer.runs.sweep_records import JobRecord, Objective, Records, evaluations
from trainer.runs.sweep_settings import PRUNERS, SweepSettings
from trainer.stores.run_store import local_folder

if TYPE_CHECKING:
    import optuna

Points = Sequence[tuple[int, float]]
"""The evaluations of one job, as pairs (step, value)."""


def make_pruner(settings: SweepSettings) -> "optuna.pruners.BasePruner":
    """The pruner that the settings name.

    Raises InputError if Optuna is not installed or does not accept the options.
    """
    try:
        import_quietly()
    except ModuleNotFoundError as error:
        accepted = "accepted: pip install 'tempering[optuna]', or none"
        raise InputError(f"sweep.pruner: optuna is not installed; {accepted}") from error
    import optuna

    name = PRUNERS[settings.pruner]
    try:
        pruner: optuna.pruners.BasePruner = getattr(optuna.pruners, name)(**settings.pruner_options)
    except (TypeError, ValueError) as error:
        accepted = f"accepted: arguments of optuna.pruners.{name}"
        raise InputError(f"sweep.pruner_options: {error}; {accepted}") from error
    return pruner


def import_quietly() -> None:
    """Import Optuna, and silence its progress lines and its warnings about its own dependencies.

    Raises ModuleNotFoundError.
    """
    with warnings.catch_warnings(action="ignore"):  # e.g. about SQLAlchemy 2
        import optuna
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    logging.getLogger("optuna").setLevel(logging.WARNING)


@dataclass
class Watch:
    """Decides, while a job runs, whether the job should end early."""

    settings: SweepSettings
    objective: Objective
    records: Records
    job: JobRecord
    seen: int = 0
    """The number of evaluations at the last decision."""

    def should_prune(self) -> bool:
        """Whether to end the job, given the evaluations logged since the last call."""
        own = evaluations(local_folder(self.job.output_dir), self.objective)
        if len(own) <= self.seen:
            return False
        before, self.seen = self.seen, len(own)
        others = [record for record in self.records.read() if record.label != self.job.label]
        histories = [
            (evaluations(local_folder(other.output_dir), self.objective), other) for other in others
        ]
        return decide(make_pruner(self.settings), self.objective, histories, own, before)


def decide(
    pruner: "optuna.pruners.BasePruner",
    objective: Objective,
    others: Sequence[tuple[Points, JobRecord]],
    own: Points,
    seen: int = 0,
) -> bool:
    """Whether the pruner would end a job at one of its evaluations after the first `seen`.

    The evaluations of the other jobs are first reported to the pruner, in the order in which the
    jobs started. So the pruner's state is the same in every process.
    """
    import optuna

    direction = "maximize" if objective.greater_is_better else "minimize"
    study = optuna.create_study(study_name="sweep", direction=direction, pruner=pruner)
    for points, record in others:
        trial = study.ask()
        _report(trial, points)
        if record.exit_code == 0 and record.value is not None:
            study.tell(trial, record.value)
        elif record.pruned and points:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        elif record.exit_code is not None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return any(_report(study.ask(), own)[seen:])


def _report(trial: "optuna.trial.Trial", points: Points) -> list[bool]:
    """Report evaluations in their order; returns, for each, whether the pruner ends the trial."""
    answers = []
    for step, value in points:
        trial.report(value, step)
        answers.append(trial.should_prune())
    return answers
