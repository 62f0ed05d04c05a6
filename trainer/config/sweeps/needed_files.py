"""Needed files: checks that every job of a sweep finds its local files, before the first starts."""

from trainer import hub
from trainer.config.sweeps.prepared import Sweep
from trainer.runs.run import Run

ON_THIS_MACHINE = ("BasicLauncher", "JoblibLauncher", "LocalLauncher")
"""The classes of launchers whose jobs run on this machine; others may run where disks differ."""
READ_DATA = ("train", "evaluate", "predict", "inspect", "prepare")
"""The jobs that read the data set, unless they have an input."""


def check_files_of_jobs(found: Sweep) -> None:
    """Raise InputError if a job would not find its data, its model or its tokenizer.

    Otherwise the job would fail only after those before it, which may take hours. Jobs that have
    finished are left out, since they need not run again.
    """
    if str(found.config.hydra.launcher._target_).rpartition(".")[2] not in ON_THIS_MACHINE:
        return
    for job in found.jobs:
        record = found.records.get(job.label)
        if record is None or not record.is_final:
            _check_files(job.run)


def _check_files(run: Run) -> None:
    from trainer.data.needed_files import check_data_files, check_entries

    check_entries(run.input.file, "input.file")
    check_entries(run.input.corpus, "input.corpus")
    if run.job in READ_DATA and run.input.file is None and run.input.text is None:
        check_data_files(run.dataset)
    for section, path in (("model", run.model.path), ("tokenizer", run.tokenizer.path)):
        if path is not None and not hub.is_remote(path):
            hub.find(path, what=f"{section}.path")
