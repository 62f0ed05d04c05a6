"""Template process: a program that renders chat templates, with limits on time and memory.

A template is code from the hub. Jinja's sandbox protects the system, but does not stop endless
loops or huge strings. So templates run in this separate process, whose address space and CPU time
per conversation are limited by the kernel. Requests and responses are lines of JSON.
"""

import json
import re
import resource
import secrets
import signal
import sys
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from types import FrameType
from typing import Any

from jinja2 import Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace

SECONDS = 10
"""The limit on CPU time, in seconds, for all renderings of a conversation."""
GRACE = 2
"""The kernel kills the process this many CPU seconds after the limit of `SECONDS`.

Python raises the timeout only between bytecodes, so a long operation can delay it.
"""
MEMORY = 2**30
"""The limit on address space in bytes, in addition to 8 times the length of the request."""
MAX_CHARACTERS = 8 * 2**20
"""The maximum number of characters in one rendering."""
OPENS, CLOSES = (f"\x00{side}{secrets.token_hex(8)}\x00" for side in "<>")
"""Marks around the output of a {% generation %} block. They are random, so no text has them."""


def main() -> None:
    """Answer requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    signal.signal(signal.SIGVTALRM, _too_long)
    for line in sys.stdin:
        request = json.loads(line)
        _limit_memory(MEMORY + 8 * len(line))
        for answer in _answers(request):
            _set_timers(0)
            print(json.dumps(answer), flush=True)


def _answers(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rendering of each conversation, in order; after an error, yield it and stop."""
    template = None
    for conversation in request["conversations"]:
        _set_timers(SECONDS)
        try:
            template = _compiled(request["template"])
            yield {"renderings": [_rendering(template, request, *c) for c in conversation]}
        except (Exception, _TooLong) as error:
            _set_timers(0)
            yield {"error": _reason(error), "line": _line(error, template)}
            return


def _rendering(
    template: Template, request: dict[str, Any], messages: list[Any], prompt: bool
) -> tuple[str, list[tuple[int, int]]]:
    """The text of the messages, and the spans of {% generation %} blocks."""
    variables = {**request["variables"], "messages": messages, "add_generation_prompt": prompt}
    template.globals["strftime_now"] = _clock(request["today"])
    pieces, length = [], 0
    written: Any = template.root_render_func(template.new_context(variables))
    for piece in written:
        pieces.append(piece)
        length += len(piece)
        if length > MAX_CHARACTERS:
            written.throw(_TooLong(f"wrote more than {MAX_CHARACTERS:,} characters"))
    return _without_marks("".join(pieces))


def _without_marks(text: str) -> tuple[str, list[tuple[int, int]]]:
    if OPENS not in text:
        return text, []
    pieces, spans, length, depth, start = [], [], 0, 0, 0
    for piece in re.split(f"({OPENS}|{CLOSES})", text):
        if piece == OPENS:
            depth += 1
            start = length if depth == 1 else start
        elif piece == CLOSES:
            depth -= 1
            if not depth:
                spans.append((start, length))
        else:
            pieces.append(piece)
            length += len(piece)
    return "".join(pieces), spans


@lru_cache(maxsize=16)
def _compiled(source: str) -> Template:
    """Compile a template with the same Jinja options as transformers."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["namespace"] = _Namespace
    return environment.from_string(source)


class _Generation(Extension):
    """The block {% generation %} ... {% endgeneration %} around the assistant's text."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Any) -> str:
        return f"{OPENS}{caller()}{CLOSES}"


class _Namespace(Namespace):
    """A namespace that refuses names with a leading underscore.

    Such names could be used to escape from the sandbox.
    """

    def __init__(*arguments: Any, **named: Any) -> None:
        self, *given = arguments  # as in Jinja, so that an attribute may have the name `self`
        Namespace.__init__(self)
        for name, value in dict(*given, **named).items():
            self[name] = value

    def __setitem__(self, name: str, value: object) -> None:
        if name.startswith("_"):
            raise SecurityError(f"a namespace has no attribute {name!r}")
        super().__setitem__(name, value)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """The filter `tojson` of transformers; Jinja's own filter escapes HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators and tuple(separators),
        sort_keys=sort_keys,
    )


def _clock(today: str | None) -> object:
    """The function strftime_now for the given date (ISO 8601), or for the current time."""

    def strftime_now(pattern: str) -> str:
        now = datetime.now() if today is None else datetime.fromisoformat(today)
        return now.strftime(pattern)

    return strftime_now


class _TooLong(BaseException):
    """A limit was exceeded. `except Exception` must not catch it, so it is a BaseException."""


def _too_long(number: int, frame: FrameType | None) -> None:
    raise _TooLong(f"ran for more than {SECONDS} seconds")


def _set_timers(seconds: int) -> None:
    """Set the timers (in CPU time) that raise _TooLong and later kill the process; 0: no timers."""
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    signal.setitimer(signal.ITIMER_PROF, seconds and seconds + GRACE)


def _limit_memory(size: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    bound = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_AS, (bound, hard))


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return f"needed more than {MEMORY // 2**20:,} MiB of memory"
    return str(error).strip() or type(error).__name__


def _line(error: BaseException, template: Template | None) -> int | None:
    """The line of the template where the error was raised."""
    if isinstance(error, TemplateSyntaxError):
        return error.lineno
    trace, line = error.__traceback__, None
    while trace is not None:
        if template is not None and trace.tb_frame.f_code.co_filename == "<template>":
            line = template.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return line


if __name__ == "__main__":
    main()
