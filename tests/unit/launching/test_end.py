"""The end of a run of several ranks: its first cause, not the ranks that it affected."""

import signal

import pytest

from trainer.launching.end import End, conclude
from trainer.launching.failure_report import FailureReport

LOST = "rank 0: another rank has left"
SAVED = "stopped by SIGTERM: saved runs/a/checkpoint-3"
felt = FailureReport(0, LOST, 3, is_cause=False)


@pytest.mark.parametrize(
    ("codes", "reports", "signals", "end"),
    [
        ({0: 0, 1: 0}, [], [], End()),
        # a rank reports why it ends, and others are affected
        (
            {0: 3, 1: 2},
            [felt, FailureReport(1, "a.csv: x", 2, True)],
            [],
            End("rank 1: a.csv: x", 2),
        ),
        ({0: 3, 1: 3}, [FailureReport(1, "rank 0: disk", 3, True)], [], End("rank 0: disk", 3)),
        # a rank that could not report
        (
            {0: 3, 1: -9},
            [felt],
            [],
            End("rank 1: killed by SIGKILL (out of memory?)", 3, rank_to_show=1),
        ),
        ({0: -15, 1: 1}, [], [], End("rank 0: killed by SIGTERM", 3, rank_to_show=0)),
        ({0: 3, 1: 1}, [felt], [], End("rank 1: ended with exit code 1", 1, rank_to_show=1)),
        # a rank that had to be killed, and one on another machine
        (
            {0: 3, 1: None},
            [felt],
            [],
            End("rank 1: did not answer within launch.timeout, and was killed", 3),
        ),
        (
            {0: -6, 1: None},
            [],
            [],
            End("rank 1: did not answer within launch.timeout, and was killed", 3),
        ),
        ({0: -40, 1: 0}, [], [], End("rank 0: killed by signal 40", 3, rank_to_show=0)),
        ({0: -6, 1: -11}, [], [], End("rank 1: killed by SIGSEGV", 3, rank_to_show=1)),
        ({0: 3}, [felt], [], End(f"{LOST}; no heartbeat from rank 1", 3)),
        # asked to stop
        ({0: 143, 1: 143}, [FailureReport(1, SAVED, 143, True)], [signal.SIGTERM], End(SAVED, 143)),
        ({0: -2, 1: -2}, [], [signal.SIGINT], End("stopped by SIGINT: not saved", 130)),
        ({0: -10, 1: -10}, [], [signal.SIGUSR1], End("stopped by SIGUSR1: not saved", 143)),
        (
            {0: 3, 1: 3},
            [FailureReport(0, "no space left", 3, True)],
            [signal.SIGTERM],
            End("rank 0: no space left", 3),
        ),
        ({0: 0, 1: 0}, [], [signal.SIGTERM], End()),  # too late to stop it
        # the time limit is not a signal
        (
            {0: 143, 1: 143},
            [FailureReport(0, "stopped by x", 143, True)],
            [],
            End("stopped by x", 143),
        ),
    ],
)
def test_conclusions(
    codes: dict[int, int | None],
    reports: list[FailureReport],
    signals: list[signal.Signals],
    end: End,
) -> None:
    assert conclude(codes, 2, reports, signals) == end
