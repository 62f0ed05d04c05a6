"""The base model of a run: finds its name on the hub and the license in its card."""

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainer import hub
from trainer.checkpoint import files
from trainer.checkpoint.verify import MANIFEST
from trainer.errors import EnvironmentFault, InputError
from trainer.reports.run_record import RunRecord
from trainer.stores.run_store import METRICS, run_files
from trainer.stores.store import Store
from trainer.stores.url import is_in_store

log = logging.getLogger("trainer")

CARD = "README.md"
FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)\r?\n---\s*?(?:\r?\n|\Z)", re.DOTALL)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
LICENSE_KEYS = ("license", "license_name", "license_link")
DEEPEST = 8
"""The maximum number of runs to follow from a model to its original base model."""


@dataclass(frozen=True)
class BaseModel:
    """The model from which a model was fine-tuned."""

    name: str
    """The name in the card: a hub id, a pkg:// path or the name of a folder."""
    hub_id: str | None = None
    """The hub id, if the model is on the hub."""
    license: Mapping[str, str] | None = None
    """The `LICENSE_KEYS` in the base model's card; None if it has no license or is unreadable."""


def base_of(path: str | None, revision: str | None = None, token: str | None = None) -> BaseModel:
    """Describe the base model at `path`.

    If the model at `path` was itself trained by a run of this program, the base model of that run
    is described instead, and so on. If the card cannot be read, a warning is logged and the license
    is unknown.
    """
    for _ in range(DEEPEST):
        if path is None:
            return BaseModel("")
        earlier = _run_of(path)
        if earlier is None:
            break
        model = earlier.config.get("model")
        node = model if isinstance(model, Mapping) else {}
        path, revision = _text(node.get("path")), _text(node.get("revision"))
    assert path is not None
    if hub.is_remote(path) and HUB_ID.fullmatch(path):
        exists, metadata = _on_hub(path, revision, token)
        return BaseModel(path, path if exists else None, _license(metadata))
    card = _metadata(_local_card(path))
    named = card.get("base_model")
    hub_id = named if isinstance(named, str) and HUB_ID.fullmatch(named) else None
    name = path if path.startswith(hub.PACKAGE) else Path(path).name
    return BaseModel(hub_id or name, hub_id, _license(card))


def _run_of(path: str) -> RunRecord | None:
    """The run whose folder contains a model; None if the model is not in the folder of a run."""
    try:
        folder = _stored_model(path) if is_in_store(path) else Path(os.path.expanduser(path))
        if folder is None or not (folder / MANIFEST).is_file():
            return None
        return RunRecord.read(folder.absolute().parent)
    except InputError:
        return None
    except EnvironmentFault as error:
        log.warning("the base model's run cannot be read: %s", error)
        return None


def _stored_model(url: str) -> Path | None:
    """A copy of the small files of a model in an object store, inside a copy of its run.

    Returns None if the model is not in the folder of a run.
    """
    above, _, name = url.rstrip("/").rpartition("/")
    if above.endswith("/") or not Store(above, "base model").listing(METRICS):
        return None
    return run_files(above, "base model") / name


def dataset_on_hub(record: RunRecord | None, token: str | None = None) -> str | None:
    """The hub id of a run's data set; None if the data is not on the hub or is not accessible."""
    node = record.config.get("dataset") if record else None
    path = _text(node.get("path")) if isinstance(node, Mapping) else None
    if path is None or not HUB_ID.fullmatch(path) or Path(path).exists():
        return None
    from huggingface_hub import HfApi

    try:
        return path if HfApi(token=token).repo_exists(path, repo_type="dataset") else None
    except Exception as error:  # a card without the hub id is still correct
        log.warning(
            "data set %s: could not be looked up on the hub (%s)", path, type(error).__name__
        )
        return None


def _on_hub(path: str, revision: str | None, token: str | None) -> tuple[bool, Mapping[str, Any]]:
    """Whether a repository exists, and the metadata of its card.

    The repository may not exist, because a path that looks like a hub id may have been the path of
    a local folder.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
    )

    exists = True
    try:
        with hub.errors_in_one_line(path, "base model", revision):
            try:
                card = hf_hub_download(path, CARD, revision=revision, token=token)
            except EntryNotFoundError:
                return True, {}
            except RepositoryNotFoundError as error:
                exists = isinstance(error, GatedRepoError)
                raise
        return True, _metadata(Path(card).read_text(encoding="utf-8", errors="replace"))
    except (InputError, OSError) as error:
        log.warning("the license of the base model is unknown: %s", error)
        return exists, {}


def _local_card(path: str) -> str:
    if hub.is_remote(path) and not is_in_store(path):  # a local folder that no longer exists
        return ""
    try:
        folder = hub.find(path, what="base model", weights=None)
        return files.read_bytes(folder / CARD).decode(errors="replace")
    except (InputError, OSError, EnvironmentFault):
        return ""


def _metadata(card: str) -> Mapping[str, Any]:
    """Parse the YAML at the top of a card; returns {} if there is none or it is invalid."""
    found = FRONT_MATTER.match(card)
    try:
        value = yaml.safe_load(found[1]) if found else None
        json.dumps(value, default=str)  # raises ValueError for recursive YAML
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _license(card: Mapping[str, Any]) -> Mapping[str, str] | None:
    found = {key: card[key] for key in LICENSE_KEYS if isinstance(card.get(key), str)}
    return found if "license" in found else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
