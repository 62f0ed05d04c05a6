"""One process that runs launcher commands over mutated files, each in its own fork.

Starting an interpreter with torch takes seconds, forking one is fast, so a case takes only the time
of its reader. Requests and answers are JSON lines.
"""

import atexit
import json
import logging
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

SECONDS = 10
"""Seconds of processor time for a case; more where the seeds take more than a fifth of them."""
PATIENCE = 600
"""Seconds until a case counts as hanging; the machine may be busy."""
MEMORY = 2 << 30
"""The maximum resident bytes of a case."""
ADDRESSES = 6 << 30
"""Bytes of address space: torch alone maps two or three gigabytes."""


def main() -> None:
    """Answer requests until standard input ends."""
    for name in ("torch", "datasets", "tokenizers", "launch"):
        __import__(name)
    import trainer.jobs.evaluate
    import trainer.jobs.inspect
    import trainer.jobs.predict
    import trainer.jobs.train
    import trainer.trainer  # noqa: F401

    print("ready", flush=True)
    seconds = PATIENCE  # for the seeds, which are the first request
    for line in sys.stdin:
        answer = _run(json.loads(line), seconds)
        if seconds == PATIENCE:
            seconds = max(SECONDS, round(5 * answer["processor_seconds"]))
        print(json.dumps(answer), flush=True)


def _run(request: dict[str, Any], most: int) -> dict[str, Any]:
    """The answer to a request, which may take at most so many seconds of processor time."""
    folder = Path(request["folder"])
    out, err = folder.with_suffix(".out"), folder.with_suffix(".err")
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(request, out, err, most)
    code, usage, late = _waited(child, began)
    seconds = time.monotonic() - began
    left = _left_by(child)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return {
        "code": code,
        "late": late,
        "seconds": seconds,
        "processor_seconds": usage.ru_utime + usage.ru_stime,
        "megabytes": usage.ru_maxrss // 1024,
        "left": left,
        "out": out.read_bytes()[-4000:].decode(errors="replace"),
        "err": err.read_bytes()[-20_000:].decode(errors="replace"),
    }


def _waited(child: int, began: float) -> tuple[int, resource.struct_rusage, bool]:
    """Exit code, resources that were used, and whether it had to be killed."""
    late = False
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status), usage, late
        if time.monotonic() - began > PATIENCE and not late:
            late = True
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.005)


def _become(request: dict[str, Any], out: Path, err: Path, most: int) -> None:
    """The child, with its own session, output and limits; never returns."""
    os.setsid()
    for target, path in ((1, out), (2, err)):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, target)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CPU, (most, most + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _refuse_connections()
    logging.lastResort = logging.FileHandler(err.with_suffix(".log"))  # warnings are not errors
    logging.lastResort.setLevel(logging.WARNING)
    code = 1
    try:
        import launch

        call = CALLS.get(request["call"])
        code = call() if call is not None else launch.main(request["arguments"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()  # in a fork, so that only this process ends processes started here
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _read_h5() -> int:
    """Handle InputErrors as the launcher does, around a reader that only Python reaches."""
    from trainer.errors import InputError
    from trainer.models.auto import TASKS
    from trainer.terminal.console import error_line

    try:
        TASKS["sequence_classification"].from_pretrained("h5", from_tf=True)
    except InputError as error:
        error_line(str(error))
        return error.exit_code
    return 0


def _make_seeds() -> int:
    from tests.hostile.files import make

    make(Path.cwd())
    return 0


CALLS = {"h5": _read_h5, "make": _make_seeds}


def _refuse_connections() -> None:
    """An audit hook that records every connection and name lookup."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
            os.write(2, f"CONNECTION {event} {arguments[-1]!r:.100}\n".encode())

    sys.addaudithook(hook)


def _left_by(session: int) -> list[int]:
    """Processes of a session that do not end by themselves soon after the one that started it."""
    end = time.monotonic() + SECONDS
    while (left := _processes_of(session)) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def _processes_of(session: int) -> list[int]:
    """Processes of a session that still run; zombies do not count."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(entry))
    return found


if __name__ == "__main__":
    main()
