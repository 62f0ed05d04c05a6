"""Streaming: final pieces, stop texts of any tokens, incomplete characters, at any length."""

import inspect
import textwrap

import pytest

from trainer.generation.streaming import TextStreamer
from trainer.tokenizer import Tokenizer

TEXTS = [*inspect.getsource(textwrap).split("\n"), "€ größer"]
TURN = "<|im_end|>"


def trained(kind: str) -> Tokenizer:
    return Tokenizer.train(TEXTS, vocab_size=400, kind=kind, special_tokens=[TURN, "<|im_start|>"])


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A byte-level tokenizer: unknown texts are single bytes."""
    return trained("gpt2")


def told(tokenizer: Tokenizer, text: str, *stop: str) -> list[str]:
    """The pieces of a text, up to a stop text or to its end."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    growing, pieces = TextStreamer(tokenizer, stop), []
    for number, token in enumerate(ids):
        pieces.append(growing.add(token, last=number == len(ids) - 1))
        if growing.stopped:
            break
    assert growing.stopped == any(each in text for each in stop)
    return pieces


@pytest.mark.parametrize("text", ["a € größer 日本 b", "textwrap textwra", "x</b></stop>y"])
def test_pieces_never_change_what_was_told(tokenizer: Tokenizer, text: str) -> None:
    """The pieces are always a prefix of the text, without incomplete characters or stop texts."""
    pieces, so_far = told(tokenizer, text, "</stop>"), ""
    for piece in pieces:
        so_far += piece
        assert text.startswith(so_far) and "</s" not in so_far
    assert so_far == text.split("</stop>")[0]


@pytest.mark.parametrize(
    ("text", "stop", "wanted"),
    [
        (f"fine{TURN}\nmore", [TURN], "fine"),
        (f"fine{TURN}\n<|im_start|>more", ["\n<|im_start|>"], "fine"),
        (f"fine{TURN}\nmore", ["more"], "fine\n"),
        (f"fine{TURN} or {TURN}more", [f"{TURN}m"], "fine or "),
        (f"fine{TURN}more", [], "finemore"),
        ("answer\n用户: next", ["\n用户"], "answer"),
        ("ok 用户", ["用户"], "ok "),
        ("a b c 🎉🎉 d", ["🎉🎉"], "a b c "),
        ("a 日 <b", ["日 <c", "<c"], "a 日 <b"),
        ("it is <<x", ["is <<x", "<<<y"], "it "),
    ],
)
def test_stop_texts_of_any_tokens(
    tokenizer: Tokenizer, text: str, stop: list[str], wanted: str
) -> None:
    """Special tokens, characters of several tokens, two stop texts that overlap."""
    assert "".join(told(tokenizer, text, *stop)) == wanted


def test_what_no_character_came_of_is_told_at_the_end(tokenizer: Tokenizer) -> None:
    ids = tokenizer("a 日", add_special_tokens=False)["input_ids"]
    growing = TextStreamer(tokenizer, [])
    pieces = [growing.add(token, last=token == ids[-2]) for token in ids[:-1]]
    assert "".join(pieces) == tokenizer.decode(ids[:-1]) and pieces[-1].startswith("\ufffd")


@pytest.mark.parametrize("kind", ["gpt2", "bpe", "unigram", "wordpiece"])
def test_a_long_text_is_the_same_and_costs_what_its_pieces_do(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = trained(kind)
    ids = tokenizer(TURN.join(TEXTS), add_special_tokens=False)["input_ids"]
    decode, lengths = tokenizer.decode, []
    monkeypatch.setattr(tokenizer, "decode", lambda ids: lengths.append(len(ids)) or decode(ids))
    growing = TextStreamer(tokenizer, ["never"])
    pieces = [growing.add(token) for token in ids[:-1]] + [growing.add(ids[-1], last=True)]
    assert "".join(pieces) == decode(ids, skip_special_tokens=True)
    assert len(ids) > 3000 and sum(lengths) < 6 * len(ids)


def test_special_tokens_are_read_once_and_again_after_additions() -> None:
    tokenizer = trained("gpt2")
    assert tokenizer.special_texts is tokenizer.special_texts
    assert TURN in tokenizer.special_texts.values()
    for tokens, special in ((["<a>"], True), (["<b>"], False)):
        tokenizer.add_tokens(tokens, special_tokens=special)
        assert (tokens[0] in tokenizer.special_texts.values()) == special
        ids = tokenizer.convert_tokens_to_ids([*tokens, TURN])
        pieces = [TextStreamer(tokenizer, ()).add(number) for number in ids]
        assert pieces == ["" if special else tokens[0], ""]
