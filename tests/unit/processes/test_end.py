"""What a run of many ranks came to: the first cause, not who felt it."""

import signal

import pytest

from trainer.processes.end import End, conclude
from trainer.processes.last_words import LastWords

LOST = "rank 0: another rank has left"
SAVED = "stopped by SIGTERM: saved runs/a/checkpoint-3"
felt = LastWords(0, LOST, 3, is_cause=False)


@pytest.mark.parametrize(
    ("codes", "words", "told", "end"),
    [
        ({0: 0, 1: 0}, [], [], End()),
        # a rank says why it leaves; others feel it
        ({0: 3, 1: 2}, [felt, LastWords(1, "a.csv: x", 2, True)], [], End("rank 1: a.csv: x", 2)),
        ({0: 3, 1: 3}, [LastWords(1, "rank 0: disk", 3, True)], [], End("rank 0: disk", 3)),
        # one that could say nothing
        ({0: 3, 1: -9}, [felt], [], End("rank 1: killed by SIGKILL (out of memory?)", 3, show=1)),
        ({0: -15, 1: 1}, [], [], End("rank 0: killed by SIGTERM", 3, show=0)),
        ({0: 3, 1: 1}, [felt], [], End("rank 1: ended with exit code 1", 1, show=1)),
        # one that had to be killed, and one on another machine
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
        ({0: -6, 1: -11}, [], [], End("rank 1: killed by SIGSEGV", 3, show=1)),
        ({0: 3}, [felt], [], End(f"{LOST}; nothing was heard of rank 1", 3)),
        # told to stop
        ({0: 143, 1: 143}, [LastWords(1, SAVED, 143, True)], [signal.SIGTERM], End(SAVED, 143)),
        ({0: -2, 1: -2}, [], [signal.SIGINT], End("stopped by SIGINT: not saved", 130)),
        ({0: -10, 1: -10}, [], [signal.SIGUSR1], End("stopped by SIGUSR1: not saved", 143)),
        (
            {0: 3, 1: 3},
            [LastWords(0, "no space left", 3, True)],
            [signal.SIGTERM],
            End("rank 0: no space left", 3),
        ),
        ({0: 0, 1: 0}, [], [signal.SIGTERM], End()),  # too late to stop it
        # the time limit is nobody's signal
        ({0: 143, 1: 143}, [LastWords(0, "stopped by x", 143, True)], [], End("stopped by x", 143)),
    ],
)
def test_conclusions(
    codes: dict[int, int | None], words: list[LastWords], told: list[signal.Signals], end: End
) -> None:
    assert conclude(codes, 2, words, told) == end
