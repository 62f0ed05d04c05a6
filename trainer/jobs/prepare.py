"""The prepare job: fills the token cache on all cores, and reports statistics of the data."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import InputError
from trainer.runs.run import Run

if TYPE_CHECKING:
    from trainer.data.set_facts import Prepared, SetFacts
    from trainer.jobs.parts.data import TrainingData


def prepare(run: Run) -> bool:
    """Do nothing; this process starts its own workers."""
    return True


def run(run: Run) -> int:
    """Tokenize the training rows and the evaluation sets of a run in the same way as training.

    Prints the lengths and classes of each set, its duplicates, and the rows that occur in several
    sets. Writes the same statistics to `prepare.report` if it is set.
    """
    from trainer.checkpoint import files
    from trainer.data.set_facts import facts_of
    from trainer.data.streaming.sharded_rows import ShardedRows
    from trainer.data.tokens import default_cache_dir
    from trainer.jobs.parts.data import load_data
    from trainer.rendering.layout import labelled
    from trainer.rendering.set_facts import facts_text
    from trainer.terminal import activity
    from trainer.terminal.console import make_console, show

    if int(os.environ.get("RANK", "0")) > 0:
        return 0
    data = load_data(run)
    if isinstance(data.splits.train, ShardedRows):
        reason = "found true, and a stream is tokenized during training"
        raise InputError(f"dataset.streaming: {reason}; accepted: false, to prepare the data")
    sets = _prepared(run, data)
    activity.doing("looking for copies")
    found = facts_of(sets, run.prepare.near_copies)
    activity.done()
    console = make_console()
    for where, facts in found.items():
        show(console, facts_text(where, facts))
    for note in data.splits.notes:
        show(console, note)
    show(console, labelled({"cache": str(default_cache_dir())}))
    if run.prepare.report is not None:
        files.write_json(Path(os.path.expanduser(run.prepare.report)), _report(found))
    return 0


def _prepared(run: Run, data: "TrainingData") -> "dict[str, Prepared]":
    """The samples of every set, read from the cache or tokenized now."""
    from trainer.data.parallel_tokens import num_processes
    from trainer.data.set_facts import tables_of

    processes = num_processes(run.prepare.processes)
    sets: dict[str, Prepared] = {}
    for where, rows in data.tables.items():
        samples = data.samples(rows, where, processes=processes)
        trained_on = where == "dataset.train"
        sets |= dict(tables_of(samples, data.recipe_of(where), where, trained_on))
    return sets


def _report(found: "dict[str, SetFacts]") -> dict[str, object]:
    return {where: asdict(facts) for where, facts in found.items()}
