"""A resolved config, as plain values, into a Run: every key checked, every part built."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer.errors import InputError
from trainer.generation.settings import GenerationSettings
from trainer.launching.peer_names import unknown_key
from trainer.launching.target import CALLBACK, DATA_SOURCE, METRIC, RECIPE, Kind, build
from trainer.launching.typed import convert, make, plain, show
from trainer.redaction import MARK, redacted
from trainer.run import (
    InputSettings,
    InspectSettings,
    LaunchSettings,
    ModelSettings,
    OutputSettings,
    Run,
    TokenizerSettings,
    fitting_metrics,
)
from trainer.settings import TrainSettings

CLOSED: dict[str, type[Any]] = {
    "model": ModelSettings,
    "tokenizer": TokenizerSettings,
    "trainer": TrainSettings,
    "launch": LaunchSettings,
    "input": InputSettings,
    "output": OutputSettings,
    "inspect": InspectSettings,
    "generation": GenerationSettings,
}
"""Sections of a fixed shape, with it."""

OF_JOBS = {
    "input": "predict",
    "output": "predict",
    "inspect": "inspect",
    "generation": "generate",
}
"""Sections that a job brings, and one that does."""

OPEN = ("dataset", "recipe", "metrics", "callbacks")
"""Sections whose `_target_` says their shape."""

TOP_LEVEL: dict[str, tuple[Any, str]] = {
    "job": (str, "What to do: a module of trainer/jobs."),
    "output_dir": (str | None, "Where the run lives; null: runs/<run_name>."),
    "run_name": (str | None, "Null: <recipe>-<dataset>-<8 hex digits of the config>."),
    "seed": (int, "Seed of everything random, 0 to 2**32 - 1."),
    "trusted_packages": (
        list[str],
        "Packages beside trainer and recipes that a _target_ may name.",
    ),
}
"""Keys beside the sections: their type, and a sentence."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")


@dataclass(frozen=True)
class Choices:
    """What of a config is known beside its values."""

    groups: Mapping[str, str]
    """Config group -> the option taken."""
    overrides: tuple[str, ...] = ()
    """What the user typed."""
    program: str = "python launch.py"
    """How the program was called, for the commands that it prints."""
    name_prefix: str | None = None
    """The beginning of a default run_name, where the groups do not tell it."""


def defaults() -> dict[str, Any]:
    """What the closed sections and the top-level keys are where nobody says otherwise."""
    given = {name: plain(cls()) for name, cls in CLOSED.items() if name not in OF_JOBS}
    top: dict[str, Any] = {
        "job": "train",
        "output_dir": None,
        "run_name": None,
        "seed": 0,
        "trusted_packages": [],
    }
    return top | given


def assemble(tree: Mapping[str, Any], choices: Choices) -> Run:
    """The Run that the resolved config `tree` describes. Raises InputError at the first fault."""
    for key, value in tree.items():
        if key not in (*CLOSED, *OPEN, *TOP_LEVEL):
            raise unknown_key("", key, (*CLOSED, *OPEN, *TOP_LEVEL), value)
    _refuse_leftovers(tree)
    top: dict[str, Any] = {
        key: convert(tree[key], hint, key) for key, (hint, _) in TOP_LEVEL.items()
    }
    _check_top(top)
    parts: dict[str, Any] = {
        name: make(cls, _mapping(tree, name), name) for name, cls in CLOSED.items()
    }
    parts |= _open_parts(tree, top["trusted_packages"])
    parts["metrics"] = fitting_metrics(parts["metrics"], parts["recipe"], choices.groups)
    run = Run(
        job=top["job"],
        output_dir=Path(),
        run_name="",
        seed=top["seed"],
        config={},
        trusted_packages=tuple(top["trusted_packages"]),
        chosen=dict(choices.groups),
        overrides=choices.overrides,
        program=choices.program,
        **parts,
    )
    return _named(run, top, _config(tree, top, parts), choices)


def _refuse_leftovers(tree: Any, where: str = "") -> None:
    """Refuse what Hydra's instantiate would obey, and secrets that are no longer there."""
    if isinstance(tree, str) and MARK in tree:
        raise InputError(f"{where}: was redacted when the run was saved; accepted: give it again")
    entries = list(tree.items()) if isinstance(tree, Mapping) else []
    if isinstance(tree, list):
        entries = [(f"[{i}]", value) for i, value in enumerate(tree)]
    for key, value in entries:
        dotted = f"{where}.{key}".removeprefix(".").replace(".[", "[")
        place = rf"(dataset|recipe|(metrics|callbacks)\.[^.]+)\.{key}"
        allowed = key == "_target_" and re.fullmatch(place, dotted)
        if re.fullmatch(r"_[a-z]+_", str(key)) and not allowed:
            parts = "dataset, recipe, metrics.<name> and callbacks.<name>"
            raise InputError(f"{dotted}: found {show(value)}; accepted: _target_ alone, in {parts}")
        _refuse_leftovers(value, dotted)


def _check_top(top: Mapping[str, Any]) -> None:
    if not 0 <= top["seed"] < 2**32:
        raise InputError(f"seed: found {top['seed']}; accepted: 0 to {2**32 - 1}")
    if top["run_name"] is not None and not _is_name(top["run_name"]):
        accepted = "1 to 100 of A-Z, a-z, 0-9, '.', '_' and '-'"
        raise InputError(f"run_name: found {show(top['run_name'])}; accepted: {accepted}")
    folder = top["output_dir"]
    if folder is not None and (not folder or not folder.isprintable()):
        raise InputError(f"output_dir: found {show(folder)}; accepted: the path of a folder")
    for package in top["trusted_packages"]:
        if not all(part.isidentifier() for part in package.split(".")):
            raise InputError(f"trusted_packages: found {show(package)}; accepted: package names")


def _is_name(text: str) -> bool:
    return bool(_NAME.fullmatch(text)) and text.strip(".") != ""


def _mapping(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = tree.get(name)
    if section is not None and not isinstance(section, Mapping):
        raise InputError(f"{name}: found {show(section)}; accepted: a mapping {{key: value}}")
    return section or {}


def _open_parts(tree: Mapping[str, Any], trusted: Sequence[str]) -> dict[str, Any]:
    dataset, recipe = _mapping(tree, "dataset"), _mapping(tree, "recipe")
    return {
        "dataset": build(dataset, "dataset", DATA_SOURCE, trusted) if dataset else None,
        "recipe": build(recipe, "recipe", RECIPE, trusted) if recipe else None,
        "metrics": _keyed(tree, "metrics", METRIC, trusted),
        "callbacks": _keyed(tree, "callbacks", CALLBACK, trusted),
    }


def _keyed(
    tree: Mapping[str, Any], name: str, kind: Kind, trusted: Sequence[str]
) -> dict[str, Any]:
    """The entries of `metrics` or `callbacks`; one that is null is switched off."""
    nodes = _mapping(tree, name)
    built = {}
    for key in nodes:
        node = _mapping({f"{name}.{key}": nodes[key]}, f"{name}.{key}")
        if node:
            built[str(key)] = build(node, f"{name}.{key}", kind, trusted)
    return built


def _config(
    tree: Mapping[str, Any], top: Mapping[str, Any], parts: Mapping[str, Any]
) -> dict[str, Any]:
    """The whole config as plain values, defaults filled in, secrets redacted."""
    filled: dict[str, Any] = dict(top)
    for name in (*OPEN, *CLOSED):
        if name in CLOSED and name in tree:
            filled[name] = plain(parts[name])
        elif name in ("dataset", "recipe") and parts[name] is not None:
            filled[name] = _node(tree[name], parts[name])
        elif name in ("metrics", "callbacks"):
            filled[name] = {k: _node(tree[name][k], part) for k, part in parts[name].items()}
    return redacted(filled)


def _node(node: Mapping[str, Any], part: Any) -> dict[str, Any]:
    values = plain(part)
    return {"_target_": node["_target_"], **values}


def _named(run: Run, top: Mapping[str, Any], config: dict[str, Any], choices: Choices) -> Run:
    """The run with its name, its folder, and both in its config."""
    name = top["run_name"] or f"{_prefix(run, choices)}-{_digest(config)}"
    folder = top["output_dir"] or f"runs/{name}"
    config |= {"output_dir": folder, "run_name": name}
    return replace(run, run_name=name, output_dir=Path(folder).expanduser(), config=config)


def _prefix(run: Run, choices: Choices) -> str:
    if choices.name_prefix:
        return choices.name_prefix
    task = type(run.recipe).__module__.rpartition(".")[2] if run.recipe else run.job
    data = choices.groups.get("dataset") if run.dataset else None
    if run.dataset and not data:
        data = type(run.dataset).__module__.rpartition(".")[2]
    words = [task if run.job == "train" else run.job] + [data] * bool(data)
    return re.sub(r"[^A-Za-z0-9._-]", "_", "-".join(map(str, words)))[:80]


def _digest(config: Mapping[str, Any]) -> str:
    """8 hex digits of all that makes this run another one."""
    counted = {k: v for k, v in config.items() if k not in ("output_dir", "run_name", "launch")}
    about_resuming = ("resume", "allow_changes")
    counted["trainer"] = {k: v for k, v in counted["trainer"].items() if k not in about_resuming}
    text = json.dumps(counted, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
