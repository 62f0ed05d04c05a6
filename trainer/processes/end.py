"""End: what a run of many ranks came to, told by the first cause."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer.interruption import EXIT_CODES
from trainer.processes.last_words import LastWords

STOPPED = set(EXIT_CODES.values())
FAILED = 3
ABORTED = -signal.SIGABRT
"""How NCCL's watchdog ends a rank that waits for another in vain."""


@dataclass(frozen=True)
class End:
    """One line, empty where all is well, and an exit code."""

    line: str = ""
    code: int = 0
    show: int | None = None
    """The rank whose standard error says more."""


def conclude(
    codes: Mapping[int, int | None],
    world_size: int,
    words: Sequence[LastWords],
    told: Sequence[signal.Signals],
) -> End:
    """The end of a run, from our ranks' exit codes (None: it had to be killed) and all last words.

    A rank that only felt that another was gone is no cause. `told` are the signals that we got.
    """
    if not any(code != 0 for code in codes.values()):
        return End()
    causes = [said for said in words if said.is_cause]
    stops = [said for said in causes if said.code in STOPPED]
    if told and len(stops) == len(causes):
        line = stops[0].line if stops else f"stopped by {told[0].name}: not saved"
        return End(line, EXIT_CODES[told[0]])
    if causes:
        return _said(causes[0])
    silent = {rank: code for rank, code in codes.items() if rank not in {w.rank for w in words}}
    died = {rank: code for rank, code in silent.items() if code}
    hung = [rank for rank, code in silent.items() if code is None]
    by_itself = [rank for rank, code in died.items() if code != ABORTED]
    if hung and not by_itself:
        return End(f"rank {hung[0]}: did not answer within launch.timeout, and was killed", FAILED)
    for rank in [*by_itself, *died]:
        return _died(rank, died[rank])
    return _lost(words, sorted(set(range(world_size)) - set(codes) - {w.rank for w in words}))


def _said(words: LastWords) -> End:
    named = words.code in STOPPED or words.line.startswith(("launch:", "rank "))
    return End(words.line if named else f"rank {words.rank}: {words.line}", words.code)


def _died(rank: int, code: int) -> End:
    if code > 0:
        return End(f"rank {rank}: ended with exit code {code}", code, show=rank)
    name = signal.Signals(-code).name
    reason = " (out of memory?)" if name == "SIGKILL" else ""
    return End(f"rank {rank}: killed by {name}{reason}", FAILED, show=rank)


def _lost(words: Sequence[LastWords], unheard: Sequence[int]) -> End:
    line = words[0].line
    if unheard:
        line += f"; nothing was heard of rank {', '.join(map(str, unheard))}"
    return End(line, FAILED)
