"""Tool calls: parses them in generated text, in the formats of known chat templates."""

import json
import re
import secrets
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trainer.serving.faults import RequestFault

NAME_KEYS = ("name", "function")
ARGUMENT_KEYS = ("arguments", "parameters")
NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
"""Matches the name of a function."""
NAMED = re.compile(
    rf"\s*({NAME.pattern})(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?\s*(\{{.*\}})\s*", re.DOTALL
)
"""Matches a call in Mistral's newer format."""
STRING = r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)'
"""Matches a string in JSON, which may be incomplete at the end of the text."""


@dataclass(frozen=True)
class ToolCall:
    """A function that the model asks the client to call."""

    name: str
    arguments: str
    """The arguments as JSON."""
    id: str = field(default_factory=lambda: f"call_{secrets.token_hex(12)}")

    @property
    def openai(self) -> dict[str, Any]:
        """The call in the form of OpenAI's API."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True)
class ToolFormat:
    """The format in which a model writes tool calls."""

    opening: str
    """The text that precedes calls."""
    closing: str
    """The text after a call. If empty, the next opening or the end of the text ends a call."""
    forced: str
    """The text that, at the end of the prompt, makes the model call some function."""
    forced_name: str
    """The text that, at the end of the prompt, makes the model call the function NAME."""
    bare: bool = False
    """Whether a text that begins with { is a call, even without the opening."""
    id_length: int | None = None
    """The number of letters and digits in a call's id, if the chat template prescribes it."""


FORMATS = {
    "hermes": ToolFormat(
        "<tool_call>",
        "</tool_call>",
        '<tool_call>\n{"name": "',
        '<tool_call>\n{"name": "NAME", "arguments": ',
    ),
    "mistral": ToolFormat(
        "[TOOL_CALLS]",
        "",
        '[TOOL_CALLS][{"name": "',
        '[TOOL_CALLS][{"name": "NAME", "arguments": ',
        id_length=9,
    ),
    "llama": ToolFormat(
        "<|python_tag|>", "", '{"name": "', '{"name": "NAME", "parameters": ', bare=True
    ),
}
"""Name of a format -> format."""


def tool_format(template: str, wanted: str) -> ToolFormat:
    """The format that a chat template uses, or the format `wanted` if that is not "auto".

    Raises RequestFault if the template does not support tools, or uses an unknown format.
    """
    if not re.search(r"\btools\b", template):
        raise RequestFault(
            400, "tools: the model's chat template does not support them; accepted: none", "tools"
        )
    if wanted != "auto":
        return FORMATS[wanted]
    if "<function=" not in template:  # templates with this text use calls in XML
        for name in ("hermes", "mistral"):
            if FORMATS[name].opening in template:
                return FORMATS[name]
        if FORMATS["llama"].opening in template or '"parameters":' in template:
            return FORMATS["llama"]
    known = ", ".join(FORMATS)
    raise RequestFault(
        400,
        f"tools: the chat template has an unknown format of calls; accepted: serve.tools={known}",
        "tools",
    )


class ToolReader:
    """Splits a growing text into content and tool calls."""

    def __init__(self, format: ToolFormat, call_start: str = "") -> None:
        """`call_start` is the end of the prompt, if the prompt already starts a call."""
        self.found_any = False
        """Whether a call has been found."""
        self._format = format
        self._pending = call_start
        """The text that has not been returned yet."""
        self._has_returned = False
        """Whether any content or call has been returned."""
        mark = re.escape(format.closing or format.opening)
        self._mark = re.compile(f"{STRING}|(?P<mark>{mark})", re.DOTALL)

    def add(self, text: str, last: bool = False) -> list[str | ToolCall]:
        """Add a text; returns the content and the calls that are now complete."""
        self._pending += text
        return list(self._split(last))

    def _split(self, last: bool) -> Iterator[str | ToolCall]:
        while self._pending:
            start = self._start()
            if start is None:
                if self.found_any and self._pending.isspace():  # after a call
                    return
                if end := len(self._pending) if last else self._content_end():
                    yield self._content(end)
                return
            if content := self._pending[:start].rstrip():
                yield self._content(len(content))  # whitespace before a call is not content
                continue
            after = self._end(start, last)
            if after is None:
                return
            calls = self._calls(self._pending[:after].strip())
            if not calls:  # the text looked like a call, but is none
                yield self._content(after)
                continue
            self._pending = (
                self._pending[after:].strip() if last else self._pending[after:].lstrip()
            )
            self.found_any = self._has_returned = True
            yield from calls

    def _content(self, end: int) -> str:
        found, self._pending = self._pending[:end], self._pending[end:]
        self._has_returned = True
        return found

    def _start(self) -> int | None:
        """The position of the first call in the pending text; None if there is none."""
        place = self._pending.find(self._format.opening)
        if place >= 0:
            return place
        bare = self._format.bare and not self._has_returned and self._pending.lstrip()[:1] == "{"
        return len(self._pending) - len(self._pending.lstrip()) if bare else None

    def _end(self, start: int, last: bool) -> int | None:
        """The end of the call at `start` in the pending text; None if the call is incomplete.

        The call ends with the closing text or, if the format has none, before the next opening.
        Closings and openings inside the strings of arguments are skipped.
        """
        opening, closing, pending = self._format.opening, self._format.closing, self._pending
        begin = start + (len(opening) if pending.startswith(opening, start) else 0)
        if not last and pending.find(closing or opening, begin) < 0:
            return None  # without this check, the strings would be read again for each token
        for found in self._mark.finditer(pending, begin):
            if found["mark"]:
                return found.end() if closing else found.start()
        if not last:
            return None
        # a quotation mark that is never closed hides the closing text from the loop above
        place = pending.find(closing) if closing else -1
        return place + len(closing) if place >= 0 else len(pending)

    def _content_end(self) -> int:
        """The length of the pending text that is certainly content.

        The pending text may end with a part of an opening. The whitespace before an opening is not
        content either.
        """
        opening, pending = self._format.opening, self._pending
        most = min(len(opening) - 1, len(pending))
        length = next((n for n in range(most, 0, -1) if pending.endswith(opening[:n])), 0)
        return len(pending[: len(pending) - length].rstrip())

    def _calls(self, text: str) -> list[ToolCall]:
        body = text.removeprefix(self._format.opening).removesuffix(self._format.closing)
        named = NAMED.fullmatch(body)
        if named:
            found = [ToolCall(named[1], named[2])] if _parsed(named[2]) else []
        else:
            found = [call for value in _parsed(body) for call in _calls_of(value)]
        length = self._format.id_length
        return found if length is None else [replace(call, id=_id(length)) for call in found]


def _id(length: int) -> str:
    characters = string.ascii_letters + string.digits
    return "".join(secrets.choice(characters) for _ in range(length))


def _parsed(text: str) -> list[Any]:
    """Parse JSON values, separated by semicolons or whitespace; returns [] for any other text.

    Surplus closing brackets after the last value are ignored.
    """
    found: list[Any] = []
    decoder, text = json.JSONDecoder(), text.strip()
    while text:
        try:
            value, end = decoder.raw_decode(text)
        except (ValueError, RecursionError):
            return found if found and not text.strip("]} \n") else []
        found.append(value)
        text = text[end:].lstrip(" ;\n\t")
    return found


def _calls_of(value: object) -> Iterator[ToolCall]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        for each in value:
            yield from _calls_of(each)
        return
    if not isinstance(value, Mapping):
        return
    name = next((value[key] for key in NAME_KEYS if key in value), None)
    arguments: object = next((value[key] for key in ARGUMENT_KEYS if key in value), {})
    if isinstance(name, str) and NAME.fullmatch(name):
        arguments_text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        yield ToolCall(name, arguments_text)
