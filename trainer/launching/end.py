"""End: describes how a run of several ranks ended, and the first cause of a failure."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer.launching.failure_report import FailureReport
from trainer.training.interruption import EXIT_CODES

STOPPED = set(EXIT_CODES.values())
FAILED = 3
ABORTED = -signal.SIGABRT
"""The exit code of a rank that NCCL's watchdog ends because the rank waited too long for
another."""


@dataclass(frozen=True)
class End:
    """The end of a run: one line, which is empty after success, and an exit code."""

    line: str = ""
    code: int = 0
    rank_to_show: int | None = None
    """The rank whose standard error shows the details of the failure."""


def conclude(
    codes: Mapping[int, int | None],
    world_size: int,
    reports: Sequence[FailureReport],
    received: Sequence[signal.Signals],
) -> End:
    """The end of a run, from the exit codes of this machine's ranks and the reports of all ranks.

    An exit code of None means that the rank had to be killed. A rank that ended only because
    another rank had ended is not the cause. `received` are the signals that this launcher received.
    """
    if not any(code != 0 for code in codes.values()):
        return End()
    causes = [report for report in reports if report.is_cause]
    stops = [report for report in causes if report.code in STOPPED]
    if received and len(stops) == len(causes):
        line = stops[0].line if stops else f"stopped by {received[0].name}: not saved"
        return End(line, EXIT_CODES[received[0]])
    if causes:
        return _reported(causes[0])
    reporting = {report.rank for report in reports}
    silent = {rank: code for rank, code in codes.items() if rank not in reporting}
    died = {rank: code for rank, code in silent.items() if code}
    hung = [rank for rank, code in silent.items() if code is None]
    not_aborted = [rank for rank, code in died.items() if code != ABORTED]
    if hung and not not_aborted:
        return End(f"rank {hung[0]}: did not answer within launch.timeout, and was killed", FAILED)
    for rank in [*not_aborted, *died]:
        return _died(rank, died[rank])
    return _lost(reports, sorted(set(range(world_size)) - set(codes) - reporting))


def _reported(report: FailureReport) -> End:
    names_rank = report.code in STOPPED or report.line.startswith(("launch:", "rank "))
    return End(report.line if names_rank else f"rank {report.rank}: {report.line}", report.code)


def _died(rank: int, code: int) -> End:
    if code > 0:
        return End(f"rank {rank}: ended with exit code {code}", code, rank_to_show=rank)
    named = {number.value for number in signal.Signals}  # real-time signals have no names
    name = signal.Signals(-code).name if -code in named else f"signal {-code}"
    reason = " (out of memory?)" if name == "SIGKILL" else ""
    return End(f"rank {rank}: killed by {name}{reason}", FAILED, rank_to_show=rank)


def _lost(reports: Sequence[FailureReport], silent: Sequence[int]) -> End:
    line = reports[0].line
    if silent:
        line += f"; no heartbeat from rank {', '.join(map(str, silent))}"
    return End(line, FAILED)
