"""Modelfiles: chat templates translated for Ollama, or only named if they do more."""

import re
from pathlib import Path

import pytest

from trainer import AutoTokenizer
from trainer.export.chat_pieces import chat_pieces
from trainer.export.modelfile import go_template, modelfile
from trainer.tokenizer import Tokenizer
from trainer.tokenizer.chat import CHATML

DEFAULT_SYSTEM = """\
{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}\
<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"""
WITH_BOS = """\
{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]\
{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}\
{% else %}{{ '<<' + m.content + '>>' }}{% endif %}{% endfor %}"""
ONLY_LAST = "{{ messages[-1].content }}{% if messages|length > 1 %}!{% endif %}"
NUMBERED = "{% for m in messages %}{{ loop.index }}: {{ m.content }}\n{% endfor %}"


@pytest.fixture
def tokenizer(minilm: Path) -> Tokenizer:
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    tokenizer.bos_token, tokenizer.eos_token = "[CLS]", "[SEP]"
    return tokenizer


def test_a_template_around_messages_is_translated(tokenizer: Tokenizer) -> None:
    """By the texts between the messages, with a default system message or without one."""
    for template in (CHATML, DEFAULT_SYSTEM, WITH_BOS):
        tokenizer.chat_template = template
        pieces = chat_pieces(tokenizer)
        assert pieces is not None, template
        messages = [{"role": "system", "content": "Rhyme."}, {"role": "user", "content": "Why?"}]
        wanted = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert pieces.render(messages) == wanted
    tokenizer.chat_template = DEFAULT_SYSTEM
    pieces = chat_pieces(tokenizer)
    assert pieces is not None and "You are helpful." in pieces.start
    assert go_template(pieces, None) == (
        "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n<|im_start|>user\n"
        "{{ else }}<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\n{{ end }}"
        '{{ range .Messages }}{{ if eq .Role "user" }}{{ .Content }}<|im_end|>\n'
        '<|im_start|>assistant\n{{ else if eq .Role "assistant" }}{{ .Content }}<|im_end|>\n'
        "<|im_start|>user\n{{ end }}{{ end }}"
    )


def test_braces_of_a_template_are_texts(tokenizer: Tokenizer) -> None:
    """Go reads the first two of three braces as the start of an action."""
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role + ' {{{' + m.content + '}}' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant {' }}{% endif %}"
    )
    pieces = chat_pieces(tokenizer)
    assert pieces is not None
    text = go_template(pieces, None)
    actions = re.findall(r"\{\{(.*?)\}\}", text)
    assert "{{ .Content }}" in text and "{{ .System }}" in text
    assert {each.strip() for each in actions} <= {
        *("if .System", ".System", "else", "end", "range .Messages", ".Content"),
        *('if eq .Role "user"', 'else if eq .Role "assistant"', '"{{"', '"{"'),
    }


@pytest.mark.parametrize(
    "template",
    [ONLY_LAST, NUMBERED, "{{ raise_exception('no') }}", f"{CHATML}{{{{ strftime_now('%Y') }}}}"],
)
def test_another_template_is_named(tokenizer: Tokenizer, template: str) -> None:
    tokenizer.chat_template = template
    text, note = modelfile("model.gguf", tokenizer, [], None, {}, False)
    assert 'TEMPLATE "' not in text and "The chat template of" in text
    assert "not translated" in note


def test_the_modelfile_has_all_that_ollama_needs(tokenizer: Tokenizer) -> None:
    tokenizer.chat_template = WITH_BOS
    generation = {"temperature": 0.6, "top_k": 20, "repetition_penalty": 1.1, "do_sample": True}
    ends = [tokenizer.eos_token_id]
    text, _ = modelfile("model.gguf", tokenizer, ends, "Rhyme.", generation, True)
    assert text.startswith('FROM ./model.gguf\nTEMPLATE """{{ if .System }}<<'), text
    assert "[CLS]" not in text, "llama.cpp writes the first token"
    for line in ('SYSTEM "Rhyme."', 'PARAMETER stop "[SEP]"', "PARAMETER temperature 0.6"):
        assert line in text.splitlines()
    assert "PARAMETER repeat_penalty 1.1" in text and "do_sample" not in text
    tokenizer.chat_template = None
    text, note = modelfile("model.gguf", tokenizer, ends, None, {}, False)
    assert 'TEMPLATE """{{ .Prompt }}"""' in text and "no chat template" in note


def read_by_ollama(text: str) -> list[tuple[str, str]]:
    """(command, argument), by the rules of Ollama's parser: it ends a quoted text at a line end."""
    found, rest = [], text.split("\n")
    while rest:
        name, _, value = rest.pop(0).partition(" ")
        if not name or name == "#":
            continue
        while value.strip()[:3] == '"""' and not (
            len(value.strip()) >= 6 and value.strip()[-3:] == '"""'
        ):
            value += "\n" + rest.pop(0)
        value = value.strip()
        marks = 3 if value.startswith('"""') else int(value.startswith('"'))
        found.append((name, value[marks : len(value) - marks]))
    return found


@pytest.mark.parametrize(
    ("system", "kept"),
    [
        ("Rhyme.", True),
        ('Say "yes".\nOr no.', True),
        ('Write """docs""" like this.', True),
        ('"', True),
        ('Ends with """', True),
        ('A line ends with """\nand goes on.', False),
        ('"""\nfirst', False),
    ],
)
def test_a_system_message_is_kept_or_left_out_with_a_note(
    tokenizer: Tokenizer, system: str, kept: bool
) -> None:
    text, note = modelfile("model.gguf", tokenizer, [], system, {}, False)
    commands = dict(read_by_ollama(text))
    assert commands.get("SYSTEM") == (system if kept else None), text
    assert ("left out" in note) == ("is left out" in text) == (not kept)
    assert commands["FROM"] == "./model.gguf" and commands["TEMPLATE"] == "{{ .Prompt }}"


def test_stop_tokens_are_not_escaped(tokenizer: Tokenizer) -> None:
    tokenizer.add_tokens(["<｜end▁of▁sentence｜>", '<"end">'], special_tokens=True)
    ends = tokenizer.convert_tokens_to_ids(["<｜end▁of▁sentence｜>", '<"end">'])
    text, _ = modelfile("model.gguf", tokenizer, ends, None, {}, False)
    stops = [value for name, value in read_by_ollama(text) if name == "PARAMETER"]
    assert stops == ['stop "<｜end▁of▁sentence｜>"', 'stop """<"end">"""']
