"""Errors by cause: wrong input, a failing environment or non-finite numbers."""

import errno
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from trainer.local_copies import with_urls
from trainer.plurals import plural


class _Fault(Exception):
    """An error whose text names the URL of a file in a store, not the path of its local copy."""

    def __str__(self) -> str:
        return with_urls(super().__str__())


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type if there is no message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class InputError(_Fault, ValueError):
    """The user's input is wrong. The message says where, what was found and what is accepted."""

    exit_code = 2


class RowError(InputError):
    """One row is wrong; `row` is its index among the rows that were checked."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


class AnswerError(RowError):
    """The answer of a row (such as its label) cannot be used, but the rest of the row can."""


class EnvironmentFault(_Fault, RuntimeError):
    """The environment failed: a disk, a lock, another rank."""

    exit_code = 3


class LostRank(EnvironmentFault):
    """Another rank has ended or does not respond; that rank reports the cause."""


class NumericsError(_Fault, ArithmeticError):
    """A loss, a gradient or logits are not finite."""

    exit_code = 4


class NonFiniteSamples(NumericsError):
    """Some samples of an evaluation or a prediction have a loss or logits that are not finite."""

    def __init__(
        self, where: str, samples: Sequence[int], total: int, context: str = "", first: int = 0
    ) -> None:
        """`samples` are indices among `total` samples.

        The message shows each index plus `first`.
        """
        self.samples = samples
        self.total = total
        shown = ", ".join(str(first + sample) for sample in samples[:10])
        more = ", ..." if len(samples) > 10 else ""
        has = "has" if len(samples) == 1 else "have"
        super().__init__(
            f"{where}: {len(samples)} of {plural(total, 'sample')} {has} a loss or logits that are "
            f"not finite (sample{'s' * (len(samples) > 1)} {shown}{more}){context}"
        )


class Interrupted(Exception):
    """The run was stopped and has saved a checkpoint; the process exits with `exit_code`."""

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


NO_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|out of memory|bad_alloc|malloc|not enough memory"
    r"|failed to map segment|can't start new thread|failed to allocate|unable to (mmap|allocate)"
    # oneDNN; its message about a primitive descriptor means that a case is not supported
    r"|could not create a primitive(?! descriptor)",
    re.IGNORECASE,
)
"""The messages of libraries when an allocation fails."""


def allocation_failure(error: BaseException) -> str | None:
    """A message of one line if the error is a failed allocation, else None."""
    text = str(error).strip()
    if not isinstance(error, MemoryError) and not NO_MEMORY.search(text):
        return None
    reason = f" ({text.splitlines()[0][:200]})" if text else ""
    return f"out of memory{reason}; checkpoints saved before are intact"


def impossible_path(error: OSError) -> InputError | None:
    """An InputError if the path is too long or its links form a circle, else None."""
    if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
        return None
    path = str(error.filename or "a path")
    shown = path if len(path) <= 80 else f"{path[:60]}... ({len(path):,} characters)"
    reason = "too long" if error.errno == errno.ENAMETOOLONG else "its links lead in a circle"
    accepted = "accepted: names of at most 255 bytes, in a path of less than 4,096"
    return InputError(f"{shown}: {reason}; {accepted}")


def nearest(name: str, accepted: Iterable[str]) -> str:
    """A hint to append to a message: the accepted name most similar to `name`, or nothing."""
    match = get_close_matches(name, list(accepted), n=1, cutoff=0.6)
    return f"; did you mean '{match[0]}'?" if match else ""
