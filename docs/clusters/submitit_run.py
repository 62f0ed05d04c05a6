"""Submits a run to Slurm from Python with submitit.

    python docs/clusters/submitit_run.py output_dir=runs/a ...

The arguments are those of launch.py. submitit writes the batch script. Near the time limit or at a
preemption, the run saves a checkpoint, and submitit resubmits the job.
"""

import os
import subprocess
import sys

import submitit

CLUSTER = os.environ.get("CLUSTER", "slurm")
"""`local` runs the job on this machine, without Slurm."""


class Run:
    """One task of the job: a rank of the run."""

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments

    def __call__(self) -> int:
        """Run the rank as a separate process, so that it gets Slurm's signals directly."""
        command = [sys.executable, "-m", "tempering", *self.arguments]
        return subprocess.run(command).returncode

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Return what to submit after a time-out or a preemption: the same command."""
        return submitit.helpers.DelayedSubmission(self)


def main() -> None:
    """Submit the job, and print where its output goes."""
    executor = submitit.AutoExecutor(folder="submitit/%j", cluster=CLUSTER)
    executor.update_parameters(
        name="tempering",
        nodes=1,
        tasks_per_node=int(os.environ.get("TASKS", "1")),
        timeout_min=240,
        slurm_signal_delay_s=180,
        slurm_gpus_per_node=os.environ.get("GPUS"),
    )
    job = executor.submit(Run(sys.argv[1:]))
    print(f"job {job.job_id}: {job.paths.stdout}")
    if CLUSTER == "local":
        sys.exit(max(job.results()))


if __name__ == "__main__":
    main()
