"""Hydra keys: checks which of Hydra's own settings this program supports."""

import re
from collections.abc import Iterable

from trainer.errors import InputError

PAGE = "docs/sweeps.md"
ACCEPTED = (
    *("hydra/sweeper", "hydra/launcher", "hydra.sweeper", "hydra.launcher"),
    *("hydra.sweep.dir", "hydra.sweep.subdir", "hydra.verbose", "hydra.mode"),
)
"""The keys and groups that may be set, including all keys below them."""
FOR_RUNS = ("hydra.verbose", "hydra.mode")
"""The keys of ACCEPTED that also apply to a single run."""
EXTRAS = {
    "optuna": "optuna",
    "joblib": "joblib",
    "submitit_local": "submitit",
    "submitit_slurm": "submitit",
    "ray": "ray",
    "ray_aws": "ray",
}
"""An option of hydra/sweeper or hydra/launcher -> the extra of this package that installs it."""
INSTEAD = {
    "hydra.run.dir": "output_dir=FOLDER",
    "hydra.output_subdir": "no setting, since config.yaml is in the run's folder",
    "hydra.job.chdir": "no setting, since paths are relative to the working folder",
    "hydra.job.env_set": "variables set in the shell, which every job inherits",
    "hydra.job.env_copy": "variables set in the shell, which every job inherits",
    "hydra.searchpath": "--config-dir FOLDER",
    "hydra.callbacks": "callbacks.NAME, the run's own callbacks",
    "hydra/callbacks": "callbacks.NAME, the run's own callbacks",
}
"""A setting of Hydra that this program does not use -> what to use instead, for error messages."""


def is_of_hydra(key: str) -> bool:
    """Whether the key of an override, which may begin with `+` or `~`, is one of Hydra's."""
    return re.match(r"\W*hydra([./]|$)", key) is not None


def is_of_sweeps(override: str) -> bool:
    """Whether an override belongs to the section `sweep` (`sweep.pruner=median`, `sweep={...}`)."""
    return re.match(r"[+~]*sweep[.=]", override) is not None


def check_hydra_key(key: str) -> None:
    """Raise InputError for a setting of Hydra that would have no effect."""
    plain = key.lstrip("+~")
    if _below(plain, ACCEPTED):
        return
    instead = next((text for name, text in INSTEAD.items() if _below(plain, [name])), None)
    accepted = instead or f"{', '.join(ACCEPTED)} (see {PAGE})"
    raise InputError(f"{plain}: Hydra's setting has no effect here; accepted: {accepted}")


def check_use(overrides: Iterable[str]) -> None:
    """Raise InputError for settings of sweeps, in a command without -m."""
    for text in overrides:
        key = text.partition("=")[0].lstrip("+~")
        if not _below(key, FOR_RUNS):
            raise InputError(f"{key}: applies only to sweeps; accepted: in a command with -m")


def check_hydra_error(message: str) -> None:
    """Raise a clearer InputError if the message is Hydra's error about a plugin or its settings."""
    if unknown := re.search(r"Could not override '(hydra[^']*)'", message):
        accepted = "accepted: settings of the chosen sweeper and launcher (see --cfg hydra)"
        raise InputError(f"{unknown[1]}: unknown setting; {accepted}")
    found = re.search(r"Could not find '?hydra/(sweeper|launcher)/(\w+)", message)
    if found is None:
        return
    extra = EXTRAS.get(found[2])
    accepted = f"pip install 'tempering[{extra}]'" if extra else "the package of that plugin"
    raise InputError(f"hydra/{found[1]}={found[2]}: not installed; accepted: {accepted}")


def asks_for_multirun(overrides: Iterable[str]) -> bool:
    """Whether the overrides contain `hydra.mode=MULTIRUN`, which is the same as -m.

    Raises InputError for an unknown mode.
    """
    modes = [text.partition("=")[2] for text in overrides if re.match(r"\+*hydra\.mode=", text)]
    if wrong := [mode for mode in modes if mode not in ("RUN", "MULTIRUN")]:
        raise InputError(f"hydra.mode: found '{wrong[0]}'; accepted: RUN, MULTIRUN")
    return modes[-1:] == ["MULTIRUN"]


def is_for_jobs(override: str) -> bool:
    """Whether an override of Hydra's settings also applies to the jobs of a sweep."""
    return override.lstrip("+").startswith("hydra.verbose=")


def _below(key: str, names: Iterable[str]) -> bool:
    return any(key == name or key.startswith((f"{name}.", f"{name}/")) for name in names)
