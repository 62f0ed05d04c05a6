"""Trainer.push_to_hub: uploads the model, with a card that describes its training."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypedDict, Unpack

from trainer.checkpoint.publish import together
from trainer.errors import InputError
from trainer.pushing.push import Destination, push, with_owner
from trainer.pushing.push_settings import PushSettings
from trainer.reports.run_record import RunRecord
from trainer.runs.outcome import named_metrics
from trainer.runs.push_contents import of_model, run_files
from trainer.training.report_facts import report_facts
from trainer.training.run_facts import facts_at_start, results
from trainer.training.views import Views


class PushOptions(TypedDict, total=False):
    """The keyword arguments of `Trainer.push_to_hub`, named like the keys of job=push."""

    private: bool
    revision: str | None
    tags: Sequence[str]
    checkpoints: Literal["none", "last", "all"]
    report: bool | None
    license: str | None
    commit_message: str | None
    replace: bool
    token: str | None


def push_trained(
    trainer: Views, save: Callable[[Path], None], repo: str, **options: Unpack[PushOptions]
) -> str:
    """Upload the files that `save` writes, a card, report and checkpoints; return the commit's URL.

    Every rank calls it, and rank 0 uploads; an error is raised on every rank.
    """
    unknown = options.keys() - PushOptions.__annotations__.keys()
    if unknown:
        known = ", ".join(PushOptions.__annotations__)
        raise InputError(f"push_to_hub: no argument '{min(unknown)}'; accepted: {known}")
    token = options.get("token")
    settings = PushSettings(
        repo=repo,
        private=options.get("private", True),
        revision=options.get("revision"),
        tags=list(options.get("tags", ())),
        checkpoints=options.get("checkpoints", "none"),
        report=options.get("report"),
        license=options.get("license"),
        message=options.get("commit_message"),
        replace=options.get("replace", False),
    )
    with tempfile.TemporaryDirectory(prefix="tempering-push-") as folder:
        save(Path(folder))
        found = together(
            trainer.ranks,
            lambda: (
                _send(trainer, Path(folder), settings, token) if trainer.ranks.is_main else None
            ),
        )
    return str(found[0])


def _send(trainer: Views, folder: Path, settings: PushSettings, token: str | None) -> str:
    assert settings.repo is not None
    to = Destination(
        settings.repo,
        settings.private,
        settings.revision,
        settings.tags,
        settings.message,
        settings.replace,
        token,
    )
    to = with_owner(to)
    record = _record(trainer)
    contents = of_model(folder, record, settings, to.repo, to.token)
    if record is not None and trainer.folder is not None:
        contents |= run_files(record, settings)
    pushed = push(contents, to)
    return f"{pushed.url}/commit/{pushed.commit}"


def _record(trainer: Views) -> RunRecord | None:
    """The run's record, from its files or from memory; None before `fit`."""
    if trainer.folder is not None:
        try:
            record = RunRecord.read(trainer.folder.path)
        except InputError:  # no `fit` has written there yet
            return None
        if record.results:
            return record
    if "session" not in vars(trainer):
        return None
    session = trainer.session
    facts = report_facts(session, facts_at_start(session), [])
    last = named_metrics(trainer.evaluations)
    found = results(session, trainer.evaluations, trainer.state.step, last)
    folder = trainer.folder.path if trainer.folder else Path()
    return RunRecord(folder, facts.name, facts, [], found)
