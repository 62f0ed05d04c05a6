"""Resolving: merges defaults, files and the settings of a command, with interpolations."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers.oc import env

from trainer.config.assemble import OF_JOBS, defaults
from trainer.config.interpolations import check_expansion
from trainer.config.nested_parts import expand_sources
from trainer.config.overrides import Setting
from trainer.config.yaml_files import Value
from trainer.errors import InputError, first_line
from trainer.redaction import note_interpolated

SHORT_KEYS = {"format": "export.format", "dtype": "export.dtype", "repo": "push.repo"}
"""Short key -> full key. Jobs that have the section accept its key without the section."""
PINS = {"model": ("revision", "sha256"), "tokenizer": ("revision",)}
"""Section -> its keys that belong to its path, and not to another path that replaces it."""


def resolve_config(
    files: DictConfig, settings: list[Setting], texts: dict[str, str], folders: list[Path]
) -> dict[str, Value]:
    """The resolved config as plain values.

    `settings` take precedence over `files`, which take precedence over the defaults. `texts`
    (key -> value) are set last and are not parsed. `folders` contain the files of config groups; a
    source of a mixture may name one of these files. Raises InputError.
    """
    OmegaConf.register_new_resolver("oc.env", _environment, replace=True)
    key = "config"
    try:
        config = cast(DictConfig, OmegaConf.merge(defaults(), files))
        for number, setting in enumerate(settings):
            key = setting.key
            _unpin(config, setting, settings[:number])
            _apply(config, setting, files)
        expand_sources(config, folders)
        check_expansion(OmegaConf.to_container(config, resolve=False))
        tree: Any = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        where = getattr(error, "full_key", None) or key
        accepted = "accepted: a value, or an interpolation of a key that exists"
        raise InputError(f"{where}: {first_line(error)}; {accepted}") from error
    for key, text in texts.items():
        _require_section(key, files)
        tree["input"] = {**(tree["input"] or {}), key.partition(".")[2]: text}
    return tree


def _apply(config: Any, setting: Setting, files: DictConfig) -> None:
    key = setting.key
    if (long := SHORT_KEYS.get(key)) and long.partition(".")[0] in files:
        key = long
    _require_section(key, files)
    if not setting.deleted:
        OmegaConf.update(config, key, setting.value, merge=True, force_add=True)
        return
    section, _, name = key.partition(".")
    if section not in ("metrics", "callbacks") or name not in (config.get(section) or {}):
        accepted = "accepted: ~metrics.NAME or ~callbacks.NAME of an entry of the config"
        raise InputError(
            f"{key}: cannot be deleted: it is required, or not in the config; {accepted}"
        )
    del config[section][name]


def _unpin(config: DictConfig, setting: Setting, before: Sequence[Setting]) -> None:
    """If a setting replaces a path, remove the revision and digest of the previous path.

    Those that the same source, the command line or its file, has set before for this path are kept.
    """
    section = setting.key.partition(".")[0]
    if f"{section}.path" not in _keys_set(setting) or not config.get(section):
        return
    own = [_keys_set(each) for each in before if each.in_file == setting.in_file]
    has_path = any(f"{section}.path" in keys for keys in own)
    kept = set() if has_path else set().union(*own)
    for name in PINS.get(section, ()):
        if f"{section}.{name}" not in kept:
            config[section][name] = None


def _keys_set(setting: Setting) -> set[str]:
    """The keys that a setting sets; those inside a mapping, if it sets a section."""
    if isinstance(setting.value, dict):
        return {f"{setting.key}.{name}" for name in setting.value}
    return {setting.key}


def _require_section(key: str, files: DictConfig) -> None:
    section = key.split(".")[0]
    if section in OF_JOBS and section not in files:
        found = f"job={files.get('job', 'train')} has no {section}"
        raise InputError(f"{key}: {found}; accepted: for example job={OF_JOBS[section]}")


def _environment(name: str, *default: Value) -> Value:
    """OmegaConf's `oc.env`, which also notes the variable, so that its value is redacted."""
    note_interpolated(name)
    return env(name, *default)
