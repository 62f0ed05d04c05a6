"""FailureReport: tells the launcher why a rank ended, through the store that both processes use."""

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from trainer.errors import EnvironmentFault

if TYPE_CHECKING:
    from trainer.launching.sealed_store import SealedStore

logger = logging.getLogger("trainer")

MAX_LINE = 4096
"""The maximum number of characters of a report's line; the rest is dropped."""
PATIENCE = 5.0
"""Seconds to wait for the store; if it does not answer by then, the launcher is gone."""


@dataclass(frozen=True)
class FailureReport:
    """Why a rank ended early: one line and an exit code."""

    rank: int
    line: str
    code: int
    is_cause: bool
    """Whether this rank failed itself; False if it ended only because another rank was gone."""


def send(line: str, code: int, is_cause: bool) -> bool:
    """Tell the launcher why this rank ends. Returns False if the launcher cannot be reached."""
    from trainer.launching.rendezvous import connect
    from trainer.launching.sealed_store import SealedStore

    try:
        report = FailureReport(int(os.environ["RANK"]), line[:MAX_LINE], code, is_cause)
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except (KeyError, ValueError):  # this process has no launcher, though the environment names one
        return False
    try:
        store = SealedStore(connect(address, port, PATIENCE, "launch")).within("failures")
        store.set(str(store.add("number", 1)), json.dumps(asdict(report)))
        return True
    except RuntimeError:
        return False


def read(store: "SealedStore", world_size: int) -> Iterator[FailureReport]:
    """Yield the reports of all ranks in order of arrival; nothing if the store is gone.

    Messages that cannot come from one of our ranks are skipped, with a warning.
    """
    try:
        num_reports = min(store.add("number", 0), 2 * world_size)
        for number in range(1, num_reports + 1):
            if store.check([str(number)]):
                try:
                    yield _parsed(store.get(str(number)), world_size)
                except (ValueError, TypeError, EnvironmentFault, RecursionError) as error:
                    logger.warning(
                        "launch: ignored a message that no rank can have sent: %s", error
                    )
    except RuntimeError:
        return


def _parsed(message: bytes, world_size: int) -> FailureReport:
    """The report in a message. Raises ValueError if no failed rank can have sent the message."""
    report = FailureReport(**json.loads(message))
    is_rank = type(report.rank) is int and 0 <= report.rank < world_size
    is_line = isinstance(report.line, str) and len(report.line) <= MAX_LINE
    # a rank with exit code 0 sends no report
    is_code = type(report.code) is int and 0 < report.code < 256
    if not (is_rank and is_line and is_code and isinstance(report.is_cause, bool)):
        raise ValueError(f"{message!r:.80}")
    return report
