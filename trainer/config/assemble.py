"""Assembling: turns a resolved config of plain values into a Run, and checks every key."""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer import registry
from trainer.config.nested_parts import nested_nodes, with_source_options
from trainer.config.peer_names import unknown_key
from trainer.config.sections import (
    CLOSED,
    KEYS_OF_JOBS,
    OF_JOBS,
    OF_SWEEPS,
    OPEN,
    TOP_LEVEL,
)
from trainer.config.target import CALLBACK, DATA_SOURCE, METRIC, RECIPE, Kind, build
from trainer.config.typed import convert, make, plain, show
from trainer.errors import InputError
from trainer.redaction import MARK, redacted
from trainer.runs.ordered_json import ordered_json
from trainer.runs.run import Run, fitting_metrics
from trainer.settings import names_of
from trainer.stores.run_store import RunStore
from trainer.stores.url import check_url, is_in_store, is_url, plain_path

_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")


@dataclass(frozen=True)
class Choices:
    """Facts about a command that its config does not contain."""

    groups: Mapping[str, str]
    """Config group -> the chosen option."""
    overrides: tuple[str, ...] = ()
    """The overrides that the user typed."""
    program: str = "python launch.py"
    """The command that started the program; commands that the program prints begin with it."""
    name_prefix: str | None = None
    """The first part of the default run_name; None: it is derived from the groups."""


def defaults() -> dict[str, Any]:
    """The defaults of the closed sections and of the top-level keys."""
    left_out = (*OF_JOBS, OF_SWEEPS)
    given = {name: plain(cls()) for name, cls in CLOSED.items() if name not in left_out}
    top: dict[str, Any] = {
        "job": "train",
        "output_dir": None,
        "run_name": None,
        "seed": 0,
        "trusted_packages": [],
    }
    return top | given


def assemble(tree: Mapping[str, Any], choices: Choices) -> Run:
    """The Run that a resolved config describes. Raises InputError at the first fault.

    The packages in `trusted_packages` become trusted. A file that may come from other people cannot
    set this key: trainer/config/received.py has already checked it.
    """
    known = (*CLOSED, *OPEN, *TOP_LEVEL, *KEYS_OF_JOBS)
    for key, value in tree.items():
        if key not in known:
            raise unknown_key("", key, known, value)
    _refuse_leftovers(tree)
    top: dict[str, Any] = {
        key: convert(tree[key], hint, key) for key, (hint, _) in TOP_LEVEL.items()
    }
    job_keys = {
        key: convert(tree[key], hint, key) for key, (hint, _) in KEYS_OF_JOBS.items() if key in tree
    }
    _check_top(top)
    registry.trust(*top["trusted_packages"])
    parts: dict[str, Any] = {
        name: make(cls, _mapping(tree, name), name) for name, cls in CLOSED.items()
    }
    parts |= _open_parts(tree, top["trusted_packages"])
    parts["dataset"] = with_source_options(parts["dataset"], parts["recipe"])
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
        runs=_list(job_keys.get("runs", [])),
        shown_run=job_keys.get("run"),
        **parts,
    )
    return _named(run, top, _config(tree, top | job_keys, parts), choices)


def _refuse_leftovers(tree: object, where: str = "") -> None:
    """Raise InputError for keys that Hydra's `instantiate` interprets, and for redacted secrets."""
    if isinstance(tree, str) and MARK in tree:
        raise InputError(f"{where}: found a redacted value; accepted: the value itself")
    entries = list(tree.items()) if isinstance(tree, Mapping) else []
    if isinstance(tree, list):
        entries = [(f"[{i}]", value) for i, value in enumerate(tree)]
    for key, value in entries:
        dotted = f"{where}.{key}".removeprefix(".").replace(".[", "[")
        section = r"dataset|recipe|(metrics|callbacks)\.[^.]+"
        place = rf"({section}|dataset\.mixture\.[^.]+\.(dataset|recipe))\.{key}"
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


def _is_name(text: str) -> bool:
    return bool(_NAME.fullmatch(text)) and text.strip(".") != ""


def _list(given: str | list[str]) -> tuple[str, ...]:
    return tuple([given] if isinstance(given, str) else given)


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
    """The objects that the entries of `metrics` or `callbacks` define; skips null entries."""
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
    """The whole config as plain values, with defaults filled in and secrets redacted."""
    filled: dict[str, Any] = dict(top)
    for name in (*OPEN, *CLOSED):
        if name in CLOSED and name in tree and name != OF_SWEEPS:
            filled[name] = plain(parts[name])
        elif name in ("dataset", "recipe") and parts[name] is not None:
            filled[name] = _node(tree[name], parts[name])
        elif name in ("metrics", "callbacks"):
            nodes = _mapping(tree, name)  # metrics that the recipe added are not in the config
            filled[name] = {k: _node(nodes.get(k), part) for k, part in parts[name].items()}
    return redacted(filled)


def _node(node: Mapping[str, Any] | None, part: object) -> dict[str, Any]:
    target = f"{type(part).__module__}.{type(part).__qualname__}"
    values = {"_target_": node["_target_"] if node else target, **plain(part)}
    return values if node is None else values | nested_nodes(node, part)


def _named(run: Run, top: Mapping[str, Any], config: dict[str, Any], choices: Choices) -> Run:
    """The run with its name and its folder; both are also added to `config`."""
    name = top["run_name"] or f"{_prefix(run, choices)}-{_digest(config)}"
    folder = top["output_dir"] or f"runs/{name}"
    config |= {"output_dir": folder, "run_name": name}
    if is_in_store(folder):
        stage = RunStore(folder).stage
        return replace(run, run_name=name, output_dir=stage, output_url=folder, config=config)
    if is_url(folder):
        check_url(folder, "output_dir")
    path = Path(os.path.expanduser(plain_path(folder)))
    return replace(run, run_name=name, output_dir=path, config=config)


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
    """A digest, in 8 hex digits, of the settings that distinguish this run from others."""
    digested = {k: v for k, v in config.items() if k not in ("output_dir", "run_name", "launch")}
    excluded = names_of("command")
    digested["trainer"] = {k: v for k, v in digested["trainer"].items() if k not in excluded}
    return hashlib.sha256(ordered_json(digested).encode()).hexdigest()[:8]
