"""Launcher: starts the ranks of this machine, forwards signals to them, and waits for them."""

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
from trainer.launching import rendezvous
from trainer.launching.cpu_threads import openmp_of_rank
from trainer.launching.end import STOPPED, End, conclude
from trainer.launching.parent_process import PARENT
from trainer.launching.place import WORKER, count_devices, threads_of_each
from trainer.launching.sealed_store import SECRET
from trainer.launching.team import Team, assemble_team
from trainer.redaction import redacted_text
from trainer.runs.run import Run
from trainer.terminal import activity
from trainer.terminal.plain_text import plain
from trainer.terminal.standard_streams import show_cursor
from trainer.training.interruption import EXIT_CODES

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing import SubprocessContext

GRACE = 5.0
"""Seconds to wait for the other ranks to end after one has failed, before they receive SIGTERM."""
LAST_GRACE = 2
"""Seconds between SIGTERM and SIGKILL."""

ONE_PROCESS = ("chat", "generate", "push", "serve")
"""Jobs that run in one process."""


def num_processes(run: Run) -> int:
    """The number of ranks to start on this machine: launch.num_processes, or one for each GPU.

    On a machine without GPUs any number is accepted. Raises InputError for more ranks than GPUs,
    for several ranks of a job in ONE_PROCESS, and for several ranks that would read standard input.
    """
    if run.job == "plan":  # the job only estimates the memory that the ranks would need
        return 1
    wanted = run.launch.num_processes
    if run.job in ONE_PROCESS:
        if wanted not in ("auto", 1):
            found = f"found {wanted} for job={run.job}"
            raise InputError(f"launch.num_processes: {found}; accepted: auto, 1")
        return 1
    devices = count_devices()
    # texts from the command line are too few to divide among ranks
    typed = run.job == "predict" and run.input.text is not None
    if wanted == "auto":
        return 1 if typed else max(1, devices)
    number = int(wanted)
    if devices and number > devices:
        accepted = f"auto, or 1 to {devices}, the GPUs of this machine"
        raise InputError(f"launch.num_processes: found {number}; accepted: {accepted}")
    for name in ("text", "text_pair") if typed and number > 1 else ():
        if getattr(run.input, name) == "-":  # each rank would read a part of the lines
            raise InputError(f"input.{name}: found -, for several processes; accepted: input.file")
    return number


def run_ranks(
    run: Run, number: int, prepare: Callable[[Run], bool], command: Sequence[str], config: str
) -> End:
    """Run `command` as `number` ranks, with `config` in the variable WORKER, and wait for them.

    `prepare` is called first; if it returns False, there is nothing left to do and no rank is
    started. If launch.num_nodes is above 1, each machine calls this function, and waits for the
    others. The ranks end with this process, even if it is killed. SIGTERM, SIGUSR1 and SIGINT are
    forwarded to each rank once.
    """
    team = assemble_team(run.launch, number)
    if not team.prepare(lambda: prepare(run), run.launch.timeout):
        return End()
    activity.done()  # from now on, rank 0 shows the progress
    with _signals() as signals:
        ranks = LocalRanks(team, command, config)
        try:
            signals.forward_to(ranks.send)
            ranks.wait(signals.received)
        finally:
            ranks.close()
        reports = team.failure_reports()
        end = conclude(ranks.codes, team.world_size, reports, signals.received)
        if end.rank_to_show is not None:
            sys.stderr.write(plain(redacted_text(ranks.errors_of(end.rank_to_show))))
    return end


class LocalRanks:
    """The ranks of this machine, started by torch's elastic launcher.

    The agent of the elastic launcher is not used: it turns every exit code into 1, waits 30 s for
    a rank that hangs, and is killed by SIGUSR1 while its ranks continue.
    """

    def __init__(self, team: Team, command: Sequence[str], config: str) -> None:
        from torch.distributed.elastic.multiprocessing import (
            DefaultLogsSpecs,
            Std,
            start_processes,
        )

        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ""  # this launcher handles them
        local_ranks = range(team.local_world_size)
        silent = {i: Std.ALL for i in local_ranks if team.first_rank + i > 0}
        # open files stay readable after the folder is removed, so nothing is left on the disk
        with tempfile.TemporaryDirectory(prefix="tempering-") as folder:
            context = start_processes(
                name="rank",
                entrypoint=command[0],
                args={i: tuple(command[1:]) for i in local_ranks},
                envs={i: _environment(team, i, config) for i in local_ranks},
                logs_specs=DefaultLogsSpecs(folder, silent),
            )
            files = {team.first_rank + i: file for i, file in context.stderrs.items() if file}
            self.errors = {rank: os.open(file, os.O_RDONLY) for rank, file in files.items()}
        self.context = cast("SubprocessContext", context)
        self.team = team
        self.codes: dict[int, int | None] = {}

    def wait(self, received: Sequence[int]) -> None:
        """Wait until all ranks have ended, but at most GRACE s after one has failed on any machine.

        Once `received` contains a signal, ranks may take as long as they need to save, and the exit
        codes of a requested stop do not count as failures.
        """
        failed_at = math.inf
        while None in self._poll().values():
            expected = {None, 0, *STOPPED} if received else {None, 0}
            if failed_at == math.inf and not expected.issuperset(self.codes.values()):
                self.team.report_failure()
                failed_at = time.monotonic()
            elif failed_at == math.inf and self.team.has_failed():
                failed_at = time.monotonic()
            if time.monotonic() > failed_at + GRACE:
                return
            time.sleep(rendezvous.PAUSE)

    def send(self, number: int) -> None:
        """Send a signal to each rank that is still running."""
        for handler in self.context.subprocess_handlers.values():
            if handler.proc.poll() is None:
                handler.proc.send_signal(number)

    def close(self) -> None:
        """End the ranks that are still running, with all their children."""
        killed = any(
            handler.proc.poll() != 0 for handler in self.context.subprocess_handlers.values()
        )
        self.context.close(signal.SIGTERM, timeout=LAST_GRACE)
        if killed:
            show_cursor()  # rank 0 may have been killed before it could show the cursor again

    def errors_of(self, rank: int) -> str:
        """A rank's standard error; empty for rank 0, which writes to that of the launcher."""
        if rank not in self.errors:
            return ""
        with open(self.errors.pop(rank), errors="replace") as file:
            return file.read()

    def _poll(self) -> dict[int, int | None]:
        handlers = self.context.subprocess_handlers
        self.codes = {
            self.team.first_rank + i: handler.proc.poll() for i, handler in handlers.items()
        }
        return self.codes


def _environment(team: Team, local_rank: int, config: str) -> dict[str, str]:
    """The environment variables of a rank: those that torchrun would set, and our own."""
    number = team.local_world_size
    loopback = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    interfaces = loopback if team.num_nodes == 1 and sys.platform == "linux" else {}
    return {
        **{name: os.environ.get(name) or value for name, value in interfaces.items()},
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
    """The signals that this process has received, forwarded to the ranks."""

    def __init__(self) -> None:
        self.received: list[signal.Signals] = []
        self._send: Callable[[int], None] | None = None

    def handle(self, number: int, _: object) -> None:
        """Forward a signal; ranks are in sessions of their own, which Ctrl-C does not reach."""
        self.received.append(signal.Signals(number))
        if self._send is not None:
            self._send(number)

    def forward_to(self, send: Callable[[int], None]) -> None:
        """Forward the signals received so far, and all later ones."""
        early = list(self.received)
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
