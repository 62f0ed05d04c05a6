"""Search: extends hydra-optuna-sweeper, so that a search can be continued.

The plugin (version 1.3, for Hydra 1.3) creates a study and proposes `n_trials` new trials. This
module first adds the trials of earlier commands, from the records of the sweep, to the study. It
also derives the direction of the search from the objective.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from trainer.config.sweeps.pruning import import_quietly
from trainer.errors import InputError
from trainer.runs.sweep_records import JobRecord, Objective, Records

if TYPE_CHECKING:
    import optuna

    Distributions = Mapping[str, optuna.distributions.BaseDistribution]

Param = None | bool | int | float | str
"""The value of a swept key, in one of Optuna's types."""

PLUGIN = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"
STUDY = "sweep"
"""The name of the study, unless the user chooses another one."""


@dataclass(frozen=True)
class Earlier:
    """The jobs of a search that earlier commands have started."""

    finished: Sequence[JobRecord]
    unfinished: Sequence[JobRecord]

    @classmethod
    def read(cls, records: Records) -> "Earlier":
        """The jobs in the records; unfinished ones were interrupted, and will run again."""
        found = records.read()
        final = [record for record in found if record.is_final]
        return cls(final, [record for record in found if not record.is_final])


def is_search(hydra: DictConfig) -> bool:
    """Whether the sweeper is Optuna's."""
    return bool(OmegaConf.select(hydra, "sweeper._target_") == PLUGIN)


def prepare_search(
    hydra: DictConfig,
    objective: Objective,
    records: Records,
    arguments: Sequence[str],
    typed: Mapping[str, str],
) -> int:
    """Complete the sweeper's settings; returns the total number of trials.

    `arguments` are the swept overrides, and `typed` are Hydra's settings on the command line (key
    -> value). Raises InputError.
    """
    import_quietly()  # the plugin would import Optuna with its warnings
    sweeper = hydra.sweeper
    if OmegaConf.is_list(sweeper.direction):
        accepted = "accepted: one, which follows from sweep.objective"
        raise InputError(f"hydra.sweeper.direction: found several; {accepted}")
    _set_direction(sweeper, objective, typed)
    for name in ("n_trials", "n_jobs"):
        if sweeper[name] < 1:
            raise InputError(f"hydra.sweeper.{name}: found {sweeper[name]}; accepted: 1 or more")
    total = int(sweeper.n_trials)
    if sweeper.max_failure_rate == 0 and "hydra.sweeper.max_failure_rate" not in typed:
        sweeper.max_failure_rate = 1.0  # a failed job does not stop the others, as in other sweeps
    if sweeper.storage is not None:
        return total
    earlier = Earlier.read(records)
    seed = OmegaConf.select(sweeper, "sampler.seed")
    if seed is not None and earlier.finished:
        # with the same seed, the sampler would propose the same values again
        sweeper.sampler.seed = int(seed) + len(earlier.finished)
    sweeper.n_trials = max(0, total - len(earlier.finished))
    sweeper.study_name = sweeper.study_name or STUDY
    params = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    sweeper.storage = {
        "_target_": f"{__name__}.storage_of",
        "folder": str(records.folder),
        "study_name": sweeper.study_name,
        "direction": sweeper.direction,
        "space": [*params, *arguments],
    }
    return total


def _set_direction(sweeper: DictConfig, objective: Objective, typed: Mapping[str, str]) -> None:
    """Set the direction of the search to that of the objective.

    Raises InputError if the user set the opposite direction. `minimize`, the plugin's default,
    counts as set by the user only if it is on the command line.
    """
    wanted = "maximize" if objective.greater_is_better else "minimize"
    key = "hydra.sweeper.direction"
    given = typed.get(key) or str(getattr(sweeper.direction, "name", sweeper.direction))
    if given != wanted and (key in typed or given != "minimize"):
        better = "greater" if objective.greater_is_better else "smaller"
        found = f"found {given}, but a {better} {objective.name} is better"
        raise InputError(f"{key}: {found}; accepted: {wanted}, or leave it out")
    sweeper.direction = wanted


def storage_of(
    folder: str, study_name: str, direction: str, space: Sequence[str]
) -> "optuna.storages.InMemoryStorage":
    """A storage with the study of this sweep: its finished trials, then those to run again.

    The storage is in memory, since the records of the sweep are on the disk. Besides, the plugin
    requires Optuna 2.10, whose SQL storage does not work with SQLAlchemy 2.
    """
    import optuna
    from hydra_plugins.hydra_optuna_sweeper._impl import create_params_from_overrides

    distributions = create_params_from_overrides(list(space))[0]
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(study_name=study_name, storage=storage, direction=direction)
    earlier = Earlier.read(Records(Path(folder)))
    for record in earlier.finished:
        if (params := _params(record, distributions)) is not None:
            study.add_trial(_trial(record, params, distributions))
    for record in earlier.unfinished:
        if (params := _params(record, distributions)) is not None:
            study.enqueue_trial(params)
    return storage


def _trial(
    record: JobRecord, params: dict[str, Param], distributions: "Distributions"
) -> "optuna.trial.FrozenTrial":
    import optuna

    states = optuna.trial.TrialState
    if record.value is None:
        return optuna.trial.create_trial(
            state=states.FAIL, params=params, distributions=dict(distributions)
        )
    return optuna.trial.create_trial(
        value=record.value, params=params, distributions=dict(distributions)
    )


def _params(record: JobRecord, distributions: "Distributions") -> dict[str, Param] | None:
    """The job's swept values in Optuna's types; None if they are not in this search space."""
    found: dict[str, Param] = {}
    for key, distribution in distributions.items():
        text = record.values.get(key.lstrip("+"))
        value = None if text is None else _value(text, distribution)
        if value is None or not distribution._contains(distribution.to_internal_repr(value)):
            return None
        found[key] = value
    return found


def _value(text: str, distribution: "optuna.distributions.BaseDistribution") -> Param:
    choices: Sequence[Param] | None = getattr(distribution, "choices", None)
    if choices is not None:
        return next((choice for choice in choices if str(choice) == text), None)
    kind = int if "Int" in type(distribution).__name__ else float
    try:
        return kind(text)
    except ValueError:
        return None
