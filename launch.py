"""Compose the config, check it, run the job: the command line, the only file that knows Hydra."""

from trainer.processes.early_signals import leave_unsaved
from trainer.standard_streams import flush_or_drop, open_closed_streams

if __name__ == "__main__":
    open_closed_streams()
    leave_unsaved()  # the other imports take a while

import importlib
import itertools
import os
import re
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers.oc import env

from trainer.console import error_line, make_console, plain_line, plain_logs, show
from trainer.errors import (
    EnvironmentFault,
    InputError,
    Interrupted,
    LostRank,
    NumericsError,
    allocation_failure,
    nearest,
)
from trainer.launching import yaml_files
from trainer.launching.assemble import OF_JOBS, Choices, assemble, defaults
from trainer.launching.child import run_child
from trainer.launching.command import PATHS, Command, parse, typed
from trainer.launching.help import help_text
from trainer.launching.interpolations import check_defaults, check_expansion
from trainer.launching.received import check_received
from trainer.launching.saved_recipe import with_saved_recipe
from trainer.launching.sweep_results import sweep_results, write_csv
from trainer.processes.accelerate_config import check_accelerate_config
from trainer.processes.cpu_threads import prepare_threads
from trainer.processes.end import STOPPED
from trainer.processes.joining import joined
from trainer.processes.last_words import leave
from trainer.processes.launcher import num_processes, run_ranks
from trainer.processes.lifeline import hold_on
from trainer.processes.place import WORKER, find_place, is_task_of_srun, is_worker
from trainer.redaction import note_interpolated, redacted, redacted_override
from trainer.run import Run

CONFIGS = Path(__file__).resolve().parent / "configs"

PROGRAM = "TEMPERING_PROGRAM"
"""The variable in which a sweep tells its jobs how the program was called."""

WITH_SAVED_RECIPE = ("evaluate", "predict")
"""Jobs whose recipe the model's own folder knows."""

FROM_THE_USER_ALONE = {
    job: ("model", "recipe", "dataset") for job in (*WITH_SAVED_RECIPE, "generate", "chat")
}
"""Job -> sections whose defaults are not taken."""

DEFAULT_METRICS = "classification"
"""The option of configs/config.yaml, which recipes that measure themselves do without."""

DEFAULT_DATASET = "trainer.data.python_stdlib.PythonStdlib"
DATA_KEYS = ("path", "name", "train", "validation", "test")
"""Keys of dataset that mean dataset=files, whether they are typed or in a file of the user's."""

QUICKSTART_ENDS = ("dataset", "model", "recipe", "job")
"""Who chooses one of these groups, or a path, means another run than the quickstart: its training
numbers (configs/experiment/quickstart.yaml) no longer apply."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit code (DESIGN: 0, 2, 3, 4, 130, 143)."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    hold_on()
    plain_logs()
    OmegaConf.register_new_resolver("oc.env", _environment, replace=True)
    try:
        if is_worker():
            return start(worker_run())
        command = parse(arguments)
        if command.help:
            print(help_text(config_folders(command), shlex.join(_called())))
            return 0
        if command.multirun:
            return sweep(command)
        run = compose_run(command)
    except InputError as error:
        return complain(error, error.exit_code)
    if command.cfg:
        print(yaml_files.dump(run.config), end="")
        return 0
    return start(run)


def command_line() -> NoReturn:
    """What the shell calls: `main`, and then out."""
    open_closed_streams()
    leave_unsaved()
    prepare_threads()
    code = main()
    flush_or_drop()
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        # now and then a thread of gloo's turns an orderly exit of a rank into an abort
        os._exit(code)
    sys.exit(code)


def start(run: Run) -> int:
    """Run the job of a checked config, here or in processes of its own; returns its exit code."""
    try:
        return _run(run)
    except (InputError, EnvironmentFault, NumericsError, Interrupted) as error:
        return complain(error, error.exit_code, every_rank=True)
    except BrokenPipeError:  # whoever read the answers has seen enough
        flush_or_drop()
        return 0
    except OSError as error:
        if error.errno is None:
            raise
        return complain(error, EnvironmentFault.exit_code, every_rank=True)
    except (MemoryError, RuntimeError, ImportError, SystemError) as error:
        if (line := allocation_failure(error)) is None:
            raise
        return complain(line, EnvironmentFault.exit_code, every_rank=True)
    except KeyboardInterrupt:
        return complain("interrupted", 130)


def _run(run: Run) -> int:
    if run.job in WITH_SAVED_RECIPE:
        run = with_saved_recipe(run)
    job = importlib.import_module(f"trainer.jobs.{run.job}")
    check_accelerate_config(run)
    place = find_place(run.launch)
    if place is not None:
        with joined(place, run, job.prepare):
            return job.run(run)
    number = num_processes(run)
    if number * run.launch.num_nodes == 1:
        return job.run(run)
    command, config = [sys.executable, __file__], yaml.safe_dump(run.origin)
    end = run_ranks(run, number, job.prepare, command, config)
    return complain(end.line, end.code) if end.line else end.code


def complain(error: object, exit_code: int, every_rank: bool = False) -> int:
    """Say what went wrong in one line, to our launcher if we have one; returns `exit_code`."""
    line = redacted(str(error))
    if is_worker() and leave(line, exit_code, is_cause=not isinstance(error, LostRank)):
        return exit_code
    rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0"
    if every_rank or rank == "0":
        # who asked a run to stop, and gets a checkpoint, has made no error
        (plain_line if exit_code in STOPPED else error_line)(line)
    return exit_code


def worker_run() -> Run:
    """The Run that our launcher composed and checked, handed over in the environment.

    As YAML: JSON would make texts of the numbers that `dataset.columns` may have as keys.
    """
    try:
        origin = yaml.safe_load(os.environ[WORKER])
        given = {**origin["choices"], "overrides": tuple(origin["choices"]["overrides"])}
        tree, choices = dict(origin["tree"]), Choices(**given)
    except (yaml.YAMLError, LookupError, TypeError, ValueError, RecursionError) as error:
        accepted = "accepted: what our launcher sets, or not set at all"
        raise InputError(f"{WORKER}: not the config of a run; {accepted}") from error
    return _assembled(tree, choices)


def compose_run(command: Command) -> Run:
    """The checked Run of one command; touches no disk but to read configs. Raises InputError."""
    try:
        tree, choices = _compose(command)
    except RecursionError as error:
        raise InputError("config: nested too deeply; accepted: fewer levels") from error
    run = _assembled(tree, choices)
    _check_job(run)
    return replace(run, origin={"tree": tree, "choices": asdict(choices)})


def _assembled(tree: dict[str, Any], choices: Choices) -> Run:
    saved = tree["job"] in WITH_SAVED_RECIPE  # then the model's folder completes the recipe
    run = assemble({**tree, "recipe": {}} if saved else tree, choices)
    return replace(run, recipe_fields=tree.get("recipe") or {})


def config_folders(command: Command) -> list[Path]:
    """Where configs are looked for, the user's own first."""
    own = [command.config_dir.resolve()] if command.config_dir else []
    return [*own, CONFIGS]


def _check_job(run: Run) -> None:
    jobs = [path.stem for path in (CONFIGS / "job").glob("*.yaml")]
    if run.job not in jobs:
        raise InputError(f"job: found '{run.job}'; accepted: {', '.join(sorted(jobs))}")


# --- composing: Hydra puts the files together, we apply what was typed ---------------------------


@dataclass(frozen=True)
class Setting:
    """One `key=value` of the command line, read by Hydra's grammar."""

    key: str
    value: Any
    text: str
    deleted: bool = False


def _compose(command: Command) -> tuple[dict[str, Any], Choices]:
    """The resolved config as plain values, and what was chosen."""
    folders = config_folders(command)
    settings = [_read_override(text) for text in command.overrides]
    groups = {s.key: _option(s, folders) for s in settings if _is_choice(s, folders)}
    values = [s for s in settings if not _is_choice(s, folders)]
    if command.from_run is not None:
        base, choices = _from_run(command, groups, folders, values)
    else:
        _imply(groups, {s.key for s in values}, command, folders)
        base, choices = _from_files(command, groups, folders)
    overrides = tuple(map(redacted_override, typed(command)))
    choices = replace(choices, overrides=overrides, program=_program(command))
    return _apply(base, values, command.texts), choices


def _program(command: Command) -> str:
    """How this program was called, with the flags that a next command needs too."""
    if PROGRAM in os.environ:  # a job of a sweep, which was not typed
        return os.environ[PROGRAM]
    words = _called()
    if command.config_dir is not None:
        words += ["--config-dir", str(command.config_dir)]
    return shlex.join(words)


def _called() -> list[str]:
    name = Path(sys.argv[0]).name
    if name == "tempering":
        return [name]
    return ["python", sys.argv[0] if name == "launch.py" else "launch.py"]


def _read_override(text: str) -> Setting:
    """What is not in Hydra's grammar is the text itself; `+` and `++` change nothing here."""
    key, _, value = text.partition("=")
    if text.startswith("~"):
        return Setting(key.removeprefix("~"), None, text, deleted=True)
    key = key.lstrip("+")
    parsed = _parse_value(value)
    several = parsed is not None and parsed.is_sweep_override()
    if several and key not in PATHS:
        raise InputError(f"{key}: found several values ({value}); accepted: one, or -m for a sweep")
    if parsed is None and re.search(r"""^\{.*["'].*\}$""", value):
        return Setting(key, _quoted_mapping(value), text)
    if parsed is None or several:
        return Setting(key, value, text)
    found = parsed.value()
    return Setting(key, value if key in PATHS and isinstance(found, (int, float)) else found, text)


def _quoted_mapping(value: str) -> Any:
    """A mapping with quoted keys, which Hydra's grammar does not have; else the text itself."""
    try:
        found = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    return found if isinstance(found, dict) else value


def _parse_value(value: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        return None


def _is_choice(setting: Setting, folders: list[Path]) -> bool:
    """Whether a setting picks an option of a config group; a mapping is merged instead."""
    is_group = any((folder / setting.key).is_dir() for folder in folders)
    return is_group and "." not in setting.key and not isinstance(setting.value, dict)


def _option(setting: Setting, folders: list[Path]) -> str | None:
    """The option of a group that a setting picks, None for none. Raises InputError if unknown."""
    group, value = setting.key, setting.value
    known = options(group, folders)
    if value is None or value in known:
        return value
    hint = nearest(str(value), known)
    if not re.fullmatch(r"[A-Za-z0-9_/-]+", str(value)):
        hint = ""  # it is no name of an option at all: a path, most likely
    found = setting.text.partition("=")[2]
    has_path = group in ("model", "dataset", "tokenizer")
    path = f", or {group}.path={found}" if has_path else ""
    raise InputError(f"{group}: no option '{found}'{hint}; accepted: {', '.join(known)}{path}")


def options(group: str, folders: list[Path]) -> list[str]:
    """The options of a config group: the names of its files."""
    files = ((folder / group, path) for folder in folders for path in (folder / group).rglob("*"))
    names = {
        p.relative_to(top).with_suffix("").as_posix() for top, p in files if p.suffix == ".yaml"
    }
    return sorted(names)


def _imply(
    groups: dict[str, str | None], typed: set[str], command: Command, folders: list[Path]
) -> None:
    """Add the choices that others imply (configs/config.yaml tells the user)."""
    if _primary(command, folders).parent != CONFIGS or "experiment" in groups:
        return
    if "dataset" not in groups and typed & {f"dataset.{key}" for key in DATA_KEYS}:
        groups["dataset"] = "files"
    if any(group in groups for group in QUICKSTART_ENDS) or "model.path" in typed:
        groups["experiment"] = None


def _primary(command: Command, folders: list[Path]) -> Path:
    files = [folder / f"{command.config_name}.yaml" for folder in folders]
    for file in files:
        if file.is_file():
            return file
    places = ", ".join(map(str, folders))
    found = f"no '{command.config_name}.yaml' in {places}"
    raise InputError(f"--config-name: {found}; accepted: a file there")


def _from_files(
    command: Command, groups: dict[str, str | None], folders: list[Path]
) -> tuple[DictConfig, Choices]:
    """The config of the files in `folders`, less the sections that the job takes from the user."""
    primary = _primary(command, folders)
    for folder in folders[:-1]:
        _check_files(folder, primary)
    own = primary.parent != CONFIGS
    base = _hydra(command, groups, folders, own)
    if isinstance(base.get("experiment"), DictConfig):
        raise _not_global(base.hydra.runtime.choices.get("experiment"), folders)
    if "dataset" not in groups and _names_files(base):
        groups = {"experiment": None, **groups, "dataset": "files"}
        base = _implied_files(command, groups, folders, base, own)
    chosen = {g: o for g, o in base.pop("hydra").runtime.choices.items() if "hydra/" not in g}
    if "metrics" not in groups and chosen.get("metrics") == DEFAULT_METRICS:
        chosen.pop("metrics")  # nobody chose them
    for section in FROM_THE_USER_ALONE.get(base.get("job", "train"), ()):
        if section not in groups:
            base[section] = {}
            chosen.pop(section, None)
    files = str((base.get("dataset") or {}).get("_target_")).endswith(".Files")
    if files and base.get("job") in FROM_THE_USER_ALONE:
        base["dataset"]["validation_fraction"] = 0.0  # all rows are asked about
    return base, Choices({group: option for group, option in chosen.items() if option})


def _names_files(base: DictConfig) -> bool:
    """Whether the user's files name data, and no data set that would read it."""
    found = base.get("dataset")
    target = found.get("_target_") if isinstance(found, DictConfig) else ""
    return target in (None, DEFAULT_DATASET) and any(found.get(key) for key in DATA_KEYS)


def _implied_files(
    command: Command,
    groups: dict[str, str | None],
    folders: list[Path],
    base: DictConfig,
    own: bool,
) -> DictConfig:
    """The config with dataset=files below what the user's files say of the data."""
    if base.dataset.get("_target_") is not None:
        return _hydra(command, groups, folders, own)
    files = OmegaConf.load(CONFIGS / "dataset" / "files.yaml")
    base["dataset"] = OmegaConf.merge(files, base.dataset)
    return base


def _not_global(option: str, folders: list[Path]) -> InputError:
    """An experiment sets keys of the whole config, and Hydra is told so by the file's header."""
    files = [folder / "experiment" / f"{option}.yaml" for folder in folders]
    file = next((file for file in files if file.is_file()), files[0])
    accepted = "accepted: the line '# @package _global_' above its first key"
    return InputError(
        f"experiment={option}: {file} does not say that its keys are global; {accepted}"
    )


def _check_files(folder: Path, primary: Path) -> None:
    """Refuse YAML that is too big to be read, before Hydra reads it."""
    groups = [path for path in CONFIGS.iterdir() if path.is_dir()]
    files = [path for group in groups for path in (folder / group.name).rglob("*.yaml")]
    for path in [primary, *files]:
        yaml_files.check(path)
        if path.is_relative_to(folder):
            check_defaults(yaml_files.read(path), path)


def _hydra(
    command: Command, groups: dict[str, str | None], folders: list[Path], own: bool
) -> DictConfig:
    """The files composed, with Hydra's own node; `own`: the primary file is the user's."""
    OwnFolders.folders = folders[:-1]
    Plugins.instance().register(OwnFolders)
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            known = set(groups)
            if own:  # a group that is not in its defaults list is added to it
                known = set(_composed(command, []).hydra.runtime.choices)
            picked = [f"{'' if g in known else '+'}{g}={o}" for g, o in groups.items() if o]
            dropped = [f"~{g}" for g, option in groups.items() if option is None and g in known]
            return _composed(command, picked + dropped)
    except yaml.MarkedYAMLError as error:
        raise InputError(yaml_files.describe_error(error)) from error
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise InputError(f"config: {_first_line(error)}") from error


class OwnFolders(SearchPathPlugin):
    """Has Hydra look into the user's folder before our own."""

    folders: ClassVar[list[Path]] = []

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in self.folders:
            search_path.prepend("user", f"file://{folder}", SearchPathQuery(provider="main"))


def _composed(command: Command, overrides: list[str]) -> DictConfig:
    with warnings.catch_warnings(action="ignore"):  # a defaults list without _self_, say
        config = compose(command.config_name, overrides, return_hydra_config=True)
    OmegaConf.set_readonly(config.hydra, False)
    OmegaConf.set_struct(config, False)
    return config


def _from_run(
    command: Command, groups: dict[str, str | None], folders: list[Path], typed: list[Setting]
) -> tuple[DictConfig, Choices]:
    """The config that the run in `command.from_run` left, with the groups that were chosen anew."""
    file = Path(command.from_run or "", "config.yaml")
    if not file.is_file():
        raise InputError(f"from: no file '{file}'; accepted: the folder of a run")
    if "experiment" in groups or groups.get("job", "evaluate") != "evaluate":
        accepted = "job=evaluate, or any group but experiment"
        raise InputError(f"from: other groups were chosen; accepted: {accepted}")
    saved = yaml_files.read(file)
    unused = [*groups, *(("model", "recipe", "tokenizer") if _evaluates(saved, groups) else ())]
    _check_received({k: v for k, v in saved.items() if k not in unused}, file, typed)
    base = OmegaConf.create(_escaped(saved))
    if groups:
        fresh, _ = _from_files(command, {**groups, "experiment": None}, folders)
        for group in groups:
            base[group] = fresh.get(group, {})
    if base.get("job") == "evaluate":  # the run's own model, which knows its recipe
        base["model"], base["recipe"] = {"path": str(file.parent / "model")}, {}
        base["tokenizer"] = {}
    base.pop("output_dir", None)
    name = str(base.pop("run_name", None))
    kept = (
        re.fullmatch(r"(.+)-[0-9a-f]{8}", name) if not {"dataset", "recipe"} & set(groups) else None
    )
    chosen = {group: option for group, option in groups.items() if option}
    return base, Choices(chosen, name_prefix=kept[1] if kept else None)


def _evaluates(saved: dict[str, Any], groups: dict[str, str | None]) -> bool:
    return (groups.get("job") or saved.get("job")) == "evaluate"


def _check_received(saved: dict[str, Any], file: Path, typed: list[Setting]) -> None:
    trusted = next((s.value for s in typed if s.key == "trusted_packages"), None)
    packages = [str(each) for each in trusted] if isinstance(trusted, list) else []
    given, deleted = ({s.key for s in typed if s.deleted is gone} for gone in (False, True))
    check_received(saved, file, given, deleted, packages)


def _escaped(values: Any) -> Any:
    """`values` of a resolved config: a `${` in them is text."""
    if isinstance(values, dict):
        return {key: _escaped(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_escaped(value) for value in values]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", values) if isinstance(values, str) else values


def _apply(base: DictConfig, settings: list[Setting], texts: dict[str, str]) -> dict[str, Any]:
    """`base` over the defaults of the closed sections, what was typed over it, all resolved."""
    key = "config"
    try:
        config = OmegaConf.merge(defaults(), base)
        for setting in settings:
            key = setting.key
            _apply_one(config, setting, base)
        check_expansion(OmegaConf.to_container(config, resolve=False))
        tree: Any = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        where = getattr(error, "full_key", None) or key
        accepted = "accepted: a value, or an interpolation of a key that exists"
        raise InputError(f"{where}: {_first_line(error)}; {accepted}") from error
    for key, text in texts.items():
        _require_section(key, base)
        tree["input"] = {**(tree["input"] or {}), key.partition(".")[2]: text}
    return tree


def _apply_one(config: Any, setting: Setting, base: DictConfig) -> None:
    key = setting.key
    _require_section(key, base)
    if not setting.deleted:
        if key == "model.path":  # these belong to the path that they were written for
            config.model.update({"revision": None, "sha256": None})
        OmegaConf.update(config, key, setting.value, merge=True, force_add=True)
        return
    section, _, name = key.partition(".")
    if section not in ("metrics", "callbacks") or name not in (config.get(section) or {}):
        accepted = "accepted: ~metrics.NAME or ~callbacks.NAME of one that is there"
        raise InputError(f"{key}: deleted, but it is needed or not there; {accepted}")
    del config[section][name]


def _require_section(key: str, base: DictConfig) -> None:
    section = key.split(".")[0]
    if section in OF_JOBS and section not in base:
        found = f"job={base.get('job', 'train')} has no {section}"
        raise InputError(f"{key}: {found}; accepted: job={OF_JOBS[section]}, for one")


def _environment(name: str, *default: Any) -> Any:
    """OmegaConf's own `oc.env`; what a config has read of the environment is redacted elsewhere."""
    note_interpolated(name)
    return env(name, *default)


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


# --- sweeps -----------------------------------------------------------------------------------


def sweep(command: Command) -> int:
    """Run every job of a sweep, each in a process of its own; returns the first failure's code.

    All of them are checked before the first starts; a table at the end compares them. Raises
    InputError.
    """
    if "RANK" in os.environ or "WORLD_SIZE" in os.environ or is_task_of_srun():
        program = _program(command)
        accepted = f"{program} -m ... alone, which starts the processes of each job itself"
        raise InputError(f"-m: found within torchrun or its like; accepted: {accepted}")
    jobs = list(_jobs(command))
    runs = [compose_run(job) for job in jobs]
    for i, run in enumerate(runs):
        if run.output_dir in [other.output_dir for other in runs[:i]]:
            found = f"two jobs of the sweep would write to '{run.output_dir}'"
            raise InputError(f"output_dir: {found}; accepted: neither run_name nor equal jobs")
    if command.cfg:
        print("---\n".join(yaml_files.dump(run.config) for run in runs), end="")
        return 0
    codes = []
    called = {PROGRAM: _program(command)}
    for i, (job, run) in enumerate(zip(jobs, runs, strict=True)):
        show(make_console(), f"sweep: job {i + 1} of {len(jobs)}, {run.output_dir}")
        code, stopped = run_child([sys.executable, __file__, *typed(job)], called)
        codes.append(code)
        if stopped:
            break
    _show_results(runs, codes)
    return next((code for code in codes if code), 0)


def _show_results(runs: Sequence[Run], codes: Sequence[int]) -> None:
    from trainer.rendering.sweep import sweep_summary

    results = sweep_results(runs, codes)
    show(make_console(), sweep_summary(results, str(write_csv(results))))


def _jobs(command: Command) -> Iterator[Command]:
    """One command for every combination of the values that were given for the swept keys."""
    alternatives = [_alternatives(text, config_folders(command)) for text in command.overrides]
    swept = [i for i, found in enumerate(alternatives) if len(found) > 1]
    combinations = [list(job) for job in itertools.product(*alternatives)]
    labels = [",".join(_label(job[i]) for i in swept) or "0" for job in combinations]
    for number, overrides in enumerate(combinations):
        label = labels[number] if labels.count(labels[number]) == 1 else f"{number}"
        for i, text in enumerate(overrides):
            if re.match(r"\+*output_dir=", text) and len(alternatives[i]) == 1:
                overrides[i] = f"{text}/{label}"
        yield replace(command, multirun=False, cfg=None, overrides=overrides)


def _alternatives(text: str, folders: list[Path]) -> list[str]:
    """The overrides that one override of a sweep stands for."""
    key, _, value = text.partition("=")
    parsed = None if text.startswith("~") else _parse_value(value)
    if parsed is None or not parsed.is_sweep_override():
        return [text]
    values = parsed.value()
    try:
        if isinstance(values, Glob):
            found = values.filter(options(key.lstrip("+"), folders))
        else:
            found = list(parsed.sweep_string_iterator())
    except HydraException as error:
        accepted = "a,b or choice(), range() or glob()"
        raise InputError(f"{key}: found {value}; accepted: {accepted}") from error
    if not found:
        raise InputError(f"{key}: no values in {value}; accepted: one or more")
    return [f"{key}={entry}" for entry in found]


def _label(override: str) -> str:
    """What a job's folder says of one of its values: learning_rate=1e-5."""
    key, _, value = override.partition("=")
    return re.sub(r"[^A-Za-z0-9._=-]+", "_", f"{key.rpartition('.')[2]}={value}").strip("_")[:60]


if __name__ == "__main__":
    command_line()
