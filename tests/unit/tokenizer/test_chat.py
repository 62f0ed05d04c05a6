"""Chats: limited templates, errors that name the line, and the characters of the assistant."""

import itertools
import json
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainer.errors import InputError, RowError
from trainer.tokenizer import Tokenizer, templates
from trainer.tokenizer.assistant_spans import Supervised, supervised_texts
from trainer.tokenizer.native_calls import native_call
from trainer.tokenizer.templates import Spent, render

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Yo"}
CHAT = [USER, ANSWER, {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FORGETFUL = (
    "{% for m in messages %}[{{ m.role }}]"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}"
    "{% else %}{{ m.content }}{% endif %}<end>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
"""Removes the reasoning from the history, as Qwen3's template does."""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(
        ["hello world, hi yo why so"] * 3,
        vocab_size=300,
        kind="gpt2",
        special_tokens=["<|im_start|>", "<|im_end|>", "<end>"],
    )


@pytest.fixture
def with_template(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> Any:
    def give(template: Any) -> Tokenizer:
        monkeypatch.setattr(tokenizer, "chat_template", template)
        return tokenizer

    return give


def once(template: str, messages: Any = (USER,), **variables: Any) -> str:
    return render(template, [[(messages, False)]], variables)[0][0].text


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("a\n{{ raise_exception('not so') }}", "line 2: not so"),
        ("\n\n{% for %}", "line 3: "),
        ("\n{{ messages[7].content }}", "line 2: list object has no element 7"),
        ("{{ messages.__class__.__mro__ }}", "line 1: access to attribute '__class__'"),
        ("{% set n = namespace(_x=1) %}", "line 1: a namespace has no attribute '_x'"),
        ("{% set n = namespace() %}\n{% set n.__x = 1 %}", "line 2: "),
        ("{{ messages.append(1) }}", "line 1: "),
        ("\n{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "line 2: maximum recursion"),
        ("\n{{ 'a' * 10**11 }}", "line 2: needed more than 1,024 MiB"),
        ("{{ 'a'|center(10**11) }}", "line 1: needed more than 1,024 MiB"),
        (
            "{% set n = namespace(x='a') %}{% for i in range(99) %}\n"
            "{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x|length }}",
            "line 2: needed more than 1,024 MiB",
        ),
        (
            "{% for i in range(99999) %}\n{{ i ~ 'a' * 999 }}{% endfor %}",
            "line 2: wrote more than 8,3",
        ),
    ],
)
def test_a_template_that_fails_names_its_line(template: str, said: str) -> None:
    with pytest.raises(RowError) as caught:
        once(template)
    assert str(caught.value).startswith(f"chat_template {said}") and caught.value.row == 0
    assert once("{{ messages[0].content }}") == "Hi"  # the renderer still runs, or was restarted


@pytest.mark.slow
@pytest.mark.parametrize(
    "template",
    [
        "\n{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "\n{% set n = messages|length %}{{ (n * 10) ** (10 ** 9) }}",
    ],
)
def test_a_template_that_loops_is_stopped(template: str) -> None:
    with pytest.raises(RowError, match="chat_template line 2: ran for more than 10 seconds"):
        once(template)
    assert once("{{ messages[0].content }}") == "Hi"


def test_the_row_that_fails_is_named_and_the_others_do_not_matter() -> None:
    template = "{% if messages[0].content == 'bad' %}{{ raise_exception('no') }}{% endif %}fine"
    rows = [[([{"role": "user", "content": text}], False)] for text in ("ok", "ok", "bad", "ok")]
    with pytest.raises(RowError) as caught:
        render(template, rows, {})
    assert caught.value.row == 2
    assert [row[0].text for row in render(template, rows[:2], {})] == ["fine", "fine"]


def test_a_renderer_that_was_killed_is_started_again() -> None:
    once("x")
    renderer = templates._process()  # called once: it starts another renderer if this one has ended
    renderer.kill()
    renderer.wait()
    assert once("{{ messages[0].content }}") == "Hi"


def test_slow_templates_have_a_limit_for_a_set_of_conversations_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that renders single chats for as long as it runs is not stopped by it.

    Each conversation takes a tenth of a second by the clock that is read before and after it.
    """
    tenths = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: next(tenths) / 10)
    monkeypatch.setattr(templates, "time", clock)
    monkeypatch.setattr(templates, "SECONDS_IN_ALL", 0.75)
    monkeypatch.setattr(templates, "SECONDS_PER_CONVERSATION", 0.02)
    slow = "{% for n in range(60000) %}{% endfor %}{{ messages[0] }}"
    chats = [[([str(number)], False)] for number in range(40)]
    with pytest.raises(InputError, match=r"chat_template: took 1 s for 8 conversations"):
        render(slow, chats, {})
    for chat in chats[:9]:  # the answers to the others of the set are gone
        assert render(slow, [chat], {})[0][0].text == chat[0][0][0]
    spent = Spent(seconds=0.9, conversations=100)
    with pytest.raises(InputError, match="took 1 s for 49 conversations"):
        Spent(seconds=1.0, conversations=48).add(0.0)
    render("x", chats[:1], {}, spent=spent)
    assert spent.conversations == 101


def test_a_forked_process_has_a_renderer_of_its_own() -> None:
    once("x")
    child = os.fork()
    if child == 0:
        os._exit(0 if once("{{ messages[0].content }}") == "Hi" else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert once("{{ messages[0].content }}") == "Hi"


def test_a_process_may_be_forked_while_another_thread_renders_or_tokenizes() -> None:
    """Such a thread does not exist in the forked process, so nothing may wait for it."""
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with templates._lock, native_call():
            held.set()
            done.wait(600)

    before = os.fstat(2)
    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(600)
        os._exit(0 if once("x") == "x" and os.path.samestat(os.fstat(2), before) else 1)
    done.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


def test_values_that_json_does_not_have_are_refused() -> None:
    with pytest.raises(InputError, match="accepted: JSON values"):
        once("x", [{"role": "user", "content": object()}])
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InputError, match="found too many levels; accepted: fewer"):
        once("x", [{"role": "user", "content": deep}])


def test_a_template_that_cannot_read_parts_says_so() -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "Yo"}]}
    with pytest.raises(
        RowError, match=r"line 1: .*content is a list of parts; many templates only"
    ):
        once("{{ '<' + messages[0].content }}", (parts,))
    assert once("{{ messages[0].content[0].text }}", (parts,)) == "Yo"


def test_today_is_the_day_that_is_given() -> None:
    template = "{{ strftime_now('%d %b %Y') }}"
    found = render(template, [[([USER], False)]], {}, today="2024-07-26")
    assert found[0][0].text == "26 Jul 2024"


def spans(tokenizer: Tokenizer, messages: Any, train_on: Any = "assistant") -> list[list[str]]:
    (texts,) = supervised_texts(tokenizer, [messages], train_on)
    return [[each.text[start:stop] for start, stop in each.spans] for each in texts]


def test_answers_are_learnt_with_the_end_of_their_turn(with_template: Any) -> None:
    tokenizer = with_template(CHATML)
    assert spans(tokenizer, CHAT) == [["Yo<|im_end|>", "So.<|im_end|>"]]
    assert spans(tokenizer, CHAT, "last") == [["So.<|im_end|>"]]
    assert spans(tokenizer, CHAT[:3]) == [["Yo<|im_end|>"]]
    (whole,) = supervised_texts(tokenizer, [CHAT], "all")[0]
    assert whole.spans == [(0, len(whole.text))]
    # the same words by the user are not the assistant's
    parrot = [{"role": "user", "content": "Yo<|im_end|>"}, ANSWER]
    (text,) = supervised_texts(tokenizer, [parrot], "assistant")[0]
    assert text.spans == [(text.text.rindex("Yo"), text.text.rindex("\n"))]


def test_marks_of_the_template_are_taken_at_its_word(with_template: Any) -> None:
    tokenizer = with_template(
        "{% for m in messages %}{{ m.role }}: "
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<end>{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
    )
    assert spans(tokenizer, CHAT) == [["Yo<end>", "So.<end>"]]
    assert spans(tokenizer, CHAT, "last") == [["So.<end>"]]


def test_an_answer_that_later_turns_rewrite_is_learnt_in_a_text_of_its_own(
    with_template: Any,
) -> None:
    tokenizer = with_template(FORGETFUL)
    thought = {"role": "assistant", "content": "hm</think>Yo"}
    chat = [USER, thought, *CHAT[2:]]
    first, second = supervised_texts(tokenizer, [chat], "assistant")[0]
    assert first == Supervised("[user]Hi<end>[assistant]hm</think>Yo<end>", [(24, 41)])
    assert second.text == "[user]Hi<end>[assistant]Yo<end>[user]Why?<end>[assistant]So.<end>"
    assert spans(tokenizer, chat) == [["hm</think>Yo<end>"], ["So.<end>"]]
    assert spans(tokenizer, CHAT) == [["Yo<end>", "So.<end>"]]  # without reasoning, one is enough


def test_a_prompt_that_answers_do_not_go_on_from_is_refused(with_template: Any) -> None:
    tokenizer = with_template(
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]<think>{% endif %}"
    )
    with pytest.raises(RowError, match="its prompt has '<think>' where its answers have 'Yo'"):
        spans(tokenizer, CHAT)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "messages: empty"),
        ("Hi", "accepted: a list of messages"),
        ([{"content": "Hi"}], r"messages\[0\]: found"),
        ([USER], "messages: no answer"),
        ([ANSWER], r"messages\[0\]: 'assistant' first, out of order; accepted: system"),
        ([USER, USER, ANSWER], r"messages\[1\]: 'user' after 'user', out of order"),
        ([USER, ANSWER, {"role": "system", "content": ""}], r"messages\[2\]: 'system' after"),
        (
            [USER, {"role": "robot", "content": ""}],
            r"messages\[1\]: role 'robot'; accepted: system",
        ),
        (
            [USER, {"role": "assistant", "content": None, "tool_calls": None}],
            r"messages\[1\]: 'assistant' has no content; accepted: content, a text",
        ),
    ],
)
def test_messages_out_of_order_are_refused(with_template: Any, messages: Any, said: str) -> None:
    with pytest.raises(RowError, match=said) as caught:
        supervised_texts(with_template(CHATML), [CHAT, messages], "assistant")
    assert caught.value.row == 1


def test_without_a_template_chatml_is_used_and_said_once(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    assert tokenizer.chat_template is None
    text = tokenizer.apply_chat_template(CHAT[:2], tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|><|endoftext|>\n"
        "<|im_start|>assistant\n"
    )
    tokenizer.apply_chat_template(CHAT[:1])
    assert [r.getMessage() for r in caplog.records].count(
        "tokenizer: has no chat template; ChatML is used, and saved with it"
    ) == 1
    tokenizer.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    assert again.chat_template == tokenizer.chat_template
    assert spans(again, CHAT) == [["Yo<|im_end|><|endoftext|>", "So.<|im_end|><|endoftext|>"]]
    tokenizer.chat_template = None


def test_one_of_several_templates_is_chosen(with_template: Any) -> None:
    tokenizer = with_template({"default": "plain", "tool_use": "tools", "rag": "rag"})
    text = {"tokenize": False}
    assert tokenizer.apply_chat_template([USER], **text) == "plain"
    assert tokenizer.apply_chat_template([USER], tools=[{"name": "f"}], **text) == "tools"
    assert tokenizer.apply_chat_template([USER], chat_template="rag", **text) == "rag"
    assert tokenizer.apply_chat_template([USER], chat_template="{{ 1 }}", **text) == "1"
    with pytest.raises(InputError, match="found 'rga'; accepted: default, tool_use, rag, or Jinja"):
        tokenizer.apply_chat_template([USER], chat_template="rga", **text)


def test_calls_that_contradict_themselves_are_refused(with_template: Any) -> None:
    tokenizer = with_template(CHATML)
    with pytest.raises(InputError, match="messages: empty"):
        tokenizer.apply_chat_template([])
    with pytest.raises(InputError, match="with continue_final_message"):
        tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, continue_final_message=True)


def test_templates_that_are_no_text_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    config = json.loads(file.read_text())
    for template in (7, [{"name": "default", "template": 7}]):
        file.write_text(json.dumps(config | {"chat_template": template}))
        with pytest.raises(InputError, match="chat_template: "):
            Tokenizer.from_pretrained(tmp_path)
