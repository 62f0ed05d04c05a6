"""Launcher: the ranks of this machine, started, told what we are told, and outlived by us."""

import logging
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from trainer.errors import InputError
from trainer.interruption import EXIT_CODES
from trainer.plain_text import plain
from trainer.processes import meeting
from trainer.processes.cpu_threads import openmp_of_rank
from trainer.processes.end import STOPPED, End, conclude
from trainer.processes.lifeline import PARENT
from trainer.processes.place import WORKER, count_devices, threads_of_each
from trainer.processes.sealed_store import SECRET
from trainer.processes.team import Team, assemble_team
from trainer.redaction import redacted_text
from trainer.run import Run

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing import SubprocessContext

GRACE = 5.0
"""Seconds that the other ranks have to leave by themselves once one has failed."""
LAST_GRACE = 2
"""Seconds between SIGTERM and SIGKILL after that."""

ALONE = ("chat", "generate")
"""Jobs of one process."""


def num_processes(run: Run) -> int:
    """How many ranks this machine gets: as many as asked for, else one for every local GPU.

    Raises InputError for more than there are GPUs; on a CPU any number will do, but for jobs ALONE.
    """
    wanted, devices = run.launch.num_processes, count_devices()
    if run.job in ALONE:
        if wanted not in ("auto", 1):
            found = f"found {wanted} for job={run.job}"
            raise InputError(f"launch.num_processes: {found}; accepted: auto, 1")
        return 1
    typed = run.job == "predict" and run.input.text is not None  # too little to be shared out
    if wanted == "auto":
        return 1 if typed else max(1, devices)
    number = int(wanted)
    if devices and number > devices:
        accepted = f"auto, or 1 to {devices}, the GPUs of this machine"
        raise InputError(f"launch.num_processes: found {number}; accepted: {accepted}")
    if typed and number > 1 and run.input.text == "-":
        raise InputError("input.text: found -, for several processes; accepted: input.file")
    return number


def run_ranks(
    run: Run, number: int, prepare: Callable[[Run], bool], command: Sequence[str], config: str
) -> End:
    """Run `command` as `number` ranks, which find `config` in WORKER, and wait for all of them.

    First `prepare` is called; where it says that nothing is left to do, that is all. With
    launch.num_nodes the other machines do the same, once all have met. Whatever happens to a rank
    or to us, none is left behind. SIGTERM, SIGUSR1 and SIGINT are handed on to each rank, once
    each.
    """
    team = assemble_team(run.launch, number)
    if not team.prepare(lambda: prepare(run), run.launch.timeout):
        return End()
    with _signals() as signals:
        ranks = LocalRanks(team, command, config)
        try:
            signals.hand_on_to(ranks.send)
            ranks.wait(signals.got)
        finally:
            ranks.close()
        words = team.all_words()
        end = conclude(ranks.codes, team.world_size, words, signals.got)
        if end.show is not None:
            sys.stderr.write(plain(redacted_text(ranks.errors_of(end.show))))
    return end


class LocalRanks:
    """The ranks of this machine, as torch's elastic launcher starts and closes processes.

    Its agent is not used: there every exit code becomes 1, a rank that hangs is waited for 30 s,
    and SIGUSR1 leaves the ranks without a parent.
    """

    def __init__(self, team: Team, command: Sequence[str], config: str) -> None:
        from torch.distributed.elastic.multiprocessing import (
            DefaultLogsSpecs,
            Std,
            start_processes,
        )

        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ""  # they are ours
        number = range(team.local_world_size)
        silent = {i: Std.ALL for i in number if team.first_rank + i > 0}
        # files without a name from here on: nothing is left of them, however we end
        with tempfile.TemporaryDirectory(prefix="tempering-") as folder:
            context = start_processes(
                name="rank",
                entrypoint=command[0],
                args={i: tuple(command[1:]) for i in number},
                envs={i: _environment(team, i, config) for i in number},
                logs_specs=DefaultLogsSpecs(folder, silent),
            )
            files = {team.first_rank + i: file for i, file in context.stderrs.items() if file}
            self.errors = {rank: os.open(file, os.O_RDONLY) for rank, file in files.items()}
        self.context = cast("SubprocessContext", context)
        self.team = team
        self.codes: dict[int, int | None] = {}

    def wait(self, told: Sequence[int]) -> None:
        """Until all have ended; once one has failed, on any machine, GRACE for the others.

        What was `told` to stop saves, takes the time that this needs, and has not failed.
        """
        failed_at = math.inf
        while None in self._look().values():
            well = {None, 0, *STOPPED} if told else {None, 0}
            if failed_at == math.inf and not well.issuperset(self.codes.values()):
                self.team.tell_of_failure()
                failed_at = time.monotonic()
            elif failed_at == math.inf and self.team.has_failed():
                failed_at = time.monotonic()
            if time.monotonic() > failed_at + GRACE:
                return
            time.sleep(meeting.PAUSE)

    def send(self, number: int) -> None:
        """A signal to each rank that still runs."""
        for handler in self.context.subprocess_handlers.values():
            if handler.proc.poll() is None:
                handler.proc.send_signal(number)

    def close(self) -> None:
        """End what still runs, with all its children."""
        self.context.close(signal.SIGTERM, timeout=LAST_GRACE)

    def errors_of(self, rank: int) -> str:
        """What a rank wrote to standard error; nothing for rank 0, which wrote to ours."""
        if rank not in self.errors:
            return ""
        with open(self.errors.pop(rank), errors="replace") as file:
            return file.read()

    def _look(self) -> dict[int, int | None]:
        handlers = self.context.subprocess_handlers
        self.codes = {
            self.team.first_rank + i: handler.proc.poll() for i, handler in handlers.items()
        }
        return self.codes


def _environment(team: Team, local_rank: int, config: str) -> dict[str, str]:
    """What torch and Accelerate read, as torchrun sets it, and what is ours."""
    number = team.local_world_size
    on_one_machine = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    private = on_one_machine if team.num_nodes == 1 and sys.platform == "linux" else {}
    return {
        **{name: os.environ.get(name) or value for name, value in private.items()},
        SECRET: team.secret,
        "RANK": str(team.first_rank + local_rank),
        "WORLD_SIZE": str(team.world_size),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(number),
        "MASTER_ADDR": team.address,
        "MASTER_PORT": str(team.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        **openmp_of_rank(threads_of_each(number)),
        WORKER: config,
        PARENT: str(os.getpid()),
    }


class Signals:
    """The signals that we got, handed on to whoever is to get them."""

    def __init__(self) -> None:
        self.got: list[signal.Signals] = []
        self._send: Callable[[int], None] | None = None

    def handle(self, number: int, _: object) -> None:
        """The ranks are in sessions of their own, where no terminal reaches them."""
        self.got.append(signal.Signals(number))
        if self._send is not None:
            self._send(number)

    def hand_on_to(self, send: Callable[[int], None]) -> None:
        """From now on; and what came before."""
        early = list(self.got)
        self._send = send
        for number in early:
            send(number)


@contextmanager
def _signals() -> Iterator[Signals]:
    signals = Signals()
    before = {number: signal.signal(number, signals.handle) for number in EXIT_CODES}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
