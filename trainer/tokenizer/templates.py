"""Chat templates rendered: in another process, which is bounded, started once and kept."""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import InputError, RowError

PROGRAM = Path(__file__).with_name("template_process.py")
SECONDS_IN_ALL, SECONDS_PER_CONVERSATION = 60.0, 0.5
"""What a process may spend on templates, and beyond that for each conversation on average."""
KILLERS = (signal.SIGPROF, signal.SIGXCPU, signal.SIGKILL)


@dataclass(frozen=True)
class Rendering:
    """What a template made of messages."""

    text: str
    generated: list[tuple[int, int]]
    """Where the characters stand that it has in {% generation %} blocks."""


Request = tuple[Sequence[Mapping[str, Any]], bool]
"""Messages, and whether to add the generation prompt."""


def render(
    template: str,
    conversations: Sequence[Sequence[Request]],
    variables: Mapping[str, Any],
    today: str | None = None,
) -> list[list[Rendering]]:
    """All renderings that are asked for of each conversation.

    `today` (ISO 8601) is the day that `strftime_now` tells; None: the present. Raises RowError,
    with the number of the conversation, where the template raises (its line is named), takes too
    long, writes too much, or is no Jinja; InputError for values that JSON does not have.
    """
    _refuse_slow()
    request = {"template": template, "variables": variables, "today": today}
    try:
        line = json.dumps({**request, "conversations": conversations})
    except (TypeError, ValueError) as error:
        raise InputError(f"messages: {error}; accepted: what JSON has") from error
    with _lock:
        began = time.monotonic()
        try:
            return list(_asked(line, len(conversations)))
        finally:
            _count(time.monotonic() - began, len(conversations))


_lock = threading.Lock()
_processes: dict[int, subprocess.Popen[str]] = {}
"""The process of each process: one that was forked must not talk into its parent's pipes."""


@dataclass
class _Spent:
    """What all templates of this process have taken so far."""

    seconds: float = 0.0
    conversations: int = 0


_spent = _Spent()


def _count(seconds: float, conversations: int) -> None:
    _spent.seconds += seconds
    _spent.conversations += conversations


def _refuse_slow() -> None:
    """Each conversation has a limit; this is the one of them all."""
    slow = _spent.seconds > SECONDS_PER_CONVERSATION * _spent.conversations
    if _spent.seconds > SECONDS_IN_ALL and slow:
        found = f"took {_spent.seconds:.0f} s for {_spent.conversations} conversations"
        accepted = f"accepted: {SECONDS_PER_CONVERSATION:g} s each on average"
        raise InputError(f"chat_template: {found}; {accepted}")


def _asked(line: str, count: int) -> Iterator[list[Rendering]]:
    process = _process()
    assert process.stdin and process.stdout
    with suppress(BrokenPipeError):  # the reason shows where its answers end
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
    for row in range(count):
        answer = process.stdout.readline()
        if not answer:
            raise RowError(row, f"chat_template: {_death(process)}")
        found = json.loads(answer)
        if "error" in found:
            line_number = found["line"] and f" line {found['line']}"
            raise RowError(row, f"chat_template{line_number or ''}: {found['error']}")
        yield [Rendering(text, list(map(tuple, spans))) for text, spans in found["renderings"]]


def _process() -> subprocess.Popen[str]:
    """This process's renderer, started where there is none, or none that lives."""
    found = _processes.get(os.getpid())
    if found is None or found.poll() is not None:
        _processes.clear()
        found = _processes[os.getpid()] = subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM)],  # -P: its folder's modules are not its own
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        atexit.register(_close, found)
    return found


def _death(process: subprocess.Popen[str]) -> str:
    """Why the process is gone."""
    _close(process)
    if -process.returncode in KILLERS:
        return "ran into the limit of time or memory, inside of one operation"
    return f"its process ended with {process.returncode}; is jinja2 installed?"


def _close(process: subprocess.Popen[str]) -> None:
    """End a process by the end of its input; it knows no other."""
    for stream in (process.stdin, process.stdout):
        if stream is not None and not stream.closed:
            with suppress(BrokenPipeError):
                stream.close()
    process.wait()
