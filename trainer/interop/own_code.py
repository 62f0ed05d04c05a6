"""Checks that a model's folder contains the Python files that its config names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.errors import InputError
from trainer.interop.foreign_types import ForeignConfig
from trainer.interop.padded_model import AUTO_CLASSES

MAP = "auto_map"


def check_code_files(file: Path, entries: Mapping[str, Any]) -> None:
    """Raise InputError if a class in a config's auto_map has no file next to the config."""
    named = entries.get(MAP)
    if not isinstance(named, Mapping) or "AutoConfig" not in named:
        raise InputError(f"{file}: {MAP}: found {named!r:.60}; accepted: a class for AutoConfig")
    for auto, references in named.items():
        for each in references if isinstance(references, list) else [references]:
            if each is None:
                continue
            module, _, cls = str(each).rpartition(".")
            if not module.isidentifier() or not cls.isidentifier():
                accepted = "accepted: FILE.CLASS, of a file in the model's folder"
                raise InputError(f"{file}: {MAP}: {auto}: found {each!r:.60}; {accepted}")
            if not (file.parent / f"{module}.py").is_file():
                raise InputError(f"{file}: {MAP}: {auto}: there is no {module}.py next to it")


def runs_own_code(config: ForeignConfig) -> bool:
    """Whether the code of a loaded config came from a model's folder."""
    return type(config).__module__.split(".")[0] == "transformers_modules"


def has_own_head(config: ForeignConfig, task: str) -> bool:
    """Whether the code in a model's folder has a class for the head of a task."""
    return runs_own_code(config) and AUTO_CLASSES[task] in (getattr(config, MAP, None) or {})
