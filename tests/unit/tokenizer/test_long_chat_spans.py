"""Long chats: the same answers as when rendering every prefix, in linear time."""

import random
from typing import Any

import pytest

from trainer.errors import RowError
from trainer.tokenizer import Tokenizer, assistant_spans
from trainer.tokenizer.assistant_spans import supervised_texts

TURN = "<|im_start|>{{ m.role }}\n{{ m.content or '' }}{{ m.tool_calls or '' }}<|im_end|>\n"
ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
ADDITIVE = {
    "chatml": "{% for m in messages %}" + TURN + "{% endfor %}" + ASK,
    "default system": "{% if messages[0].role != 'system' %}[kind]{% endif %}"
    "{% for m in messages %}" + TURN + "{% endfor %}" + ASK,
    "alternating": "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]"
    "{% else %} {{ m.content | trim }}<|im_end|>{% endif %}{% endfor %}",
    "parity": "{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('no') }}{% endif %}"
    + TURN
    + "{% endfor %}"
    + ASK,
    "marked": "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content or '' }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}" + ASK,
}
REWRITING = {
    "counts": "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"
    "{% for m in messages %}" + TURN + "{% endfor %}" + ASK,
    "forgets": "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if loop.last or m.role != 'assistant' %}{{ m.content or '' }}"
    "{% else %}{{ (m.content or '').split('</think>')[-1] }}{% endif %}<|im_end|>\n{% endfor %}"
    + ASK,
    "this round": "{% set n = namespace(last=0) %}{% for m in messages %}"
    "{% if m.role == 'user' %}{% set n.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% if m.role == 'assistant' and loop.index0 > n.last %}!{% endif %}"
    "<|im_end|>\n{% endfor %}" + ASK,
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    special = ["<|im_start|>", "<|im_end|>"]
    return Tokenizer.train(["so be it"] * 3, vocab_size=300, kind="gpt2", special_tokens=special)


def random_chat(draw: random.Random, rounds: int, tools: bool) -> list[dict[str, Any]]:
    """A chat with a system message, calls, reasoning and answers that are not trained on."""
    chat = [{"role": "system", "content": "be"}] * draw.randint(0, 1) if tools else []
    for number in range(rounds):
        chat.append({"role": "user", "content": f"{draw.choice('ab')} {number}"})
        while tools and draw.random() < 0.5:
            chat.append({"role": "assistant", "content": "", "tool_calls": [{"n": number}]})
            chat += [{"role": "tool", "content": draw.choice("xy")}] * draw.randint(1, 2)
        content = draw.choice(["", "hm</think>"]) + draw.choice(["yes", "no ", f"{number}"])
        chat.append({"role": "assistant", "content": content})
        if draw.random() < 0.2:
            chat[-1]["weight"] = draw.choice([0, 1])
    return chat


@pytest.mark.parametrize("name", [*ADDITIVE, *REWRITING])
def test_the_same_is_learnt_as_prefix_by_prefix(
    tokenizer: Tokenizer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer.chat_template = (ADDITIVE | REWRITING)[name]
    draw = random.Random(0)
    chats = [random_chat(draw, draw.randint(7, 11), name != "parity") for _ in range(6)]
    prompts = [draw.choice([0, 2]) for _ in chats]
    for train_on in ("assistant", "last"):
        found = supervised_texts(tokenizer, chats, train_on, prompts=prompts)
        with monkeypatch.context() as patched:
            patched.setattr(assistant_spans, "LONG", 10**9)
            wanted = supervised_texts(tokenizer, chats, train_on, prompts=prompts)
        assert found == wanted


def rendered_characters(
    tokenizer: Tokenizer, chat: list[Any], monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[int, int]:
    """The number of characters in all renderings, and the resulting texts."""
    sizes = []
    plain = assistant_spans.renderings

    def counted(*arguments: Any, **named: Any) -> Any:
        found = plain(*arguments, **named)
        sizes.extend(len(part.text) for parts in found for part in parts)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(assistant_spans, "renderings", counted)
        (texts,) = supervised_texts(tokenizer, [chat], "assistant", **options)
    return sum(sizes), len(texts)


@pytest.mark.parametrize("name", ADDITIVE)
def test_the_work_grows_with_the_chat_and_not_with_its_square(
    tokenizer: Tokenizer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer.chat_template = ADDITIVE[name]
    small, large = (
        rendered_characters(tokenizer, random_chat(random.Random(1), rounds, False), monkeypatch)
        for rounds in (100, 400)
    )
    assert small[1] == large[1] == 1
    assert large[0] < 4.5 * small[0]


def test_where_answers_are_rewritten_those_within_max_length_are_learnt(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer.chat_template = REWRITING["forgets"]
    chat = [
        message
        for n in range(300)
        for message in (
            {"role": "user", "content": f"{n}"},
            {"role": "assistant", "content": "hm</think>yes"},
        )
    ]
    size, count = rendered_characters(tokenizer, chat, monkeypatch, max_length=400)
    assert 8 < count < 64 and size < 300_000
    assert f"{count} of 300 are trained on in {count} texts" in caplog.text
    assert "begin beyond recipe.max_length" in caplog.text
    monkeypatch.setattr(assistant_spans, "MAX_CHARACTERS", 50_000)
    with pytest.raises(RowError, match="rewrites earlier answers, .*train_on=last"):
        supervised_texts(tokenizer, [chat], "assistant")
    (last,) = supervised_texts(tokenizer, [chat], "last")[0]
    assert last.text[slice(*last.spans[0])] == "hm</think>yes<|im_end|>"


WEIGHED = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "bad"},
    {"role": "user", "content": "b"},
    {"role": "assistant", "content": "good"},
]


@pytest.mark.parametrize("name", ["chatml", "marked"])
@pytest.mark.parametrize("key", assistant_spans.WEIGHTS)
def test_what_a_message_says_of_its_weight_is_obeyed(
    tokenizer: Tokenizer, name: str, key: str
) -> None:
    tokenizer.chat_template = ADDITIVE[name]

    def learnt(*weights: Any) -> list[str]:
        chat = [{**message, key: weight} for message, weight in zip(WEIGHED, weights, strict=True)]
        ((text,),) = supervised_texts(tokenizer, [chat], "assistant")
        return [text.text[start:stop] for start, stop in text.spans]

    assert learnt(None, 0, None, 1) == learnt(0, False, 0, True) == ["good<|im_end|>"]
    assert learnt(None, 1, None, 0) == ["bad<|im_end|>"]
    assert learnt(None, 0, None, 0) == []
    assert learnt(None, 1.0, None, None) == ["bad<|im_end|>", "good<|im_end|>"]
    for weights, said in (
        ((None, 0.5, None, 1), f"messages[1]: {key}: found 0.5; accepted: 0, 1"),
        ((1, 1, None, 1), f"messages[0]: {key}: 1 for the role user"),
        ((None, "no", None, 1), f"messages[1]: {key}: found 'no'"),
    ):
        with pytest.raises(RowError) as caught:
            learnt(*weights)
        assert said in str(caught.value)
    with pytest.raises(RowError, match="a weight of 0 with recipe.train_on=all"):
        supervised_texts(tokenizer, [[WEIGHED[0], {**WEIGHED[1], key: 0}]], "all")
