"""Templates: renders chat templates in a separate process with limits, which is started once."""

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
"""A set of conversations may take the larger of 60 s and 0.5 s per conversation."""
KILLERS = (signal.SIGPROF, signal.SIGXCPU, signal.SIGKILL)
"""The signals with which the kernel ends a process that exceeds a limit."""


@dataclass(frozen=True)
class Rendering:
    """The output of a template."""

    text: str
    generated: list[tuple[int, int]]
    """The spans of characters inside of {% generation %} blocks."""


@dataclass
class Spent:
    """The time that the conversations of a set have taken."""

    seconds: float = 0.0
    conversations: int = 0

    def add(self, seconds: float) -> None:
        """Add the time of a conversation. Raises InputError if the set has taken too long."""
        self.seconds += seconds
        self.conversations += 1
        limit = SECONDS_PER_CONVERSATION * self.conversations
        if self.seconds > max(SECONDS_IN_ALL, limit):
            found = f"took {self.seconds:.0f} s for {self.conversations} conversations"
            average = f"accepted: {SECONDS_PER_CONVERSATION:g} s each on average"
            raise InputError(f"chat_template: {found}; {average}")


Request = tuple[Sequence[Mapping[str, Any]], bool]
"""The messages to render, and whether to add the generation prompt."""


def render(
    template: str,
    conversations: Sequence[Sequence[Request]],
    variables: Mapping[str, Any],
    today: str | None = None,
    spent: Spent | None = None,
) -> list[list[Rendering]]:
    """Render all requests of each conversation.

    `today` (ISO 8601) is the date that `strftime_now` returns; None means the current time. The
    time limit applies to a set of conversations. To render a set with several calls, pass the same
    `spent` to each; None: the set is `conversations`.

    Raises RowError, with the index of the conversation, if the template is not valid Jinja, raises
    an error, takes too long or writes too much; the message names the line of the template. Raises
    InputError for values that JSON cannot represent, and if the set takes too long.
    """
    request = {"template": template, "variables": variables, "today": today}
    try:
        line = json.dumps({**request, "conversations": conversations})
    except (TypeError, ValueError) as error:
        raise InputError(f"messages: {error}; accepted: JSON values") from error
    except RecursionError:
        found = "found too many levels; accepted: fewer nested lists and objects"
        raise InputError(f"messages: {found}") from None
    try:
        with _lock:
            return list(_answers(line, len(conversations), spent or Spent()))
    except RowError as error:
        raise _about_parts(error, conversations[error.row]) from None


_lock = threading.Lock()
"""The lock that a thread holds while it talks to the renderer."""
_processes: dict[int, subprocess.Popen[str]] = {}
"""Process id -> its renderer; a forked process must not use the pipes of its parent."""


def _renew() -> None:
    """Replace the lock in a forked process, where a thread that held it does not exist."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def _about_parts(error: RowError, requests: Sequence[Request]) -> RowError:
    """The error of a template, with a hint if a message is a list of parts, not a text."""
    messages = [message for conversation, _ in requests for message in conversation]
    if not any(isinstance(each.get("content"), (list, tuple)) for each in messages):
        return error
    hint = "a message's content is a list of parts; many templates only read texts"
    return RowError(error.row, f"{error} ({hint})")


def _answers(line: str, count: int, spent: Spent) -> Iterator[list[Rendering]]:
    """Send a request, and yield the renderings of each of its `count` conversations."""
    process, complete = _process(), False
    assert process.stdin and process.stdout
    try:
        with suppress(BrokenPipeError):  # the code below reports why the process ended
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
        for row in range(count):
            began = time.monotonic()
            answer = process.stdout.readline()
            if not answer:
                raise RowError(row, f"chat_template: {_death(process)}")
            found = json.loads(answer)
            if "error" in found:
                complete = True
                line_number = found["line"] and f" line {found['line']}"
                raise RowError(row, f"chat_template{line_number or ''}: {found['error']}")
            spent.add(time.monotonic() - began)
            yield [Rendering(text, list(map(tuple, spans))) for text, spans in found["renderings"]]
        complete = True
    finally:
        if not complete:  # otherwise the next request would read the remaining answers
            process.kill()
            _close(process)


def _process() -> subprocess.Popen[str]:
    """The renderer of this process, which is started if none is running."""
    found = _processes.get(os.getpid())
    if found is None or found.poll() is not None:
        _processes.clear()
        found = _processes[os.getpid()] = subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM)],  # -P: do not import from the program's folder
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        atexit.register(_close, found)
    return found


def _death(process: subprocess.Popen[str]) -> str:
    """A description of how the process ended."""
    _close(process)
    if -process.returncode in KILLERS:
        return "ran into the limit of time or memory within one operation"
    return f"its process ended with {process.returncode}; is jinja2 installed?"


def _close(process: subprocess.Popen[str]) -> None:
    """End a renderer by closing its input."""
    for stream in (process.stdin, process.stdout):
        if stream is not None and not stream.closed:
            with suppress(BrokenPipeError):
                stream.close()
    process.wait()
