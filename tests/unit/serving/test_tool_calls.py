"""Tool calls are parsed for any division of a text into pieces, in three families' formats."""

import re
from collections.abc import Iterator
from itertools import product

import pytest

from trainer.serving.faults import RequestFault
from trainer.serving.tool_calls import FORMATS, ToolCall, ToolReader, tool_format

F = ("f", '{"a": 1}')
G = ("g", "{}")
CASES = [
    ("hermes", "", "no call, 1 < 2, <b> and <tool", "no call, 1 < 2, <b> and <tool", []),
    ("hermes", "", "  \n<tool_call>\n{}\n</tool_call>", "  \n<tool_call>\n{}\n</tool_call>", []),
    ("hermes", "", "a\n b", "a\n b", []),
    ("hermes", "", '\n\n<tool_call>{"name": "g"}</tool_call>\n', "", [G]),
    (
        "hermes",
        "",
        'I see.<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>\n'
        '<tool_call>\n{"name": "g"}\n</tool_call>',
        "I see.",
        [F, G],
    ),
    (
        "hermes",
        "",
        '<tool_call>{"name": "f", "arguments": {"a": "</b> } ]"}}</tool_call>',
        "",
        [("f", '{"a": "</b> } ]"}')],
    ),
    (
        "hermes",
        "",
        'Now <tool_call>{"name": "f", "arguments": {"a": "\\"</tool_call>\\\\"}}</tool_call>',
        "Now",
        [("f", '{"a": "\\"</tool_call>\\\\"}')],
    ),
    ("hermes", "", '<tool_call>say "f</tool_call> then', '<tool_call>say "f</tool_call> then', []),
    ("hermes", "", "<tool_call>f(1)</tool_call> then", "<tool_call>f(1)</tool_call> then", []),
    ("hermes", "", '<tool_call>{"name": "f", "argu', '<tool_call>{"name": "f", "argu', []),
    ("hermes", FORMATS["hermes"].forced, 'f", "arguments": {"a": 1}}\n</tool_call>', "", [F]),
    (
        "hermes",
        FORMATS["hermes"].forced_name.replace("NAME", "f"),
        '{"a": 1}}\n</tool_call>',
        "",
        [F],
    ),
    (
        "mistral",
        "",
        '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}, {"name": "g"}]',
        "",
        [F, G],
    ),
    ("mistral", "", '[TOOL_CALLS]f[ARGS]{"a": 1}', "", [F]),
    ("mistral", "", '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}', "", [F, G]),
    ("mistral", "", '[TOOL_CALLS]f{"a": 1}\n[TOOL_CALLS]g{}', "", [F, G]),
    ("mistral", "", '[TOOL_CALLS]f[CALL_ID]aB3456789[ARGS]{"a": 1}', "", [F]),
    (
        "mistral",
        "",
        '[TOOL_CALLS]f[ARGS]{"a": "[TOOL_CALLS]g"}[TOOL_CALLS]g{}',
        "",
        [("f", '{"a": "[TOOL_CALLS]g"}'), G],
    ),
    ("mistral", "", "see [TOOL", "see [TOOL", []),
    ("llama", "", '{"name": "f", "parameters": {"a": 1}}; {"name": "g"}', "", [F, G]),
    ("llama", "", '<|python_tag|>{"name": "g", "parameters": {}}', "", [G]),
    ("llama", "", 'The set {"a"} is small.', 'The set {"a"} is small.', []),
    ("llama", "", '{"answer": 42}', '{"answer": 42}', []),
    ("llama", "", "[" * 9000, "[" * 9000, []),
]


@pytest.mark.parametrize("size", [1, 3, 10**6])
def test_calls_and_content_of_a_text(size: int) -> None:
    for name, begun, text, content, calls in CASES:
        reader, found = ToolReader(FORMATS[name], begun), []
        for start in range(0, len(text), size):
            found += reader.add(text[start : start + size])
        found += reader.add("", last=True)
        assert "".join(part for part in found if isinstance(part, str)) == content
        made = [part for part in found if isinstance(part, ToolCall)]
        assert [(call.name, call.arguments) for call in made] == calls
        assert reader.found_any == bool(calls)
        assert len({call.id for call in made}) == len(made)
        length = FORMATS[name].id_length
        assert all(call.id.isalnum() and len(call.id) == length for call in made if length)


def test_the_template_shows_the_format() -> None:
    templates = {
        "{% if tools %}<tool_call>": "hermes",
        "{{ tools }}[TOOL_CALLS]": "mistral",
        '{{ tools }} {"name": name, "parameters": {}}': "llama",
    }
    for template, name in templates.items():
        assert tool_format(template, "auto") is FORMATS[name]
    assert tool_format("{{ tools }}", "llama") is FORMATS["llama"]
    for template, wanted in product(["{{ messages }}"], ["auto", "hermes"]):
        with pytest.raises(RequestFault, match="does not support them"):
            tool_format(template, wanted)
    with pytest.raises(RequestFault, match="unknown format"):
        tool_format("{{ tools }}<tool_call><function=f>", "auto")


def test_long_arguments_are_not_read_again_for_each_token() -> None:
    """A file as an argument has thousands of tokens, and the event loop waits for the reader."""
    reader = ToolReader(FORMATS["hermes"])
    mark, read = reader._mark, []

    class Counted:
        def finditer(self, text: str, begin: int) -> Iterator[re.Match[str]]:
            read.append(len(text))
            return mark.finditer(text, begin)

    reader._mark = Counted()  # type: ignore[assignment]
    pieces = ["<tool_call>", '{"name": "f", "arguments": {"a": "', *["x"] * 500, '"}}']
    assert [part for piece in pieces for part in reader.add(piece)] == [] and not read
    (call,) = reader.add("</tool_call>")
    assert isinstance(call, ToolCall) and len(call.arguments) > 500 and len(read) == 1
