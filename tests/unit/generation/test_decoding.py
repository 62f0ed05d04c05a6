"""Decoding: the earlier turns of a conversation are computed once, with equal answers."""

from typing import Any

import pytest

from tests.unit.generation.small_decoders import MODELS, model_of
from trainer.generation.decoding import Decoding, Past
from trainer.generation.settings import GenerationSettings

HOW = {"max_new_tokens": 6, "temperature": 1.0}
ASKED = [5, 9, 3]


def said(model: Any, ids: list[int], turn: int, past: Past | None, **settings: Any) -> list[int]:
    how = GenerationSettings(**{**HOW, **settings})
    decoding = Decoding(model, {turn: ids}, how, end_ids=(), past=past)
    found = []
    while decoding.rows:
        found.append(decoding.step()[turn])
    return found


@pytest.mark.parametrize("penalty", [1.0, 1.5])
@pytest.mark.parametrize("name", MODELS)
def test_turns_with_a_past_say_what_they_say_without(name: str, penalty: float) -> None:
    """A continued text, one with a rewritten past, a shorter one, and the same again."""
    model = model_of(name)
    fed: list[int] = []
    model.register_forward_pre_hook(
        lambda _, arguments, named: fed.append(len(named["input_ids"])), with_kwargs=True
    )
    past, ids, computed = Past(), list(ASKED), []
    for turn in range(3):
        fed.clear()
        answer = said(model, ids, turn, past, repetition_penalty=penalty)
        computed.append(fed[0])
        assert answer == said(model, ids, turn, None, repetition_penalty=penalty)
        assert past.ids == [*ids, *answer[:-1]]
        ids = [*ids, *answer, *ASKED]
    rewritten = [*ids[:7], 1, *ids[9:]]
    for text in (rewritten, rewritten[:4], rewritten[:4]):
        fed.clear()
        answer = said(model, text, 7, past, repetition_penalty=penalty)
        computed.append(fed[0])
        assert answer == said(model, text, 7, None, repetition_penalty=penalty)
    if name == "lengths":  # its keys would differ in a longer text
        assert computed == [3, 12, 21, len(rewritten), 4, 4]
    else:
        assert computed == [3, 4, 4, len(rewritten) - 7, 1, 1]
