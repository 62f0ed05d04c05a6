"""Saved options: checks arguments that transformers accepts for loading and saving tokenizers."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.checkpoint import files
from trainer.errors import InputError

log = logging.getLogger("trainer")

TEMPLATE, TEMPLATES = "chat_template.jinja", "additional_chat_templates"
"""The file of the default chat template, and the folder of templates with other names."""
NO_EFFECT = {
    "trust_remote_code": "no remote code runs here, and no tokenizer needs any",
    "force_download": "the cache checks its files itself; delete its folder to download again",
    "resume_download": "downloads always resume",
    "proxies": "the hub's client reads HTTPS_PROXY from the environment",
    "legacy": "tokenizer.json decides",
    "from_slow": "tokenizer.json is read as it is",
    "tokenizer_type": "the folder's files decide",
    "config": "the folder's files decide",
}
"""An argument of from_pretrained that has no effect -> the reason, which a warning states."""


def check_load_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of from_pretrained that replace entries of tokenizer_config.json.

    Warns of arguments that have no effect. Raises InputError for values that are not supported.
    """
    rest = dict(given)
    if not rest.pop("use_fast", True):
        raise InputError("use_fast: found False; accepted: True (all tokenizers are fast ones)")
    if (file := rest.pop("gguf_file", None)) is not None:
        accepted = "None (give the path of the .gguf file as the tokenizer)"
        raise InputError(f"gguf_file: found {file!r:.60}; accepted: {accepted}")
    for name, reason in NO_EFFECT.items():
        if rest.pop(name, None):
            log.warning("%s has no effect: %s", name, reason)
    return rest


def check_save_options(prefix: str | None, given: Mapping[str, Any]) -> bool:
    """Return whether this process writes the files. Raises InputError for unsupported values."""
    rest = dict(given)
    writes = bool(rest.pop("is_main_process", True))
    accepted = {"legacy_format": False, "push_to_hub": False}
    for name, value in {"filename_prefix": prefix, **rest}.items():
        if name not in (*accepted, "filename_prefix"):
            listed = ", ".join((*accepted, "is_main_process", "save_jinja_files"))
            raise InputError(f"save_pretrained: found {name}; accepted: {listed}")
        if value:
            wanted = accepted.get(name)
            hint = " (to upload it, call push_to_hub(repository))" if name == "push_to_hub" else ""
            raise InputError(f"{name}: found {value!r:.60}; accepted: {wanted}{hint}")
    return writes


def save_templates(folder: Path, templates: str | Mapping[str, str] | None) -> list[Path]:
    """Write the chat template, or several by name; returns the paths of the files.

    Template files of an earlier save are removed, since programs that load the tokenizer prefer
    them to tokenizer_config.json.
    """
    named = {"default": templates} if isinstance(templates, str) else dict(templates or {})
    wanted = {_template_file(folder, name): text for name, text in named.items()}
    if any(name != "default" for name in named):
        files.make_folder(folder / TEMPLATES)
    for file, text in wanted.items():
        files.write_bytes(file, text.encode())
    for old in [folder / TEMPLATE, *sorted((folder / TEMPLATES).glob("*.jinja"))]:
        if old not in wanted and old.is_file():
            files.remove_file(old)
    return list(wanted)


def _template_file(folder: Path, name: str) -> Path:
    if name == "default":
        return folder / TEMPLATE
    if not re.fullmatch(r"[\w][\w.\- ]*", name):
        accepted = "letters, digits, spaces and _ . -"
        raise InputError(f"chat_template: found the name {name!r:.60}; accepted: {accepted}")
    return folder / TEMPLATES / f"{name}.jinja"
