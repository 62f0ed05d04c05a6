"""Earlier run: for `from=FOLDER`, reads and checks the config of the run in this folder."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from trainer.config import yaml_files
from trainer.config.command import Command
from trainer.config.composed_files import compose_files
from trainer.config.groups import Groups
from trainer.config.overrides import Setting
from trainer.config.received import check_received
from trainer.config.yaml_files import Value
from trainer.errors import InputError, first_line
from trainer.stores.inputs import staged
from trainer.stores.url import check_url, is_in_store, is_url, joined, plain_path

RESULT_KEYS = {
    **dict.fromkeys(("predict", "generate", "chat", "export", "serve"), "model.path"),
    "merge": "model.path",
    "show": "run",
    "push": "run",
    "report": "runs",
}
"""Job that uses an earlier run's results but not its config -> the key that names the results."""
CONFIG_JOBS = ("train", "evaluate", "inspect", "prepare", "plan")
"""Jobs that use the config of an earlier run."""


@dataclass(frozen=True)
class EarlierRun:
    """The parts of an earlier run from which a new run is made."""

    config: DictConfig
    groups: dict[str, str]
    """Config group -> the newly chosen option."""
    name_prefix: str | None
    """The first part of the earlier run's default name; None if it does not fit the new run."""


def read_earlier_run(
    command: Command, groups: Groups, folders: list[Path], settings: list[Setting]
) -> EarlierRun:
    """The config in the folder `command.from_run`, with the options in `groups` replaced.

    Raises InputError if there is no config, or if it has a setting that only the user may set.
    """
    place = command.from_run or ""
    file = _config_file(place)
    if "experiment" in groups:
        raise InputError("from: found with an experiment; accepted: options of other groups")
    if (job := groups.get("job", "train")) not in CONFIG_JOBS:
        accepted = f"job={', '.join((*CONFIG_JOBS, *RESULT_KEYS))}"
        raise InputError(f"from: found with job={job}; accepted: {accepted}")
    saved = yaml_files.read(file)
    unused = [*groups, *(("model", "recipe", "tokenizer") if _evaluates(saved, groups) else ())]
    _check_saved({k: v for k, v in saved.items() if k not in unused}, file, settings)
    config = _config(saved, file)
    if groups:
        fresh, _ = compose_files(command, {**groups, "experiment": None}, folders)
        for group in groups:
            config[group] = fresh.get(group, {})
        if "job" in groups:  # the job's file may add a section, such as prepare
            config.update({key: fresh[key] for key in fresh if key not in config})
    if config.get("job") == "evaluate":  # the run's own model, whose folder names its recipe
        config["model"], config["recipe"] = {"path": _model_of(place)}, {}
        config["tokenizer"] = {}
    config.pop("output_dir", None)
    prefix = _prefix(str(config.pop("run_name", None)))
    is_same_task = not {"dataset", "recipe"} & set(groups)
    chosen = {group: option for group, option in groups.items() if option}
    return EarlierRun(config, chosen, prefix if is_same_task else None)


def settings_for_results(
    command: Command, groups: Groups, typed: Collection[str]
) -> list[Setting] | None:
    """The settings that name the results of `from=RUN`; None unless the job uses only results.

    `typed` are the keys that the user has set, which take precedence.
    """
    place, job = command.from_run, groups.get("job")
    if place is None or job not in RESULT_KEYS:
        return None
    _config_file(place)
    key = RESULT_KEYS[job]
    value: Value = _model_of(place) if key == "model.path" else place
    if key in typed:
        return []
    if key == "model.path" and not is_in_store(place) and not Path(str(value)).is_dir():
        from trainer.hub import newest_model

        checkpoint = newest_model(Path(plain_path(place)))
        hint = f", or model.path={checkpoint} instead of from" if checkpoint else ""
        raise InputError(f"from: '{place}' holds no model; accepted: a finished run{hint}")
    return [Setting(key, value, f"{key}={value}")]


def _config_file(place: str) -> Path:
    """The local path of a run's config.yaml, which is downloaded if the run is in an object store.

    Raises InputError if there is no such file.
    """
    if is_in_store(place):
        return staged(joined(place, "config.yaml"), "from")
    if is_url(place):
        check_url(place, "from")
    file = Path(plain_path(place), "config.yaml")
    if not file.is_file():
        outer = file.parent.parent
        hint = f"; did you mean from={outer}?" if (outer / "config.yaml").is_file() else ""
        raise InputError(f"from: no file '{file}'; accepted: the folder of a run{hint}")
    return file


def _model_of(place: str) -> str:
    return joined(place, "model") if is_in_store(place) else str(Path(plain_path(place), "model"))


def _config(saved: dict[str, Value], file: Path) -> DictConfig:
    try:
        return DictConfig(_escaped(saved))
    except OmegaConfBaseException as error:  # for example for a date
        where = getattr(error, "full_key", None) or "config"
        accepted = "accepted: texts, numbers, true, false, null, lists and mappings"
        raise InputError(f"{file}: {where}: {first_line(error)}; {accepted}") from error


def _prefix(run_name: str) -> str | None:
    """A default run name without its digest; None for a name that the user chose."""
    found = re.fullmatch(r"(.+)-[0-9a-f]{8}", run_name)
    return found[1] if found else None


def _evaluates(saved: dict[str, Value], groups: Groups) -> bool:
    return (groups.get("job") or saved.get("job")) == "evaluate"


def _check_saved(saved: dict[str, Value], file: Path, settings: list[Setting]) -> None:
    trusted = next((s.value for s in settings if s.key == "trusted_packages"), None)
    packages = [str(each) for each in trusted] if isinstance(trusted, list) else []
    given, deleted = ({s.key for s in settings if s.deleted is gone} for gone in (False, True))
    check_received(saved, file, given, deleted, packages)


def _escaped(values: Value) -> Value:
    """The values of a resolved config, with `${` escaped so that it remains text."""
    if isinstance(values, dict):
        return {key: _escaped(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_escaped(value) for value in values]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", values) if isinstance(values, str) else values
