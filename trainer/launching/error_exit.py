"""Error exit: turns an exception that ends a process into one line and an exit code."""

import errno
import os
from collections.abc import Callable

from trainer.errors import (
    EnvironmentFault,
    InputError,
    Interrupted,
    LostRank,
    NumericsError,
    allocation_failure,
    impossible_path,
)
from trainer.launching import failure_report
from trainer.launching.end import STOPPED
from trainer.launching.place import is_worker
from trainer.local_copies import with_urls
from trainer.redaction import redacted
from trainer.terminal.activity import is_first_rank
from trainer.terminal.console import error_line, plain_line
from trainer.terminal.standard_streams import flush_or_drop

BY_CTRL_C = 130


def exit_code_of(run_job: Callable[[], int]) -> int:
    """Run the job and return its exit code.

    An expected error is reported in one line, and its exit code is returned. An unexpected error
    is raised, so that Python prints its traceback.
    """
    try:
        return run_job()
    except (InputError, EnvironmentFault, NumericsError, Interrupted) as error:
        return report_error(error, error.exit_code, every_rank=True)
    except BrokenPipeError:  # the program that reads our output has closed the pipe
        flush_or_drop()
        return 0
    except OSError as error:
        return report_os_error(error)
    except (MemoryError, RuntimeError, ImportError, SystemError) as error:
        if (line := allocation_failure(error)) is None:
            raise
        return report_error(line, EnvironmentFault.exit_code, every_rank=True)
    except KeyboardInterrupt:
        return report_error("interrupted", BY_CTRL_C)


def report_os_error(error: OSError) -> int:
    """Report an error of the operating system; returns 2 for an impossible path, else 3.

    An OSError without an error number does not come from the operating system: it is raised again.
    """
    if error.errno is None:
        raise error
    if error.errno == errno.ENOENT and error.filename is None and _working_folder_is_gone():
        error = OSError("the working folder no longer exists; accepted: to be in one that exists")
    wrong = impossible_path(error)
    code = EnvironmentFault.exit_code if wrong is None else wrong.exit_code
    return report_error(wrong or error, code, every_rank=True)


def _working_folder_is_gone() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def report_error(error: object, exit_code: int, every_rank: bool = False) -> int:
    """Report an error in one line, and return `exit_code`.

    If our launcher started this process, the line goes to the launcher. Otherwise it is printed:
    on each rank with `every_rank`, else on rank 0.
    """
    line = redacted(with_urls(str(error)))
    is_cause = not isinstance(error, LostRank)
    if is_worker() and failure_report.send(line, exit_code, is_cause):
        return exit_code
    if every_rank or is_first_rank():
        # a stop that the user requested, after a save, is not an error
        (plain_line if exit_code in STOPPED else error_line)(line)
    return exit_code
