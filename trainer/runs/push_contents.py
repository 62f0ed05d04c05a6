"""Push contents: the files of a run or of a model's folder that job=push sends, with a card."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from trainer.checkpoint.verify import MANIFEST, verify
from trainer.errors import InputError
from trainer.pushing.push_record import Content
from trainer.pushing.push_settings import PushSettings
from trainer.pushing.saved_files import files_of
from trainer.reports.model_card.base_model import (
    CARD,
    FRONT_MATTER,
    BaseModel,
    base_of,
    dataset_on_hub,
)
from trainer.reports.model_card.card_text import model_card
from trainer.reports.model_card.metadata import Subject, metadata
from trainer.reports.page import NOT_READABLE
from trainer.reports.run_record import RunRecord
from trainer.reports.run_report import FILE as REPORT
from trainer.reports.sections.overview import MODEL, status
from trainer.stores.run_store import model_files
from trainer.stores.url import is_in_store, plain_path

STATE = "state/"
"""The part of a checkpoint that only resuming needs."""
EXPORT = "export.json"
"""The description of a folder that job=export wrote."""


def of_run(
    folder: Path, settings: PushSettings, repo: str, token: str | None
) -> dict[str, Content]:
    """The contents for a finished run, by path: model, card, report and checkpoints, all verified.

    Raises InputError for a run without a model or with files that this program did not write,
    EnvironmentFault for a damaged one.
    """
    record = RunRecord.read(folder)
    if not record.results or not (folder / MODEL / MANIFEST).is_file():
        accepted = f"a finished run, or push.folder={folder}/checkpoint-..."
        raise InputError(f"run: {folder}: {status(record)}; accepted: {accepted}")
    return of_model(folder / MODEL, record, settings, repo, token) | run_files(record, settings)


def of_model(
    folder: Path, record: RunRecord | None, settings: PushSettings, repo: str, token: str | None
) -> dict[str, Content]:
    """The contents for a model, by path: its files, and a card made from `record` and the files."""
    if (folder / MANIFEST).is_file():
        verify(folder)
    contents: dict[str, Content] = dict(files_of(folder))
    subject = _subject(folder, record, settings, repo, token)
    contents[CARD] = _card(subject)
    return contents


def run_files(record: RunRecord, settings: PushSettings) -> dict[str, Content]:
    """The contents for the report and the checkpoints of a run, by path."""
    contents: dict[str, Content] = {}
    report = record.folder / REPORT
    wanted = settings.private if settings.report is None else settings.report
    if wanted and report.is_file():
        contents[REPORT] = report
    elif settings.report:
        accepted = f"false, or job=report runs={record.folder} first"
        raise InputError(f"push.report: {record.folder} has no {REPORT}; accepted: {accepted}")
    if settings.checkpoints == "none":
        return contents
    found = list(record.checkpoints.values())
    if not found:
        raise InputError(
            f"push.checkpoints: {record.folder} has no checkpoints; accepted: push.checkpoints=none"
        )
    for checkpoint in found if settings.checkpoints == "all" else found[-1:]:
        verify(checkpoint)
        contents |= files_of(checkpoint, f"{checkpoint.name}/")
        contents[f"{checkpoint.name}/{MANIFEST}"] = checkpoint / MANIFEST
    return contents


def of_folder(settings: PushSettings, repo: str, token: str | None) -> dict[str, Content]:
    """The contents for push.folder, by path in the repository (below push.path).

    A card in the folder is kept; if it has no metadata, metadata is added. The state of a
    checkpoint is not sent.
    """
    assert settings.folder is not None
    if is_in_store(settings.folder):
        folder = model_files(settings.folder, "push.folder")
    else:
        folder = Path(os.path.expanduser(plain_path(settings.folder)))
    if not folder.is_dir():
        raise InputError(f"push.folder: there is no folder '{settings.folder}'")
    if (folder / "metrics.jsonl").exists():
        found = f"{settings.folder} is a run's"
        raise InputError(f"push.folder: {found}; accepted: run={settings.folder}")
    contents = of_model(folder, _run_around(folder), settings, repo, token)
    if (folder / CARD).is_file():
        contents[CARD] = _with_metadata(folder, settings, repo, token)
    below = f"{settings.path}/" if settings.path else ""
    return {below + p: content for p, content in contents.items() if not p.startswith(STATE)}


def _run_around(folder: Path) -> RunRecord | None:
    """The run that a folder belongs to; the results are left out unless the folder is model/."""
    try:
        record = RunRecord.read(folder.absolute().parent)
    except InputError:
        return None
    return record if folder.name == MODEL else replace(record, results={})


def _with_metadata(folder: Path, settings: PushSettings, repo: str, token: str | None) -> bytes:
    """The folder's card; metadata of the original model is added if the card has none."""
    card = (folder / CARD).read_text(encoding="utf-8", errors="replace")
    if FRONT_MATTER.match(card):
        return card.encode()
    source = _source(folder)
    record = _run_around(source) if source else None
    subject = _subject(folder, record, settings, repo, token)
    if source:
        subject = replace(subject, base=base_of(str(source), token=token))
    return f"---\n{metadata(subject)}\n---\n\n{card}".encode()


def _source(folder: Path) -> Path | None:
    """The folder of the model that an export was made from, if this machine has it."""
    try:
        found = json.loads((folder / EXPORT).read_bytes())["source"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return Path(found) if isinstance(found, str) and Path(found).is_dir() else None


def _subject(
    folder: Path, record: RunRecord | None, settings: PushSettings, repo: str, token: str | None
) -> Subject:
    model = record.config.get("model") if record else None
    node = model if isinstance(model, Mapping) else {}
    path, revision = node.get("path"), node.get("revision")
    base = BaseModel("")
    if path and not node.get("from_scratch"):
        base = base_of(str(path), revision, token)
    name = repo.rpartition("/")[2]
    dataset = dataset_on_hub(record, token)
    return Subject(name, repo, folder, record, base, settings.license, dataset)


def _card(subject: Subject) -> bytes:
    """The card. Raises InputError, in one line, for files that this program did not write."""
    try:
        return model_card(subject).encode("utf-8", "replace")
    except NOT_READABLE as error:
        where = subject.record.folder if subject.record else subject.folder
        found = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")
        raise InputError(f"{where}: not what this program writes ({found})") from None
