"""What can go wrong, by whose fault: each class carries the exit code of its kind."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class InputError(ValueError):
    """The user's input is wrong; one line: where, what was found, what is accepted."""

    exit_code = 2


class RowError(InputError):
    """One row is wrong: `row` counts from the first row that was looked at."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


class AnswerError(RowError):
    """The row's answer (its label, say) cannot be used; what is asked can."""


class EnvironmentFault(RuntimeError):
    """The surroundings failed: a disk, a lock, another rank."""

    exit_code = 3


class LostRank(EnvironmentFault):
    """Another rank is gone or does not answer: what happened to it is the cause, this is not."""


class NumericsError(ArithmeticError):
    """The numbers failed: a loss, a gradient or logits that are not finite."""

    exit_code = 4


class NonFiniteSamples(NumericsError):
    """Samples of an evaluation or a prediction whose loss or logits are not finite."""

    def __init__(
        self, where: str, samples: Sequence[int], total: int, context: str = "", first: int = 0
    ) -> None:
        """`samples` are their numbers, of `total`; messages count them from `first`."""
        self.samples = samples
        self.total = total
        shown = ", ".join(str(first + sample) for sample in samples[:10])
        more = ", ..." if len(samples) > 10 else ""
        super().__init__(
            f"{where}: {len(samples)} of {total} samples have a loss or logits that are not "
            f"finite (samples {shown}{more}){context}"
        )


class Interrupted(Exception):
    """The run was asked to stop, has saved, and leaves with `exit_code`."""

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


NO_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|out of memory|bad_alloc|malloc|not enough memory"
    r"|failed to map segment|can't start new thread|failed to allocate|unable to (mmap|allocate)",
    re.IGNORECASE,
)
"""What libraries say where an allocation fails."""


def allocation_failure(error: BaseException) -> str | None:
    """One line for an error that says that memory is used up; None for any other."""
    text = str(error).strip()
    if not isinstance(error, MemoryError) and not NO_MEMORY.search(text):
        return None
    reason = f" ({text.splitlines()[0][:200]})" if text else ""
    return f"out of memory{reason}; what was saved before is whole"


def nearest(name: str, accepted: Iterable[str]) -> str:
    """A hint to append to a message: the accepted name that looks most like `name`, or nothing."""
    match = get_close_matches(name, list(accepted), n=1, cutoff=0.6)
    return f"; did you mean '{match[0]}'?" if match else ""
