"""JSON Schema: makes the schemas of config groups' YAML files from the dataclasses."""

import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from trainer import registry
from trainer.config.command import Command
from trainer.config.groups import config_folders, options
from trainer.config.known_keys import OPEN_KINDS, class_of, trust_named_packages
from trainer.config.option_files import GLOBAL, groups, option_values, targets
from trainer.config.sections import CLOSED, KEYS_OF_JOBS, TOP_LEVEL
from trainer.config.sentences import field_sentences
from trainer.config.typed import NOT_GIVEN, plain
from trainer.errors import InputError, nearest

Schema = dict[str, Any]
"""A JSON Schema as plain values."""
DRAFT = "http://json-schema.org/draft-07/schema#"
"""The draft of JSON Schema that editors support."""
ELSEWHERE = r"\$\{.+\}|^\?\?\?$"
"""Matches texts that any key accepts: interpolations, and "???" for a value given elsewhere."""
NUMBER = rf"^\s*[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$|^[-+]?\.?(inf|nan)$|{ELSEWHERE}"
SCALARS: dict[Any, Schema] = {
    str: {"type": ["string", "number"]},
    int: {"type": ["integer", "string"], "pattern": NUMBER},
    float: {"type": ["number", "string"], "pattern": NUMBER},
    bool: {"type": ["boolean", "string"], "pattern": ELSEWHERE},
    Path: {"type": "string"},
    type(None): {"type": "null"},
}
"""A type -> its schema. Numbers may be strings, since YAML 1.1 reads 1e-5 as a string."""
DOTTED = r"^[a-z_]+\.|^hydra/"
"""Dotted keys and Hydra's groups, which a single config file (`tempering run.yaml`) may have."""
DEFAULTS: Schema = {"type": "array", "items": {"type": ["string", "object"]}}
"""The schema of a defaults list of Hydra."""


def schema_text(command: Command) -> str:
    """The text that `schema [GROUP]` prints. Raises InputError."""
    trust_named_packages(command)
    group = command.schema[0] if command.schema else None
    return json.dumps(schema(group, config_folders(command)), indent=2)


def schema(group: str | None, folders: Sequence[Path]) -> Schema:
    """The schema of a YAML file of this group; None: of a whole config, such as run.yaml.

    Raises InputError for an unknown group.
    """
    known = groups(folders)
    if group is not None and group not in known:
        hint = nearest(group, known)
        raise InputError(f"schema: no group '{group}'{hint}; accepted: {', '.join(known)}")
    if group is None:
        found = _one_file(folders)
    else:
        found = _whole(folders) if group in GLOBAL else _section(group, folders)
    properties = {"defaults": DEFAULTS, **found.get("properties", {})}
    return {"$schema": DRAFT, "title": group or "config", **found, "properties": properties}


def _whole(folders: Sequence[Path]) -> Schema:
    top = {**TOP_LEVEL, **KEYS_OF_JOBS}
    properties = {name: _described(hint, sentence) for name, (hint, sentence) in top.items()}
    sections = {
        name: {**_section(name, folders), "type": ["object", "null"]}
        for name in (*CLOSED, *OPEN_KINDS)
    }
    return _object({**properties, **sections})


def _one_file(folders: Sequence[Path]) -> Schema:
    """The schema of a whole config, in which a section may also be the name of an option."""
    found = _whole(folders)
    properties = dict(found["properties"])
    for name in groups(folders):
        option = {"type": ["string", "null"], "examples": options(name, list(folders))}
        is_section = name in properties and name != "job"
        properties[name] = {"anyOf": [option, properties[name]]} if is_section else option
    properties["hydra"] = {"type": "object", "description": "Hydra's own settings, for sweeps."}
    return {**_object(properties), "patternProperties": {DOTTED: {}}}


def _section(name: str, folders: Sequence[Path]) -> Schema:
    if name in CLOSED:
        return class_schema(CLOSED[name])
    node = _node(_classes(name, folders))
    if name in ("dataset", "recipe"):
        return node
    entry = {"anyOf": [{"type": "null"}, node]}
    return {"type": "object", "additionalProperties": entry}


def _node(classes: Mapping[type[Any], set[str]]) -> Schema:
    """The schema of a mapping whose `_target_` names one of these classes, or an unknown class.

    If the mapping has no `_target_`, because another file sets it, the keys of all these classes
    are accepted.
    """
    cases: list[Schema] = []
    any_keys: dict[str, list[Schema]] = {}
    for cls, names in classes.items():
        own = class_schema(cls)
        names_cls = {"properties": {"_target_": {"enum": sorted(names)}}, "required": ["_target_"]}
        cases.append({"if": names_cls, "then": _with_node_keys(own["properties"])})
        for key, each in own["properties"].items():
            if each not in any_keys.setdefault(key, []):
                any_keys[key].append(each)
    union = {key: each[0] if len(each) == 1 else {"anyOf": each} for key, each in any_keys.items()}
    cases.append({"if": {"not": {"required": ["_target_"]}}, "then": _with_node_keys(union)})
    known = sorted(name for names in classes.values() for name in names)
    target = {"type": "string", "description": "The class, by name or path.", "examples": known}
    return {"type": "object", "properties": {"_target_": target}, "allOf": cases}


def _with_node_keys(properties: Schema) -> Schema:
    return _object({"_target_": {"type": "string"}, "defaults": DEFAULTS, **properties})


def _classes(group: str, folders: Sequence[Path]) -> dict[type[Any], set[str]]:
    """A trusted class of a group -> the names that a `_target_` may use for it."""
    found: dict[type[Any], set[str]] = {}
    kind = OPEN_KINDS[group].parts
    names = {each.name for each in registry.own_entries(kind)} if kind else set()
    for option in options(group, list(folders)):
        nodes = targets(group, option_values(group, option, folders))
        names |= {str(node["_target_"]) for node in nodes.values()}
    for name in sorted(names):
        try:
            cls = class_of(group, name, group)
        except InputError:
            continue
        found.setdefault(cls, {f"{cls.__module__}.{cls.__qualname__}"}).add(name)
    return found


def class_schema(cls: type[Any]) -> Schema:
    """The schema of the fields of a dataclass, each with its docstring and its default."""
    hints, sentences = get_type_hints(cls), field_sentences(cls)
    holds_recipes = getattr(cls, "holds_recipes", ())
    properties = {}
    for field in fields(cls):
        if field.init:
            hint = dict[str, Any] if field.name in holds_recipes else hints[field.name]
            found = _described(hint, sentences.get(field.name, ""))
            if isinstance(field.default, (bool, int, float, str)) and field.default != NOT_GIVEN:
                found["default"] = plain(field.default)
            properties[field.name] = found
    return _object(properties)


def _object(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _described(hint: Any, sentence: str) -> Schema:
    return {**type_schema(hint), "description": sentence}


def type_schema(hint: Any) -> Schema:
    """The schema of the values that `trainer.config.typed.convert` accepts for a type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return {"anyOf": [type_schema(each) for each in arguments]}
    if origin is Literal:
        return {"anyOf": [{"enum": list(arguments)}, {"type": "string", "pattern": ELSEWHERE}]}
    kind = origin or hint
    if hint in SCALARS:
        return dict(SCALARS[hint])
    if isinstance(kind, type) and issubclass(kind, Mapping):
        entry = type_schema(arguments[1]) if arguments else {}
        return {"type": ["object", "string"], "pattern": ELSEWHERE, "additionalProperties": entry}
    if isinstance(kind, type) and issubclass(kind, Sequence):
        items = type_schema(arguments[0]) if arguments else {}
        return {"type": ["array", "string"], "pattern": ELSEWHERE, "items": items}
    if isinstance(hint, type) and is_dataclass(hint):
        return class_schema(hint)
    return {}
