"""Composing: turns a command into a checked Run, which can be passed on to other processes."""

import base64
import os
import zlib
from collections.abc import Mapping
from dataclasses import asdict, replace

import yaml
from omegaconf import DictConfig

from trainer.config.assemble import Choices, assemble
from trainer.config.command import Command, typed
from trainer.config.composed_files import compose_files, compose_hydra
from trainer.config.earlier_run import read_earlier_run, settings_for_results
from trainer.config.groups import (
    CONFIGS,
    chosen_option,
    config_folders,
    is_choice,
    options,
    with_implied,
)
from trainer.config.one_file import hydra_of_file, settings_of
from trainer.config.overrides import is_sweep
from trainer.config.program import program
from trainer.config.resolving import resolve_config
from trainer.config.saved_recipe import OF_A_MODEL
from trainer.config.yaml_files import Value
from trainer.errors import InputError
from trainer.launching.place import WORKER
from trainer.redaction import redacted_override
from trainer.runs.run import Run

MAX_VARIABLE = 120_000
"""The maximum number of bytes of an environment variable; Linux allows 131,071 with its name."""
PACKED = "zlib:"
"""The beginning of a compressed config."""


def compose_run(command: Command) -> Run:
    """The checked Run of a command. Reads configs and writes nothing. Raises InputError."""
    try:
        tree, choices = _compose(command)
    except RecursionError as error:
        raise InputError("config: nested too deeply; accepted: fewer levels") from error
    run = _assemble(tree, choices)
    jobs = options("job", [CONFIGS])
    if run.job not in jobs:
        raise InputError(f"job: found '{run.job}'; accepted: {', '.join(jobs)}")
    return replace(run, origin={"tree": tree, "choices": asdict(choices)})


def hydra_settings(command: Command) -> DictConfig:
    """Hydra's own settings of a command, under the key `hydra`. Raises InputError."""
    folders = config_folders(command)
    kept = [text for text in command.overrides if not is_sweep(text)]
    settings = settings_of(replace(command, overrides=kept))
    groups = {s.key: chosen_option(s, folders) for s in settings if is_choice(s, folders)}
    values = {s.key for s in settings if not is_choice(s, folders)}
    chosen, file_values = hydra_of_file(command)
    command = replace(command, hydra=[*chosen, *command.hydra])
    groups = with_implied(groups, values, command, folders)
    return compose_hydra(command, groups, folders, file_values)


def files_of(command: Command) -> DictConfig:
    """The composed files of a command, without the values that were typed. Raises InputError."""
    folders = config_folders(command)
    settings = settings_of(command)
    groups = {s.key: chosen_option(s, folders) for s in settings if is_choice(s, folders)}
    values = {s.key for s in settings if not is_choice(s, folders)}
    return compose_files(command, with_implied(groups, values, command, folders), folders)[0]


def hand_over(run: Run) -> str:
    """A composed Run as text, including secrets, to pass to ranks in an environment variable.

    The text is YAML, since JSON would turn keys that are numbers, as in `dataset.columns`, into
    strings. A long text is compressed, since Linux limits the size of each variable. Raises
    InputError if it is still too long.
    """
    text = yaml.safe_dump(run.origin)
    if len(text.encode()) <= MAX_VARIABLE:
        return text
    packed = f"{PACKED}{base64.b64encode(zlib.compress(text.encode(), 9)).decode()}"
    if len(packed) > MAX_VARIABLE:
        found = f"{len(text):,} characters, too many to pass to several processes"
        raise InputError(f"config: {found}; accepted: fewer, or launch.num_processes=1")
    return packed


def handed_over_run() -> Run:
    """The Run that our launcher composed for this rank, checked again.

    Raises InputError if the environment variable with the Run was not set by this program.
    """
    try:
        origin = yaml.safe_load(_unpacked(os.environ[WORKER]))
        given = {**origin["choices"], "overrides": tuple(origin["choices"]["overrides"])}
        tree, choices = dict(origin["tree"]), Choices(**given)
    except (
        yaml.YAMLError,
        zlib.error,
        LookupError,
        TypeError,
        ValueError,
        RecursionError,
    ) as error:
        accepted = "accepted: what our launcher sets, or not set at all"
        raise InputError(f"{WORKER}: not the config of a run; {accepted}") from error
    return _assemble(tree, choices)


def _unpacked(text: str) -> str:
    if not text.startswith(PACKED):
        return text
    return zlib.decompress(base64.b64decode(text.removeprefix(PACKED))).decode()


def _compose(command: Command) -> tuple[dict[str, Value], Choices]:
    """The resolved config as plain values, and the choices that led to it."""
    folders = config_folders(command)
    settings = settings_of(command)
    groups = {s.key: chosen_option(s, folders) for s in settings if is_choice(s, folders)}
    values = [s for s in settings if not is_choice(s, folders)]
    results_settings = settings_for_results(command, groups, {s.key for s in values})
    values += results_settings or []
    prefix = None
    if command.from_run is not None and results_settings is None:
        earlier = read_earlier_run(command, groups, folders, values)
        files, chosen, prefix = earlier.config, earlier.groups, earlier.name_prefix
    else:
        groups = with_implied(groups, {s.key for s in values}, command, folders)
        files, chosen = compose_files(command, groups, folders)
    overrides = tuple(map(redacted_override, typed(command)))
    choices = Choices(chosen, overrides, program(command), prefix)
    return resolve_config(files, values, command.texts, folders), choices


def _assemble(tree: Mapping[str, Value], choices: Choices) -> Run:
    fields = tree.get("recipe")
    if tree["job"] in OF_A_MODEL:  # the model's folder completes the recipe later
        tree = {**tree, "recipe": {}}
    run = assemble(tree, choices)
    return replace(run, recipe_fields=fields if isinstance(fields, dict) else {})
