"""The push job: sends a run's model, its card and its report to a repository on the hub."""

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from trainer.errors import InputError
from trainer.runs.run import Run

if TYPE_CHECKING:
    from trainer.pushing.push import Pushed


def prepare(run: Run) -> bool:
    """Do nothing; the job runs in one process."""
    return True


def run(run: Run) -> int:
    """Send the files in one commit, and print the repository's URL.

    Raises InputError, before anything is sent, if the push would replace files that this program
    did not write.
    """
    from trainer.pushing.push import Destination, push, with_owner
    from trainer.runs.push_contents import of_folder, of_run
    from trainer.stores.run_store import run_files

    settings = run.push
    if settings.repo is None:
        raise InputError("push.repo: null; accepted: name or owner/name, repo=me/my-model")
    if (run.shown_run is None) == (settings.folder is None):
        found = "nothing given" if settings.folder is None else "found run and push.folder"
        raise InputError(f"run: {found}; accepted: run=runs/a, or push.folder=FOLDER")
    if int(os.environ.get("RANK", "0")) > 0:
        return 0
    to = with_owner(
        Destination(
            settings.repo,
            settings.private,
            settings.revision,
            settings.tags,
            settings.message,
            settings.replace,
        )
    )
    if run.shown_run is None:
        contents = of_folder(settings, to.repo, to.token)
        done = push(contents, to, partial=True)
    else:
        sent = ("model", "checkpoint-") if settings.checkpoints != "none" else ("model",)
        folder = run_files(run.shown_run, "run", sent)
        to = replace(to, message=to.message or f"Push {folder.name} with tempering")
        done = push(of_run(folder, settings, to.repo, to.token), to)
    _show(done, settings.tags)
    return 0


def _show(done: "Pushed", tags: list[str]) -> None:
    from trainer.checkpoint.files import readable
    from trainer.plurals import plural
    from trainer.rendering.layout import labelled
    from trainer.terminal.console import make_console, show

    new = f"{plural(len(done.sent), 'file')}, {readable(done.num_bytes)}"
    lines = {
        "repository": f"{done.url} ({'private' if done.private else 'public'})",
        "commit": done.commit[:12],
        "sent": new if done.sent else "nothing; it has these files already",
        "removed": ", ".join(done.removed),
        "kept as edited there": ", ".join(done.kept),
        "tags": ", ".join(tags),
        "load it with": f"model.path={done.repo}",
    }
    show(make_console(), labelled({name: words for name, words in lines.items() if words}))
