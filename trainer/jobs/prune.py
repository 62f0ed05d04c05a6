"""The prune job: removes old entries from the cache of tokenized data."""

import os

from trainer.runs.run import Run


def prepare(run: Run) -> bool:
    """Do nothing; the job runs in one process."""
    return True


def run(run: Run) -> int:
    """Remove entries by age and total size, and print what was removed and what remains."""
    from trainer.checkpoint.files import readable
    from trainer.data.pruning import prune
    from trainer.data.tokens import default_cache_dir
    from trainer.plurals import plural
    from trainer.rendering.layout import labelled
    from trainer.terminal.console import make_console, show

    if int(os.environ.get("RANK", "0")) > 0:
        return 0
    settings, folder = run.prune, default_cache_dir()
    max_bytes = None if settings.max_gib is None else settings.max_gib * 2**30
    found = prune(folder, settings.days, max_bytes, settings.dry_run)
    lines = {"cache": str(folder)}
    for name, some in (("removed", found.removed), ("kept", found.kept)):
        size = readable(sum(entry.size for entry in some))
        lines[name] = f"{plural(len(some), 'entry')}, {size}"
    if settings.dry_run:
        lines["to remove"] = lines.pop("removed")
    if found.in_use:
        lines["in use"] = plural(found.in_use, "entry")
    if found.left_over:
        lines["unfinished"] = f"{plural(found.left_over, 'folder')} of killed processes removed"
    show(make_console(), labelled(lines))
    return 0
