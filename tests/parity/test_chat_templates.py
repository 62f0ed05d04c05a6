"""Chat templates against transformers: equal texts for equal messages, and files both can read."""

from pathlib import Path
from typing import Any

import pytest

from trainer.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

TURNS = [
    {"role": "user", "content": "  What is 2 + 2? <b>&amp;</b>\n"},
    {"role": "assistant", "content": "4 \U0001f600"},
    {"role": "user", "content": "Why?"},
]
SYSTEM = {"role": "system", "content": "Be brief."}
THOUGHT = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nSo.", "thinking": "hm"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": "\u00e9"}}}],
}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"a": {"type": "string"}}}}]

TEMPLATES = {
    "default system": """\
{% for message in messages %}
    {% if loop.first and messages[0]['role'] != 'system' %}
{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}
    {%- endif %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    "inst": """\
{%- if messages[0]['role'] == 'system' %}
    {%- set loop_messages = messages[1:] %}
    {%- set system = '<<SYS>>\\n' ~ messages[0].content ~ '\\n' %}
{%- else %}
    {%- set loop_messages = messages %}{% set system = false %}
{%- endif %}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate') }}
    {%- endif %}
    {%- set content = system + message.content if loop.first and system else message.content %}
    {%- if message.role == 'user' %}
        {{- bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
    {%- else %}
        {{- ' ' + content.strip() + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}""",
    "turns of a model": """\
{{ bos_token }}
{%- set named = namespace(assistant='model', start='') %}
{%- if messages[0].role == 'system' %}
    {%- set named.start = messages[0].content ~ '\\n\\n' %}
    {%- set messages = messages[1:] %}
{%- endif %}
{%- for m in messages -%}
    {{ '<turn>' ~ (named.assistant if m.role == 'assistant' else m.role) ~ '\\n' }}
    {{- named.start if loop.first }}
    {%- if m.content is string %}{{ m.content | trim }}
    {%- elif m.content is iterable %}
        {%- for part in m.content | selectattr('type', 'equalto', 'text') %}
            {{- part.text }}
        {%- endfor %}
    {%- endif %}
    {{- '</turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<turn>model\\n' }}{% endif %}""",
    "marks and tools": """\
[mask]<sop>
{%- if tools %}{{ '<|system|>\\n' }}
    {%- for t in tools %}{{ t.function | tojson(indent=4) }}{% endfor %}
{%- endif %}
{%- macro shown(text) %}{{ '\\n' ~ (text or '') | trim }}{% endmacro %}
{%- for m in messages %}
{{- '<|' ~ m.role ~ '|>' }}{{ shown(m.content) }}
{%- for call in m.tool_calls or [] %}
    {{- '\\n' ~ call.function.name ~ call.function.arguments | tojson }}
{%- endfor %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}""",
    "headers": """\
{{- bos_token }}
{%- if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}
{{- '<|h|>date<|e|>' + date_string + '\\n' }}
{%- for m in messages %}
{{- '<|h|>' + m.role + '<|e|>\\n\\n' + m.content | trim + '<|t|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|h|>assistant<|e|>\\n\\n' }}{% endif %}""",
    "thinking": """\
{%- set ns = namespace(last=messages|length - 1, found=false) %}
{%- for message in messages[::-1] %}
    {%- if not ns.found and message.role == 'user' and message.content is string %}
        {%- set ns.found = true %}{% set ns.last = messages|length - 1 - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- set content = m.content if m.content is string else '' %}
    {%- if m.role == 'assistant' and '</think>' in content and loop.index0 < ns.last %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|' ~ m.role ~ '|>' ~ content }}
    {%- for call in m.tool_calls or [] %}
        {{- '<call>' ~ (call.function | tojson) ~ '</call>' }}
    {%- endfor %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}""",
    "tools": """\
{%- if tools %}
{{- 'Tools: ' + (tools | tojson(indent=2)) + '\\n' }}
{%- for tool in tools %}
{% if loop.index > 5 %}{% break %}{% endif %}{{ tool.function.name }}
{% endfor %}
{%- endif %}
{% for m in messages %}
{% if m.role == 'system' %}{% continue %}{% endif %}
{% if m.content is defined %}
{{ m.role | upper }}: {{ m.content | replace('Z', '*') }}
{% else %}
{{ m.role | capitalize }} calls {{ m.tool_calls | map(attribute='function.name') | join(', ') }}
{% endif %}
{% endfor %}
{% macro ask(who) %}{{ who }}:{% endmacro %}
{% if add_generation_prompt %}{{ ask('ASSISTANT') }}{% endif %}""",
    "generation": """\
{% for m in messages %}
{{ '<|' + m.role + '|>' }}
{% if m.role == 'assistant' %}
{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}
{% else %}
{{ m.content }}
{% endif %}
{% endfor %}""",
}
CHATS = {
    "turns": TURNS,
    "system": [SYSTEM, *TURNS],
    "answered": [SYSTEM, *TURNS, THOUGHT],
    "history": [*TURNS[:1], THOUGHT, TURNS[2], THOUGHT],
    "calls": [*TURNS[:1], CALL, {"role": "tool", "content": "4"}, TURNS[1]],
    "out of order": [TURNS[0], TURNS[0]],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = ["what is the answer? so be brief"] * 3
    tokenizer = Tokenizer.train(
        texts, vocab_size=320, kind="gpt2", special_tokens=["<|im_end|>", "<|user|>"]
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def both(folder: Path) -> tuple[Tokenizer, Any]:
    return Tokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)


def outcome(call: Any, *arguments: Any, **options: Any) -> Any:
    """The result of a call, or "refused"."""
    try:
        return call(*arguments, **options)
    except Exception:
        return "refused"


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_text_and_ids_are_transformers(both: Any, template: str, chat: list[Any]) -> None:
    ours, theirs = both
    plain = {"chat_template": template, "tokenize": False}
    for options in (
        {},
        {"add_generation_prompt": True},
        {"tools": TOOLS},
        {"continue_final_message": True},
        {"date_string": "today"} if "date_string" in template else {},  # refused here otherwise
    ):
        found = outcome(ours.apply_chat_template, chat, **plain, **options)
        assert found == outcome(theirs.apply_chat_template, chat, **plain, **options)
    ids = outcome(ours.apply_chat_template, chat, chat_template=template)
    wanted = outcome(theirs.apply_chat_template, chat, chat_template=template)
    assert ids == "refused" == wanted or dict(ids) == dict(wanted)


def plain(found: Any) -> Any:
    """An encoding as plain mappings and lists."""
    if isinstance(found, list):
        return found
    return {k: v.tolist() if hasattr(v, "tolist") else v for k, v in found.items()}


def test_the_shape_of_what_is_returned_is_transformers(both: Any) -> None:
    ours, theirs = both
    ours.pad_token = theirs.pad_token = ours.eos_token
    chats = [CHATS["turns"], CHATS["system"]]
    for options in (
        {"return_dict": False},
        {"padding": True},
        {"padding": True, "return_tensors": "np"},
        {"truncation": True, "max_length": 5, "return_dict": False},
    ):
        for given in (chats[0], chats):
            options = {"chat_template": TEMPLATES["default system"], **options}
            found = ours.apply_chat_template(given, **options)
            wanted = theirs.apply_chat_template(given, **options)
            assert plain(found) == plain(wanted)


@pytest.mark.parametrize("as_files", [True, False])
@pytest.mark.parametrize("template", ["one {{ messages }}", {"default": "a", "tool_use": "b"}])
def test_templates_are_saved_and_read_both_ways(
    folder: Path, tmp_path: Path, template: Any, as_files: bool
) -> None:
    ours = Tokenizer.from_pretrained(folder)
    ours.chat_template = template
    ours.save_pretrained(tmp_path / "ours")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert theirs.chat_template == template
    theirs.save_pretrained(tmp_path / "theirs", save_jinja_files=as_files)
    assert Tokenizer.from_pretrained(tmp_path / "theirs").chat_template == template
