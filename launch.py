"""The program: reads the command line, starts the processes and runs the job."""

from trainer.launching.early_signals import leave_unsaved, raise_interrupts
from trainer.terminal import activity
from trainer.terminal.standard_streams import flush_or_drop, open_closed_streams

if __name__ == "__main__":
    open_closed_streams()
    leave_unsaved()  # a signal ends the process at once while the imports below run
    activity.begin("tempering")
    activity.doing("starting")

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from trainer.config.command import parse
from trainer.config.composing import compose_run, hand_over, handed_over_run
from trainer.config.printed import print_requested
from trainer.config.program import same_program
from trainer.config.saved_recipe import WITH_SAVED_RECIPE, with_saved_recipe
from trainer.config.sweeps.sweep import sweep
from trainer.config.verbose import log_verbosely
from trainer.errors import EnvironmentFault, InputError
from trainer.launching.accelerate_config import check_accelerate_config
from trainer.launching.cpu_threads import prepare_threads
from trainer.launching.error_exit import BY_CTRL_C, exit_code_of, report_error, report_os_error
from trainer.launching.joining import joined
from trainer.launching.launcher import num_processes, run_ranks
from trainer.launching.parent_process import end_with_parent
from trainer.launching.place import find_place, is_worker
from trainer.local_copies import with_urls
from trainer.runs.run import Run
from trainer.terminal.console import plain_logs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program with these arguments.

    Returns the exit code: 0 success, 2 invalid input, 3 a fault of the environment, 4 numbers that
    are not finite, 143 stopped by SIGTERM or SIGUSR1, 130 by Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    end_with_parent()
    plain_logs(with_urls)
    try:
        raise_interrupts()
        with activity.of_command():
            return _main(arguments)
    except KeyboardInterrupt:
        activity.done()  # the interrupt may have come just before the block that ends with it
        return report_error("interrupted", BY_CTRL_C)


def _main(arguments: Sequence[str]) -> int:
    try:
        if is_worker():
            log_verbosely()
            run = handed_over_run()
        else:
            command = parse(arguments)
            log_verbosely(command.hydra)
            if print_requested(command):
                return 0
            if command.multirun:
                return sweep(command, same_program(__file__))
            run = compose_run(command)
    except (InputError, EnvironmentFault) as error:
        return report_error(error, error.exit_code)
    except OSError as error:
        return report_os_error(error)
    return exit_code_of(lambda: run_job(run))


def run_job(run: Run) -> int:
    """Run the job of a checked config, in this process or in several ranks.

    Returns the exit code.
    """
    activity.begin(run.job)
    activity.doing("loading PyTorch")
    if run.job in WITH_SAVED_RECIPE:
        run = with_saved_recipe(run)
    job = importlib.import_module(f"trainer.jobs.{run.job}")
    check_accelerate_config(run)
    place = find_place(run.launch)
    if place is not None:  # this process is one of several ranks
        with joined(place, run, job.prepare):
            return job.run(run)
    number = num_processes(run)
    if number * run.launch.num_nodes == 1:
        return job.run(run)
    outcome = run_ranks(run, number, job.prepare, same_program(__file__), hand_over(run))
    return report_error(outcome.line, outcome.code) if outcome.line else outcome.code


def command_line() -> NoReturn:
    """Run `main` as a program, and exit with its exit code."""
    open_closed_streams()
    leave_unsaved()
    prepare_threads()
    code = main()
    flush_or_drop()
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        # when a rank exits normally, one of gloo's threads sometimes aborts the process
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    command_line()
